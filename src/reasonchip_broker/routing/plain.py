"""The hot path: RUNs and RESULTs of plain jobs, each kind in a loop of its own.

A *plain* job asks for nothing but to be run: no deadline, no reply, variables that need no translation, a worker with a free slot.
Nearly all are, and they come in reads of many frames. So these two loops do for a plain job what `Switchboard` and `Dispatcher` do
for any, written out: no handler is looked up, no method called for a single step, and what all frames of a read have in common is
looked up once. At the first sign that a frame is anything else they hand it to its handler, which knows all the rules; nothing is
decided here that is not decided there as well, and a test compares the two.
(`docs/decisions/0008-plain-jobs-have-a-loop-of-their-own.md`)"""

from collections import deque
from typing import TypeAlias

from reasonchip_broker.protocol.codes import NO_COOKIE, Code, PacketType
from reasonchip_broker.protocol.frames import HEADER_BYTES, Frame
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.backlog import EligibilityClass
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.peers import ELSE, Peer, PeerState
from reasonchip_broker.routing.roster import choose
from reasonchip_broker.routing.route import Route, RouteState

Known: TypeAlias = tuple[RunOptions, EligibilityClass, bool]
"""What a RUN's options mean: decoded, the class of such jobs, and whether they are plain."""

_RUN = int(PacketType.RUN)
_RESULT = int(PacketType.RESULT)
_LAST_OUTCOME = int(Code.TOO_LARGE)
_DISPATCHED = RouteState.DISPATCHED
_OVER = RouteState.OVER
_HELD = AssignmentState.HELD
_GONE = PeerState.GONE


class PlainPath:
    """Both loops, over the tables of a dispatcher. `known` is what options mean, by their bytes; `jobs_max` bounds a client's jobs."""

    __slots__ = ("_dispatcher", "_jobs_max", "_known", "_recipients", "_routes")

    def __init__(self, dispatcher: Dispatcher, known: dict[bytes, Known], jobs_max: int) -> None:
        self._dispatcher = dispatcher
        self._routes = dispatcher.routes
        self._recipients = dispatcher.effects.recipients
        self._known = known
        self._jobs_max = jobs_max

    def runs(self, peer: Peer, frames: list[Frame]) -> None:
        """Frames from a binary client."""
        known, routes, recipients = self._known, self._routes, self._recipients
        if peer.unacknowledged is None:
            peer.unacknowledged = deque()
        dispatcher = self._dispatcher
        reserved, spent, now = dispatcher.slots.reserved, dispatcher.outcomes.spent.shards, dispatcher.clock.now
        for frame in frames:
            kind, cookie, raw, _, attempt, left_ms, meta_length = frame
            if kind == _RUN and not left_ms and attempt == 1:
                meant = known.get(raw[HEADER_BYTES : HEADER_BYTES + meta_length])
                if (
                    meant is not None
                    and meant[2]
                    and cookie not in routes
                    and cookie not in spent[cookie[15]]
                    and cookie not in reserved
                    and cookie != NO_COOKIE
                    and peer.unfinished < self._jobs_max
                ):
                    pools = meant[1].pools
                    worker = pools[0].least_loaded() if len(pools) == 1 else choose(pools)
                    if worker is not None:
                        assignment = worker.assignments[cookie] = Assignment(worker, cookie, 1)
                        routes[cookie] = Route(
                            cookie, peer, peer.principal, meant[0], meant[1], _DISPATCHED, 1, assignment, now
                        )
                        peer.unfinished += 1
                        worker.pool.occupy(worker)
                        to = worker.peer
                        sends = to.sends
                        if not sends:
                            recipients.append(to)
                        sends.append(raw)
                        continue
            handlers = peer.handlers
            (handlers.get(kind) or handlers[ELSE])(peer, frame)
            if peer.state is _GONE:
                return

    def results(self, peer: Peer, frames: list[Frame]) -> None:
        """Frames from a binary worker."""
        dispatcher, routes, recipients = self._dispatcher, self._routes, self._recipients
        counters, outcomes = dispatcher.counters, dispatcher.outcomes
        now = dispatcher.clock.now
        forget_at = now + outcomes.retention_s
        keep = outcomes.queue.append
        kept = kept_bytes = 0
        worker = peer.worker
        for frame in frames:
            kind, cookie, raw, code, attempt, _, _ = frame
            if kind == _RESULT and worker is not None and code <= _LAST_OUTCOME:
                assignment = worker.assignments.get(cookie)
                if (
                    assignment is not None
                    and attempt == assignment.attempt
                    and assignment.state is _HELD
                    and assignment.timer is None
                ):
                    route = routes[cookie]
                    owner = route.owner
                    waiting = owner.unacknowledged
                    if route.timer is None and route.extras is None and waiting is not None and not route.options.detach:
                        del worker.assignments[cookie]
                        route.state = _OVER
                        route.assignment = None
                        route.frame = raw
                        route.deadline = forget_at
                        size = len(raw)
                        keep(route)
                        kept += 1
                        kept_bytes += size
                        waiting.append(route)
                        owner.kept_bytes += size
                        owner.unfinished -= 1
                        sends = owner.sends
                        if not sends:
                            recipients.append(owner)
                        sends.append(raw)
                        if worker.pool.waiting or worker.resuming:
                            dispatcher.slots.free_slot(worker)
                        else:
                            worker.pool.vacate(worker)
                        continue
            outcomes.add(kept, kept_bytes)
            counters.finished += kept
            kept = kept_bytes = 0
            handlers = peer.handlers
            (handlers.get(kind) or handlers[ELSE])(peer, frame)
            worker = peer.worker
            keep = outcomes.queue.append
        outcomes.add(kept, kept_bytes)
        counters.finished += kept
        outcomes.settle(now, recipients)
