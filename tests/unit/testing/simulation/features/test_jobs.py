"""What the model says when jobs are not treated as they should be."""

from typing import Any

import pytest

from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.plain import PlainPath
from reasonchip_broker.testing.simulation.world import Setting
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

JOB, OTHER = b"cookie         1", b"cookie         2"
RUN, RESULT = ("run", CLIENT, JOB, "p.a"), ("result", WORKER, JOB)


def test_a_job_runs_and_ends() -> None:
    assert told(RUN, RESULT) == ""


def test_a_result_that_counts_for_nothing_is_known_to() -> None:
    assert told(RUN, ("result", WORKER, JOB, 0, 7), ("result", WORKER, OTHER), RESULT, RESULT) == ""


def test_a_result_over_the_frame_limit_costs_its_own_job() -> None:
    json = ("disconnect", WORKER), ("connect worker", 3, 2, 1, ())
    too_large = "result", WORKER, JOB, Code.TOO_LARGE
    assert told(RUN, ("run", CLIENT, OTHER, "p.a"), too_large, too_large, ("result", WORKER, OTHER)) == ""
    assert told(*json, RUN, ("result", 3, JOB, Code.TOO_LARGE)) == ""


def test_a_job_waits_for_admission() -> None:
    story = [
        RUN,
        ("decide", JOB, True),
        RESULT,
        ("run", CLIENT, OTHER, "p.a"),
        ("decide", OTHER, False),
        ("decide", OTHER, True),
    ]
    assert told(*story, setting=Setting(admits=True)) == ""


@needs_interpreted_core
def test_a_result_that_is_not_passed_on_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PlainPath.results

    def forget(path: Any, peer: Any, frames: list[Any]) -> None:
        original(path, peer, [frame for frame in frames if frame[0] != PacketType.RESULT])

    assert "missing: the outcome OK" in found(monkeypatch, PlainPath, "results", RUN, RESULT, by=forget)


@needs_interpreted_core
def test_a_job_that_is_told_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Dispatcher._hand_over

    def twice(self: Dispatcher, *arguments: Any) -> None:
        original(self, *arguments)
        self.effects.send(arguments[1].peer, arguments[2])

    run = ("run", CLIENT, JOB, "p.a", True, True, True)
    assert "a second time" in found(monkeypatch, Dispatcher, "_hand_over", run, RESULT, by=twice)
