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
from heapq import heappop, heappush

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import PIPELINES_KNOWN_MAX, PRIORITIES
from reasonchip_broker.routing.gates import Gate, Gates, LimitGate
from reasonchip_broker.routing.gathering import Gathering
from reasonchip_broker.routing.lines import NEVER, EligibilityClass, Key, Line
from reasonchip_broker.routing.roster import Labels, Pool, Roster, Worker, has_free
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Share, Shares
from reasonchip_broker.scheduling import Scheduling

_DEAD_MIN = 64
_QUEUED = RouteState.QUEUED
_TOP = PRIORITIES - 1


class Backlog:
    """All waiting jobs, and all known classes."""

    __slots__ = (
        "_ageing_s",
        "_ages",
        "_checked",
        "_checked_pools",
        "_classes",
        "_forget_at",
        "_numbers",
        "_roster",
        "_scheduling",
        "bytes",
        "epoch",
        "gates",
        "jobs",
        "shares",
    )

    def __init__(self, roster: Roster, scheduling: Scheduling, gates: Gates) -> None:
        self._roster = roster
        self.gates = gates
        self.shares = Shares(scheduling)
        self._scheduling = scheduling
        self._ageing_s = scheduling.ageing_s
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
        """The pools of each class as `invariants` last found them right: what a pool serves never changes, so to find the same pools
        again is enough, as long as all pools (`_checked_pools`) are the same."""
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
                    self._list(line, pool, now)

    def remove_pool(self, pool: Pool) -> None:
        """An offer that nobody makes any more."""
        self.gates.pool_gone(pool)
        pool.turns.close()
        for kind in self._classes.values():
            if pool in kind.pools:
                kind.pools.remove(pool)

    def push(self, route: Route, now: float) -> None:
        """Queue a job whose state is QUEUED and whose sequence is the highest so far."""
        kind, priority, share = route.kind, route.options.prio, route.share
        line = kind.lines.get((priority, share))
        if line is None:
            line = self._new_line(kind, priority, share)
        line.queue.append(route)
        line.size += 1
        kind.size += 1
        self.jobs += 1
        self.bytes += len(route.frame)
        if line.size == 1:
            for pool in kind.pools:
                self._list(line, pool, now)
            self._watch(line, route)

    def _new_line(self, kind: EligibilityClass, priority: int, share: Share) -> Line:
        self._numbers += 1
        gates = self.gates.of_line(kind.limits, kind.pipeline, share) if kind.limits else ()
        line = kind.lines[priority, share] = Line(self._numbers, kind, priority, share, gates)
        if not share.lines:
            share.is_fresh = True
            self.shares.all[share] = None
        share.lines[line] = None
        return line

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

    def _drop_line(self, line: Line) -> None:
        """Nothing waits in it any more. What pools say of it is dropped when it comes up, unless gates count it."""
        if line.kind.special:
            self.gates.emptied(line, line.kind.pools)
        line.queue.clear()
        del line.kind.lines[line.priority, line.share]
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
        if line is None:
            return None
        if gathering is not None and gathering.worker is not None:
            gathering.takes(worker, line)
        pool.turns.had(line, now)
        route = line.queue.popleft()
        self._forget(line, route)
        if line.size:
            self._relevel(line, now)
        return route

    def moved(self, share: Share, now: float) -> None:
        """A key has used less than was said of it when its jobs began to wait."""
        for row, level in list(share.rows.items()):
            row.turns.moved(row, level, now)

    # Age

    def _watch(self, line: Line, head: Route) -> None:
        """A line has another first job, which comes of age in its time."""
        if self._ageing_s and line.level < _TOP:
            due_at = head.queued_at + (line.level - line.priority + 1) * self._ageing_s
            if due_at < line.due_at:
                line.due_at = due_at
                heappush(self._ages, (due_at, line.number, line))

    def _relevel(self, line: Line, now: float) -> None:
        """The first job of a line has gone: the next one has waited less, perhaps."""
        if self._ageing_s:
            head = line.head()
            if head is not None:
                waited = int((now - head.queued_at) / self._ageing_s)
                # Division rounds: what counts is when the next level is due.
                waited += head.queued_at + (waited + 1) * self._ageing_s <= now
                level = min(_TOP, line.priority + waited)
                if level != line.level:
                    line.level = level
                    for pool in line.kind.pools:
                        self._list(line, pool, now)
                self._watch(line, head)

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
        line = route.kind.lines[route.options.prio, route.share]
        self._forget(line, route)
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
            line = route.kind.lines[route.options.prio, route.share]
            lines[line] = None
            self._forget(line, route)
        for line in lines:
            line.queue = deque(other for other in line.queue if other.state is _QUEUED)
            self._relevel(line, now)

    def configure(self, scheduling: Scheduling, running: list[Route], now: float) -> None:
        """Other rules hold from now on, also for these jobs, which run already."""
        self._ageing_s = scheduling.ageing_s
        self._ages = []
        self._scheduling = scheduling
        self.shares.configure(scheduling, now)
        gates, pools = self.gates, self._roster.pools.values()
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
                for pool in kind.pools:
                    self._list(line, pool, now)
                head = line.head()
                if head is not None:
                    self._watch(line, head)

    def advance(self, now: float) -> None:
        """Time goes on, and what keys have used before counts for less."""
        factor = self.shares.advance(now)
        if factor != 1.0:
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
        line.size -= 1
        line.kind.size -= 1
        self.jobs -= 1
        self.bytes -= len(route.frame)
        if not line.size:
            self._drop_line(line)

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
                size += _check_lines(kind)
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


def _check_lines(kind: EligibilityClass) -> int:
    """A class has as many waiting jobs as its lines count, and each of its pools knows of each, and has no slot for it. Returns the
    bytes of those jobs. Drops nothing from a queue, as `head` does: who looks changes nothing."""
    jobs = size = 0
    pools = kind.pools
    full = [not has_free(pool.least_loaded(), kind.slots) for pool in pools]
    for line in kind.lines.values():
        waiting = [route for route in line.queue if route.state is _QUEUED]
        if not waiting or len(waiting) != line.size or line not in line.share.lines:
            raise InternalError(f"a line counts {line.size} waiting jobs, and has {len(waiting)}")
        for route in waiting:
            size += len(route.frame)
        for pool, is_full in zip(pools, full, strict=True):
            gate = line.parked.get(pool)
            if not is_full and not (isinstance(gate, LimitGate) and gate.is_shut):
                raise InternalError(f"a job of {kind.pipeline!r} waits although {pool.free} slots are free")
            if kind.slots > 1 and gate is None and pool.least_loaded() is not None and not _is_gathered(pool):
                raise InternalError("a worker has too few slots for a job that waits, and nobody gathers them")
            if gate is not None:
                if gate not in line.gates_of(pool) or line not in gate.parked[pool].listings or line in pool.turns.listings:
                    raise InternalError("a line is not parked where it says")
                continue
            listing = pool.turns.listings.get(line)
            if listing is None or listing[0] > waiting[0].sequence or not pool.turns.levels >> line.level & 1:
                raise InternalError("a pool does not know of a line that waits for it, or not in its place")
        jobs += line.size
    if jobs != kind.size:
        raise InternalError(f"a class counts {kind.size} waiting jobs, and its lines {jobs}")
    return size


def _is_gathered(pool: Pool) -> bool:
    return pool.gathering is not None and pool.gathering.worker is not None
