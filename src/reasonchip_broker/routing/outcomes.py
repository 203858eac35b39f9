"""Outcomes that are kept: until they are acknowledged, or until their retention ends by time, count or bytes.

A job that is over stays in the table of routes, its outcome in place of its RUN, so that whoever asks for it by its cookie finds it
and a RUN with that cookie finds that it is taken. `Outcomes` knows the order in which they end: a queue for the usual retention, in
which the oldest stands first, and another one for jobs that asked for their own, which have a timer each. What leaves a queue early
(acknowledged, or to make room) is marked and dropped when it comes up, or swept with others once the queue is mostly that.

An acknowledged outcome shrinks to its cookie and code, in `Spent`: nobody will ask for it again, but the cookie must not run a
second job."""

from collections import deque
from collections.abc import Iterable
from math import ceil
from typing import Any

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import SPENT_SHARDS, Limits
from reasonchip_broker.protocol.binary import code_of
from reasonchip_broker.protocol.codes import NO_COOKIE, Code, Dialect
from reasonchip_broker.routing.clock import Clock
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import Timer, TimerKind, Timers

_OVER = RouteState.OVER
_FORGOTTEN = RouteState.FORGOTTEN
_SWEEP_MIN = 1024
_EXPIRE_AT_ONCE = 1000
"""So many outcomes are forgotten in one step, the next ones a tick later: a hundred thousand would stop the loop for too long."""

_EXPIRE_EVERY_S = 1.0
_COUNT_MASK = 0xFFFFFFFF
_COUNT_HALF = 0x80000000


_nothing: Any = None
_NO_JOB = Route(NO_COOKIE, _nothing, "", _nothing, _nothing, _FORGOTTEN)
"""Stands for a RESULT whose job is none of ours."""


_NONE: deque[Route] = deque()
"""What is in no queue."""


