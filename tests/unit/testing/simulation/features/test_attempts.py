"""What the model says when a job is not tried again as it should be."""

from typing import Any

import pytest

from reasonchip_broker.routing.attempts import Attempts
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

JOB = b"cookie         1"


def run(*more: tuple[str, Any]) -> tuple[Any, ...]:
    return "run", CLIENT, JOB, "p.a", True, True, False, False, 0, b"1", more


LOST = run(("att", 2), ("back", 30)), ("disconnect", WORKER), ("connect worker", 3, 1, 1, ("*",))
FAILED = run(("att", 3), ("back", 0), ("again", ("Bad",))), ("result", WORKER, JOB, 2, None, b"", "Bad"), ("advance", 0.01)


def test_a_job_is_tried_again_when_its_worker_is_lost() -> None:
    assert told(*LOST, ("advance", 0.1), ("result", 3, JOB)) == ""
    assert told(*LOST, ("advance", 0.1), ("disconnect", 3)) == ""
    assert told(run(), ("disconnect", WORKER)) == ""


def test_a_job_is_tried_again_when_its_handler_fails_as_it_may() -> None:
    assert told(*FAILED, ("result", WORKER, JOB, 2, None, b"", "Bad"), ("advance", 0.01), ("result", WORKER, JOB)) == ""
    assert told(FAILED[0], ("result", WORKER, JOB, 2, None, b"", "Worse")) == ""


@needs_interpreted_core
def test_a_lost_requeue_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "waits beside 1 free slots" in found(monkeypatch, Attempts, "due", *LOST, ("advance", 0.1))


@needs_interpreted_core
def test_history_that_is_not_told_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    said = found(monkeypatch, Attempts, "record", *LOST, ("advance", 0.1), ("disconnect", 3))
    assert "WORKER_WENT_AWAY" in said or "the history of" in said
