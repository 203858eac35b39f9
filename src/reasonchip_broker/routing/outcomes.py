"""Outcomes that are kept: until they are acknowledged, or until their retention ends by time, count or bytes.

A job that is over stays in the table of jobs, its outcome in place of its RUN, so that whoever asks for it by its cookie finds it
and a RUN with that cookie finds that it is taken. `Outcomes` knows the order in which they end: a queue for the usual retention, in
which the oldest stands first, and another one for jobs that asked for their own, which have a timer each. What leaves a queue early
(acknowledged, or to make room) is marked and dropped when it comes up, or swept with others once the queue is mostly that. Plain jobs
are kept by the pack (`packs.py`); what is said here of an outcome goes for each that is in one.

An acknowledged outcome shrinks to a mark in that table, which tells cookie and code: nobody will ask for it again, but the cookie must
not run a second job."""

from collections import deque
from collections.abc import Iterable
from math import ceil
from typing import Final

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.binary import code_of
from reasonchip_broker.protocol.codes import Dialect
from reasonchip_broker.routing.ageing import Ageing
from reasonchip_broker.routing.clock import Clock
from reasonchip_broker.routing.effects import Effects
from reasonchip_broker.routing.packs import SPAN_S, Pack
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.stand_ins import NO_JOB
from reasonchip_broker.routing.table import RouteTable
from reasonchip_broker.routing.timers import Timer, TimerKind, Timers

_OVER: Final = RouteState.OVER
_FORGOTTEN: Final = RouteState.FORGOTTEN
_SWEEP_MIN: Final = 1024
_EXPIRE_AT_ONCE: Final = 250
"""About so many outcomes are forgotten in one step, the next ones a tick later: a hundred thousand would stop the loop for too long."""

_EXPIRE_EVERY_S: Final = 1.0
_COUNT_MASK: Final = 0xFFFFFFFF
_COUNT_HALF: Final = 0x80000000


_NONE: Final[deque[Route]] = deque()
"""What is in no queue."""


