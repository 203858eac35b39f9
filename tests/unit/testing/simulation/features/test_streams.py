"""What the model says when chunks are missing, come twice, or come without credit."""

from typing import Any

import pytest

from reasonchip_broker.routing.allowance import Allowance
from reasonchip_broker.routing.replay import Ring
from reasonchip_broker.routing.streams import Streams
from reasonchip_broker.testing.simulation.settings import Setting
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

JOB = b"cookie         1"
RUN = "run", CLIENT, JOB, "p.a", True, True, False, False, 0, b"1", (("follow", True),)
CHUNK, BEYOND = ("progress", WORKER, JOB, b"c"), ("progress", WORKER, JOB, b"c", 0, None, True)
INPUT = ("input", CLIENT, JOB, b"i")
RESULT = ("result", WORKER, JOB)


def test_progress_goes_to_who_follows_as_far_as_there_is_credit() -> None:
    assert told(RUN, *[CHUNK] * 9, ("credit", CLIENT, JOB, 2), *[CHUNK] * 3, RESULT) == ""
    assert told(RUN, *[BEYOND] * 9, RESULT) == ""
    assert told(RUN, ("progress", WORKER, JOB, b"c", 3), ("progress", WORKER, JOB, b"c", -1, 2), RESULT) == ""


def test_who_comes_late_is_told_what_is_missing() -> None:
    other = ("connect client", 3, 1)
    look_on = ("attach", 3, JOB, 1, False)
    credit = ("credit", CLIENT, JOB, 4)
    assert told(RUN, *[CHUNK, credit] * 12, other, look_on, RESULT) == ""
    assert told(RUN, *[CHUNK] * 4, RESULT, other, ("attach", 3, JOB, 3), ("attach", 3, JOB, 100)) == ""


def test_input_goes_to_the_worker_and_to_each_attempt() -> None:
    assert told(RUN, *[INPUT] * 6, ("take input", WORKER, JOB, 3), INPUT, ("input", CLIENT, JOB, b"i", 1), RESULT, INPUT) == ""
    again = *RUN[:10], (("att", 2), ("back", 0))
    lost = ("disconnect", WORKER), ("connect worker", 3, 1, 1, ("*",)), ("advance", 0.1)
    assert told(again, *[INPUT] * 3, *lost, INPUT, ("take input", 3, JOB, 5), ("result", 3, JOB)) == ""


def test_where_rings_are_small_older_chunks_may_be_gone_and_of_jobs_that_are_over_all() -> None:
    other, long, late = ("connect client", 3, 1), b"0" * 40, b"cookie         2"
    credit = ("credit", CLIENT, JOB, 4)
    own = [("progress", WORKER, JOB, long), credit] * 5
    repeat = [("input", CLIENT, JOB, long, wrong) for wrong in (-1, -3, -6)]
    inputs = [("input", CLIENT, JOB, long), ("take input", WORKER, JOB, 4)] * 6
    story = RUN, *own, other, ("attach", 3, JOB, 1, False), *inputs, *repeat, RESULT
    follows = [("run", CLIENT, cookie, *RUN[3:]) for cookie in (late, b"cookie         3")]
    more = [("progress", WORKER, cookie, long) for cookie in (late, b"cookie         3") for _ in range(4)]
    assert told(*story, *follows, *more, ("attach", 3, JOB, 1), setting=Setting(limits="small rings")) == ""


@needs_interpreted_core
def test_a_chunk_that_somebody_has_yet_to_take_and_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ring.append

    def append(self: Ring, frame: bytes) -> None:
        self.taken = self.last
        original(self, frame)

    monkeypatch.setattr(Ring, "append", append)
    # They are within the credit, and for a while the owner takes none of them.
    chunks = [("progress", WORKER, JOB, b"0" * 20)] * 4
    story = RUN, ("congest", CLIENT), *chunks, ("unblock", CLIENT), RESULT
    assert "a gap where chunk 1" in told(*story, setting=Setting(limits="small rings"))


@needs_interpreted_core
def test_a_chunk_that_is_not_sent_on_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "was not sent, though there is credit" in found(monkeypatch, Streams, "_pump", RUN, CHUNK)


@needs_interpreted_core
def test_a_silent_gap_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ring.append

    def lose_every_third(ring: Ring, frame: bytes) -> None:
        original(ring, frame)
        if not ring.last % 3:
            ring.skip_to(ring.last + 1)

    assert found(monkeypatch, Ring, "append", RUN, *[CHUNK] * 4, by=lose_every_third) != ""


@needs_interpreted_core
def test_credit_that_is_not_given_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has credit up to 0" in found(monkeypatch, Streams, "settle", RUN, CHUNK)


def test_more_than_a_window_of_bytes_is_a_gap_or_refused() -> None:
    large = ("progress", WORKER, JOB, b"0" * 40, 0, None, True)
    alone = ("progress", WORKER, JOB, b"1" * 120, 0, None, True)
    client = ("congest", CLIENT), *[large] * 3, ("unblock", CLIENT), ("congest", CLIENT), alone, large, ("unblock", CLIENT)
    assert told(RUN, *client, alone, RESULT) == ""
    waits = ("run", CLIENT, b"cookie         2", "lonely")
    assert told(waits, *[("input", CLIENT, b"cookie         2", b"0" * 40)] * 3) == ""


@needs_interpreted_core
def test_a_window_without_a_bound_in_bytes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Allowance.take

    def take(allowance: Allowance, _: int) -> bool:
        return original(allowance, 0)

    large = ("progress", WORKER, JOB, b"0" * 40, 0, None, True)
    assert "were dropped" in found(monkeypatch, Allowance, "take", RUN, ("congest", CLIENT), *[large] * 3, by=take)


@needs_interpreted_core
def test_progress_that_comes_without_credit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Streams._pump

    def generous(self: Streams, *arguments: Any, everything: bool = False) -> None:
        original(self, *arguments, everything=True)

    assert "without credit" in found(monkeypatch, Streams, "_pump", RUN, *[BEYOND] * 9, by=generous)
