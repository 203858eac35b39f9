"""Options of jobs: what makes no sense is refused at once, and the same options are the same bytes."""

import dataclasses
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from reasonchip_broker.peer import options as module
from reasonchip_broker.peer.options import (
    SECONDS_MAX,
    ChildOptions,
    OptionChanges,
    Options,
    RunMetas,
    changed,
    delay_s,
    id_bytes,
)
from reasonchip_broker.protocol import schemas

NONCE = bytes(range(16))


@pytest.mark.parametrize(
    "bad",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"deadline_s": 0},
        {"deadline_s": 5e6},
        {"encoding": "pickle"},
        {"timeout": float("nan")},
        {"attempts": 0},
        {"attempts": 21},
        {"backoff_s": -0.1},
        {"retry_on": [f"E{number}" for number in range(33)]},
        {"on_disconnect": "explode"},
        {"on_disconnect": -1},
        {"retention_s": -1},
        {"queue_limit_s": 0},
        {"run_limit_s": 0},
        {"loose": True},
        {"not_before": 5e6},
        {"not_before": float("nan")},
        {"not_before": float("inf")},
        {"not_before": timedelta(days=50)},
        {"not_before": datetime.max.replace(tzinfo=UTC)},
    ],
)
def test_values_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Options(**bad)


def test_what_is_changed_is_what_is_named() -> None:
    assert changed(Options(attempts=3), {"timeout": 5}) == Options(attempts=3, timeout=5)


def test_a_name_that_is_no_option_is_told_with_the_one_that_was_meant_and_where_variables_go() -> None:
    with pytest.raises(TypeError) as told:
        changed(Options(), {"dedline_s": 5})
    assert str(told.value) == (
        "'dedline_s' is no option (did you mean 'deadline_s'?); a job's variables are given as one value: {'dedline_s': ...}"
    )
    with pytest.raises(TypeError) as told:
        changed(Options(), {"text": "x"})
    assert str(told.value) == "'text' is no option; a job's variables are given as one value: {'text': ...}"


@pytest.mark.parametrize(("keywords", "more"), [(ChildOptions, {"parent"}), (OptionChanges, set())])
def test_every_option_is_a_keyword_that_a_type_checker_knows(keywords: Any, more: set[str]) -> None:
    assert {field.name for field in dataclasses.fields(Options)} == {*keywords.__annotations__} | more


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"cookie": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}, "cookie must be a uuid.UUID, not str"),
        ({"timeout": "5"}, "timeout must be a number of seconds, not '5'"),
        ({"deadline_s": "5"}, "deadline_s must be a number of seconds, not '5'"),
        ({"retention_s": True}, "retention_s must be a number of seconds, not True"),
        ({"attempts": "3"}, "attempts must be a whole number, not '3'"),
        ({"attempts": 2.5}, "attempts must be a whole number, not 2.5"),
        ({"queue": "no"}, "queue must be True or False, not 'no'"),
        ({"follow": 1}, "follow must be True or False, not 1"),
        ({"on_disconnect": None}, 'on_disconnect must be "continue", "cancel", or a number of seconds, not None'),
        ({"retry_on": 5}, "retry_on takes exceptions and their names, not 5"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_with_what_would_be_right(bad: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError) as told:
        Options(**bad)
    assert str(told.value) == sentence


@pytest.mark.parametrize("bad", ["08:00", True, datetime(2026, 12, 1, 8), datetime(2026, 12, 1).date()])  # noqa: DTZ001
def test_a_moment_is_a_time_that_has_a_zone_or_how_long_from_now(bad: Any) -> None:
    with pytest.raises(TypeError) as told:
        Options(not_before=bad)
    assert str(told.value) == (
        "not_before must be a datetime with a time zone (a local time gets one from .astimezone()), a timedelta, "
        f"or a number of seconds, not {bad!r}"
    )


def test_a_delay_is_the_same_whichever_way_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Noon":
            return cls(2026, 12, 1, 12, tzinfo=UTC)

    monkeypatch.setattr(module, "datetime", Noon)
    later = Noon(2026, 12, 1, 14, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert [delay_s(moment) for moment in (later, timedelta(seconds=90), 90, None)] == [90, 90, 90, 0]
    assert delay_s(Noon(2026, 12, 1, 14, tzinfo=timezone(timedelta(hours=3)))) == -3600


@pytest.mark.parametrize("past", [-5, timedelta(-1), datetime.min.replace(tzinfo=UTC), 0])
def test_a_time_that_is_past_is_an_option_too_and_means_now(past: Any) -> None:
    assert delay_s(Options(not_before=past).not_before) <= 0


def test_the_longest_delay_is_what_a_run_can_say() -> None:
    assert Options(not_before=SECONDS_MAX).not_before == SECONDS_MAX


def test_the_meta_of_a_set_of_options_has_no_delay_for_that_is_another_for_each_job() -> None:
    assert RunMetas(Options(not_before=60), NONCE).of("p", "") == RunMetas(Options(), NONCE).of("p", "")


def test_an_id_is_a_uuid() -> None:
    assert id_bytes("batch", uuid.UUID(int=1)) == bytes(15) + b"\x01"
    with pytest.raises(TypeError, match=r"batch must be a uuid\.UUID, not str"):
        id_bytes("batch", "1")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 256])
