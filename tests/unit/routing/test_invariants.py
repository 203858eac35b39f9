"""Each rule that is checked after every step is broken here once, by hand."""

from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.extras import Follower
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import TimerKind
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


def withdrawn(dispatcher: Dispatcher, cookies: dict[str, bytes], **values: Any) -> Route:
    """The job that waited does no more, and the backlog knows it; with other values now."""
    route = dispatcher.routes[cookies["waits"]]
    dispatcher.hold_back([route])
    return cast(Route, put(route, **values))


def over(dispatcher: Dispatcher, route: Route) -> None:
    """A job is over as far as the outcomes know."""
    route.state = RouteState.OVER
    route.owner.unfinished -= 1
    dispatcher.outcomes.count += 1
    dispatcher.outcomes.bytes += len(route.frame)
    dispatcher.outcomes.queue.append(route)


def runs_on_no_slot_while_a_slot_is_held_for_what_is_over(d: Dispatcher, c: dict[str, bytes]) -> None:
    """As many jobs run as slots are held."""
    over(d, d.routes[c["runs"]])
    withdrawn(d, c, state=RouteState.DISPATCHED, attempt=1, assignment=Assignment(worker_of(d), c["waits"], 1))


def waits_in_no_queue(d: Dispatcher, c: dict[str, bytes]) -> None:
    route = d.routes[c["runs"]]
    d.slots.withhold(worker_of(d).assignments[c["runs"]])
    put(route, assignment=None, state=RouteState.QUEUED, frame=b"RUN")


def asks_for_a_slot_though_one_is_free(d: Dispatcher, c: dict[str, bytes]) -> None:
    worker = worker_of(d)
    put(worker, resuming=deque([worker.assignments[c["parked"]]]), capacity=4, draining=True)
    worker.pool.place(worker)


