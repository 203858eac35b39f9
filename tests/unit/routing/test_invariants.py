"""Each rule that is checked after every step is broken here once, by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.assignment import AssignmentState
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.extras import Follower
from reasonchip_broker.routing.route import RouteState
from reasonchip_broker.testing.switchboard_driver import SwitchboardDriver

from .making import make_peer
from .scenes import driven, inside, session


def busy() -> tuple[SwitchboardDriver, dict[str, bytes]]:
    """A driver, and one job of each kind by its name."""
    driver = driven()
    client, worker = driver.client(), session(driver, 3)
    cookies = {"runs": driver.run(client), "parked": driver.run(client)}
    driver.park(worker, cookies["parked"])
    cookies["over"] = driver.run(client)
    driver.result(worker, cookies["over"])
    cookies["followed"] = driver.run(client, follow=True, att=2)
    cookies["child"] = driver.run(client, parent=cookies["followed"])
    cookies["waits"] = driver.run(client, "nobody", left_ms=50_000)
    driver.progress(worker, cookies["followed"], 1)
    return driver, cookies


def worker_of(dispatcher: Dispatcher) -> Any:
    (pool,) = dispatcher.roster.pools.values()
    (worker,) = pool.workers
    return worker


def put(thing: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(thing, name, value)
    return thing


BREAKS: dict[str, Callable[[Dispatcher, dict[str, bytes]], object]] = {
    "a route that runs without a slot": lambda d, c: put(d.routes[c["runs"]], assignment=None),
    "a slot that is held for no job": lambda d, c: d.routes.remove(d.routes[c["runs"]]),
    "a route that waits outside of the backlog": lambda d, c: put(d.routes[c["runs"]], state=RouteState.QUEUED),
    "a forgotten route": lambda d, c: put(d.routes[c["runs"]], state=RouteState.FORGOTTEN),
    "an assignment in the wrong place": lambda d, c: put(worker_of(d).assignments[c["runs"]], cookie=c["waits"]),
    "a withheld slot whose cookie is not reserved": lambda d, c: put(
        worker_of(d).assignments[c["parked"]], state=AssignmentState.ABANDONED
    ),
    "a reserved cookie that nobody holds": lambda d, c: d.slots.reserve(c["over"]),
    "an attempt that disagrees": lambda d, c: put(d.routes[c["runs"]], attempt=2),
    "too many attempts": lambda d, c: (put(d.routes[c["runs"]], attempt=2), put(d.routes[c["runs"]].assignment, attempt=2)),
    "a busy count": lambda d, c: put(worker_of(d), busy=1),
    "a job that waits for its slot although one is free": lambda d, c: put(
        worker_of(d), resuming=[worker_of(d).assignments[c["parked"]]], busy=2
    ),
    "outcomes that are miscounted": lambda d, c: put(d.outcomes, count=7),
    "jobs that are miscounted": lambda d, c: put(d.routes, routes=7),
    "marks that are miscounted": lambda d, c: put(d.routes, spent=7),
    "RESULTs that are not awaited": lambda d, c: put(d.routes[c["runs"]].owner, awaited=7),
    "an outcome that is kept for ever": lambda d, c: d.outcomes.queue.clear(),
    "a backlog that is miscounted": lambda d, c: put(d.backlog, bytes=1),
    "a ring that is miscounted": lambda d, c: put(extras(d, c).progress, bytes=1),
    "a follower that does not know of it": lambda d, c: extras(d, c).followers.append(Follower(make_peer(), 1, 1)),
    "a child that does not know of it": lambda d, c: put(d.routes[c["child"]].extras, parent=None),
    "a client's jobs": lambda d, c: put(d.routes[c["runs"]].owner, unfinished=0),
    "a job that is to run again without its RUN": lambda d, c: (
        put(d.routes[c["waits"]], attempt=1, frame=b""),
        put(d.backlog, bytes=0),
    ),
}


def extras(dispatcher: Dispatcher, cookies: dict[str, bytes]) -> Any:
    return dispatcher.routes[cookies["followed"]].extras


def test_a_busy_broker_breaks_none() -> None:
    driver, _ = busy()
    driver.switchboard.invariants()


@pytest.mark.parametrize("what", sorted(BREAKS))
def test_it_is_noticed(what: str) -> None:
    driver, cookies = busy()
    BREAKS[what](inside(driver), cookies)
    with pytest.raises(InternalError):
        driver.switchboard.invariants()


def test_suspended_workers_are_checked_as_well() -> None:
    driver, cookies = busy()
    driver.disconnect(driver.links[1])
    driver.switchboard.invariants()
    (suspended,) = inside(driver).sessions.suspended.values()
    suspended.worker.assignments.pop(cookies["runs"])
    with pytest.raises(InternalError):
        driver.switchboard.invariants()
