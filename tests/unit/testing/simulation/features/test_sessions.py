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
    assert told(*story(("jump", 60.0), worker(4, FIRST, (JOB, 1), (OTHER, 1)), ("result", 4, JOB))) == ""


@needs_interpreted_core
def test_jobs_that_wait_for_ever_are_missed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    assert "missing: the outcome WORKER_WENT_AWAY" in found(monkeypatch, Sessions, "due", *story(("advance", 4.0)))


@needs_interpreted_core
def test_a_worker_that_finds_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    back = story(worker(4, FIRST, (JOB, 1), (OTHER, 1)))
    assert found(monkeypatch, Sessions, "_takes_up", *back, by=lambda *_: False) != ""
