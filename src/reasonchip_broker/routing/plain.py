"""The hot path: RUNs and RESULTs of plain jobs, each kind in a loop of its own.

A *plain* job asks for nothing but to be run: no deadline, no reply, variables that need no translation, a worker with a free slot.
Nearly all are, and they come in reads of many frames. So these two loops do for a plain job what `Switchboard` and `Dispatcher` do
for any, written out: no handler is looked up, no method called for a single step, and what all frames of a read have in common is
looked up once. At the first sign that a frame is anything else they hand it to its handler, which knows all the rules; nothing is
decided here that is not decided there as well, and a test compares the two.
(`docs/decisions/0008-plain-jobs-have-a-loop-of-their-own.md`)"""

from collections import deque
from typing import Any, Final, TypeAlias

from reasonchip_broker.protocol.codes import NO_COOKIE, PacketType
from reasonchip_broker.protocol.frames import HEADER_BYTES, Frame
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.packs import Pack
from reasonchip_broker.routing.peers import ELSE, Peer, PeerState
from reasonchip_broker.routing.roster import Pool, Worker, take
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.stand_ins import NO_KIND

Known: TypeAlias = tuple[RunOptions, EligibilityClass, bool]
"""What a RUN's options mean: decoded, the class of such jobs, and whether they are plain."""

_nothing: Final[Any] = None
_RUN: Final = int(PacketType.RUN)
_RESULT: Final = int(PacketType.RESULT)
_DISPATCHED: Final = RouteState.DISPATCHED
_HELD: Final = AssignmentState.HELD
_GONE: Final = PeerState.GONE


