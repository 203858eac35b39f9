"""What the model says when cancelling does not do what it says."""

import pytest

from reasonchip_broker.routing.family import Family
from reasonchip_broker.routing.stopping import Stopping
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

JOB = b"cookie         1"
CANCELLED = ("run", CLIENT, JOB, "p.a"), ("cancel", CLIENT, JOB)


def test_a_job_is_cancelled_before_it_runs_and_while_it_does() -> None:
    assert told(("congest", WORKER), *CANCELLED) == ""
    assert told(*CANCELLED, ("result", WORKER, JOB, 3)) == ""
    assert told(*CANCELLED, *[("advance", 4.0)] * 2) == ""


@needs_interpreted_core
def test_a_worker_that_is_not_asked_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "missing: the CANCEL" in found(monkeypatch, Stopping, "tell_to_stop", *CANCELLED)


@needs_interpreted_core
def test_a_job_that_is_not_given_up_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    said = found(monkeypatch, Stopping, "_kill_grace_over", *CANCELLED, *[("advance", 4.0)] * 2)
    assert said.startswith("missing: the outcome CANCELLED")


def test_a_job_goes_when_its_client_has_gone_for_as_long_as_it_said() -> None:
    orphan = ("run", CLIENT, JOB, "p.a", True, True, False, False, 0, b"1", (("orphan", 150),))
    assert told(orphan, ("disconnect", CLIENT), ("advance", 0.1), ("advance", 0.1), ("result", WORKER, JOB, 3)) == ""


def test_a_child_goes_with_its_parent() -> None:
    child = ("run", WORKER, b"cookie         2", "p.a", True, True, False, False, 0, b"1", (("parent", JOB),))
    assert told(CANCELLED[0], child, CANCELLED[1], ("result", WORKER, JOB, 3)) == ""


@needs_interpreted_core
def test_a_child_that_lives_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    child = ("run", WORKER, b"cookie         2", "p.a", True, True, False, False, 0, b"1", (("parent", JOB),))
    story = CANCELLED[0], child, ("result", WORKER, JOB, 2)
    assert "CANCELLING" in found(monkeypatch, Family, "settle", *story)


@needs_interpreted_core
def test_a_batch_is_cancelled_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = b"batch" + bytes(11)
    jobs = [("run", CLIENT, b"cookie %9d" % n, "p.a", True, True, False, False, 0, b"1", (("batch", batch),)) for n in range(3)]
    cancel = ("cancel batch", CLIENT, batch)
    assert told(*jobs, cancel, cancel, ("cancel batch", CLIENT, b"other batch" + bytes(5))) == ""
    said = found(monkeypatch, Family, "batch", *jobs, cancel, by=lambda *_: [])
    assert said == "answered COOKIE_NOT_FOUND, and not OK"
