from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import click
import pytest
from click.testing import CliRunner

from reasonchip_broker.cli.life import life_options, options_of
from reasonchip_broker.client import Options


def parsed(*arguments, detach=False):
    """The options of a command line. Raises click.UsageError."""

    @click.command()
    @life_options
    def command(**said):
        return options_of(said, detach=detach)

    return command.main(list(arguments), standalone_mode=False)


def test_nothing_said_is_a_plain_job():
    assert parsed() == Options()


def test_each_option_arrives_where_it_belongs():
    arguments = (
        "--timeout 60 --queue-limit 5 --run-limit 30 --attempts 3 --backoff 0 --retry-on KeyError --retry-on a.B "
        "--on-disconnect 2.5 --retention 0 --batch 00000000-0000-0000-0000-000000000001 "
        "--parent 00000000-0000-0000-0000-000000000002 --loose --priority 9 --fairness-key team --affinity-key chat --only-served "
        "--require gpu=h200 --prefer region=eu --prefer gpu=b200"
    )
    assert parsed(*arguments.split()) == Options(
        deadline_s=60.0,
        queue_limit_s=5.0,
        run_limit_s=30.0,
        attempts=3,
        backoff_s=0.0,
        retry_on=("KeyError", "a.B"),
        on_disconnect=2.5,
        retention_s=0.0,
        batch=UUID(int=1),
        parent=UUID(int=2),
        loose=True,
        priority=9,
        fairness_key="team",
        affinity_key="chat",
        only_served=True,
        require={"gpu": "h200"},
        prefer={"region": "eu", "gpu": "b200"},
    )


def test_a_moment_is_a_number_of_seconds_or_a_time_with_its_zone():
    assert parsed("--not-before", "90").not_before == 90.0
    assert parsed("--not-before", "-1").not_before == -1.0
    at = datetime(2026, 1, 2, 8, 0, tzinfo=timezone(timedelta(hours=1)))
    for text in ("2026-01-02T08:00+01:00", "2026-01-02 08:00:00+01:00", "2026-01-02T07:00Z"):
        moment = parsed("--not-before", text).not_before
        assert (moment, isinstance(moment, datetime)) == (at.astimezone(UTC), True)


@pytest.mark.parametrize("policy", ["continue", "cancel"])
def test_a_policy_is_a_word_too(policy):
    assert parsed("--on-disconnect", policy).on_disconnect == policy


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--on-disconnect", "perhaps"], "none of continue, cancel, and a number of seconds"),
        (["--on-disconnect", "-1"], "none of continue"),
        (["--on-disconnect", "nan"], "none of continue"),
        (["--retry-on", "KeyError"], "--attempts 2"),
        (["--backoff", "1"], "--attempts 2"),
        (["--loose"], "say which one that is with --parent"),
        (["--attempts", "3", *["--retry-on", "E"] * 33], "at most 32 names"),
        (["--attempts", "21"], "range"),
        (["--attempts", "0"], "range"),
        (["--run-limit", "0"], "seconds over 0"),
        (["--retention", "-1"], "seconds from 0"),
        (["--queue-limit", "1e9"], "up to 4294967"),
        (["--queue-limit", "nan"], "seconds over 0"),
        (["--not-before", "soon"], "'soon' is neither a number of seconds from now, nor a time like 2026-12-01T08:00"),
        (["--not-before", "2026-13-01T08:00Z"], "is neither a number of seconds"),
        (["--not-before", "2026-12-01T08:00"], "'2026-12-01T08:00' has no time zone: here it would be 2026-12-01T08:00[+-]"),
        (["--not-before", "1e9"], "at most 4294967 seconds ahead"),
        (["--not-before", "nan"], "at most 4294967 seconds ahead"),
        (["--require", "gpu"], "a label is NAME=VALUE, like gpu=h200, not 'gpu'"),
        (["--prefer", "=h200"], "a label is NAME=VALUE"),
        (["--priority", "10"], "range"),
        (["--timeout", "soon"], "'soon' is no number of seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, sentence):
    with pytest.raises(click.UsageError, match=sentence):
        parsed(*arguments)


@pytest.mark.parametrize("policy", ["cancel", "0"])
def test_a_job_that_is_left_alone_can_not_be_cancelled_for_that(policy):
    with pytest.raises(click.UsageError, match="--detach"):
        parsed("--on-disconnect", policy, detach=True)
    assert parsed("--on-disconnect", "60", detach=True).on_disconnect == 60


def test_they_stand_in_the_help_in_their_order():
    @click.command()
    @life_options
    def command(**said):
        pass

    shown = CliRunner().invoke(command, ["--help"]).output
    places = [shown.index(option) for option in ("--timeout", "--attempts", "--on-disconnect", "--batch", "--parent")]
    assert places == sorted(places)
