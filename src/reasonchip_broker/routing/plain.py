"""The hot path: RUNs and RESULTs of plain jobs, each kind in a loop of its own.

A *plain* job asks for nothing but to be run, sooner or later: no deadline, no reply, variables that need no translation. Nearly all
are, and they come in reads of many frames. So these loops do for a plain job what `Switchboard` and `Dispatcher` do for any, written
out: no handler is looked up, no method called for a single step, and what all frames of a read have in common is looked up once. A job
for which no slot is free is queued here, and given the slot that another one leaves. At the first sign that a frame or a job is
anything else they hand it to its handler, which knows all the rules; nothing is decided here that is not decided there as well, and a
test compares the two.
(`docs/decisions/0008-plain-jobs-have-a-loop-of-their-own.md`)"""

from collections import deque
from typing import Any, Final, TypeAlias

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import NO_COOKIE, Code, PacketType
from reasonchip_broker.protocol.frames import HEADER_BYTES, Frame
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.lines import EligibilityClass, Line
from reasonchip_broker.routing.packs import Pack
from reasonchip_broker.routing.peers import ELSE, Peer, PeerState
from reasonchip_broker.routing.roster import Pool, Worker, take
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Share
from reasonchip_broker.routing.stand_ins import NO_KIND
from reasonchip_broker.routing.status import ALL_TAKEN

Known: TypeAlias = tuple[RunOptions, EligibilityClass, bool]
"""What a RUN's options mean: decoded, the class of such jobs, and whether they are plain."""