class Outcomes:
    """What is kept of jobs that are over. `routes` is the dispatcher's table."""

    __slots__ = (
        "_ageing",
        "_bytes_max",
        "_client_bytes_max",
        "_client_max",
        "_clock",
        "_every_s",
        "_jobs_max",
        "_own",
        "_recipients",
        "_retention_max_s",
        "_routes",
        "_timer",
        "_timers",
        "bytes",
        "count",
        "queue",
        "retention_s",
    )

    def __init__(self, limits: Limits, timers: Timers, clock: Clock, routes: RouteTable, effects: Effects) -> None:
        self._routes = routes
        self._recipients = effects.recipients
        self._clock = clock
        self._timers = timers
        self._timer: Timer | None = None
        self._jobs_max = limits.outcomes_max
        self._bytes_max = limits.outcomes_bytes_max
        self._client_max = limits.client_outcomes_max
        self._client_bytes_max = limits.client_outcomes_bytes_max
        self._retention_max_s = limits.retention_s_max
        self.retention_s = limits.retention_s
        self._every_s = min(_EXPIRE_EVERY_S, self.retention_s)
        self._ageing = Ageing(routes, self.retention_s, self._every_s)
        self.queue: deque[Route | Pack] = deque()
        """Kept for the usual time, oldest first, among them some that are forgotten already."""
        self._own: deque[Route] = deque()
        """Kept for a time of their own, in the order in which they ended, among them some that are forgotten already."""
        self.count = 0
        self.bytes = 0

    def keep(self, route: Route, frame: bytes, now: float) -> None:
        """A job is over, and `frame` its RESULT. (`plain.py` does the same for a plain job.)"""
        keep = route.options.keep
        route.frame = frame
        if keep == 0:
            self._shrink(route)
            self._watch()
            return
        self.count += 1
        self.bytes += len(frame)
        if keep is None:
            route.deadline = self.deadline
            self.queue.append(route)
        else:
            route.deadline = now + min(keep / 1000, self._retention_max_s)
            route.timer = self._timers.arm(TimerKind.RETENTION, route, route.deadline)
            self._own.append(route)
        route.owner.kept_bytes += len(frame)
        self.settle()

    @property
    def deadline(self) -> float:
        """When an outcome of now is forgotten that is kept for the usual time: a little later, together with others."""
        return (int((self._clock.now + self.retention_s) / SPAN_S) + 1) * SPAN_S

    def add(self, packs: list[Pack]) -> None:
        """Keep what is new in some packs: it goes to their clients now. (Written out: this is the hot path.)"""
        queue, now = self.queue, self._clock.now
        all_new = all_bytes = 0
        for pack in packs:
            owner, frames, before = pack.owner, pack.frames, pack.size
            if before:
                new = frames[before:]
            else:
                new = frames[:]
                queue.append(pack)
                waiting = owner.unacknowledged
                if waiting is None:
                    waiting = owner.unacknowledged = deque()
                waiting.append(pack)
                owner.last_pack = pack
            count = len(new)
            size = sum(map(len, new))
            pack.size = before + count
            pack.bytes += size
            if pack.mixed is None:
                pack.share.ended(count, count, now)
            owner.pack = None
            owner.awaited += count
            owner.unfinished -= count
            owner.kept_bytes += size
            all_new += count
            all_bytes += size
            if owner.sends:
                owner.sends += new
            else:
                owner.sends = new
                self._recipients.append(owner)
        self.count += all_new
        self.bytes += all_bytes

    def settle_one(self, client: Peer) -> None:
        """The same as `settle`, after one outcome was added, of this client, in a pack that was there."""
        if (
            client.awaited > self._client_max
            or client.kept_bytes > self._client_bytes_max
            or self.count > self._jobs_max
            or self.bytes > self._bytes_max
        ):
            self.settle((client,))

    def settle(self, clients: Iterable[Peer] = ()) -> None:
        """After outcomes were added, of these clients among others: keep to the limits, and see to it that time is watched."""
        for client in clients:
            if client.awaited > self._client_max or client.kept_bytes > self._client_bytes_max:
                self._trim_client(client)
        queue, own = self.queue, self._own
        while self.count > self._jobs_max or self.bytes > self._bytes_max:
            self._evict_first(queue if self._is_first(queue, own) else own)
        if len(queue) > 2 * self.count + _SWEEP_MIN:
            self.queue = deque(entry for entry in queue if not _is_gone(entry))
        if len(own) > 2 * self.count + _SWEEP_MIN:
            self._own = deque(route for route in own if route.state is _OVER)
        if self._timer is None and self.queue:
            self._watch()

    def _evict_first(self, queue: "deque[Route] | deque[Route | Pack]") -> None:
        """Let the oldest of a queue go: where nobody acknowledges, one for each new one."""
        first = queue[0]
        if _is_gone(first):
            queue.popleft()
        elif type(first) is not Pack:
            queue.popleft()
            self._evict(first)
        elif first.routes is not None:
            self._evict(first.routes[first.spent])
        else:
            owner = first.owner
            self._spend(first, min(first.size, first.spent + max(1, self.count - self._jobs_max)))
            self._pass_over(owner)

    def _watch(self) -> None:
        """See to it that time is watched, now that something is kept."""
        if self._timer is None:
            now = self._clock.now
            self._ageing.begin(now)
            self._timer = self._timers.arm(TimerKind.RETENTION, self, now + self._every_s)

    def forget_delivered(self, route: Route) -> None:
        """A job is over, and nobody will ever ask for its outcome."""
        self._end(route)
        self._routes.remove(route)

    def sent(self, peer: Peer, route: Route) -> None:
        """A client was sent the RESULT of this job and, if it is a binary one, may acknowledge it."""
        if peer.dialect is not Dialect.JSON:
            waiting = peer.unacknowledged
            if waiting is None:
                waiting = peer.unacknowledged = deque()
            waiting.append(route)
            peer.last_pack = None
            peer.awaited += 1
            self._trim_client(peer)
            self._pass_over(peer)

    def unheard(self, peer: Peer, route: Route) -> None:
        """A client is there, but was not sent the RESULT of this job of its own: it had detached it."""
        unheard = peer.unheard
        if unheard is None:
            unheard = peer.unheard = deque()
        while unheard and unheard[0].state is _FORGOTTEN:
            unheard.popleft()
        unheard.append(route)
        self._trim_client(peer)

    def taken(self, peer: Peer, route: Route) -> None:
        """A job that is over has another owner now, who is about to be sent its RESULT."""
        size = len(route.frame)
        route.owner.kept_bytes -= size
        peer.kept_bytes += size
        route.own_share = route.share
        route.owner = peer

    def sent_unknown(self, peer: Peer) -> None:
        """A client was sent a RESULT of a job that is none here: it counts among those that it acknowledges."""
        self.sent(peer, NO_JOB)

    def _trim_client(self, peer: Peer) -> None:
        """A client that does not acknowledge keeps its own newest outcomes, and nobody else's out."""
        unheard = peer.unheard if peer.unheard is not None else _NONE
        while True:
            kept = peer.awaited + len(unheard)
            if kept <= self._client_max and (peer.kept_bytes <= self._client_bytes_max or kept <= 1):
                return
            waiting = peer.unacknowledged
            if waiting and self._is_first(waiting, unheard):
                told = 1
                if type(waiting[0]) is Pack:
                    told = max(1, min(kept - self._client_max, waiting[0].size - waiting[0].told))
                peer.acknowledged = (peer.acknowledged + told) & _COUNT_MASK
                self._told(peer, waiting, told)
                self._watch()
            else:
                route = unheard.popleft()
                if route.state is _OVER and route.owner is peer:
                    self._evict(route)

    def _is_first(self, one: "deque[Route | Pack]", other: deque[Route]) -> bool:
        """Whether the first job of one queue ended before that of another; of those that are forgotten already it does not matter."""
        if not one or not other:
            return bool(one)
        if one[0].state is _FORGOTTEN or other[0].state is _FORGOTTEN:
            return one[0].state is _FORGOTTEN
        return self._ended_at(one[0]) <= self._ended_at(other[0])

    def _ended_at(self, entry: Route | Pack) -> float:
        keep = entry.options.keep
        return entry.deadline - (self.retention_s if keep is None else min(keep / 1000, self._retention_max_s))

    def acknowledge(self, peer: Peer, total: int) -> None:
        """A client has received so many RESULTs in all. A number that it was not sent, or that it had said before, says nothing."""
        new = (total - peer.acknowledged) & _COUNT_MASK
        if new >= _COUNT_HALF:
            # It had said more before, or some that it had not acknowledged were dropped meanwhile.
            return
        waiting = peer.unacknowledged
        if waiting is None or not 0 < new <= peer.awaited:
            return
        peer.acknowledged = total
        self._told(peer, waiting, new)
        self._watch()
        queue = self.queue
        while queue and (queue[0].state is _FORGOTTEN or _is_gone(queue[0])):
            queue.popleft()
        if len(queue) > 2 * self.count + _SWEEP_MIN:
            self.queue = deque(entry for entry in queue if not _is_gone(entry))
        if self._own:
            self._clear_own()
        if waiting:
            self._pass_over(peer)

    def _told(self, peer: Peer, waiting: "deque[Route | Pack]", count: int) -> None:
        """A client has the first so many RESULTs of those that wait for its word, or need not say so any more."""
        peer.awaited -= count
        while count:
            first = waiting[0]
            if type(first) is not Pack:
                waiting.popleft()
                count -= 1
                self._told_one(peer, first)
                continue
            begin = first.told
            upto = first.told = min(first.size, begin + count)
            count -= upto - begin
            if upto == first.size:
                waiting.popleft()
            if first.routes is not None:
                for route in first.routes[begin:upto]:
                    self._told_one(peer, route)
            elif first.state is _OVER and upto > first.spent:
                self._spend(first, upto)

    def _told_one(self, peer: Peer, route: Route) -> None:
        # Of one that another connection owns, or owned, only the owner's word counts: the next may want to fetch it.
        if route.state is _OVER and route.owner is peer:
            size = len(route.frame)
            self.count -= 1
            self.bytes -= size
            peer.kept_bytes -= size
            self._shrink(route)

    def _spend(self, pack: Pack, upto: int) -> None:
        """The first so many outcomes of a pack that is not open shrink."""
        owner = pack.owner
        self.count -= upto - pack.spent
        size = self._routes.spend_pack(pack, upto)
        self.bytes -= size
        owner.kept_bytes -= size

    def _clear_own(self) -> None:
        own = self._own
        while own and own[0].state is _FORGOTTEN:
            own.popleft()

    @staticmethod
    def _pass_over(peer: Peer) -> None:
        """What a client has not acknowledged and is kept no longer need not be remembered: it may never acknowledge anything."""
        waiting = peer.unacknowledged
        while waiting:
            first = waiting[0]
            gone = _is_gone(first)
            passed = int(gone)
            if type(first) is Pack:
                passed = (first.size if gone else first.spent) - first.told
                first.told += passed
            peer.acknowledged = (peer.acknowledged + passed) & _COUNT_MASK
            peer.awaited -= passed
            if not gone:
                return
            waiting.popleft()

    def left(self, peer: Peer) -> None:
        """A client has gone: what it had not acknowledged stays for its time."""
        peer.unacknowledged = peer.unheard = peer.last_pack = None
        peer.awaited = 0

    def due(self, subject: object, now: float) -> None:
        """The time of an outcome, or of the oldest ones, has come."""
        if isinstance(subject, Route):
            subject.timer = None
            if subject.state is _OVER:
                self._drop(subject)
            self._clear_own()
            return
        self._timer = None
        queue = self.queue
        left = _EXPIRE_AT_ONCE
        while queue and left > 0:
            first = queue[0]
            if _is_gone(first):
                queue.popleft()
                left -= 1
            elif first.deadline > now:
                break
            else:
                queue.popleft()
                left -= self._drop_all(first)
        aged = self._ageing.go_on(now)
        if queue or self._routes.spent:
            self._timer = self._timers.arm(TimerKind.RETENTION, self, now + (self._every_s if left > 0 and aged else 0.0))

    def _evict(self, route: Route) -> None:
        """There is no room, or no need: cookie and code are all that is kept, for as long as the outcome would have been."""
        if route.state is _OVER:
            size = len(route.frame)
            self._shrink(route)
            self._uncount(route, size)
            self._watch()

    def _shrink(self, route: Route) -> None:
        """Leave nothing of an outcome but its cookie and code."""
        code, periods = code_of(route.frame), 1
        if route.timer is not None:
            periods = max(1, ceil((route.deadline - self._clock.now) / self._ageing.period_s))
        self._end(route)
        self._routes.spend(route, code, periods)

    def _drop(self, route: Route) -> None:
        """The time of an outcome is over."""
        size = len(route.frame)
        self._end(route)
        self._routes.remove(route)
        self._uncount(route, size)

    def _drop_all(self, entry: Route | Pack) -> int:
        """The time of an outcome, or of all in a pack, is over; returns how many they are."""
        if type(entry) is not Pack:
            self._drop(entry)
            return 1
        if entry.routes is not None:
            for route in entry.routes:
                if route.state is _OVER:
                    self._drop(route)
            return entry.size
        owner, size, count = entry.owner, entry.bytes, entry.size - entry.spent
        self._routes.remove_pack(entry)
        self.count -= count
        self.bytes -= size
        owner.kept_bytes -= size
        self._pass_over(owner)
        return entry.size

    def _uncount(self, route: Route, size: int) -> None:
        self.count -= 1
        self.bytes -= size
        route.owner.kept_bytes -= size
        self._pass_over(route.owner)

    def _end(self, route: Route) -> None:
        if route.timer is not None:
            self._timers.disarm(route.timer)
            route.timer = None
        route.move(_FORGOTTEN)
        route.frame = b""
        if route.extras is not None:
            self.empty(route)

    @staticmethod
    def empty(route: Route) -> None:
        """Nobody will ask for a job's progress any more."""
        if route.extras is not None and route.extras.progress is not None:
            route.extras.progress.clear()
        route.extras = None

    def invariants(self, routes: list[Route], packs: list[Pack]) -> None:
        """Raise InternalError if what is counted is not what is kept: these routes, and what is in these packs."""
        kept = len(routes)
        size = timed = queued = own = 0
        for route in routes:
            size += len(route.frame)
            if route.timer is not None:
                timed += 1
        for pack in packs:
            kept += pack.size - pack.spent
            size += pack.bytes
        if self.count != kept or self.bytes != size:
            raise InternalError(f"{self.count} outcomes of {self.bytes} bytes are counted, and {kept} of {size} are kept")
        if kept > self._jobs_max or size > self._bytes_max:
            raise InternalError("more outcomes are kept than may be")
        for entry in self.queue:
            if entry.state is _OVER:
                queued += _kept_in(entry) if type(entry) is Pack else 1
        for route in self._own:
            if route.state is _OVER:
                own += 1
        if own != timed or queued + own != kept:
            raise InternalError("an outcome is kept for ever, or will never make room")


def _is_gone(entry: Route | Pack) -> bool:
    """Whether nothing of it is kept any more."""
    if type(entry) is Pack and entry.routes is not None and entry.state is _OVER:
        routes = entry.routes
        while entry.spent < entry.size and routes[entry.spent].state is _FORGOTTEN:
            entry.spent += 1
        if entry.spent == entry.size:
            entry.state = _FORGOTTEN
    return entry.state is _FORGOTTEN


def _kept_in(pack: Pack) -> int:
    """How many outcomes are kept in it."""
    if pack.routes is not None:
        return sum(route.state is _OVER for route in pack.routes)
    return pack.size - pack.spent