BREAKS: dict[str, tuple[str, Callable[[Dispatcher, dict[str, bytes]], object]]] = {
    "a route that runs without a slot": ("says otherwise", lambda d, c: put(d.routes[c["runs"]], assignment=None)),
    "a route that runs on another slot than its own": (
        "says otherwise",
        lambda d, c: put(d.routes[c["runs"]], assignment=Assignment(worker_of(d), c["runs"], 1)),
    ),
    "a slot that is held for no job": ("says otherwise", lambda d, c: d.routes.remove(d.routes[c["runs"]])),
    "a slot that is held for a job that waits": (
        "says otherwise",
        lambda d, c: put(d.routes[c["runs"]], state=RouteState.QUEUED),
    ),
    "a slot that is held for a job that is over": (
        "says otherwise",
        runs_on_no_slot_while_a_slot_is_held_for_what_is_over,
    ),
    "a route that runs nowhere": (
        "is DISPATCHED, and its slot is not",
        lambda d, c: withdrawn(d, c, state=RouteState.DISPATCHED),
    ),
    "a route that runs on a slot that nobody has": (
        "runs on no slot",
        lambda d, c: withdrawn(
            d, c, state=RouteState.DISPATCHED, attempt=1, assignment=Assignment(worker_of(d), c["waits"], 1)
        ),
    ),
    "a route that waits outside of the backlog": ("waits outside of the backlog", waits_in_no_queue),
    "a forgotten route": ("can't be in: FORGOTTEN", lambda d, c: withdrawn(d, c, state=RouteState.FORGOTTEN)),
    "a route that is to be admitted after it ran": (
        "can't be in: ADMITTING",
        lambda d, c: withdrawn(d, c, state=RouteState.ADMITTING, attempt=1),
    ),
    "a route that is scheduled after it ran": (
        "can't be in: SCHEDULED",
        lambda d, c: withdrawn(d, c, state=RouteState.SCHEDULED, attempt=1),
    ),
    "a scheduled route without its RUN": (
        "its RUN is not there",
        lambda d, c: withdrawn(d, c, state=RouteState.SCHEDULED, frame=b""),
    ),
    "a scheduled route that nothing will start": (
        "is SCHEDULED, and nothing will end that",
        lambda d, c: withdrawn(d, c, state=RouteState.SCHEDULED, frame=b"RUN"),
    ),
    "scheduled jobs that are miscounted": ("7 jobs of 0 bytes count as scheduled", lambda d, c: put(d.scheduled, jobs=7)),
    "an assignment in the wrong place": (
        "filed in the wrong place",
        lambda d, c: put(worker_of(d).assignments[c["runs"]], cookie=c["waits"]),
    ),
    "a withheld slot whose cookie is not reserved": (
        "the reserved cookies",
        lambda d, c: put(worker_of(d).assignments[c["parked"]], state=AssignmentState.ABANDONED),
    ),
    "a reserved cookie that nobody holds": ("the reserved cookies", lambda d, c: d.slots.reserve(c["over"])),
    "an attempt that disagrees": ("disagree about the attempt", lambda d, c: put(d.routes[c["runs"]], attempt=2)),
    "too many attempts": (
        "is at attempt 2 of 1",
        lambda d, c: (put(d.routes[c["runs"]], attempt=2), put(d.routes[c["runs"]].assignment, attempt=2)),
    ),
    "a busy count": ("1 of 3 slots busy", lambda d, c: put(worker_of(d), busy=1)),
    "a job that waits for its slot although one is free": ("although one is free", asks_for_a_slot_though_one_is_free),
    "a resting slot": ("resting slots are miscounted", lambda d, c: put(worker_of(d).pool, resting=1)),
    "a class that has lost its pools": ("lacks a pool", lambda d, c: d.routes[c["runs"]].kind.pools.clear()),
    "outcomes that are miscounted": ("7 outcomes of", lambda d, c: put(d.outcomes, count=7)),
    "outcomes whose bytes are miscounted": ("outcomes of 7 bytes", lambda d, c: put(d.outcomes, bytes=7)),
    "jobs that are miscounted": ("a table that counts 7 and", lambda d, c: put(d.routes, routes=7)),
    "marks that are miscounted": ("a table that counts", lambda d, c: put(d.routes, spent=7)),
    "RESULTs that are not awaited": (
        "has not acknowledged are miscounted",
        lambda d, c: put(d.routes[c["runs"]].owner, awaited=7),
    ),
    "an outcome that is kept for ever": ("kept for ever", lambda d, c: d.outcomes.queue.clear()),
    "an outcome with a time of its own in the wrong queue": (
        "kept for ever",
        lambda d, c: put(d.routes[c["over"]], timer=d.timers.arm(TimerKind.RETENTION, d.routes[c["over"]], 2e6)),
    ),
    "more outcomes than may be": ("more outcomes are kept", lambda d, c: put(d.outcomes, _jobs_max=0)),
    "a backlog that is miscounted": ("the backlog counts 1 jobs and 1 bytes", lambda d, c: put(d.backlog, bytes=1)),
    "a ring that is miscounted": ("a ring's bytes are miscounted", lambda d, c: put(extras(d, c).progress, bytes=1)),
    "input of which more was taken than came": (
        "more is taken",
        lambda d, c: put(extras(d, c), inputs=put(d.streams._ring(), taken=1)),
    ),
    "a follower that does not know of it": (
        "a follower that does not know",
        lambda d, c: extras(d, c).followers.append(Follower(make_peer(), 1, 1)),
    ),
    "a child that does not know of it": (
        "a child that does not know",
        lambda d, c: put(d.routes[c["child"]].extras, parent=None),
    ),
    "a client's jobs": ("counts 0 unfinished jobs", lambda d, c: put(d.routes[c["runs"]].owner, unfinished=0)),
    "a job that is to run again without its RUN": (
        "its RUN is not there",
        lambda d, c: (put(d.routes[c["waits"]], attempt=1, frame=b""), put(d.backlog, bytes=0)),
    ),
    "a job between two attempts without its RUN": (
        "its RUN is not there",
        lambda d, c: withdrawn(d, c, state=RouteState.BACKOFF, attempt=1, frame=b""),
    ),
    "a job between two attempts that had none": (
        "before it had one",
        lambda d, c: withdrawn(d, c, state=RouteState.BACKOFF, frame=b"RUN"),
    ),
    "a job between two attempts for ever": (
        "nothing will end that",
        lambda d, c: withdrawn(d, c, state=RouteState.BACKOFF, attempt=1, frame=b"RUN"),
    ),
}
"""What is broken: what is said of it, and how."""


def extras(dispatcher: Dispatcher, cookies: dict[str, bytes]) -> Any:
    return dispatcher.routes[cookies["followed"]].extras


def test_a_busy_broker_breaks_none() -> None:
    driver, _ = busy()
    driver.switchboard.invariants()


@pytest.mark.parametrize("what", sorted(BREAKS))
def test_it_is_noticed(what: str) -> None:
    driver, cookies = busy()
    # What was found right before does not hide what is wrong now.
    driver.switchboard.invariants()
    sentence, break_it = BREAKS[what]
    break_it(inside(driver), cookies)
    with pytest.raises(InternalError, match=sentence):
        driver.switchboard.invariants()


def test_suspended_workers_are_checked_as_well() -> None:
    driver, cookies = busy()
    driver.disconnect(driver.links[1])
    driver.switchboard.invariants()
    (suspended,) = inside(driver).sessions.suspended.values()
    suspended.worker.assignments.pop(cookies["runs"])
    with pytest.raises(InternalError):
        driver.switchboard.invariants()
