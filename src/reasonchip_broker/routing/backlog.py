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
from typing import TypeAlias

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import PIPELINES_KNOWN_MAX, PRIORITIES
from reasonchip_broker.routing.gates import Gate, Gates
from reasonchip_broker.routing.roster import Labels, Pool, Roster, Worker, choose
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Share, Shares
from reasonchip_broker.scheduling import Limit, Scheduling

_DEAD_MIN = 64
_QUEUED = RouteState.QUEUED
_TOP = PRIORITIES - 1
Key: TypeAlias = tuple[str, bool, Labels, Labels]
NEVER = float("inf")


class Line:
    """The waiting jobs of one class, priority and fairness key, oldest first."""

    __slots__ = ("due_at", "gates", "kind", "level", "number", "parked", "priority", "queue", "share", "size")

    def __init__(
        self, number: int, kind: "EligibilityClass", priority: int, share: Share, gates: tuple[Gate, ...] = ()
    ) -> None:
        self.number = number
        """Orders lines that tie; never used again."""
        self.kind = kind
        self.priority = priority
        self.level = priority
        """The priority that it counts for, with its age."""
        self.share = share
        self.queue: deque[Route] = deque()
        """Among them some that have stopped waiting."""
        self.size = 0
        """How many wait."""
        self.due_at = NEVER
        """When its age is looked at next."""
        self.gates = gates
        """What its jobs have to pass."""
        self.parked: dict[Pool, Gate] = {}
        """Where it is parked instead of being listed in a pool. Kept by `gates`."""

    def head(self) -> Route | None:
        """The oldest job that waits."""
        queue = self.queue
        while queue:
            if queue[0].state is _QUEUED:
                return queue[0]
            queue.popleft()
        return None


