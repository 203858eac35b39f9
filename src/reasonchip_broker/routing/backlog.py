"""The jobs that wait for a slot: for each freed slot the job whose turn it is, without a scan.

Jobs that the same workers may run form an *eligibility class*: the pipeline, whether the variables are JSON text, labels. Those of one
class, of one priority and of one fairness key stand in a *line*, first in first out. Each pool lists the lines that wait for it
(`turns.py`): the highest priority goes first, then the key that has used least lately (`shares.py`), then the oldest job. A line may
wait for several pools; whichever takes its first job first has it.

Jobs that have stopped waiting are dropped from a line when they come up, and a line that is mostly dead is rebuilt. So to queue, to
take and to cancel are O(1) or O(log lines).

With *ageing*, a line counts for one level more each time that its first job has waited for so long. Levels matter only when a job is
taken, so that no timer is needed: whoever takes one first looks at which lines have come of age.
"""

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import PIPELINES_KNOWN_MAX, PRIORITIES
from reasonchip_broker.routing.gates import Gate, Gates
from reasonchip_broker.routing.gathering import Gathering
from reasonchip_broker.routing.lines import NEVER, EligibilityClass, Key, Line
from reasonchip_broker.routing.pressure import Pressure
from reasonchip_broker.routing.roster import Labels, Pool, Roster, Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Share, Shares
from reasonchip_broker.routing.timers import TimerKind, Timers
from reasonchip_broker.routing.turns import Turns
from reasonchip_broker.scheduling import Scheduling

_DEAD_MIN: Final = 64
_QUEUED: Final = RouteState.QUEUED
_TOP: Final = PRIORITIES - 1


