"""Every way in which a call can end is a RESULT, and none is an error of the worker."""

import asyncio
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from reasonchip_broker.errors import JobCancelled, JobException, PipelineFailed
from reasonchip_broker.limits import MIB
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.worker import InvalidVariables, outcomes
from tests.unit.worker.harness import Outcome

COOKIE = bytes(range(16))


def returned(value: Any, encoding: str = "msgpack", frame_bytes_max: int = MIB) -> Outcome:
    return Outcome(outcomes.returned(COOKIE, 3, value, encoding, frame_bytes_max))


def raised(error: BaseException, frame_bytes_max: int = MIB) -> Outcome:
    try:
        raise error
    except BaseException as caught:
        frame = outcomes.raised(COOKIE, 3, caught, frame_bytes_max)
    assert len(frame) - 4 <= frame_bytes_max
    return Outcome(frame)


@dataclass
class Report:
    title: str
    pages: tuple[int, ...] = ()


# ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["msgpack", "json", "text", "bytes", ""])
@pytest.mark.parametrize("value", [None, 0, False, [], {}, "", 1.5, "é", [None, {"a": [1]}]])
def test_values_come_back_as_they_are_falsy_ones_too(value: Any, encoding: str) -> None:
    outcome = returned(value, encoding)
    assert (outcome.code, outcome.attempt, outcome.value) == (Code.OK, 3, value)
    assert type(outcome.value) is type(value)


@pytest.mark.parametrize(
    ("value", "encoding", "expected"),
    [
        ({"a": 1}, "json", "json"),
        ("text", "json", "json"),
        ({"a": 1}, "msgpack", "msgpack"),
        ({"a": 1}, "text", "msgpack"),
        (b"\x00", "msgpack", "bytes"),
        (bytearray(b"\x00"), "", "bytes"),
        ("text", "msgpack", "text"),
    ],
)
def test_a_result_goes_as_the_variables_came(value: Any, encoding: str, expected: str) -> None:
    assert returned(value, encoding).encoding == expected


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_typed_values_become_maps_in_either_encoding(encoding: str) -> None:
    assert returned(Report("a", (1, 2)), encoding).value == {"title": "a", "pages": [1, 2]}


def test_times_become_text_where_json_asks_for_it() -> None:
    assert returned({"at": datetime(2026, 1, 2, tzinfo=UTC)}, "json").value == {"at": "2026-01-02T00:00:00Z"}


class Hostile:
    def __str__(self) -> str:
        raise SystemExit("not even text")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (object(), "msgpack"),
        (object(), "json"),
        (b"x", "json"),
        (math.nan, "json"),
        ({1: 2}, "json"),
        (2**70, "msgpack"),
        ("\ud800", "msgpack"),
        (Hostile(), "json"),
        ({"deep": Hostile()}, "msgpack"),
    ],
)
def test_what_cannot_be_sent_is_told_by_its_type_row_29(value: Any, encoding: str) -> None:
    outcome = returned(value, encoding)
    assert outcome.code == Code.EXCEPTION
    assert outcome.may_have_run
    assert outcome.failure.error.startswith(f"the handler returned what can't be sent ({type(value).__name__}): ")


def test_a_value_that_contains_itself_is_told_row_29() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for encoding in ("msgpack", "json"):
        assert "nested too deeply" in returned(circle, encoding).failure.error


def test_a_result_over_the_frame_limit_is_too_large_row_29() -> None:
    outcome = returned(b"x" * 5000, frame_bytes_max=4096)
    assert outcome.code == Code.TOO_LARGE
    assert outcome.may_have_run
    assert outcome.failure.error.endswith("bytes, over the broker's limit of 4096")
    frame = outcomes.returned(COOKIE, 1, b"x" * 4000, "", MIB)
    assert Outcome(outcomes.returned(COOKIE, 1, b"x" * 4000, "", len(frame) - 4)).code == Code.OK
    assert Outcome(outcomes.returned(COOKIE, 1, b"x" * 4000, "", len(frame) - 5)).code == Code.TOO_LARGE


# ── Exceptions ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Custom(Exception):
    """An exception of a worker author's own."""


def test_an_exception_is_told_with_its_type_text_and_stack_row_29() -> None:
    outcome = raised(ValueError("no such model"))
    assert (outcome.code, outcome.may_have_run) == (Code.EXCEPTION, True)
    assert (outcome.failure.type, outcome.failure.error) == ("ValueError", "no such model")
    stack = outcome.failure.stack or []
    assert stack[0] == "Traceback (most recent call last):"
    assert stack[1].endswith("in raised")
    assert stack[-1] == "ValueError: no such model"
    assert raised(Custom("x")).failure.type == "Custom"


