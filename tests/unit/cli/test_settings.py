import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from reasonchip_broker.cli.settings import DEFAULTS, Settings, from_environment, from_file, layered, limits_from_flags
from reasonchip_broker.limits import Limits
from reasonchip_broker.scheduling import Limit, Per, Scheduling, WhenReached

DOCS = Path(__file__).parents[3] / "docs"


def file(tmp_path, text):
    path = tmp_path / "broker.toml"
    path.write_text(text)
    return path


def test_flags_win_over_the_environment_that_over_the_file_and_that_over_the_defaults(tmp_path):
    path = file(
        tmp_path, 'log_level = "error"\nlog_format = "json"\njson_queue = true\n[limits]\ndrain_s = 1\nhandshake_s = 2\n'
    )
    environment = from_environment({"REASONCHIP_LOG_LEVEL": "warning", "REASONCHIP_LIMITS_DRAIN_S": "3", "HOME": "/"})
    flags = Settings(log_level="debug", limits=limits_from_flags(["lease_s=60"]))
    settings = layered(flags, environment, from_file(path), DEFAULTS)
    assert settings.log_level == "debug"
    assert settings.log_format == "json"
    assert settings.json_queue is True
    assert settings.json_cancel is False
    assert settings.clients == ["tcp://localhost"]
    assert settings.checked_limits() == Limits(drain_s=3, handshake_s=2, lease_s=60)


@pytest.mark.parametrize("page", ["reference/command-line.md", "how-to/run-a-broker.md", "how-to/decide-who-goes-next.md"])
def test_the_files_that_the_manual_shows_can_be_read(tmp_path, page):
    shown = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    assert shown
    for text in shown:
        settings = layered(from_file(file(tmp_path, text)), DEFAULTS)
        settings.checked_limits()
        settings.checked_scheduling()


def test_every_setting_can_be_said_in_the_environment():
    environment = {
        "REASONCHIP_CLIENTS": "tcp://localhost:1,unix:///a",
        "REASONCHIP_WORKERS": "tcp://localhost:2",
        "REASONCHIP_DROP_IN": "true",
        "REASONCHIP_JSON_QUEUE": "1",
        "REASONCHIP_JSON_CANCEL": "false",
        "REASONCHIP_JSON_SLOT_REST_MS": "0",
        "REASONCHIP_LOG_LEVEL": "debug",
        "REASONCHIP_LOG_FORMAT": "console",
        "REASONCHIP_LIMITS_BACKLOG_JOBS_MAX": "5",
    }
    assert from_environment(environment) == Settings(
        clients=["tcp://localhost:1", "unix:///a"],
        workers=["tcp://localhost:2"],
        drop_in=True,
        json_queue=True,
        json_cancel=False,
        json_slot_rest_ms=0,
        log_level="debug",
        log_format="console",
        limits={"backlog_jobs_max": 5},
    )


def test_an_empty_variable_says_nothing():
    assert from_environment({"REASONCHIP_CLIENTS": "", "REASONCHIP_LIMITS_DRAIN_S": ""}) == Settings()


def test_every_limit_can_be_set_by_a_flag():
    for field in fields(Limits):
        assert limits_from_flags([f"{field.name}=7"]) == {field.name: 7}
    assert limits_from_flags(["drain-s=0.5"]) == {"drain_s": 0.5}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('client = ["tcp://localhost"]', "there is no setting 'client'; did you mean clients?"),
        ("nonsense = 1", "there is no setting 'nonsense'; there are clients, workers"),
        ("[limits]\ndrain = 1", "there is no limit 'drain'; did you mean drain_s?"),
        ("[limits]\ndrain_s = 'long'", "drain_s must be a number, not 'long'"),
        ("[limits]\nframe_bytes_max = 1.5", "frame_bytes_max must be a whole number, not negative, not 1.5"),
        ("limits = 3", "limits must be a table, not 3"),
        ("drop_in = 'yes'", "drop_in must be true or false, not 'yes'"),
        ("clients = 'tcp://localhost'", "clients must be a list of URLs, not 'tcp://localhost'"),
        ("log_level = 'loud'", "log_level must be one of debug, info, warning, error, not 'loud'"),
        ("log_format = 1", "log_format must be one of auto, json, console, not 1"),
        ("json_slot_rest_ms = -1", "json_slot_rest_ms must be a whole number, not negative, not -1"),
        ("drop_in =", "are not TOML"),
        ("drop_in = true\n\xff", "are not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_reported_with_the_file_and_what_would_be_right(tmp_path, text, sentence):
    path = tmp_path / "broker.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(click.UsageError) as refused:
        from_file(path)
    assert str(path) in refused.value.message
    assert sentence in refused.value.message


def test_a_file_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(click.UsageError, match="No such file or directory"):
        from_file(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"REASONCHIP_LIMITS_DRAIN": "1"}, "did you mean drain_s?"),
        ({"REASONCHIP_DROP_IN": "yes"}, "drop_in must be true or false, not 'yes'"),
        ({"REASONCHIP_LIMITS_DRAIN_S": "long"}, "drain_s must be a number, not 'long'"),
    ],
)
def test_a_mistake_in_the_environment_is_reported_as_one(environment, sentence):
    with pytest.raises(click.UsageError, match="The environment: ") as refused:
        from_environment(environment)
    assert sentence in refused.value.message


