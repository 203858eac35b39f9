"""The jobs that wait for a slot: for each freed slot the oldest job that it may run, without a scan.

Jobs that the same workers may run form an *eligibility class*: the pipeline, and whether the variables are JSON text. A class is a
queue, first in first out. Each pool has a heap of the classes that wait for it, ordered by the arrival of their oldest job. A class
stands at most once in it, perhaps under a job that was taken by another pool or has stopped waiting meanwhile: since heads only
ever grow younger, such an entry comes up too early, never too late, and is put right when it does. Queue entries that have stopped
waiting are dropped when they come up, and a queue that is mostly dead is rebuilt. So to queue, to take and to cancel are O(1) or
O(log classes).
"""

from collections import deque
from heapq import heapify, heappop, heappush, heapreplace

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import PIPELINES_KNOWN_MAX
from reasonchip_broker.routing.roster import Pool, Roster
from reasonchip_broker.routing.route import Route, RouteState

_DEAD_MIN = 64
_QUEUED = RouteState.QUEUED


class EligibilityClass:
    """The jobs of one pipeline and form of variables: which pools may run them, and those that wait."""

    __slots__ = ("as_json", "number", "pipeline", "pools", "queue", "size")

    def __init__(self, number: int, pipeline: str, as_json: bool, pools: list[Pool]) -> None:
        self.number = number
        """Orders classes whose heap entries tie; never used again."""
        self.pipeline = pipeline
        self.as_json = as_json
        self.pools = pools
        self.queue: deque[Route] | None = None
        """Waiting jobs, among them some that have stopped waiting; None until there is one."""
        self.size = 0
        """How many of them wait."""

    def drop_head(self) -> None:
        """Take the oldest job, which `head` has just returned, out of the queue."""
        if self.queue is not None:
            self.queue.popleft()

    def head(self) -> Route | None:
        """The oldest job that waits."""
        queue = self.queue
        if queue is None:
            return None
        while queue:
            if queue[0].state is _QUEUED:
                return queue[0]
            queue.popleft()
        return None


def _list(pool: Pool, kind: EligibilityClass, sequence: int) -> None:
    if kind not in pool.listed:
        pool.listed[kind] = None
        heappush(pool.waiting, (sequence, kind.number, kind))