def test_what_can_not_be_the_name_of_a_pipeline_is_told_so(name: str) -> None:
    with pytest.raises(ValueError, match="can't be the name of a pipeline: that is 1 to 255 characters"):
        RunMetas(Options(), NONCE).of(name, "")
    with pytest.raises(TypeError, match="a pipeline is asked for by its name"):
        RunMetas(Options(), NONCE).of(len, "")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an option is wrong"):
        RunMetas(Options(retry_on=["two\nlines"]), NONCE).of("p", "")


def test_the_meta_says_what_the_options_say() -> None:
    meta = RunMetas(Options(queue=False, detach=True), NONCE).of("greet", "json")
    assert schemas.run_options(meta) == schemas.RunOptions(
        p="greet", enc="json", nonce=NONCE, queue=False, reply=True, detach=True
    )


def test_the_meta_says_how_the_job_is_to_live() -> None:
    parent, batch = uuid.uuid4(), uuid.uuid4()
    options = Options(
        follow=True,
        attempts=3,
        backoff_s=0,
        retry_on=[KeyError, "RateLimited"],
        on_disconnect=1.5,
        retention_s=60,
        queue_limit_s=0.0001,
        run_limit_s=2,
        parent=parent,
        loose=True,
        batch=batch,
    )
    assert schemas.run_options(RunMetas(options, NONCE).of("greet", "json")) == schemas.RunOptions(
        p="greet",
        enc="json",
        nonce=NONCE,
        follow=True,
        att=3,
        back=0,
        again=["KeyError", "RateLimited"],
        orphan=1500,
        keep=60_000,
        qlim=1,
        rlim=2000,
        parent=parent.bytes,
        loose=True,
        batch=batch.bytes,
    )


@pytest.mark.parametrize(("policy", "orphan"), [("continue", None), ("cancel", 0), (0, 0), (2.5, 2500)])
def test_a_disconnect_policy_is_a_word_or_a_number_of_seconds(policy: Any, orphan: int | None) -> None:
    assert schemas.run_options(RunMetas(Options(on_disconnect=policy), NONCE).of("p", "")).orphan == orphan


@pytest.mark.parametrize(
    ("errors", "names"),
    [
        ("*", ("*",)),
        (Exception, ("*",)),
        (KeyError, ("KeyError",)),
        ("Odd", ("Odd",)),
        ([], ()),
        (("A", OSError), ("A", "OSError")),
    ],
)
def test_errors_to_retry_on_travel_by_name(errors: Any, names: tuple[str, ...]) -> None:
    assert Options(retry_on=errors).retry_on == names


@pytest.mark.parametrize("bad", [[1], [""], int])
def test_what_is_no_error_can_not_be_retried_on(bad: Any) -> None:
    with pytest.raises(TypeError, match="retry_on"):
        Options(retry_on=bad)


def test_plain_jobs_say_no_more_than_before() -> None:
    plain = schemas.RunOptions(p="greet", enc="json", nonce=NONCE)
    assert RunMetas(Options(), NONCE).of("greet", "json") == schemas.encode_meta(plain)


def test_the_same_job_is_the_same_object_and_another_is_not() -> None:
    metas = RunMetas(Options(), NONCE)
    assert metas.of("greet", "json") is metas.of("greet", "json")
    assert len({metas.of("greet", "json"), metas.of("greet", "msgpack"), metas.of("part", "json")}) == 3


def test_views_with_equal_options_send_equal_bytes() -> None:
    assert RunMetas(Options(timeout=1), NONCE).of("greet", "json") == RunMetas(Options(), NONCE).of("greet", "json")


def test_a_chosen_cookie_gets_a_nonce_of_its_own_for_each_submission() -> None:
    metas = RunMetas(Options(cookie=uuid.uuid4()), NONCE)
    nonces = {schemas.run_options(metas.of("greet", "json")).nonce for _ in range(3)}
    assert len(nonces) == 3
    assert NONCE not in nonces


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 300, "\x1b[31m"])
def test_a_name_that_no_broker_takes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a pipeline"):
        RunMetas(Options(), NONCE).of(name, "json")


def test_names_made_up_as_one_goes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "METAS_MAX", 10)
    metas = RunMetas(Options(), NONCE)
    for number in range(100):
        metas.of(f"p{number}", "json")
    assert len(metas._ready) <= 10