@pytest.mark.parametrize("pair", ["drain_s", "drain_s=", "=3", "nonsense=3", "drain_s=1=2"])
def test_a_mistake_in_a_flag_is_reported_with_the_flag(pair):
    with pytest.raises(click.UsageError, match="--limit"):
        limits_from_flags([pair])


@pytest.mark.parametrize("limits", [{"drain_s": 0}, {"lease_s": 1, "heartbeat_s": 2}, {"frame_bytes_max": 10**12}])
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(click.UsageError, match="The limits make no sense"):
        Settings(limits=limits).checked_limits()


def test_the_manual_lists_every_limit_with_its_default():
    page = (DOCS / "reference/command-line.md").read_text("utf-8")
    defaults = Limits()
    for field in fields(Limits):
        value = getattr(defaults, field.name)
        assert f"| `{field.name}` | {f'{value:g}' if isinstance(value, float) else f'{value:,}'} |" in page


def test_limits_by_key_are_tables_of_the_section_of_scheduling(tmp_path):
    text = """
        [[scheduling.limits]]
        name = "models"
        pipelines = ["llm.*", "chat"]
        per = "key"
        concurrency = 3
        [[scheduling.limits]]
        name = "starts"
        rate = 100
        period_s = 60
        burst = 5
        when_reached = "refuse"
    """
    models = Limit(name="models", pipelines=("llm.*", "chat"), per=Per.KEY, concurrency=3)
    starts = Limit(name="starts", rate=100, period_s=60.0, burst=5, when_reached=WhenReached.REFUSE)
    settings = layered(from_file(file(tmp_path, text)), DEFAULTS)
    assert settings.checked_scheduling() == Scheduling(limits=(models, starts))


def test_how_many_slots_jobs_take_is_a_table_of_the_section_of_scheduling(tmp_path):
    path = file(tmp_path, '[scheduling.slots]\n"train.*" = 4\n')
    assert layered(from_file(path), DEFAULTS).checked_scheduling() == Scheduling(slots={"train.*": 4})


def test_the_rules_of_scheduling_are_a_section_of_the_file(tmp_path):
    path = file(tmp_path, "[scheduling]\nageing_s = 30\n[scheduling.weights]\nbig = 3\n")
    assert layered(from_file(path), DEFAULTS).checked_scheduling() == Scheduling(ageing_s=30.0, weights={"big": 3.0})
    assert DEFAULTS.checked_scheduling() == Scheduling()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[scheduling]\nagein_s = 3\n", "there is no rule of scheduling 'agein_s'; did you mean ageing_s?"),
        ('[scheduling]\nageing_s = "long"\n', "scheduling.ageing_s must be a number, not 'long'."),
        ("[scheduling]\nweights = 3\n", "scheduling.weights must be a table of numbers, not 3."),
        ("[scheduling.weights]\na = 0\n", "makes no sense: the weight of 'a' must be over 0"),
        ("[scheduling]\nslots = {a = 1.5}\n", "scheduling.slots must be a table of whole numbers, not {'a': 1.5}."),
        ("[scheduling.slots]\na = 0\n", "makes no sense: jobs of 'a' must take at least 1 slot and at most 10,000, not 0"),
        ("[scheduling]\nlimits = 3\n", "scheduling.limits must be a list of tables, each headed [[scheduling.limits]], not 3."),
        (
            "[[scheduling.limits]]\nper = 'tenant'\n",
            "limits[0].per must be one of all, pipeline, principal, key, not 'tenant'.",
        ),
        (
            "[[scheduling.limits]]\nconcurency = 3\n",
            "limits[0]: there is no setting of a limit 'concurency'; did you mean concurrency?",
        ),
        ("[[scheduling.limits]]\nname='a'\nrate='5'\n", "limits[0].rate must be a whole number, not negative, not '5'."),
        ("[[scheduling.limits]]\nconcurrency=3\n", "makes no sense: a limit needs a name"),
    ],
)
def test_a_mistake_in_the_rules_of_scheduling_is_told_in_one_line(tmp_path, text, error):
    with pytest.raises(click.UsageError, match=re.escape(error)):
        layered(from_file(file(tmp_path, text)), DEFAULTS).checked_scheduling()
