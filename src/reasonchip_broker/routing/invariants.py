"""What must be so at the end of every step: each table agrees with every other (invariants 2, 3, 4, 7, 10 and 11 of the design)."""

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.packs import Pack
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.roster import Worker
from reasonchip_broker.routing.route import Route, RouteState

_HELD = AssignmentState.HELD
_PARKED = AssignmentState.PARKED
_RUNNING = frozenset({RouteState.DISPATCHED, RouteState.CANCELLING, RouteState.SUSPENDED})


def check(dispatcher: Dispatcher) -> None:
    """Raise InternalError if any two tables disagree."""
    dispatcher.roster.invariants()
    dispatcher.backlog.invariants()
    dispatcher.routes.invariants()
    dispatcher.outcomes.invariants()
    dispatcher.streams.invariants()
    held: dict[bytes, Assignment] = {}
    reserved: dict[bytes, int] = {}
    for pool in dispatcher.roster.pools.values():
        for worker in pool.workers:
            _check_assignments(worker, held, reserved)
            if worker.resuming and worker.busy < worker.capacity:
                raise InternalError("a job waits for its slot although one is free")
    for session in dispatcher.sessions.suspended.values():
        _check_assignments(session.worker, held, reserved)
    if reserved != dispatcher.slots.reserved:
        raise InternalError("the reserved cookies are not those that workers have not let go of")
    _check_routes(dispatcher, held)


def _check_assignments(worker: Worker, held: dict[bytes, Assignment], reserved: dict[bytes, int]) -> None:
    for cookie, assignment in worker.assignments.items():
        if assignment.worker is not worker or assignment.cookie != cookie:
            raise InternalError("an assignment is filed in the wrong place")
        if assignment.state is _HELD or assignment.state is _PARKED:
            if cookie in held:
                raise InternalError(f"two workers hold {cookie.hex()}")
            held[cookie] = assignment
        else:
            reserved[cookie] = reserved.get(cookie, 0) + 1


def _check_routes(dispatcher: Dispatcher, held: dict[bytes, Assignment]) -> None:
    waiting = 0
    unfinished: dict[Peer, int] = {}
    for route in dispatcher.routes:
        if route.state is RouteState.OVER:
            continue
        cookie = route.cookie
        assignment = held.pop(cookie, None)
        if (route.state in _RUNNING) != (assignment is not None) or route.assignment is not assignment:
            raise InternalError(f"route {cookie.hex()} is {route.state.name}, and its slot is not")
        if assignment is not None and assignment.attempt != route.attempt:
            raise InternalError(f"route {cookie.hex()} and its slot disagree")
        _check_state(route, is_reserved=cookie in dispatcher.slots.reserved)
        unfinished[route.owner] = unfinished.get(route.owner, 0) + 1
        waiting += route.state is RouteState.QUEUED
    if any(owner.unfinished != jobs for owner, jobs in unfinished.items()):
        raise InternalError("a connection's unfinished jobs are miscounted")
    if any(owner.awaited != _awaited(owner) for owner in unfinished):
        raise InternalError("the RESULTs that a client has not acknowledged are miscounted")
    if held or waiting != dispatcher.backlog.jobs:
        raise InternalError("a slot is held for no job, or a job waits outside of the backlog")


def _awaited(owner: Peer) -> int:
    entries = owner.unacknowledged or ()
    return sum(entry.size - entry.told if isinstance(entry, Pack) else 1 for entry in entries)


def _check_state(route: Route, *, is_reserved: bool) -> None:
    state, cookie = route.state, route.cookie.hex()
    if state is RouteState.FORGOTTEN or (state is RouteState.ADMITTING and route.attempt):
        raise InternalError(f"route {cookie} is in a state that it can't be in: {state.name}")
    if route.attempt > route.options.att or (state is RouteState.BACKOFF and not route.attempt and not is_reserved):
        raise InternalError(f"route {cookie} is {state.name} after {route.attempt} of {route.options.att} attempts")
    if (state is RouteState.BACKOFF or (state is RouteState.QUEUED and route.attempt)) and not route.frame:
        raise InternalError(f"route {cookie} is to run again, and its RUN is not there")
    extras = route.extras
    if state is RouteState.BACKOFF and not is_reserved and (extras is None or extras.wait_timer is None):
        raise InternalError(f"route {cookie} is BACKOFF, and nothing will end that")
    if extras is not None:
        for follower in extras.followers:
            if route not in (follower.peer.ties or ()):
                raise InternalError(f"route {cookie} has a follower that does not know of it")
        for child in extras.children.values():
            if child.extras is None or child.extras.parent is not route:
                raise InternalError(f"route {cookie} has a child that does not know of it")