class Spent:
    """Cookies of jobs that are over and acknowledged: for each, whose it was and which code it had.

    A table for each last byte of a cookie. Once in a period, and when it is full, a table drops what is older than a whole period (or
    as many as it was to be known for), so that a cookie is known for one to two periods.
    """

    __slots__ = ("_ages", "_marks", "_shard_max", "shards")

    def __init__(self, spent_max: int) -> None:
        self.shards: list[dict[bytes, tuple[int, str, int]]] = [{} for _ in range(SPENT_SHARDS)]
        """By the cookie's last byte. Public for the hot path, which only asks whether a cookie is in its table."""
        self._ages = [0] * SPENT_SHARDS
        self._marks: dict[tuple[int, str, int], tuple[int, str, int]] = {}
        self._shard_max = max(2, spent_max // SPENT_SHARDS)

    def add(self, cookie: bytes, principal: str, code: int, periods: int = 1) -> None:
        """Remember a cookie, for so many periods at least."""
        number = cookie[15]
        shard = self.shards[number]
        if len(shard) >= self._shard_max:
            self.age(number, keep=0.5)
            shard = self.shards[number]
        mark = (self._ages[number] + periods - 1, principal, code)
        # One tuple for all that are alike: a million of them would cost more than the cookies.
        shard[cookie] = self._marks.setdefault(mark, mark)

    def add_all(self, cookies: list[bytes], principal: str, code: int) -> None:
        """Remember cookies of one principal's jobs with the same code: `add`, written out, since each plain job comes through here."""
        shards, ages, shard_max = self.shards, self._ages, self._shard_max
        marks: dict[int, tuple[int, str, int]] = {}
        for cookie in cookies:
            number = cookie[15]
            shard = shards[number]
            mark = marks.get(ages[number])
            if mark is None or len(shard) >= shard_max:
                self.add(cookie, principal, code)
                marks[ages[number]] = shards[number][cookie]
            else:
                shard[cookie] = mark

    def get(self, cookie: bytes) -> tuple[str, int] | None:
        """Whose job it was and its code, if the cookie is known."""
        mark = self.shards[cookie[15]].get(cookie)
        return (mark[1], mark[2]) if mark is not None else None

    def age(self, number: int, keep: float = 1.0) -> None:
        """A period is over for one table; if it is full (`keep` under 1), so much of it at most is kept, the youngest."""
        age = self._ages[number]
        shard = self.shards[number]
        if keep < 1.0:
            self.shards[number] = dict(list(shard.items())[len(shard) - int(len(shard) * keep) :])
            return
        self.shards[number] = {cookie: mark for cookie, mark in shard.items() if mark[0] >= age}
        self._ages[number] = age + 1
        if number == SPENT_SHARDS - 1:
            # All tables have passed this age now; marks that none of them uses any more must not pile up.
            self._marks = {mark: mark for mark in self._marks if mark[0] >= age}

    def __len__(self) -> int:
        return sum(map(len, self.shards))


class Outcomes:
    """What is kept of jobs that are over. `routes` is the dispatcher's table."""

    __slots__ = (
        "_aged_at",
        "_bytes_max",
        "_client_bytes_max",
        "_client_max",
        "_clock",
        "_every_s",
        "_jobs_max",
        "_next_shard",
        "_own",
        "_period_s",
        "_retention_max_s",
        "_routes",
        "_timer",
        "_timers",
        "bytes",
        "count",
        "queue",
        "retention_s",
        "spent",
    )

    def __init__(self, limits: Limits, timers: Timers, clock: Clock, routes: dict[bytes, Route]) -> None:
        self._routes = routes
        self._clock = clock
        self._timers = timers
        self._timer: Timer | None = None
        self._jobs_max = limits.outcomes_max
        self._bytes_max = limits.outcomes_bytes_max
        self._client_max = limits.client_outcomes_max
        self._client_bytes_max = limits.client_outcomes_bytes_max
        self._retention_max_s = limits.retention_s_max
        self._next_shard = 0
        self._aged_at = 0.0
        self.retention_s = limits.retention_s
        self._every_s = min(_EXPIRE_EVERY_S, self.retention_s)
        self._period_s = self.retention_s + self._every_s
        """Of spent cookies. Their tables may age late by the one, and must not before a whole retention has passed."""
        self.queue: deque[Route] = deque()
        """Kept for the usual time, oldest first, among them some that are forgotten already."""
        self._own: deque[Route] = deque()
        """Kept for a time of their own, in the order in which they ended, among them some that are forgotten already."""
        self.count = 0
        self.bytes = 0
        self.spent = Spent(limits.spent_max)

    def keep(self, route: Route, frame: bytes, now: float) -> None:
        """A job is over, and `frame` its RESULT. (`plain.py` does the same for a plain job.)"""
        keep = route.options.keep
        route.frame = frame
        if keep == 0:
            self._forget(route)
            self.spent.add(route.cookie, route.principal, code_of(frame))
            self._watch(now)
            return
        self.count += 1
        self.bytes += len(frame)
        if keep is None:
            route.deadline = now + self.retention_s
            self.queue.append(route)
        else:
            route.deadline = now + min(keep / 1000, self._retention_max_s)
            route.timer = self._timers.arm(TimerKind.RETENTION, route, route.deadline)
            self._own.append(route)
        route.owner.kept_bytes += len(frame)
        self.settle(now)

    def add(self, count: int, count_bytes: int) -> None:
        """So many more are kept."""
        self.count += count
        self.bytes += count_bytes

    def settle(self, now: float, clients: Iterable[Peer] = ()) -> None:
        """After outcomes were added, of these clients among others: keep to the limits, and see to it that time is watched."""
        for client in clients:
            waiting = client.unacknowledged
            if waiting is not None and (len(waiting) > self._client_max or client.kept_bytes > self._client_bytes_max):
                self._trim_client(client)
        if self.count > self._jobs_max and not self._own:
            self._make_room()
        while self.count > self._jobs_max or self.bytes > self._bytes_max:
            one, other = self.queue, self._own
            self._evict((one if self._is_first(one, other) else other).popleft())
        if len(self.queue) > 2 * self.count + _SWEEP_MIN:
            self.queue = deque(route for route in self.queue if route.state is _OVER)
        if len(self._own) > 2 * self.count + _SWEEP_MIN:
            self._own = deque(route for route in self._own if route.state is _OVER)
        if self._timer is None and self.queue:
            self._watch(now)

    def _make_room(self) -> None:
        """Let the oldest outcomes go, as `_evict` does, until there are few enough: where nobody acknowledges, one for each new one."""
        queue, routes = self.queue, self._routes
        while self.count > self._jobs_max and queue:
            route = queue[0]
            owner = route.owner
            if route.extras is not None or route.timer is not None:
                # Not plain: there is more to do for it than this.
                return
            queue.popleft()
            if route.state is not _OVER:
                continue
            frame = route.frame
            size = len(frame)
            self.count -= 1
            self.bytes -= size
            owner.kept_bytes -= size
            route.state = _FORGOTTEN
            route.frame = b""
            del routes[route.cookie]
            self.spent.add(route.cookie, route.principal, frame[5])
            waiting = owner.unacknowledged
            if waiting and waiting[0] is route:
                waiting.popleft()
                owner.acknowledged = (owner.acknowledged + 1) & _COUNT_MASK

    def _watch(self, now: float) -> None:
        """See to it that time is watched, now that something is kept."""
        if self._timer is None:
            self._aged_at = now
            self._timer = self._timers.arm(TimerKind.RETENTION, self, now + self._every_s)

    def forget_delivered(self, route: Route) -> None:
        """A job is over, and nobody will ever ask for its outcome."""
        self._forget(route)

    def sent(self, peer: Peer, route: Route) -> None:
        """A client was sent the RESULT of this job and, if it is a binary one, may acknowledge it."""
        if peer.dialect is not Dialect.JSON:
            waiting = peer.unacknowledged
            if waiting is None:
                waiting = peer.unacknowledged = deque()
            waiting.append(route)
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
        route.owner = peer

    def sent_unknown(self, peer: Peer) -> None:
        """A client was sent a RESULT of a job that is none here: it counts among those that it acknowledges."""
        if peer.dialect is not Dialect.JSON:
            waiting = peer.unacknowledged
            if waiting is None:
                waiting = peer.unacknowledged = deque()
            waiting.append(_NO_JOB)
            self._pass_over(peer)

    def _trim_client(self, peer: Peer) -> None:
        """A client that does not acknowledge keeps its own newest outcomes, and nobody else's out."""
        waiting = peer.unacknowledged if peer.unacknowledged is not None else _NONE
        unheard = peer.unheard if peer.unheard is not None else _NONE
        while True:
            kept = len(waiting) + len(unheard)
            if kept <= self._client_max and (peer.kept_bytes <= self._client_bytes_max or kept <= 1):
                return
            if self._is_first(waiting, unheard):
                route = waiting.popleft()
                peer.acknowledged = (peer.acknowledged + 1) & _COUNT_MASK
            else:
                route = unheard.popleft()
            if route.state is _OVER and route.owner is peer:
                self._evict(route)

    def _is_first(self, one: deque[Route], other: deque[Route]) -> bool:
        """Whether the first job of one queue ended before that of another; of those that are forgotten already it does not matter."""
        if not one or not other:
            return bool(one)
        if one[0].state is _FORGOTTEN or other[0].state is _FORGOTTEN:
            return one[0].state is _FORGOTTEN
        return self._ended_at(one[0]) <= self._ended_at(other[0])

    def _ended_at(self, route: Route) -> float:
        keep = route.options.keep
        return route.deadline - (self.retention_s if keep is None else min(keep / 1000, self._retention_max_s))

    def acknowledge(self, peer: Peer, total: int) -> None:
        """A client has received so many RESULTs in all. A number that it was not sent, or that it had said before, says nothing."""
        new = (total - peer.acknowledged) & _COUNT_MASK
        if new >= _COUNT_HALF:
            # It had said more before, or some that it had not acknowledged were dropped meanwhile.
            return
        waiting, routes, spent = peer.unacknowledged, self._routes, self.spent
        if waiting is None or not 0 < new <= len(waiting):
            return
        peer.acknowledged = total
        # What nearly all are, is done for all at once: jobs of the peer's own principal that ended well and asked for nothing.
        principal, plain = peer.principal, []
        size = 0
        for _ in range(new):
            route = waiting.popleft()
            # Of one that another connection owns, or owned, only the owner's word counts: the next may want to fetch it.
            if route.state is _OVER and route.owner is peer:
                frame = route.frame
                size += len(frame)
                self.count -= 1
                if route.timer is None and route.extras is None and not frame[5] and route.principal == principal:
                    route.state = _FORGOTTEN
                    route.frame = b""
                    cookie = route.cookie
                    del routes[cookie]
                    plain.append(cookie)
                    continue
                periods = 1
                if route.timer is not None:
                    periods = self._periods(route)
                    self._timers.disarm(route.timer)
                    route.timer = None
                route.state = _FORGOTTEN
                route.frame = b""
                if route.extras is not None:
                    self.empty(route)
                del routes[route.cookie]
                spent.add(route.cookie, route.principal, frame[5], periods)
        spent.add_all(plain, principal, Code.OK)
        peer.kept_bytes -= size
        self.bytes -= size
        self._watch(self._clock.now)
        queue = self.queue
        while queue and queue[0].state is _FORGOTTEN:
            queue.popleft()
        if len(queue) > 2 * self.count + _SWEEP_MIN:
            self.queue = deque(route for route in queue if route.state is _OVER)
        self._clear_own()
        if waiting and waiting[0].state is _FORGOTTEN:
            self._pass_over(peer)

    def _clear_own(self) -> None:
        own = self._own
        while own and own[0].state is _FORGOTTEN:
            own.popleft()

    @staticmethod
    def _pass_over(peer: Peer) -> None:
        """What a client has not acknowledged and is kept no longer need not be remembered: it may never acknowledge anything."""
        waiting = peer.unacknowledged
        while waiting and waiting[0].state is _FORGOTTEN:
            waiting.popleft()
            peer.acknowledged = (peer.acknowledged + 1) & _COUNT_MASK

    def left(self, peer: Peer) -> None:
        """A client has gone: what it had not acknowledged stays for its time."""
        peer.unacknowledged = peer.unheard = None

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
        while queue and left and (queue[0].state is _FORGOTTEN or queue[0].deadline <= now):
            route = queue.popleft()
            if route.state is _OVER:
                self._drop(route)
            left -= 1
        self._age_spent(now)
        if queue or any(self.spent.shards):
            self._timer = self._timers.arm(TimerKind.RETENTION, self, now + (self._every_s if left else 0.0))

    def _age_spent(self, now: float) -> None:
        """The tables age one after the other, each once in a period."""
        each_s = self._period_s / SPENT_SHARDS
        # What was not aged in time is not made up for: between two ageings of a table there is a whole retention, or more.
        elapsed_s = min(now - self._aged_at, self._every_s + each_s)
        ageing = int(elapsed_s / each_s)
        for _ in range(ageing):
            self.spent.age(self._next_shard)
            self._next_shard = (self._next_shard + 1) % SPENT_SHARDS
        self._aged_at = now - (elapsed_s - ageing * each_s)

    def _evict(self, route: Route) -> None:
        """There is no room, or no need: cookie and code are all that is kept, for as long as the outcome would have been."""
        if route.state is _OVER:
            periods = 1 if route.timer is None else self._periods(route)
            self.spent.add(route.cookie, route.principal, code_of(route.frame), periods)
            self._watch(self._clock.now)
            self._drop(route)

    def _periods(self, route: Route) -> int:
        """For how many periods the cookie of a job with a retention of its own is to be known."""
        return max(1, ceil((route.deadline - self._clock.now) / self._period_s))

    def _drop(self, route: Route) -> None:
        size = len(route.frame)
        self.count -= 1
        self.bytes -= size
        route.owner.kept_bytes -= size
        self._forget(route)
        self._pass_over(route.owner)

    def _forget(self, route: Route) -> None:
        if route.timer is not None:
            self._timers.disarm(route.timer)
            route.timer = None
        route.move(_FORGOTTEN)
        route.frame = b""
        if route.extras is not None:
            self.empty(route)
        del self._routes[route.cookie]

    @staticmethod
    def empty(route: Route) -> None:
        """Nobody will ask for a job's progress any more."""
        if route.extras is not None and route.extras.progress is not None:
            route.extras.progress.clear()
        route.extras = None

    def invariants(self) -> None:
        """Raise InternalError if what is counted is not what is kept."""
        kept = [route for route in self._routes.values() if route.state is _OVER]
        if self.count != len(kept) or self.bytes != sum(len(route.frame) for route in kept):
            raise InternalError(f"{self.count} outcomes of {self.bytes} bytes are counted, and {len(kept)} are kept")
        if self.count > self._jobs_max or self.bytes > self._bytes_max:
            raise InternalError("more outcomes are kept than may be")
        queued = sum(route.state is _OVER for route in self.queue)
        own = sum(route.state is _OVER for route in self._own)
        if own != sum(route.timer is not None for route in kept) or queued + own != len(kept):
            raise InternalError("an outcome is kept for ever, or will never make room")