class Backlog:
    """All waiting jobs, and all known classes."""

    __slots__ = ("_checked", "_checked_pools", "_classes", "_forget_at", "_numbers", "_roster", "bytes", "epoch", "jobs")

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._classes: dict[tuple[str, bool], EligibilityClass] = {}
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

    def class_of(self, pipeline: str, as_json: bool) -> EligibilityClass:
        """The class of a job; O(1) for a pipeline seen before, else the pools are asked once."""
        kind = self._classes.get((pipeline, as_json))
        if kind is None:
            if len(self._classes) >= self._forget_at:
                self._forget_idle()
            self._numbers += 1
            pools = [pool for pool in self._roster.pools.values() if pool.serves(pipeline, as_json)]
            kind = self._classes[pipeline, as_json] = EligibilityClass(self._numbers, pipeline, as_json, pools)
        return kind

    def _forget_idle(self) -> None:
        self._classes = {key: kind for key, kind in self._classes.items() if kind.size}
        # Doubled, so that the work stays O(1) a class even where none of them is idle.
        self._forget_at = max(PIPELINES_KNOWN_MAX, 2 * len(self._classes))
        self.epoch += 1
        for pool in self._roster.pools.values():
            pool.waiting = [entry for entry in pool.waiting if entry[2].size]
            pool.listed = {entry[2]: None for entry in pool.waiting}
            heapify(pool.waiting)

    def add_pool(self, pool: Pool) -> None:
        """A new offer: tell the classes that it serves."""
        for kind in self._classes.values():
            if pool.serves(kind.pipeline, kind.as_json):
                kind.pools.append(pool)
                head = kind.head()
                if head is not None:
                    _list(pool, kind, head.sequence)

    def remove_pool(self, pool: Pool) -> None:
        """An offer that nobody makes any more."""
        for kind in self._classes.values():
            if pool in kind.pools:
                kind.pools.remove(pool)

    def push(self, route: Route) -> None:
        """Queue a job whose state is QUEUED and whose sequence is the highest so far."""
        kind = route.kind
        if kind.queue is None:
            kind.queue = deque()
        if not kind.size:
            kind.queue.clear()
            for pool in kind.pools:
                _list(pool, kind, route.sequence)
        kind.queue.append(route)
        kind.size += 1
        self.jobs += 1
        self.bytes += len(route.frame)

    def pop_for(self, pool: Pool) -> Route | None:
        """Take the oldest job that workers of this pool may run; its caller moves it on from QUEUED."""
        waiting = pool.waiting
        while waiting:
            sequence, number, kind = waiting[0]
            head = kind.head()
            if head is None:
                heappop(waiting)
                del pool.listed[kind]
            elif head.sequence != sequence:
                heapreplace(waiting, (head.sequence, number, kind))
            else:
                kind.drop_head()
                self._forget(kind, head)
                following = kind.head()
                if following is None:
                    heappop(waiting)
                    del pool.listed[kind]
                else:
                    heapreplace(waiting, (following.sequence, number, kind))
                return head
        return None

    def withdraw(self, route: Route) -> None:
        """A waiting job stopped waiting (its state is no longer QUEUED)."""
        kind = route.kind
        self._forget(kind, route)
        # Its place in the queue is void, and may stay for a while; the bytes need not.
        route.frame = b""
        queue = kind.queue
        if queue is None:
            return
        if not kind.size:
            # Nothing may ever come up here again, and let go of what is void.
            queue.clear()
        elif len(queue) > 2 * kind.size + _DEAD_MIN:
            kind.queue = deque(other for other in queue if other.state is _QUEUED)

    def take_out(self, routes: list[Route]) -> None:
        """Waiting jobs stopped waiting (their state is no longer QUEUED), and will wait again: their old places must not be found by
        that time. A scan of each queue concerned, however many jobs there are."""
        kinds: dict[EligibilityClass, None] = {}
        for route in routes:
            self._forget(route.kind, route)
            kinds[route.kind] = None
        for kind in kinds:
            if kind.queue is not None:
                kind.queue = deque(other for other in kind.queue if other.state is _QUEUED)

    def current(self, kind: EligibilityClass) -> EligibilityClass:
        """The class that stands for this one's jobs now: classes without a waiting job are forgotten once there are too many."""
        key = kind.pipeline, kind.as_json
        known = self._classes.get(key)
        if known is None:
            # Taken up again as it is; to look for room here would change what others have looked up.
            kind.pools = [pool for pool in self._roster.pools.values() if pool.serves(*key)]
            kind.queue = None
            known = self._classes[key] = kind
        return known

    def _forget(self, kind: EligibilityClass, route: Route) -> None:
        kind.size -= 1
        self.jobs -= 1
        self.bytes -= len(route.frame)

    def waiting_for(self, pools: list[Pool], at_most: int) -> int:
        """How many jobs wait that workers of these pools may run; counted no further than `at_most`."""
        kinds = {kind.number: kind.size for pool in pools for kind in pool.listed} if at_most else {}
        return min(at_most, sum(kinds.values()))

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
            if kind.size or kind.queue:
                jobs += kind.size
                size += _check_queue(kind)
        if jobs != self.jobs or size != self.bytes:
            raise InternalError(f"the backlog counts {self.jobs} jobs and {self.bytes} bytes, and has {jobs} of {size}")

    def _check_pools(self, kind: EligibilityClass) -> None:
        """A class knows the pools that serve it, each once, and no others."""
        known, serving = kind.pools, 0
        for pool in self._roster.pools.values():
            if pool.serves(kind.pipeline, kind.as_json):
                serving += 1
                if pool not in known:
                    raise InternalError("a class lacks a pool that serves it")
        if serving != len(known):
            raise InternalError("a class has pools that don't serve it")


def _check_queue(kind: EligibilityClass) -> int:
    """A class has as many waiting jobs as it counts, and each of its pools knows that it waits, and since when, and has no slot for it.
    Returns the bytes of those jobs. Drops nothing from the queue, as `head` does: who looks changes nothing."""
    waiting = [route for route in kind.queue or () if route.state is _QUEUED]
    if len(waiting) != kind.size:
        raise InternalError(f"a class counts {kind.size} waiting jobs, and has {len(waiting)}")
    for pool in kind.pools if waiting else ():
        if pool.free:
            raise InternalError(f"a job of {kind.pipeline!r} waits although {pool.free} slots are free")
        entries = [entry for entry in pool.waiting if entry[2] is kind]
        if len(entries) != 1 or entries[0][0] > waiting[0].sequence or kind not in pool.listed:
            raise InternalError("a pool does not know of a class that waits for it, or not in its place")
    return sum(len(route.frame) for route in waiting)
