"""What the model says when a worker that comes back does not find what it left."""

from typing import Any

import pytest

from reasonchip_broker.routing.sessions import Sessions
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, found, told

JOB, OTHER = b"cookie         1", b"cookie         2"
FIRST, SECOND = b"first process" + bytes(3), b"other process" + bytes(3)


def worker(id: int, inst: bytes = FIRST, *held: tuple[bytes, int]) -> tuple[Any, ...]:
    return "connect worker", id, 1, 2, ("*",), "ann", inst, 3, held


def story(*end: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    peers = [("disconnect", 2), worker(3)]
    return [*peers, *[("run", CLIENT, cookie, "p.a") for cookie in (JOB, OTHER)], ("disconnect", 3), *end]


def test_a_worker_comes_back_and_goes_on() -> None:
    assert told(*story(worker(4, FIRST, (JOB, 1)), ("result", 4, JOB), ("result", 4, OTHER))) == ""
    assert told(*story(("cancel", CLIENT, JOB), worker(4, FIRST, (JOB, 1), (OTHER, 1)), ("result", 4, JOB, 3))) == ""
    assert told(*story(("advance", 4.0), worker(4, FIRST, (JOB, 1)), ("result", 4, JOB))) == ""


def test_another_process_of_its_name_is_another_worker() -> None:
    assert told(*story(worker(4, SECOND, (JOB, 1)), worker(5, SECOND), worker(6, FIRST))) == ""


def test_while_the_broker_stood_still_nobody_could_come_back() -> None:
    back = worker(4, FIRST, (JOB, 1), (OTHER, 1)), ("result", 4, JOB)
    assert told(*story(("jump", 60.0), *back)) == ""
    assert told(*story(("jump", 60.0), ("advance", 2.9), *back)) == ""


def test_a_worker_that_does_not_come_back_after_that_is_waited_for_no_longer_than_its_grace() -> None:
    assert told(*story(("jump", 60.0), ("advance", 3.1))) == ""


def test_so_is_a_client() -> None:
    run = "run", 7, b"cookie         3", "lonely", True, True, False, False, 0, b"1", (("orphan", 2_000),)
    assert told(("connect client", 7, 1), run, ("disconnect", 7), ("jump", 60.0), ("advance", 1.9), ("advance", 0.2)) == ""


@needs_interpreted_core
def test_a_grace_that_goes_on_for_as_long_as_the_broker_stood_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Sessions.lost

    def without_end(self: Sessions, *arguments: Any) -> None:
        original(self, *arguments)
        for session in self.suspended.values():
            session.grace_s = 1_000.0

    stood_still = story(("jump", 60.0), ("advance", 3.1))
    assert "missing: the outcome" in found(monkeypatch, Sessions, "lost", *stood_still, by=without_end)


@needs_interpreted_core
def test_jobs_that_wait_for_ever_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "missing: the outcome WORKER_WENT_AWAY" in found(monkeypatch, Sessions, "due", *story(("advance", 4.0)))


@needs_interpreted_core
def test_a_worker_that_finds_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    back = story(worker(4, FIRST, (JOB, 1), (OTHER, 1)))
    assert found(monkeypatch, Sessions, "_takes_up", *back, by=lambda *_: False) != ""
