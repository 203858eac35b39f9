from pathlib import Path

import pytest

from reasonchip_broker import errors
from reasonchip_broker.cli.exits import Exit, Fault, code_of

PAGE = Path(__file__).parents[3] / "docs/reference/command-line.md"


def test_the_manual_lists_every_exit_code():
    page = PAGE.read_text("utf-8")
    for code in Exit:
        assert f"| {code.value} |" in page


@pytest.mark.parametrize("refusal", errors.REFUSALS_BY_CODE.values())
def test_every_refusal_is_told_apart_from_a_failure(refusal):
    assert code_of(refusal("no")) is Exit.REFUSED


@pytest.mark.parametrize("failure", errors.FAILURES_BY_CODE.values())
def test_every_failure_of_a_job_has_one_code(failure):
    assert code_of(failure("no")) is Exit.FAILED


def test_what_is_nobody_elses_fault_is_a_bug():
    assert code_of(errors.InternalError("x")) is Exit.BUG


def test_a_result_that_can_not_be_read_is_a_failure_of_the_job():
    assert code_of(errors.RemoteProtocolError("x")) is Exit.FAILED


def test_a_fault_carries_its_code():
    assert Fault("no", Exit.REFUSED).code == 4
