"""What the model says when nonsense is not answered."""

import pytest

from reasonchip_broker.routing.intake import Intake
from reasonchip_broker.switchboard import Switchboard
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

JOB = b"cookie         1"


@pytest.mark.parametrize("choice", range(12))
def test_nonsense_is_answered_or_ends_the_connection(choice: int) -> None:
    json_peers = [("connect client", 3, 2), ("connect worker", 4, 2, 1, ())]
    assert told(*json_peers, *(("garbage", end, choice) for end in (CLIENT, WORKER, 3, 4, 5))) == ""


def test_a_run_over_the_frame_limit_is_refused_and_leaves_the_job_of_its_cookie_alone() -> None:
    peers = ("connect client", 3, 2), ("connect worker", 4, 2, 1, ())
    sizes = [("oversized run", end, JOB) for end in (CLIENT, WORKER, 3, 4, 5)]
    assert told(*peers, *sizes, ("run", CLIENT, JOB, "p.a", False), *sizes, ("status", CLIENT, JOB)) == ""


@needs_interpreted_core
def test_a_run_over_the_frame_limit_that_nobody_is_told_of_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no answer to" in found(monkeypatch, Intake, "oversized", ("oversized run", CLIENT, JOB))


@needs_interpreted_core
def test_an_answer_that_does_not_come_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no answer to" in found(monkeypatch, Switchboard, "_unsupported", ("garbage", CLIENT, 4))
