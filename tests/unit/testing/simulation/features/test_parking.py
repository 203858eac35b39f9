"""What the model says when slots are lent out and not given back."""

import pytest

from reasonchip_broker.routing.requests import Requests
from reasonchip_broker.routing.slots import Slots
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

JOB, OTHER, THIRD = b"cookie         1", b"cookie         2", b"cookie         3"
RUNS = [("run", CLIENT, cookie, "p.a") for cookie in (JOB, OTHER, THIRD)]
PARK, RESUME = ("park", WORKER, JOB), ("resume", WORKER, JOB)


def test_a_slot_is_lent_out_and_given_back_before_anybody_else_gets_it() -> None:
    assert told(*RUNS, PARK, RESUME, ("result", WORKER, OTHER), RESUME, ("result", WORKER, JOB)) == ""
    assert told(*RUNS, PARK, PARK, ("result", WORKER, JOB), RESUME, ("park", WORKER, OTHER, 7)) == ""
    assert told(*RUNS, PARK, RESUME, ("cancel", CLIENT, JOB), ("disconnect", WORKER)) == ""


def test_what_is_said_of_a_job_that_is_not_held_is_counted() -> None:
    over = ("advance", 0.1)
    short = ("run", CLIENT, JOB, "p.a", True, True, False, False, 20)
    unheard = ("park", WORKER, OTHER), ("resume", WORKER, OTHER, 2), ("extend", WORKER, OTHER, 70)
    assert told(short, *unheard, over, PARK, RESUME, ("extend", WORKER, JOB, 70)) == ""


@needs_interpreted_core
@pytest.mark.parametrize(
    ("handler", "operation"), [("_park", PARK), ("_resume", RESUME), ("_extend", ("extend", WORKER, JOB, 70))]
)
def test_what_is_dropped_without_being_counted_is_noticed(
    handler: str, operation: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "were dropped, and 1 should" in found(monkeypatch, Requests, handler, operation)


@needs_interpreted_core
def test_a_slot_that_is_not_lent_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "waits beside 1 free slots" in found(monkeypatch, Slots, "park", *RUNS, PARK)


@needs_interpreted_core
def test_a_slot_that_is_not_given_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    said = found(monkeypatch, Slots, "_grant", *RUNS[:2], PARK, RESUME)
    assert "waits for a slot of its worker" in said
