"""Sessions: a worker whose connection broke may come back and go on with what it holds.

A worker that asked for a grace keeps its jobs for so long, suspended, while it has no connection. Coming back, it lists what it
holds: what is still its own goes on, what is not listed is lost, and what it holds of jobs or attempts that are over takes up its
slots until it reports them. Names are unique: a newer connection of the same name replaces the older one, which is told so, so that
two workers never take turns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from reasonchip_broker.limits import SESSION_GRACE_S_MAX
from reasonchip_broker.protocol.codes import CloseReason
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.roster import Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import Timer, TimerKind

if TYPE_CHECKING:
    from reasonchip_broker.routing.dispatcher import Dispatcher

_HELD: Final = AssignmentState.HELD
_PARKED: Final = AssignmentState.PARKED
_WITHHELD: Final = AssignmentState.WITHHELD
_ABANDONED: Final = AssignmentState.ABANDONED
Key = tuple[str, str]
"""A worker's principal and name."""


class Session:
    """A worker without a connection, whose jobs wait for it."""

    __slots__ = ("grace_s", "key", "reason", "timer", "worker")

    def __init__(self, key: Key, worker: Worker, reason: CloseReason, grace_s: float) -> None:
        self.key = key
        self.grace_s = grace_s
        """For how long it is waited for."""
        self.worker = worker
        self.reason = reason
        """Why its connection ended."""
        self.timer: Timer | None = None