def test_causes_are_in_the_stack() -> None:
    error = RuntimeError("outer")
    error.__cause__ = KeyError("inner")
    stack = "\n".join(raised(error).failure.stack or [])
    assert "KeyError: 'inner'" in stack
    assert "direct cause" in stack


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), JobCancelled("inner")])
def test_an_exit_a_break_or_a_strange_cancellation_is_an_exception_row_29(error: BaseException) -> None:
    outcome = raised(error)
    assert outcome.code == Code.EXCEPTION
    assert outcome.failure.type.endswith(type(error).__name__)


def test_pipeline_failed_is_the_pipelines_own_word() -> None:
    outcome = raised(PipelineFailed("the model refused", error_type="Refusal"))
    assert outcome.code == Code.PROCESSOR_EXCEPTION
    assert (outcome.failure.error, outcome.failure.type) == ("the model refused", "Refusal")
    assert outcome.failure.stack
    assert raised(PipelineFailed("")).failure.error == ""
    assert raised(PipelineFailed("x", stack=("remote 1",))).failure.stack == ["remote 1"]


def test_a_failed_job_of_a_handlers_own_is_an_exception() -> None:
    outcome = raised(JobException("inner", error_type="KeyError", stack=("line",)))
    assert outcome.code == Code.EXCEPTION
    assert outcome.failure.type == "JobException"


def test_invalid_variables_never_ran() -> None:
    outcome = raised(InvalidVariables("variable 'n' is missing"))
    assert (outcome.code, outcome.may_have_run) == (Code.EXCEPTION, False)
    assert (outcome.failure.type, outcome.failure.error) == ("InvalidVariables", "variable 'n' is missing")
    assert outcome.failure.stack is None


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_exception_without_text_is_told_all_the_same_row_29() -> None:
    assert raised(Silent()).failure.error == "(its text can't be had: ValueError)"
    assert raised(PipelineFailed(Hostile())).failure.error == "(its text can't be had: SystemExit)"  # type: ignore[arg-type]


def test_text_that_is_no_unicode_is_told_as_far_as_it_goes_row_29() -> None:
    outcome = raised(ValueError("half a pair: \ud800"))
    assert outcome.failure.error == "half a pair: ?"
    assert outcome.failure.stack


def test_a_flood_of_text_is_cut_row_29() -> None:
    outcome = raised(ValueError("x" * 50_000_000), frame_bytes_max=MIB)
    assert len(outcome.failure.error) < 20_000
    assert outcome.failure.error.endswith("… (50000000 characters)")
    assert max(len(line) for line in outcome.failure.stack or []) <= 1000


@pytest.mark.parametrize("text", ["x" * 100_000, "\U0001f600" * 100_000, "y\n" * 100_000])
def test_a_failure_fits_the_smallest_frame_limit_row_29(text: str) -> None:
    assert raised(ValueError(text), frame_bytes_max=4096).failure.error[:1] == text[:1]


def test_a_failure_of_just_the_limit_is_told_in_full() -> None:
    frame = outcomes.raised(COOKIE, 3, ValueError("x" * 3000), MIB)
    length = len(frame) - 4
    assert outcomes.raised(COOKIE, 3, ValueError("x" * 3000), length) == frame
    assert len(outcomes.raised(COOKIE, 3, ValueError("x" * 3000), length - 1)) < length


def test_a_result_of_just_the_limit_is_sent() -> None:
    frame = outcomes.returned(COOKIE, 3, b"x" * 3000, "msgpack", MIB)
    length = len(frame) - 4
    assert outcomes.returned(COOKIE, 3, b"x" * 3000, "msgpack", length) == frame
    assert Outcome(outcomes.returned(COOKIE, 3, b"x" * 3000, "msgpack", length - 1)).code == Code.TOO_LARGE


def test_a_long_stack_keeps_its_ends() -> None:
    error = ValueError("\n".join(f"line {n}" for n in range(2000)))
    stack = raised(error).failure.stack or []
    assert len(stack) == outcomes.STACK_LINES_MAX + 1
    assert stack[0].startswith("Traceback")
    assert stack[-1] == "line 1999"


# ── The rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_never_ran_says_so() -> None:
    refused = Outcome(outcomes.refused(COOKIE, 1, "no slot", "NoSlot"))
    assert (refused.code, refused.may_have_run, refused.failure.type) == (Code.EXCEPTION, False, "NoSlot")
    cancelled = Outcome(outcomes.cancelled(COOKIE, 1, "cancelled before it ran", may_have_run=False))
    assert (cancelled.code, cancelled.may_have_run) == (Code.CANCELLED, False)
    assert Outcome(outcomes.died(COOKIE, 1, "it exited")).may_have_run
