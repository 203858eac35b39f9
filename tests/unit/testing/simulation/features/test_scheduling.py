"""What the model says of jobs that are not to run before their time."""

from typing import Any

import pytest

from reasonchip_broker.routing import scheduled
from reasonchip_broker.routing.scheduled import Scheduled
from reasonchip_broker.routing.status import Status
from reasonchip_broker.testing.simulation.world import Setting
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

COOKIE, OTHER = b"cookie         1", b"cookie         2"


def run(cookie: bytes = COOKIE, delay: int = 500, queue: bool = True, left_ms: int = 0, **more: Any) -> tuple[Any, ...]:
    """A job that may run in half a second."""
    return ("run", CLIENT, cookie, "p.a", True, queue, False, False, left_ms, b"1", (("delay", delay), *more.items()))


ITS_TIME = ("advance", 0.51)


@pytest.mark.parametrize(
    "story",
    [
        (run(), ("status", CLIENT, COOKIE), ITS_TIME, ("status", CLIENT, COOKIE), ("result", WORKER, COOKIE)),
        (run(OTHER, 490), run(), ("jump", 3.0)),
        (("congest", WORKER), run(), ITS_TIME, ("status", CLIENT, COOKIE)),
        (("congest", WORKER), run(queue=False), ITS_TIME),
        (run(), ("cancel", CLIENT, COOKIE), ITS_TIME),
        (run(left_ms=200), ITS_TIME),
        (run(left_ms=500), ITS_TIME),
        (run(orphan=0), ("disconnect", CLIENT), ITS_TIME),
        (run(), ("disconnect", CLIENT), ITS_TIME),
        (run(), ("drain",), ITS_TIME),
        (run(), ("restart", b"another broker  "), ITS_TIME),
        (run(nonce=b"n"), ("connect client", 3, 1), ("run", 3, *run(nonce=b"n")[2:]), ITS_TIME),
        tuple(run(b"cookie%10d" % number) for number in range(12)),
    ],
)
def test_a_broker_that_does_right_by_scheduled_jobs_is_told_nothing(story: tuple[Any, ...]) -> None:
    assert told(*story) == ""


def test_a_job_may_be_admitted_before_its_time_and_after_it() -> None:
    admits = Setting(admits=True)
    assert told(run(), ("decide", COOKIE, True), ITS_TIME, setting=admits) == ""
    assert told(run(), ITS_TIME, ("decide", COOKIE, True), setting=admits) == ""
    assert told(run(), ("decide", COOKIE, False), ITS_TIME, setting=admits) == ""


@needs_interpreted_core
def test_a_job_that_runs_before_its_time_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    said = found(monkeypatch, scheduled, "starts_at", run(), ITS_TIME, by=lambda route: route.taken_at + 0.4)
    assert said == f"{COOKIE!r} was dispatched a second time, or before its time"


@needs_interpreted_core
def test_a_job_that_begins_though_its_deadline_has_passed_too_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin_at_once(self: Scheduled, route: Any) -> None:
        route.extras.wait_timer = None
        self.begin(route)

    said = found(monkeypatch, Scheduled, "due", run(left_ms=700), ("jump", 3.0), by=begin_at_once)
    assert said == f"{COOKIE!r} was dispatched a second time, or before its time"


@needs_interpreted_core
def test_a_job_whose_time_passes_unnoticed_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "1 jobs are scheduled, and 0 should be" in found(monkeypatch, Scheduled, "due", run(), ITS_TIME, ("advance", 0.1))


@needs_interpreted_core
def test_a_status_that_has_the_wrong_time_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Status.of

    def of(self: Status, route: Any, *, tree: bool = False) -> Any:
        self._clock.now += 0.2
        try:
            return original(self, route, tree=tree)
        finally:
            self._clock.now -= 0.2

    said = found(monkeypatch, Status, "of", run(), ("status", CLIENT, COOKIE), by=of)
    assert said == "a job is told to be due in 300 ms, and is in 500 ms"