_nothing: Final[Any] = None
_NO_POOLS: Final[list[Pool]] = []
NOT_PLAIN: Final[Known] = _nothing, NO_KIND, False
_RUN: Final = int(PacketType.RUN)
_RESULT: Final = int(PacketType.RESULT)
_QUEUED: Final = RouteState.QUEUED
_DISPATCHED: Final = RouteState.DISPATCHED
_HELD: Final = AssignmentState.HELD
_GONE: Final = PeerState.GONE
_IS_QUEUED: Final = packets.reply(PacketType.RUN, Code.QUEUED, ALL_TAKEN)
_BEFORE_COOKIE: Final = _IS_QUEUED[:8]
_AFTER_COOKIE: Final = _IS_QUEUED[24:]
"""What a client is told whose job waits differs by the cookie alone."""


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
        known, shards, recipients, dispatcher = self._known, self._shards, self._recipients, self._dispatcher
        if peer.unacknowledged is None:
            peer.unacknowledged = deque()
        reserved, now, principal = dispatcher.slots.reserved, dispatcher.clock.now, peer.principal
        left, taken, all_plain = self._jobs_max - peer.unfinished, 0, True
        # The options of the last RUN, and what they mean: most RUNs of a client have the same.
        last: bytes | None = None
        options, kind, is_plain = NOT_PLAIN
        pools, share = kind.pools, peer.share
        own: Share | None = None
        line: Line | None = None
        for frame in frames:
            code, cookie, raw, _, attempt, left_ms, meta_length = frame
            if code == _RUN and not left_ms and attempt == 1:
                meta = raw[HEADER_BYTES : HEADER_BYTES + meta_length]
                if meta != last:
                    if taken:
                        left, taken = left - self._began(peer, share, taken), 0
                    options, kind, is_plain = known.get(meta, NOT_PLAIN)
                    own = dispatcher.shares.of_key(principal, options.key) if is_plain and options.key else None
                    last, pools, share, line = meta, kind.pools, own or peer.share, None
                last_byte = cookie[15]
                shard = shards[last_byte]
                if (
                    is_plain
                    and cookie not in shard
                    and (not reserved or cookie not in reserved)
                    and (last_byte or cookie != NO_COOKIE)
                    and taken < left
                ):
                    worker = pools[0].take() if len(pools) == 1 else take(pools) if pools else None
                    if worker is not None:
                        assignment = worker.assignments[cookie] = Assignment(worker, cookie, 1, share)
                        route = shard[cookie] = Route(cookie, peer, principal, options, kind, _DISPATCHED, 1, assignment, now)
                        if own is not None:
                            route.own_share = own
                        taken += 1
                        sends = worker.peer.sends
                        if not sends:
                            recipients.append(worker.peer)
                        sends.append(raw)
                        continue
                    left, taken, pools = left - (self._began(peer, share, taken) if taken else 0), 0, _NO_POOLS
                    if (line := self._wait(peer, cookie, raw, options, kind, own, line)) is not None:
                        left -= 1
                        continue
            if taken:
                self._began(peer, share, taken)
            taken, last, all_plain = 0, None, False
            handlers = peer.handlers
            (handlers.get(code) or handlers[ELSE])(peer, frame)
            if peer.state is _GONE:
                return False
            left = self._jobs_max - peer.unfinished
        if taken:
            self._began(peer, share, taken)
        return all_plain

    def _began(self, peer: Peer, share: Share, jobs: int) -> int:
        """So many new jobs of a client have their slots, which count for this fairness key."""
        share.began(jobs, self._dispatcher.clock.now)
        peer.unfinished += jobs
        self._routes.routes += jobs
        return jobs

    def _wait(
        self,
        peer: Peer,
        cookie: bytes,
        raw: bytes,
        options: RunOptions,
        kind: EligibilityClass,
        own: Share | None,
        line: Line | None,
    ) -> Line | None:
        """Let a new job wait for which no slot is free, and tell its client. `line` is that of the RUN before, if it belongs there.
        Returns the line; None: there is something else to say."""
        dispatcher = self._dispatcher
        backlog, scheduled, share = dispatcher.backlog, dispatcher.scheduled, own or peer.share
        jobs, size = backlog.jobs + scheduled.jobs, backlog.bytes + scheduled.bytes
        if not dispatcher.pressure.has_room(share.account, len(raw), jobs, size):
            return None
        if line is None:
            if not (options.queue and peer.queues and kind.pools):
                return None
            line = kind.lines.get((options.prio, share, None)) or backlog.new_line(kind, options.prio, share)
        now = dispatcher.clock.now
        # One for its RUN, and one for its place: what follows in a step is to be alike whichever way the job came.
        number = backlog.sequence = backlog.sequence + 2
        self._shards[cookie[15]][cookie] = route = Route(
            cookie, peer, peer.principal, options, kind, _QUEUED, 0, None, now, None, number, raw, 0.0, None, now, own
        )
        self._routes.routes += 1
        peer.unfinished += 1
        backlog.join(line, route, now)
        dispatcher.counters.queued += 1
        if not peer.sends:
            self._recipients.append(peer)
        peer.sends.append(_BEFORE_COOKIE + cookie + _AFTER_COOKIE)
        return line

    def results(self, peer: Peer, frames: list[Frame]) -> bool:
        """Frames from a binary worker. Returns whether all were of plain jobs, and no others took their slots."""
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
                    # The tables have this very object for their key, which is found without being compared.
                    cookie = assignment.cookie
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
        cookie = assignment.cookie
        shard = self._shards[cookie[15]]
        route: Route = shard[cookie]
        if route.timer is not None or route.extras is not None:
            return False
        dispatcher, owner = self._dispatcher, route.owner
        pack, outcomes = owner.last_pack, dispatcher.outcomes
        if pack is None or dispatcher.clock.now + outcomes.retention_s >= pack.deadline or not pack.goes_on(route):
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
        pack = owner.pack
        if pack is not None and pack.mixed is not None and pack.kind is route.kind:
            pack.mixed.append(options)
            self._ended(route.own_share or owner.share, 1)
            return pack
        if pack is None or not pack.mixes(route.kind):
            pack = owner.last_pack if pack is None else None
            if pack is None or pack.deadline != deadline or not pack.mixes(route.kind):
                pack = Pack(route, deadline)
            owner.pack = pack
            packs.append(pack)
        if pack.options is not options or not (route.own_share is None or route.own_share is pack.share):
            # From here on each job of it counts by itself.
            new = len(pack.frames) - pack.size
            if pack.mixed is None and new:
                self._ended(pack.share, new)
            pack.mix(options)
            self._ended(route.share, 1)
        return pack

    def _ended(self, share: Share, jobs: int) -> None:
        """So many jobs of a fairness key are over."""
        dispatcher = self._dispatcher
        now = dispatcher.clock.now
        share.ended(jobs, jobs, now)
        if share.rows:
            dispatcher.backlog.moved(share, now)

    def _over(self, worker: Worker, packs: list[Pack], jobs: int) -> bool:
        """So many jobs of a worker are over, and in packs. Nobody could see that this was not said of each one. Returns whether no
        others than plain jobs took their slots."""
        dispatcher = self._dispatcher
        dispatcher.outcomes.add(packs)
        for pack in packs:
            if pack.mixed is None and pack.share.rows:
                dispatcher.backlog.moved(pack.share, dispatcher.clock.now)
        packs.clear()
        dispatcher.counters.finished += jobs
        if worker.pool.turns.levels or worker.resuming:
            left = self._refill(worker, jobs)
            for _ in range(left):
                dispatcher.slots.free_slot(worker)
            return not left
        worker.pool.vacate(worker, jobs)
        return True

    def _refill(self, worker: Worker, jobs: int) -> int:
        """Give so many slots that a worker leaves to plain jobs that wait. Where all were taken, and each is again at once, its place
        among the workers stays the same. Returns how many are left when something else comes up."""
        dispatcher, pool = self._dispatcher, worker.pool
        backlog, turns, now = dispatcher.backlog, pool.turns, dispatcher.clock.now
        if (
            worker.busy < worker.capacity
            or not worker.may_take
            or worker.own_lines
            or pool.gathering is not None
            or backlog.ageing_s
        ):
            return jobs
        held, to = worker.assignments, worker.peer
        while jobs:
            line = turns.first(now)
            if line is None:
                pool.vacate(worker, jobs)
                return 0
            kind, share = line.kind, line.share
            route = line.queue[0]
            raw = route.frame
            if (
                kind.special
                or kind.as_json
                or route.extras is not None
                or route.timer is not None
                or route.attempt
                or route.options.aff
                or raw[7] != 1
                or raw[6]
            ):
                return jobs
            line.queue.popleft()
            size, account = len(raw), share.account
            line.size -= 1
            kind.size -= 1
            backlog.jobs -= 1
            backlog.bytes -= size
            account.jobs -= 1
            account.bytes -= size
            if not line.size:
                backlog.drop_line(line)
            backlog.pressure.left(account)
            cookie = route.cookie
            route.state = _DISPATCHED
            route.frame = b""
            route.attempt = 1
            assignment = Assignment(worker, cookie, 1, share)
            route.assignment = held[cookie] = assignment
            turns.given(line, now)
            if not to.sends:
                self._recipients.append(to)
            to.sends.append(raw)
            jobs -= 1
        return 0
