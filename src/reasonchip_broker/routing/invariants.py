"""What must be so at the end of every step: each table agrees with every other (invariants 2, 3, 4, 7, 10 and 11 of the design)."""

from typing import Final

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.assignment import AssignmentState
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.extras import Extras
from reasonchip_broker.routing.packs import Pack
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.roster import Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Account, Share
from reasonchip_broker.routing.table import RouteTable

_HELD: Final = AssignmentState.HELD
_PARKED: Final = AssignmentState.PARKED
_WITHHELD: Final = AssignmentState.WITHHELD
_ADMITTING: Final = RouteState.ADMITTING
_SCHEDULED: Final = RouteState.SCHEDULED
_QUEUED: Final = RouteState.QUEUED
_BACKOFF: Final = RouteState.BACKOFF
_OVER: Final = RouteState.OVER
_FORGOTTEN: Final = RouteState.FORGOTTEN
_RUNNING: Final = frozenset({RouteState.DISPATCHED, RouteState.CANCELLING, RouteState.SUSPENDED})


def check(dispatcher: Dispatcher) -> None:
    """Raise InternalError if any two tables disagree."""
    dispatcher.roster.invariants()
    dispatcher.backlog.invariants()
    table = dispatcher.routes
    routes, packs = table.invariants()
    live = [route for route in routes if route.state is not _OVER]
    dispatcher.outcomes.invariants([route for route in routes if route.state is _OVER], packs)
    dispatcher.streams.invariants([route for route in routes if route.extras is not None])
    held = 0
    reserved: dict[bytes, int] = {}
    running: dict[Share | None, int] = {}
    for pool in dispatcher.roster.pools.values():
        for worker in pool.workers:
            if worker.assignments:
                held += _check_assignments(worker, table, reserved, running)
            if worker.resuming and worker.free >= worker.resuming[0].slots:
                raise InternalError("a job waits for its slot although one is free")
    for session in dispatcher.sessions.suspended.values():
        held += _check_assignments(session.worker, table, reserved, running)
    dispatcher.shares.invariants(running)
    if reserved != dispatcher.slots.reserved:
        raise InternalError("the reserved cookies are not those that workers have not let go of")
    _check_routes(dispatcher, live, held)


def _check_assignments(worker: Worker, table: RouteTable, reserved: dict[bytes, int], running: dict[Share | None, int]) -> int:
    """Each is the one of its job, or its cookie is reserved. Returns how many are of a job; adds up the slots of each fairness key."""
    held = 0
    for cookie, assignment in worker.assignments.items():
        if assignment.worker is not worker or assignment.cookie != cookie:
            raise InternalError("an assignment is filed in the wrong place")
        state = assignment.state
        if state is _HELD or state is _WITHHELD:
            running[assignment.share] = running.get(assignment.share, 0) + assignment.slots
        if state is _HELD or state is _PARKED:
            held += 1
            route = table.peek(cookie)
            if route is None or route.assignment is not assignment or route.state not in _RUNNING:
                raise InternalError(f"a slot is held for {cookie.hex()}, whose route says otherwise")
            if route.attempt != assignment.attempt:
                raise InternalError(f"route {cookie.hex()} and its slot disagree about the attempt")
        else:
            reserved[cookie] = reserved.get(cookie, 0) + 1
    return held


def _check_routes(dispatcher: Dispatcher, routes: list[Route], held: int) -> None:
    """Each of these jobs, none of them over, is where its state says, and `held` have a slot: as each slot is its job's, no more."""
    waiting = running = scheduled = scheduled_bytes = 0
    accounts: dict[Account, tuple[int, int]] = {}
    unfinished: dict[Peer, int] = {}
    reserved = dispatcher.slots.reserved
    for route in routes:
        state, attempt, extras, owner = route.state, route.attempt, route.extras, route.owner
        if attempt > 1 and attempt > route.options.att:
            raise InternalError(f"route {route.cookie.hex()} is at attempt {attempt} of {route.options.att}")
        if route.assignment is not None:
            running += 1
            if state not in _RUNNING:
                raise InternalError(f"route {route.cookie.hex()} is {state.name}, and its slot is not")
        elif state is _QUEUED:
            waiting += 1
            if attempt and not route.frame:
                raise InternalError(f"route {route.cookie.hex()} is to run again, and its RUN is not there")
        else:
            _check_slotless(route, is_reserved=route.cookie in reserved)
            if state is _SCHEDULED:
                scheduled += 1
                scheduled_bytes += len(route.frame)
        if state is _QUEUED or state is _SCHEDULED:
            jobs, size = accounts.get(route.share.account, (0, 0))
            accounts[route.share.account] = jobs + 1, size + len(route.frame)
        if extras is not None:
            _check_ties(route, extras)
        unfinished[owner] = unfinished.get(owner, 0) + 1
    for owner, jobs in unfinished.items():
        if owner.unfinished != jobs:
            raise InternalError(f"a connection counts {owner.unfinished} unfinished jobs, and has {jobs}")
        if owner.unacknowledged and owner.awaited != sum(map(_awaited_in, owner.unacknowledged)):
            raise InternalError("the RESULTs that a client has not acknowledged are miscounted")
    if running != held or waiting != dispatcher.backlog.jobs:
        raise InternalError("a job runs on no slot, or waits outside of the backlog")
    for account, found in accounts.items():
        if found != (account.jobs, account.bytes):
            raise InternalError(f"{account.jobs} jobs of {account.bytes} bytes of an owner count as waiting, and {found} do")
    counted = dispatcher.scheduled
    if scheduled != counted.jobs or scheduled_bytes != counted.bytes:
        raise InternalError(
            f"{counted.jobs} jobs of {counted.bytes} bytes count as scheduled, and {scheduled} of {scheduled_bytes} are"
        )


def _awaited_in(entry: Route | Pack) -> int:
    return entry.size - entry.told if type(entry) is Pack else 1


def _check_slotless(route: Route, *, is_reserved: bool) -> None:
    """A job that neither runs nor waits for a slot."""
    state, attempt = route.state, route.attempt
    if state in _RUNNING:
        raise InternalError(f"route {route.cookie.hex()} is {state.name}, and its slot is not")
    if state is _FORGOTTEN or ((state is _ADMITTING or state is _SCHEDULED) and attempt):
        raise InternalError(f"route {route.cookie.hex()} is in a state that it can't be in: {state.name}")
    waits_for_time = state is _SCHEDULED or (state is _BACKOFF and not is_reserved)
    if (waits_for_time or state is _BACKOFF) and not route.frame:
        raise InternalError(f"route {route.cookie.hex()} is to run later, and its RUN is not there")
    if waits_for_time and state is _BACKOFF and not attempt:
        raise InternalError(f"route {route.cookie.hex()} waits for its next attempt before it had one")
    if waits_for_time and (route.extras is None or route.extras.wait_timer is None):
        raise InternalError(f"route {route.cookie.hex()} is {state.name}, and nothing will end that")


def _check_ties(route: Route, extras: Extras) -> None:
    """Whom a job knows of knows of the job."""
    for follower in extras.followers:
        if route not in (follower.peer.ties or ()):
            raise InternalError(f"route {route.cookie.hex()} has a follower that does not know of it")
    for child in extras.children.values():
        if child.extras is None or child.extras.parent is not route:
            raise InternalError(f"route {route.cookie.hex()} has a child that does not know of it")