class PlainPath:
    """Both loops, over the tables of a dispatcher. `known` is what options mean, by their bytes; `jobs_max` bounds a client's jobs."""

    __slots__ = ("_dispatcher", "_jobs_max", "_known", "_recipients", "_routes", "_shards")

    def __init__(self, dispatcher: Dispatcher, known: dict[bytes, Known], jobs_max: int) -> None:
        self._dispatcher = dispatcher
        self._routes = dispatcher.routes
        self._shards = dispatcher.routes.shards
        self._recipients = dispatcher.effects.recipients
        self._known = known
        self._jobs_max = jobs_max

    def runs(self, peer: Peer, frames: list[Frame]) -> bool:
        """Frames from a binary client. Returns whether all were of plain jobs."""
        known, shards, recipients = self._known, self._shards, self._recipients
        if peer.unacknowledged is None:
            peer.unacknowledged = deque()
        dispatcher = self._dispatcher
        reserved, now = dispatcher.slots.reserved, dispatcher.clock.now
        principal, share = peer.principal, peer.share
        left = self._jobs_max - peer.unfinished
        taken = 0
        all_plain = True
        # The options of the last RUN, and what they mean: most RUNs of a client have the same.
        last: bytes | None = None
        options: RunOptions = _nothing
        kind = NO_KIND
        pools: list[Pool] | None = None
        for frame in frames:
            code, cookie, raw, _, attempt, left_ms, meta_length = frame
            if code == _RUN and not left_ms and attempt == 1:
                meta = raw[HEADER_BYTES : HEADER_BYTES + meta_length]
                if meta != last:
                    meant = known.get(meta)
                    last, pools = meta, None
                    if meant is not None and meant[2]:
                        options, kind, _ = meant
                        pools = kind.pools
                last_byte = cookie[15]
                shard = shards[last_byte]
                if (
                    pools is not None
                    and cookie not in shard
                    and (not reserved or cookie not in reserved)
                    and (last_byte or cookie != NO_COOKIE)
                    and taken < left
                ):
                    worker = pools[0].take() if len(pools) == 1 else take(pools)
                    if worker is not None:
                        assignment = worker.assignments[cookie] = Assignment(worker, cookie, 1, share)
                        shard[cookie] = Route(cookie, peer, principal, options, kind, _DISPATCHED, 1, assignment, now)
                        taken += 1
                        to = worker.peer
                        sends = to.sends
                        if not sends:
                            recipients.append(to)
                        sends.append(raw)
                        continue
            if taken:
                share.began(taken, now)
                peer.unfinished += taken
                self._routes.routes += taken
            taken, last, all_plain = 0, None, False
            handlers = peer.handlers
            (handlers.get(code) or handlers[ELSE])(peer, frame)
            if peer.state is _GONE:
                return False
            left = self._jobs_max - peer.unfinished
        if taken:
            share.began(taken, now)
            peer.unfinished += taken
            self._routes.routes += taken
        return all_plain

    def results(self, peer: Peer, frames: list[Frame]) -> bool:
        """Frames from a binary worker. Returns whether all were of plain jobs, and no other job waited for their slots."""
        if len(frames) == 1 and self._result(peer, frames[0]):
            return True
        dispatcher, shards = self._dispatcher, self._shards
        packs: list[Pack] = []
        deadline = dispatcher.outcomes.deadline
        freed = 0
        all_plain = True
        worker = peer.worker
        held = worker.assignments if worker is not None else {}
        for frame in frames:
            kind, cookie, raw, code, attempt, _, _ = frame
            if kind == _RESULT and not code:
                assignment = held.get(cookie)
                if (
                    assignment is not None
                    and attempt == assignment.attempt
                    and assignment.state is _HELD
                    and assignment.timer is None
                ):
                    shard = shards[cookie[15]]
                    route: Route = shard[cookie]
                    if route.timer is None and route.extras is None:
                        pack = route.owner.pack
                        if pack is None or pack.options is not route.options:
                            pack = self._pack(route, packs, deadline)
                        if pack is not None:
                            del held[cookie]
                            shard[cookie] = pack
                            pack.frames.append(raw)
                            pack.taken.append(route.taken_at)
                            freed += 1
                            continue
            if freed and worker is not None:
                self._over(worker, packs, freed)
                freed = 0
            all_plain = False
            handlers = peer.handlers
            (handlers.get(kind) or handlers[ELSE])(peer, frame)
            worker = peer.worker
            held = worker.assignments if worker is not None else {}
        if freed and worker is not None and not self._over(worker, packs, freed):
            all_plain = False
        dispatcher.outcomes.settle(self._recipients)
        return all_plain

    def _result(self, peer: Peer, frame: Frame) -> bool:
        """The same for a frame that came alone, if its outcome goes into the last pack of its client. Returns whether it was taken.

        Where jobs come one by one there is nothing to share the cost of the loop with."""
        kind, cookie, raw, code, attempt, _, _ = frame
        worker = peer.worker
        if kind != _RESULT or code or worker is None or worker.pool.turns.levels or worker.resuming:
            return False
        held = worker.assignments
        assignment = held.get(cookie)
        if assignment is None or attempt != assignment.attempt or assignment.state is not _HELD or assignment.timer is not None:
            return False
        shard = self._shards[cookie[15]]
        route: Route = shard[cookie]
        if route.timer is not None or route.extras is not None:
            return False
        dispatcher, owner = self._dispatcher, route.owner
        pack, outcomes = owner.last_pack, dispatcher.outcomes
        if pack is None or dispatcher.clock.now + outcomes.retention_s >= pack.deadline or not pack.goes_on(route.options):
            return False
        del held[cookie]
        shard[cookie] = pack
        pack.frames.append(raw)
        pack.taken.append(route.taken_at)
        pack.size += 1
        outcomes.count += 1
        owner.awaited += 1
        owner.unfinished -= 1
        size = len(raw)
        pack.bytes += size
        outcomes.bytes += size
        owner.kept_bytes += size
        share = pack.share
        share.ended(1, 1, dispatcher.clock.now)
        if share.rows:
            dispatcher.backlog.moved(share, dispatcher.clock.now)
        dispatcher.counters.finished += 1
        worker.pool.vacate(worker)
        if not owner.sends:
            self._recipients.append(owner)
        owner.sends.append(raw)
        outcomes.settle_one(owner)
        return True

    def _pack(self, route: Route, packs: list[Pack], deadline: float) -> Pack | None:
        """Where the outcome of this job goes, and the next ones like it; None if it must be kept by itself."""
        owner, options = route.owner, route.options
        if owner.unacknowledged is None or options.detach or route.kind.special:
            return None
        pack = owner.last_pack if owner.pack is None else None
        if pack is None or pack.deadline != deadline or not pack.goes_on(options):
            pack = Pack(route, deadline)
        owner.pack = pack
        packs.append(pack)
        return pack

    def _over(self, worker: Worker, packs: list[Pack], jobs: int) -> bool:
        """So many jobs of a worker are over, and in packs. Nobody could see that this was not said of each one. Returns whether no
        other job waited for their slots."""
        dispatcher = self._dispatcher
        dispatcher.outcomes.add(packs)
        for pack in packs:
            if pack.share.rows:
                dispatcher.backlog.moved(pack.share, dispatcher.clock.now)
        packs.clear()
        dispatcher.counters.finished += jobs
        if worker.pool.turns.levels or worker.resuming:
            for _ in range(jobs):
                dispatcher.slots.free_slot(worker)
            return False
        worker.pool.vacate(worker, jobs)
        return True