class Backlog:
    """All waiting jobs, and all known classes."""

    __slots__ = (
        "_ages",
        "_checked",
        "_checked_pools",
        "_classes",
        "_forget_at",
        "_numbers",
        "_roster",
        "_scheduling",
        "_sticky",
        "_timers",
        "ageing_s",
        "bytes",
        "epoch",
        "gates",
        "jobs",
        "pressure",
        "sequence",
        "shares",
    )

    def __init__(self, roster: Roster, scheduling: Scheduling, gates: Gates, timers: Timers, pressure: Pressure) -> None:
        self._roster = roster
        self.pressure = pressure
        self._timers = timers
        self._sticky: dict[Route, Line] = {}
        """Jobs that wait for one worker alone, for a while."""
        self.sequence = 0
        """The highest number of a job so far: of its arrival here, or of its admission."""
        self.gates = gates
        self.shares = Shares(scheduling)
        self._scheduling = scheduling
        self.ageing_s = scheduling.ageing_s
        self._ages: list[tuple[float, int, Line]] = []
        """When the first job of a line comes of age, and counts for more."""
        self._classes: dict[Key, EligibilityClass] = {}
        self._numbers = 0
        self._forget_at = PIPELINES_KNOWN_MAX
        self.epoch = 0
        """Changes whenever classes were forgotten: one that was found in an earlier epoch may not be the one of its jobs."""
        self.jobs = 0
        self.bytes = 0
        self._checked: dict[EligibilityClass, list[Pool]] = {}
        """The pools of each class as `invariants` last found them right: what a pool serves changes with the rules alone, so to find
        the same pools again is enough, as long as all pools (`_checked_pools`) and the rules are the same."""
        self._checked_pools: list[Pool] = []

    def class_of(self, pipeline: str, as_json: bool, need: Labels = (), like: Labels = ()) -> EligibilityClass:
        """The class of a job; O(1) for one seen before, else the pools are asked once."""
        key = pipeline, as_json, need, like
        kind = self._classes.get(key)
        if kind is None:
            if len(self._classes) >= self._forget_at:
                self._forget_idle()
            self._numbers += 1
            kind = self._classes[key] = EligibilityClass(self._numbers, pipeline, as_json, [], need, like)
            self._rule(kind)
            kind.pools = self._pools_of(kind)
        return kind

    def _rule(self, kind: EligibilityClass) -> None:
        kind.ruled(self.gates.limits_about(kind.pipeline), self._scheduling.slots_of(kind.pipeline))

    def _pools_of(self, kind: EligibilityClass) -> list[Pool]:
        pools = self._roster.pools.values()
        return [pool for pool in pools if pool.serves(kind.pipeline, kind.as_json, kind.need, kind.slots)]

    def _forget_idle(self) -> None:
        self._classes = {key: kind for key, kind in self._classes.items() if kind.size}
        # Doubled, so that the work stays O(1) a class even where none of them is idle.
        self._forget_at = max(PIPELINES_KNOWN_MAX, 2 * len(self._classes))
        self.epoch += 1

    def add_pool(self, pool: Pool, now: float) -> None:
        """A new offer: tell the classes that it serves."""
        for kind in self._classes.values():
            if pool.serves(kind.pipeline, kind.as_json, kind.need, kind.slots):
                kind.pools.append(pool)
                for line in kind.lines.values():
                    if line.worker is None:
                        self._list(line, pool, now)

    def remove_pool(self, pool: Pool) -> None:
        """An offer that nobody makes any more."""
        self.gates.pool_gone(pool)
        pool.turns.close()
        for kind in self._classes.values():
            if pool in kind.pools:
                kind.pools.remove(pool)

    def push(self, route: Route, now: float, worker: Worker | None = None, wait_s: float = 0.0) -> None:
        """Queue a job whose state is QUEUED: at first for one worker alone and for so long, if one is named, else for any."""
        kind, priority, share = route.kind, route.options.prio, route.share
        self.sequence += 1
        route.sequence = self.sequence
        line = kind.lines.get((priority, share, worker)) or self.new_line(kind, priority, share, worker)
        if worker is not None:
            self._sticky[route] = line
            if line.timer is None:
                line.timer = self._timers.arm(TimerKind.AFFINITY, line, route.queued_at + wait_s)
        self.join(line, route, now)

    def join(self, line: Line, route: Route, now: float) -> None:
        """A job that has its number takes its place in a line, behind all others."""
        line.queue.append(route)
        line.size += 1
        line.kind.size += 1
        self.jobs += 1
        size, account = len(route.frame), line.share.account
        self.bytes += size
        account.jobs += 1
        account.bytes += size
        if line.size == 1:
            self._list_everywhere(line, now)
            self._watch(line, route)

    def new_line(self, kind: EligibilityClass, priority: int, share: Share, worker: Worker | None = None) -> Line:
        """A line that is not there yet; a job is about to join it."""
        self._numbers += 1
        gates = self.gates.of_line(kind.limits, kind.pipeline, share) if kind.limits else ()
        line = kind.lines[priority, share, worker] = Line(self._numbers, kind, priority, share, gates, worker)
        if worker is not None:
            if worker.own is None:
                worker.own = Turns()
            if not worker.own_lines:
                worker.pool.turns.watch(1)
            worker.own_lines += 1
        if not share.lines:
            share.is_fresh = True
            self.shares.all[share] = None
        share.lines[line] = None
        return line

    def _list_everywhere(self, line: Line, now: float) -> None:
        """Let all know that a line waits for, in its present level."""
        worker = line.worker
        if worker is None:
            for pool in line.kind.pools:
                self._list(line, pool, now)
        elif worker.own is not None:
            worker.own.add(line, now)

    def _list(self, line: Line, pool: Pool, now: float) -> None:
        """Let a pool know that a line waits for it, in its present level."""
        kind = line.kind
        if not kind.special:
            pool.turns.add(line, now)
            return
        if kind.slots > 1:
            if pool.gathering is None:
                pool.gathering = Gathering(pool, self.gates)
            if pool.least_loaded() is not None:
                # Nobody has enough, or it would not wait: then the one with most of them gathers.
                self.gates.to_fill[pool] = None
        gate = self.gates.shut(line.gates)
        if gate is None:
            self.gates.enlist(line, pool)
        else:
            self.gates.park(line, pool, gate)

    def drop_line(self, line: Line) -> None:
        """Nothing waits in it any more. What pools say of it is dropped when it comes up, unless gates count it."""
        worker = line.worker
        if line.kind.special or line.gates:
            self.gates.emptied(line, line.kind.pools if worker is None else [])
        if worker is not None:
            worker.own_lines -= 1
            if not worker.own_lines and worker.own is not None:
                worker.own.close()
                worker.own = None
                worker.pool.turns.watch(-1)
            if line.timer is not None:
                self._timers.disarm(line.timer)
                line.timer = None
        line.queue.clear()
        del line.kind.lines[line.priority, line.share, worker]
        del line.share.lines[line]

    def pop_for(self, worker: Worker, now: float) -> Route | None:
        """Take the job whose turn it is among those that this worker may run, which has a free slot; the caller moves it on from
        QUEUED, and gives it what it takes."""
        if self._ages:
            self._promote(now)
        pool = worker.pool
        gathering = pool.gathering
        if gathering is not None:
            gathering.look(worker.free)
        line = pool.turns.first(now)
        while line is not None and line.kind.special:
            gate: Gate | None = self.gates.shut(line.gates)
            if gate is None and gathering is not None and line.kind.slots > worker.free:
                if gathering.claim(worker, line):
                    return None
                gate = gathering.gate(line.kind.slots)
            if gate is None:
                break
            self.gates.park(line, pool, gate)
            line = pool.turns.first(now)
        if worker.own_lines:
            line = self._or_own(worker, line, now)
        if line is None:
            return None
        if gathering is not None and gathering.worker is not None:
            gathering.takes(worker, line)
        pool.turns.had(line, now)
        route = line.queue.popleft()
        self._forget(line, route)
        self.pressure.left(line.share.account)
        if line.size:
            self._relevel(line, now)
        return route

    def _or_own(self, worker: Worker, line: Line | None, now: float) -> Line | None:
        """The line whose turn it is: this one of the pool, or one that waits for this worker alone."""
        while worker.own is not None:
            own = worker.own.first(now)
            if own is None:
                break
            if self.gates.shut(own.gates) is None:
                return own if line is None or _rank(own, now) < _rank(line, now) else line
            # Whoever may not go now need not have this worker when it may.
            self.unstick(own, now)
        return line

    def moved(self, share: Share, now: float) -> None:
        """A key may have used less than was said of it when its jobs began to wait."""
        order = share.order(now) if share.running else share.usage
        for row, level in share.rows.items():
            if order < row.entry.order:
                row.turns.moved(row, level, order)

    # Age

    def _watch(self, line: Line, head: Route) -> None:
        """A line has another first job, which comes of age in its time."""
        if self.ageing_s and line.level < _TOP:
            due_at = head.queued_at + (line.level - line.priority + 1) * self.ageing_s
            if due_at < line.due_at:
                line.due_at = due_at
                heappush(self._ages, (due_at, line.number, line))

    def _relevel(self, line: Line, now: float) -> None:
        """The first job of a line has gone: the next one has waited less, perhaps."""
        if self.ageing_s:
            head = line.head()
            if head is not None:
                level = self.level_of(line, head, now)
                if level != line.level:
                    line.level = level
                    self._list_everywhere(line, now)
                self._watch(line, head)

    def level_of(self, line: Line, head: Route, now: float) -> int:
        """The priority that a line counts for, with the age of its first job."""
        if not self.ageing_s:
            return line.priority
        waited = int((now - head.queued_at) / self.ageing_s)
        # Division rounds: what counts is when the next level is due.
        waited += head.queued_at + (waited + 1) * self.ageing_s <= now
        return min(_TOP, line.priority + waited)

    def _promote(self, now: float) -> None:
        """Lines whose first job has waited for so long count for more."""
        ages = self._ages
        while ages and ages[0][0] <= now:
            due_at, _, line = heappop(ages)
            if line.size and line.due_at == due_at:
                line.due_at = NEVER
                self._relevel(line, now)

    # Leaving

    def withdraw(self, route: Route, now: float) -> None:
        """A waiting job stopped waiting (its state is no longer QUEUED)."""
        line = self._line_of(route)
        self._forget(line, route)
        self.pressure.left(line.share.account)
        # Its place in the queue is void, and may stay for a while; the bytes need not.
        route.frame = b""
        if line.size:
            if len(line.queue) > 2 * line.size + _DEAD_MIN:
                line.queue = deque(other for other in line.queue if other.state is _QUEUED)
            self._relevel(line, now)

    def take_out(self, routes: list[Route], now: float) -> None:
        """Waiting jobs stopped waiting (their state is no longer QUEUED), and will wait again: their old places must not be found by
        that time. A scan of each line concerned, however many jobs there are."""
        lines: dict[Line, None] = {}
        for route in routes:
            line = self._line_of(route)
            lines[line] = None
            self._forget(line, route)
        for line in lines:
            line.queue = deque(other for other in line.queue if other.state is _QUEUED)
            self._relevel(line, now)

    def _line_of(self, route: Route) -> Line:
        line = self._sticky.get(route) if self._sticky else None
        return line or route.kind.lines[route.options.prio, route.share, None]

    # Affinity

    def unstick(self, line: Line, now: float, until: float = NEVER) -> None:
        """Those jobs of a line which began to wait for one worker until then wait for any from now on."""
        routes: list[Route] = []
        while (head := line.head()) is not None and head.queued_at <= until:
            routes.append(line.queue.popleft())
            self._forget(line, head)
        for route in routes:
            self.push(route, now)
            for pool in route.kind.pools:
                if pool.least_loaded() is not None:
                    self.gates.to_fill[pool] = None
        if line.size:
            self._relevel(line, now)

    def waited(self, line: Line, wait_s: float, now: float) -> None:
        """The timer of a line went off: the first of its jobs have waited for one worker for so long."""
        line.timer = None
        self.unstick(line, now, now - wait_s)
        head = line.head()
        if head is not None:
            line.timer = self._timers.arm(TimerKind.AFFINITY, line, head.queued_at + wait_s)

    def unstick_all(self, worker: Worker, now: float) -> None:
        """Nobody is to wait for this worker any more."""
        for line in list(worker.own.listings) if worker.own is not None and worker.own_lines else ():
            if line.size:
                self.unstick(line, now)

    def awaits_worker(self, route: Route) -> bool:
        """Whether a job waits for one worker alone."""
        return route in self._sticky

    def configure(self, scheduling: Scheduling, running: list[Route], now: float) -> None:
        """Other rules hold from now on, also for these jobs, which run already."""
        self.ageing_s = scheduling.ageing_s
        self._ages = []
        self._checked = {}
        self._scheduling = scheduling
        self.shares.configure(scheduling, now)
        gates, pools = self.gates, self._roster.pools.values()
        for line in dict.fromkeys(self._sticky.values()):
            self.unstick(line, now)
        for pool in pools:
            if pool.gathering is not None:
                pool.gathering.reset()
        gates.configure(scheduling.limits, running)
        for route in running:
            # Its class may have been forgotten meanwhile.
            self._rule(route.kind)
        for kind in self._classes.values():
            for line in kind.lines.values():
                for pool in kind.pools:
                    pool.turns.listings.pop(line, None)
            self._rule(kind)
            kind.pools = self._pools_of(kind)
            for line in kind.lines.values():
                line.level, line.due_at, line.parked = line.priority, NEVER, {}
                line.gates = gates.of_line(kind.limits, kind.pipeline, line.share)
                self._list_everywhere(line, now)
                head = line.head()
                if head is not None:
                    self._watch(line, head)

    def advance(self, now: float) -> None:
        """Time goes on, and what keys have used before counts for less."""
        factor = self.shares.advance(now)
        if factor != 1.0:
            for worker in dict.fromkeys(line.worker for line in self._sticky.values()):
                if worker is not None and worker.own is not None:
                    worker.own.rescaled(factor)
            for pool in self._roster.pools.values():
                pool.turns.rescaled(factor)
            self.gates.rescaled(list(self._roster.pools.values()), factor)

    def current(self, kind: EligibilityClass) -> EligibilityClass:
        """The class that stands for this one's jobs now: classes without a waiting job are forgotten once there are too many."""
        known = self._classes.get(kind.key)
        if known is None:
            # Taken up again as it is; to look for room here would change what others have looked up.
            self._rule(kind)
            kind.pools = self._pools_of(kind)
            known = self._classes[kind.key] = kind
        return known

    def _forget(self, line: Line, route: Route) -> None:
        if line.worker is not None:
            del self._sticky[route]
        line.size -= 1
        line.kind.size -= 1
        self.jobs -= 1
        size, account = len(route.frame), line.share.account
        self.bytes -= size
        account.jobs -= 1
        account.bytes -= size
        if not line.size:
            self.drop_line(line)

    def waiting(self) -> Iterator[EligibilityClass]:
        """The classes of which a job waits."""
        for kind in self._classes.values():
            if kind.size:
                yield kind

    def waiting_for(self, pools: list[Pool], at_most: int) -> int:
        """How many jobs wait that workers of these pools may run; counted no further than `at_most`."""
        count = 0
        seen: dict[Line, None] = {}
        for pool in pools if at_most else ():
            for line in pool.turns.listings:
                if line not in seen:
                    seen[line] = None
                    count += line.size
                    if count >= at_most:
                        return at_most
        for line in self._sticky.values() if at_most else ():
            if line.worker is not None and line.worker.pool in pools:
                count += 1
                if count >= at_most:
                    return at_most
        return count

    def invariants(self) -> None:
        """Raise InternalError if a count or a heap disagrees with the queues, or a job waits although a slot is free."""
        pools = list(self._roster.pools.values())
        checked = self._checked
        if pools != self._checked_pools or len(checked) > len(self._classes):
            checked = self._checked = {}
            self._checked_pools = pools
        jobs = size = 0
        for kind in self._classes.values():
            if kind.pools != checked.get(kind):
                self._check_pools(kind)
                checked[kind] = kind.pools[:]
            if kind.size or kind.lines:
                jobs += kind.size
                size += kind.invariants()
        self.gates.invariants([line for kind in self._classes.values() for line in kind.lines.values()], pools)
        if jobs != self.jobs or size != self.bytes:
            raise InternalError(f"the backlog counts {self.jobs} jobs and {self.bytes} bytes, and has {jobs} of {size}")

    def _check_pools(self, kind: EligibilityClass) -> None:
        """A class knows the pools that serve it, each once, and no others."""
        known, serving = kind.pools, 0
        for pool in self._roster.pools.values():
            if pool.serves(kind.pipeline, kind.as_json, kind.need, kind.slots):
                serving += 1
                if pool not in known:
                    raise InternalError("a class lacks a pool that serves it")
        if serving != len(known):
            raise InternalError("a class has pools that don't serve it")


def _rank(line: Line, now: float) -> tuple[int, float, int]:
    """The least goes first."""
    return -line.level, line.share.order(now), line.queue[0].sequence