class EligibilityClass:
    """The jobs of one pipeline and form of variables, with the same wishes: which pools may run them, and those that wait.

    `need` are the labels that a worker must have, `like` those that it better has; `limits` are those of the operator.
    """

    __slots__ = ("as_json", "like", "limits", "lines", "need", "number", "pipeline", "pools", "size")

    def __init__(
        self,
        number: int,
        pipeline: str,
        as_json: bool,
        pools: list[Pool],
        need: Labels = (),
        like: Labels = (),
        limits: tuple[Limit, ...] = (),
    ) -> None:
        self.limits = limits
        self.need = need
        self.like = like
        self.number = number
        self.pipeline = pipeline
        self.as_json = as_json
        self.pools = pools
        self.lines: dict[tuple[int, Share], Line] = {}
        """Its lines in which a job waits, by priority and key."""
        self.size = 0
        """How many of its jobs wait."""

    @property
    def key(self) -> Key:
        """By which it is found."""
        return self.pipeline, self.as_json, self.need, self.like

    def choose(self) -> Worker | None:
        """A worker with a free slot, or None: one of those with the most labels that are liked, and of those the least loaded. O(number
        of pools)."""
        if not self.like:
            return choose(self.pools)
        best: list[Pool] = []
        most = -1
        for pool in self.pools:
            matches = pool.matches(self.like)
            if matches >= most and pool.least_loaded() is not None:
                best = [*best, pool] if matches == most else [pool]
                most = matches
        return choose(best) if best else None


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
            pools = [pool for pool in self._roster.pools.values() if pool.serves(pipeline, as_json, need)]
            limits = self.gates.limits_about(pipeline)
            kind = self._classes[key] = EligibilityClass(self._numbers, pipeline, as_json, pools, need, like, limits)
        return kind

    def _forget_idle(self) -> None:
        self._classes = {key: kind for key, kind in self._classes.items() if kind.size}
        # Doubled, so that the work stays O(1) a class even where none of them is idle.
        self._forget_at = max(PIPELINES_KNOWN_MAX, 2 * len(self._classes))
        self.epoch += 1

    def add_pool(self, pool: Pool, now: float) -> None:
        """A new offer: tell the classes that it serves."""
        for kind in self._classes.values():
            if pool.serves(kind.pipeline, kind.as_json, kind.need):
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
        if not line.gates:
            pool.turns.add(line, now)
            return
        gate = self.gates.shut(line.gates)
        if gate is None:
            self.gates.enlist(line, pool)
        else:
            self.gates.park(line, pool, gate)

    def _drop_line(self, line: Line) -> None:
        """Nothing waits in it any more. What pools say of it is dropped when it comes up, unless gates count it."""
        if line.gates:
            self.gates.emptied(line, line.kind.pools)
        line.queue.clear()
        del line.kind.lines[line.priority, line.share]
        del line.share.lines[line]

    def pop_for(self, pool: Pool, now: float) -> Route | None:
        """Take the job whose turn it is among those that workers of this pool may run; its caller moves it on from QUEUED."""
        if self._ages:
            self._promote(now)
        line = pool.turns.first(now)
        while line is not None and line.gates:
            gate = self.gates.shut(line.gates)
            if gate is None:
                break
            self.gates.park(line, pool, gate)
            line = pool.turns.first(now)
        if line is None:
            return None
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
        self.shares.configure(scheduling, now)
        gates = self.gates
        gates.configure(scheduling.limits, running)
        for route in running:
            # Its class may have been forgotten meanwhile.
            route.kind.limits = gates.limits_about(route.kind.pipeline)
        for kind in self._classes.values():
            kind.limits = gates.limits_about(kind.pipeline)
            for line in kind.lines.values():
                line.level, line.due_at, line.parked = line.priority, NEVER, {}
                line.gates = gates.of_line(kind.limits, kind.pipeline, line.share)
                for pool in kind.pools:
                    pool.turns.listings.pop(line, None)
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
            self.gates.rescaled(factor)

    def current(self, kind: EligibilityClass) -> EligibilityClass:
        """The class that stands for this one's jobs now: classes without a waiting job are forgotten once there are too many."""
        known = self._classes.get(kind.key)
        if known is None:
            # Taken up again as it is; to look for room here would change what others have looked up.
            kind.pools = [pool for pool in self._roster.pools.values() if pool.serves(*kind.key[:3])]
            kind.limits = self.gates.limits_about(kind.pipeline)
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
        self.gates.invariants([line for kind in self._classes.values() for line in kind.lines.values()])
        if jobs != self.jobs or size != self.bytes:
            raise InternalError(f"the backlog counts {self.jobs} jobs and {self.bytes} bytes, and has {jobs} of {size}")

    def _check_pools(self, kind: EligibilityClass) -> None:
        """A class knows the pools that serve it, each once, and no others."""
        known, serving = kind.pools, 0
        for pool in self._roster.pools.values():
            if pool.serves(kind.pipeline, kind.as_json, kind.need):
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
    full = [not pool.free for pool in pools]
    for line in kind.lines.values():
        waiting = [route for route in line.queue if route.state is _QUEUED]
        if not waiting or len(waiting) != line.size or line not in line.share.lines:
            raise InternalError(f"a line counts {line.size} waiting jobs, and has {len(waiting)}")
        for route in waiting:
            size += len(route.frame)
        for pool, is_full in zip(pools, full, strict=True):
            gate = line.parked.get(pool)
            if not is_full and (gate is None or not gate.is_shut):
                raise InternalError(f"a job of {kind.pipeline!r} waits although {pool.free} slots are free")
            if gate is not None:
                if gate not in line.gates or line not in gate.parked[pool].listings or line in pool.turns.listings:
                    raise InternalError("a line is not parked where it says")
                continue
            listing = pool.turns.listings.get(line)
            if listing is None or listing[0] > waiting[0].sequence or not pool.turns.levels >> line.level & 1:
                raise InternalError("a pool does not know of a line that waits for it, or not in its place")
        jobs += line.size
    if jobs != kind.size:
        raise InternalError(f"a class counts {kind.size} waiting jobs, and its lines {jobs}")
    return size
