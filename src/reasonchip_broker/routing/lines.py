"""Lines of jobs that wait, and the classes that they belong to (see `backlog.py`)."""

from collections import deque
from typing import Final, TypeAlias

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.gates import Gate, LimitGate
from reasonchip_broker.routing.roster import Labels, Pool, Worker, choose, has_free
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Share
from reasonchip_broker.routing.timers import Timer
from reasonchip_broker.scheduling import Limit

NEVER: Final = float("inf")
_QUEUED: Final = RouteState.QUEUED
Key: TypeAlias = tuple[str, bool, Labels, Labels]
"""Pipeline, whether the variables are JSON text, labels that are needed, labels that are liked."""


class Line:
    """The waiting jobs of one class, priority and fairness key, oldest first."""

    __slots__ = (
        "due_at",
        "gates",
        "kind",
        "level",
        "number",
        "parked",
        "priority",
        "queue",
        "share",
        "size",
        "timer",
        "worker",
    )

    def __init__(
        self,
        number: int,
        kind: "EligibilityClass",
        priority: int,
        share: Share,
        gates: tuple[LimitGate, ...] = (),
        worker: Worker | None = None,
    ) -> None:
        self.worker = worker
        """The one that its jobs wait for, for a while; None: any that serves them."""
        self.timer: Timer | None = None
        """When the first of its jobs has waited long enough for that one."""
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
        """The operator's limits that its jobs have to keep to."""
        self.parked: dict[Pool, Gate] = {}
        """Where it is parked instead of being listed in a pool. Kept by `gates`."""

    def gates_of(self, pool: Pool) -> tuple[Gate, ...]:
        """What its jobs have to pass in a pool; those of a class that is not special have nothing to."""
        gathering, slots = pool.gathering, self.kind.slots
        return self.gates if slots == 1 or gathering is None else (*self.gates, gathering.gate(slots))

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

    `need` are the labels that a worker must have, `like` those that it better has.
    """

    __slots__ = ("as_json", "like", "limits", "lines", "need", "number", "pipeline", "pools", "size", "slots", "special")

    def __init__(
        self,
        number: int,
        pipeline: str,
        as_json: bool,
        pools: list[Pool],
        need: Labels = (),
        like: Labels = (),
    ) -> None:
        self.limits: tuple[Limit, ...] = ()
        """Those of the operator that are about its jobs."""
        self.slots = 1
        """How many a job takes, of one worker."""
        self.special = False
        """Whether its jobs have more to wait for than a free slot."""
        self.need = need
        self.like = like
        self.number = number
        self.pipeline = pipeline
        self.as_json = as_json
        self.pools = pools
        self.lines: dict[tuple[int, Share, Worker | None], Line] = {}
        """Its lines in which a job waits, by priority, key and the worker that they wait for."""
        self.size = 0
        """How many of its jobs wait."""

    def ruled(self, limits: tuple[Limit, ...], slots: int) -> None:
        """What the operator says of its jobs."""
        self.limits = limits
        self.slots = slots
        self.special = slots > 1 or bool(limits)

    @property
    def key(self) -> Key:
        """By which it is found."""
        return self.pipeline, self.as_json, self.need, self.like

    def choose(self) -> Worker | None:
        """A worker with a free slot, or None: one of those with the most labels that are liked, and of those the least loaded. O(number
        of pools)."""
        pools, slots = self.pools, self.slots
        if slots == 1 and not self.like:
            return choose(pools)
        if slots > 1:
            pools = [pool for pool in pools if has_free(pool.least_loaded(), slots)]
        if self.like:
            best: list[Pool] = []
            most = -1
            for pool in pools:
                matches = pool.matches(self.like)
                if matches >= most and pool.least_loaded() is not None:
                    best = [*best, pool] if matches == most else [pool]
                    most = matches
            pools = best
        worker = choose(pools) if pools else None
        if worker is not None:
            # Of pools with equal loads the other ones come first next time.
            self.pools.remove(worker.pool)
            self.pools.append(worker.pool)
        return worker

    def invariants(self) -> int:
        """Raise InternalError unless the class has as many waiting jobs as its lines count, and each of its pools knows of each, and
        has no slot for it. Returns the bytes of those jobs. Drops nothing from a queue, as `head` does: who looks changes nothing."""
        jobs = size = 0
        pools = self.pools
        full = [not has_free(pool.least_loaded(), self.slots) for pool in pools]
        for line in self.lines.values():
            worker = line.worker
            waiting = [route for route in line.queue if route.state is _QUEUED]
            if not waiting or len(waiting) != line.size or line not in line.share.lines:
                raise InternalError(f"a line counts {line.size} waiting jobs, and has {len(waiting)}")
            for route in waiting:
                size += len(route.frame)
            if worker is not None and (
                worker.own is None or line not in worker.own.listings or worker.level >= 0 or line.timer is None
            ):
                raise InternalError("a line waits for one worker, which has a slot, or knows nothing of it")
            for pool, is_full in zip(pools, full, strict=True) if worker is None else ():
                gate = line.parked.get(pool)
                if not is_full and not (isinstance(gate, LimitGate) and gate.is_shut):
                    raise InternalError(f"a job of {self.pipeline!r} waits although {pool.free} slots are free")
                if self.slots > 1 and gate is None and pool.least_loaded() is not None and not _is_gathered(pool):
                    raise InternalError("a worker has too few slots for a job that waits, and nobody gathers them")
                if gate is not None:
                    if gate not in line.gates_of(pool) or line not in gate.parked[pool].listings or line in pool.turns.listings:
                        raise InternalError("a line is not parked where it says")
                    continue
                listing = pool.turns.listings.get(line)
                if listing is None or listing[0] > waiting[0].sequence or not pool.turns.levels >> line.level & 1:
                    raise InternalError("a pool does not know of a line that waits for it, or not in its place")
            jobs += line.size
        if jobs != self.size:
            raise InternalError(f"a class counts {self.size} waiting jobs, and its lines {jobs}")
        return size


def _is_gathered(pool: Pool) -> bool:
    return pool.gathering is not None and pool.gathering.worker is not None