class Sessions:
    """Named workers, those with a connection and those that are waited for."""

    __slots__ = ("_dispatcher", "connected", "suspended")

    def __init__(self, dispatcher: "Dispatcher") -> None:
        self._dispatcher = dispatcher
        self.connected: dict[Key, Peer] = {}
        self.suspended: dict[Key, Session] = {}

    @staticmethod
    def key_of(peer: Peer) -> Key | None:
        """What a worker is known by; None if it has no name."""
        return (peer.principal, peer.name) if peer.name else None

    def find(self, principal: str, name: str) -> Peer | None:
        """The connection of a named worker."""
        return self.connected.get((principal, name))

    # A connection ends

    def left(self, peer: Peer) -> None:
        """A connection is gone, registered or not: its name is free."""
        key = self.key_of(peer)
        if key is not None and self.connected.get(key) is peer:
            del self.connected[key]

    def lost(self, peer: Peer, worker: Worker, reason: CloseReason) -> None:
        """A worker's connection is gone: its jobs are lost, or wait for it."""
        dispatcher = self._dispatcher
        key = self.key_of(peer)
        dispatcher.slots.withdraw(worker)
        # Whoever says goodbye does not come back for what it held.
        if key is None or not peer.grace_s or reason is CloseReason.NORMAL or not worker.assignments:
            self.end(worker, reason)
            return
        grace_s = min(peer.grace_s, SESSION_GRACE_S_MAX)
        session = self.suspended[key] = Session(key, worker, reason, grace_s)
        for assignment in worker.assignments.values():
            route = dispatcher.routes.get(assignment.cookie)
            if route is not None and route.assignment is assignment and route.state is RouteState.DISPATCHED:
                route.move(RouteState.SUSPENDED)
        session.timer = dispatcher.timers.arm(TimerKind.SESSION, session, dispatcher.clock.now + grace_s)
        worker.resuming = None

    def end(self, worker: Worker, reason: CloseReason) -> None:
        """A worker does not come back: whatever it held is lost."""
        dispatcher = self._dispatcher
        assignments = list(worker.assignments.values())
        worker.assignments.clear()
        worker.resuming = None
        for assignment in assignments:
            self._drop(assignment)
            route = dispatcher.routes.get(assignment.cookie)
            if route is not None and route.assignment is assignment:
                dispatcher.attempts.lost(route, worker, reason)

    def _drop(self, assignment: Assignment) -> None:
        """An assignment is gone with its worker."""
        dispatcher = self._dispatcher
        if assignment.timer is not None:
            dispatcher.timers.disarm(assignment.timer)
            assignment.timer = None
        dispatcher.slots.given_back(assignment)
        over = assignment.state not in (_HELD, _PARKED)
        assignment.move(AssignmentState.GONE)
        if over:
            dispatcher.slots.unreserve(assignment.cookie)

    def due(self, session: Session) -> None:
        """A worker has not come back in time, or as another one."""
        if self.suspended.get(session.key) is session:
            del self.suspended[session.key]
            self._disarm(session)
            self.end(session.worker, session.reason)

    def _disarm(self, session: Session) -> None:
        """Session and timer refer to each other, and nobody collects cycles."""
        if session.timer is not None:
            self._dispatcher.timers.disarm(session.timer)
            session.timer = None

    # A connection comes

    def greeted(self, peer: Peer) -> Peer | None:
        """A worker has said who it is. Returns the live connection that it replaces, which the caller closes before `claimed`."""
        key = self.key_of(peer)
        if key is None:
            return None
        other = self.connected.get(key)
        self.connected[key] = peer
        return other

    def claimed(self, peer: Peer) -> None:
        """A worker's name is its own now: what another one of that name held is lost."""
        key = self.key_of(peer)
        session = self.suspended.get(key) if key is not None else None
        if session is not None and not self._is_same(peer, session):
            self.due(session)

    @staticmethod
    def _is_same(peer: Peer, session: Session) -> bool:
        return bool(peer.process) and peer.process == session.worker.peer.process

    def begin(self, peer: Peer, worker: Worker, held: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """A named worker has registered, and says what it holds. Returns what of it goes on."""
        key = self.key_of(peer)
        session = self.suspended.pop(key, None) if key is not None else None
        old = None
        if session is not None:
            self._disarm(session)
            old = session.worker
        dispatcher = self._dispatcher
        pairs = list(dict.fromkeys(held))
        confirmed = [pair for pair in pairs if old is not None and self._takes_up(worker, old, *pair)]
        for cookie, attempt in pairs:
            if cookie not in worker.assignments:
                self._keeps_stale(worker, cookie, attempt)
        # Their next attempt may not begin before this one is gone.
        routes = [dispatcher.routes.get(cookie) for cookie in dict.fromkeys(cookie for cookie, _ in pairs)]
        waiting = [route for route in routes if route is not None and route.state is RouteState.QUEUED]
        if waiting:
            dispatcher.hold_back(waiting)
        if old is not None and session is not None:
            self.end(old, session.reason)
            # An operator's word outlasts the connection.
            peer.leaving = peer.leaving or old.draining
        return confirmed

    def _takes_up(self, worker: Worker, old: Worker, cookie: bytes, attempt: int) -> bool:
        """A worker holds an attempt that it held before. Returns whether it goes on with it."""
        assignment = old.assignments.get(cookie)
        if assignment is None or assignment.attempt != attempt or assignment.state is _ABANDONED:
            return False
        takes_slot = assignment.state is not _PARKED
        if takes_slot and assignment.slots > worker.free:
            return False
        del old.assignments[cookie]
        assignment.worker = worker
        worker.assignments[cookie] = assignment
        worker.busy += assignment.slots if takes_slot else 0
        if assignment.state is _WITHHELD:
            worker.withheld += assignment.slots
            return False
        self._goes_on(self._dispatcher.routes[cookie], assignment)
        return True

    def _keeps_stale(self, worker: Worker, cookie: bytes, attempt: int) -> None:
        """A worker holds an attempt that is over. It takes up a slot until it is reported, unless more are held than there are slots
        (of a job whose RESULT was received, and not acknowledged in time, the worker has nothing but that RESULT left)."""
        dispatcher = self._dispatcher
        takes_slot = worker.busy < worker.capacity
        worker.assignments[cookie] = Assignment(worker, cookie, attempt, None, _WITHHELD if takes_slot else _ABANDONED)
        worker.busy += takes_slot
        worker.withheld += takes_slot
        dispatcher.slots.reserve(cookie)

    def _goes_on(self, route: Route, assignment: Assignment) -> None:
        dispatcher = self._dispatcher
        if route.state is RouteState.SUSPENDED:
            route.move(RouteState.DISPATCHED)
        elif route.state is RouteState.CANCELLING:
            told_at_once = assignment.timer is not None and assignment.timer.kind == TimerKind.KILL_GRACE
            dispatcher.stopping.tell_to_stop(assignment, at_once=told_at_once, why="it was cancelled meanwhile")
        dispatcher.streams.resumed(route, dispatcher.streams.extras_of(route))
