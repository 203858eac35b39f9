"""The exception tree agrees with the codes of the protocol, and what people read is worth reading."""

import inspect
from pathlib import Path

import pytest

from reasonchip_broker import errors
from reasonchip_broker.errors import (
    FAILURES_BY_CODE,
    REFUSALS_BY_CODE,
    ConnectionLost,
    JobFailed,
    ReasonChipError,
    RemoteProtocolError,
    RequestRefused,
)
from reasonchip_broker.protocol.codes import OUTCOMES, REFUSALS, CloseReason, Code

EXCEPTIONS = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, Exception)]
NAMES = {"PROCESSOR_EXCEPTION": "PipelineFailed", "EXCEPTION": "JobException", "CANCELLED": "JobCancelled"}


def class_name(code: Code) -> str:
    """NO_CAPACITY is NoCapacity; a few outcomes have names of their own."""
    return NAMES.get(code.name, "".join(word.capitalize() for word in code.name.split("_")))


def test_every_refusal_has_an_exception_with_its_code_and_name() -> None:
    assert {code: refusal.__name__ for code, refusal in REFUSALS_BY_CODE.items()} == {
        code: class_name(code) for code in REFUSALS
    }
    assert all(refusal.code == code for code, refusal in REFUSALS_BY_CODE.items())


def test_every_outcome_but_ok_has_an_exception_with_its_code_and_name() -> None:
    failures = {code: failure.__name__ for code, failure in FAILURES_BY_CODE.items()}
    assert failures == {code: class_name(code) for code in OUTCOMES - {Code.OK}}
    assert all(failure.code == code for code, failure in FAILURES_BY_CODE.items())


def test_outcomes_and_refusals_are_apart() -> None:
    assert not OUTCOMES & REFUSALS
    assert not set(FAILURES_BY_CODE) & set(REFUSALS_BY_CODE)


def test_the_reasons_that_are_given_by_default_are_the_codes() -> None:
    assert RemoteProtocolError("").reason == CloseReason.PROTOCOL_ERROR
    assert ConnectionLost("").reason == CloseReason.CONNECTION_LOST
    assert RequestRefused("").code == Code.BAD_PACKET


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_every_exception_is_ours_and_is_drawn_in_the_tree(exception: type[Exception]) -> None:
    assert issubclass(exception, ReasonChipError)
    assert exception.__name__ in (errors.__doc__ or "")


def test_this_module_imports_nothing_of_the_project() -> None:
    assert "reasonchip_broker." not in Path(errors.__file__).with_suffix(".py").read_text("utf-8")


def test_a_refusal_says_when_to_try_again_if_it_was_told() -> None:
    assert errors.Overloaded("full", retry_after_s=1.5).retry_after_s == 1.5
    assert errors.NoCapacity("full").retry_after_s is None
    assert str(errors.NoCapacity("full")) == "full"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (JobFailed("boom"), "boom"),
        (JobFailed("boom", error_type="ValueError"), "ValueError: boom"),
        (JobFailed("", error_type="ValueError"), "ValueError"),
        (JobFailed(""), ""),
        (JobFailed("boom", stack=("line 1", "line 2")), "boom\nremote stack trace:\nline 1\nline 2"),
        (JobFailed("boom", error_type="E", stack=("l",)), "E: boom\nremote stack trace:\nl"),
    ],
)
def test_a_failure_reads_like_a_traceback(error: JobFailed, text: str) -> None:
    assert str(error) == text


def test_a_failure_may_have_run_unless_it_is_certain_that_it_did_not() -> None:
    assert JobFailed("").may_have_run
    assert not errors.BrokerWentAway("", may_have_run=False).may_have_run


@pytest.mark.parametrize("failure", FAILURES_BY_CODE.values())
def test_every_failure_is_caught_as_a_failed_job(failure: type[JobFailed]) -> None:
    with pytest.raises(JobFailed):
        raise failure("why", error_type="T", stack=("s",), may_have_run=False)


def test_whose_fault_it_was_is_in_the_first_level_of_the_tree() -> None:
    first = {exception.__name__ for exception in EXCEPTIONS if exception.__bases__ == (ReasonChipError,)}
    assert first == {"RemoteProtocolError", "InternalError", "TransportError", "ConnectionLost", "RequestRefused", "JobFailed"}
