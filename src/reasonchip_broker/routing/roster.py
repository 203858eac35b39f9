"""The workers: what each serves, how much it can take, and which of them gets the next job.

Workers with the same offer (the same patterns, labels, dialect and capacity) share a *pool*, and an eligibility class knows its
pools, so the question "who may run this?" is never asked of single workers. Within a pool, workers with a free slot queue in one of 64
levels by the share of their slots that is taken. The next job goes to the first worker of the lowest level, which then queues at the
end of its new level: least loaded first, ties in turn. With 64 levels to look at, at most, all of it is O(1); the price is that loads
that differ by less than 1/64 of a worker's capacity count as equal.

A worker's place in a queue is a *ticket*. A worker that moves on takes a new one; the old one is void from then on, and is dropped
when it comes up, or swept with others once a queue is mostly void. To find and delete it at once would cost about three times as
much.
"""

import re
from collections import deque
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import WORKER_CAPACITY_MAX
from reasonchip_broker.protocol.codes import Dialect
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.turns import Turns

if TYPE_CHECKING:
    from reasonchip_broker.routing.gathering import Gathering

LEVELS: Final = 64
_OFF: Final = -1
_HELD: Final = AssignmentState.HELD
_WITHHELD: Final = AssignmentState.WITHHELD
_SWEEP_MIN: Final = 64
_SWEEP_PER_WORKER: Final = 4
"""A queue of more tickets than this is swept: so many are void that it costs O(1) for each of them."""

Ticket: TypeAlias = "tuple[Worker, ...]"
"""Of one worker. Its type has no fixed length, since tuples of one are values without an identity where this is compiled, and it is
by its identity that a ticket is valid or void."""
Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values, sorted."""


@lru_cache(maxsize=256)
def levels_of(capacity: int) -> bytes:
    """The level of a worker of this capacity, by the number of its slots that are taken."""
    return bytes(busy * LEVELS // capacity for busy in range(capacity))


class Worker:
    """A registered worker: its slots and the assignments on them."""

    __slots__ = (
        "assignments",
        "busy",
        "capacity",
        "draining",
        "level",
        "levels",
        "own",
        "own_lines",
        "peer",
        "pool",
        "resting",
        "resuming",
        "set_aside",
        "ticket",
        "withheld",
    )

    def __init__(self, peer: Peer, capacity: int, pool: "Pool") -> None:
        self.peer = peer
        self.capacity = capacity
        self.pool = pool
        self.assignments: dict[bytes, Assignment] = {}
        self.busy = 0
        """Slots held, withheld or resting."""
        self.withheld = 0
        self.resting: dict[Assignment, None] = {}
        """Slots whose job is reported, and that are not free yet."""
        self.resuming: deque[Assignment] | None = None
        """Jobs that have lent their slot out and want one again, in order."""
        self.draining = False
        self.set_aside = False
        """Whether slots are gathered on it for a job that takes several."""
        self.own: Turns | None = None
        """What waits for this worker alone, for a while; kept by `backlog`, once there was something."""
        self.own_lines = 0
        self.level = _OFF
        """Its level in the pool; off while it can't be given a job."""
        self.levels = levels_of(capacity)
        self.ticket: Ticket | None = None
        """The one that is valid."""

    @property
    def available(self) -> bool:
        """Whether it may be given a job now."""
        return self.busy < self.capacity and self.may_take and not self.set_aside

    @property
    def may_take(self) -> bool:
        """Whether its free slots, if it has any, are for jobs that wait."""
        return not self.draining and not self.peer.congested and not self.resuming

    @property
    def free(self) -> int:
        """Slots that are not taken, whoever they are for."""
        return self.capacity - self.busy


class Pool:
    """The workers with one offer."""

    __slots__ = (
        "_levels",
        "_lowest",
        "_patterns",
        "_sweep_at",
        "capacity",
        "dialect",
        "gathering",
        "labels",
        "offer",
        "resting",
        "turns",
        "workers",
    )

    def __init__(
        self, offer: tuple[str, ...], dialect: Dialect, labels: Labels = (), capacity: int = WORKER_CAPACITY_MAX
    ) -> None:
        self.offer = offer
        self.capacity = capacity
        """Slots of each of its workers."""
        self.gathering: Gathering | None = None
        """Kept once a job has waited for it that takes several slots."""
        self.dialect = dialect
        self.labels = dict(labels)
        self.workers: dict[Worker, None] = {}
        self.resting = 0
        """Slots that will be free soon, by themselves."""
        self.turns = Turns()
        """What waits for this pool; kept by `backlog`."""
        self._levels: list[deque[Ticket] | None] = [None] * LEVELS
        self._lowest = LEVELS
        """No worker stands in a lower level."""
        self._sweep_at = _SWEEP_MIN
        exact = frozenset(pattern for pattern in offer if not _is_glob(pattern))
        globs = [translate(pattern) for pattern in offer if _is_glob(pattern)]
        self._patterns = exact, re.compile("|".join(globs)) if globs else None

    def serves(self, pipeline: str, as_json: bool, need: Labels = (), slots: int = 1) -> bool:
        """Whether workers of this pool may run jobs of `pipeline` that need such labels and take so many slots; a JSON worker needs
        variables that are JSON text."""
        if (self.dialect == Dialect.JSON and not as_json) or self.matches(need) < len(need) or slots > self.capacity:
            return False
        exact, globs = self._patterns
        return pipeline in exact or (globs is not None and globs.match(pipeline) is not None)

    def matches(self, labels: Labels) -> int:
        """How many of some labels its workers have."""
        return sum(self.labels.get(name) == value for name, value in labels)

    @property
    def free(self) -> int:
        """Slots that a job could be given now. O(workers): not for the hot path."""
        free = 0
        for worker in self.workers:
            if worker.level != _OFF:
                free += worker.capacity - worker.busy
        return free

    def room_for(self, slots: int) -> int:
        """How many jobs that take so many slots could be given now. O(workers), too."""
        return sum(worker.free // slots for worker in self.workers if worker.level != _OFF)

    def least_loaded(self) -> Worker | None:
        """The worker whose turn it is; None if no slot is free."""
        levels = self._levels
        level = self._lowest
        while level < LEVELS:
            queue = levels[level]
            while queue:
                ticket = queue[0]
                worker = ticket[0]
                if worker.ticket is ticket:
                    return worker
                queue.popleft()
            level += 1
            self._lowest = level
        return None

    def take(self) -> Worker | None:
        """Take one slot of the worker whose turn it is; None if no slot is free.

        `least_loaded` and `occupy` in one, for the hot path. Its ticket was in no other queue, and so is good for the next one
        too.
        """
        levels = self._levels
        level = self._lowest
        while level < LEVELS:
            queue = levels[level]
            while queue:
                ticket = queue.popleft()
                worker = ticket[0]
                if worker.ticket is ticket:
                    busy = worker.busy + 1
                    worker.busy = busy
                    if busy < worker.capacity:
                        level = worker.levels[busy]
                        worker.level = level
                        queue = levels[level]
                        if queue is None:
                            levels[level] = deque((ticket,))
                        else:
                            queue.append(ticket)
                    else:
                        worker.level = _OFF
                        worker.ticket = None
                    return worker
            level += 1
            self._lowest = level
        return None

    def occupy(self, worker: Worker, slots: int = 1) -> None:
        """Take slots of a worker that has them free."""
        busy = worker.busy + slots
        worker.busy = busy
        if busy < worker.capacity and not worker.set_aside:
            self._enqueue(worker)
        else:
            worker.level = _OFF
            worker.ticket = None

    def vacate(self, worker: Worker, slots: int = 1) -> None:
        """Give slots of a worker back."""
        busy = worker.busy - slots
        worker.busy = busy
        level = worker.levels[busy]
        before = worker.level
        if level != before and not worker.draining and not worker.peer.congested and not worker.set_aside:
            # `_enqueue`, written out: this is the hot path, and so is `take`.
            queue = self._levels[level]
            ticket: Ticket = (worker,)
            worker.ticket = ticket
            worker.level = level
            if queue is None:
                self._levels[level] = deque((ticket,))
            else:
                queue.append(ticket)
            if level < self._lowest:
                self._lowest = level
            if len(self._levels[before] or ()) > self._sweep_at:
                self._sweep(before)

    def _enqueue(self, worker: Worker) -> None:
        level = worker.level = worker.levels[worker.busy]
        ticket: Ticket = (worker,)
        worker.ticket = ticket
        queue = self._levels[level]
        if queue is None:
            self._levels[level] = deque((ticket,))
        else:
            queue.append(ticket)
        if level < self._lowest:
            self._lowest = level
        if len(self._levels[level] or ()) > self._sweep_at:
            self._sweep(level)

    def _sweep(self, level: int) -> None:
        """Drop the void tickets of a level. They are left there by workers that went down from it, or came and went."""
        queue = self._levels[level]
        self._sweep_at = _SWEEP_MIN + _SWEEP_PER_WORKER * len(self.workers)
        if queue is not None and len(queue) > self._sweep_at:
            self._levels[level] = deque(ticket for ticket in queue if ticket[0].ticket is ticket)

    def place(self, worker: Worker) -> None:
        """Put a worker where it belongs after its availability changed."""
        worker.ticket = None
        worker.level = _OFF
        if worker.available:
            self._enqueue(worker)

    def remove(self, worker: Worker) -> None:
        """Forget a worker that has gone."""
        worker.ticket = None
        worker.level = _OFF
        self.workers.pop(worker)

    def clear(self) -> None:
        """Drop the void tickets of a pool without workers: they lead to workers that lead back here, and nobody collects cycles."""
        self._levels = [None] * LEVELS
        self.gathering = None

    def invariants(self) -> None:
        """Raise InternalError if the pool's indexes disagree with its workers."""
        listed = resting = 0
        levels, lowest = self._levels, self._lowest
        for worker in self.workers:
            held = withheld = 0
            if worker.assignments:
                for assignment in worker.assignments.values():
                    state = assignment.state
                    if state is _HELD:
                        held += assignment.slots
                    elif state is _WITHHELD:
                        withheld += assignment.slots
            busy, capacity = worker.busy, worker.capacity
            rests = sum(assignment.slots for assignment in worker.resting) if worker.resting else 0
            if not 0 <= busy <= capacity or busy != held + withheld + rests:
                raise InternalError(f"{busy} of {capacity} slots busy, {held} held, {withheld} withheld, {rests} resting")
            if worker.withheld != withheld:
                raise InternalError("a worker's withheld slots are miscounted")
            resting += rests
            level = worker.level
            # `available`, written out: what is checked is not asked.
            off = worker.draining or worker.peer.congested or worker.set_aside or worker.resuming
            if (level != _OFF) != (busy < capacity and not off):
                raise InternalError("a worker is listed as available and is not, or the other way round")
            if level != _OFF:
                listed += 1
                if level != worker.levels[busy] or level < lowest:
                    raise InternalError("a worker stands in the wrong level, or in one that is not looked at")
                if worker.ticket not in (levels[level] or ()):
                    raise InternalError("a worker has no ticket in its level")
        if self.resting != resting:
            raise InternalError("a pool's resting slots are miscounted")
        self._check_tickets(listed)

    def _check_tickets(self, listed: int) -> None:
        """So many tickets are valid as there are workers listed, each in the level of its worker."""
        levels, valid = self._levels, 0
        for queue in filter(None, levels):
            for ticket in queue:
                worker = ticket[0]
                if worker.ticket is ticket:
                    valid += 1
                    if levels[worker.level] is not queue:
                        raise InternalError("a worker has its ticket in another level than its own")
        if valid != listed:
            raise InternalError(f"{valid} valid tickets for {listed} workers with a free slot")


def _is_glob(pattern: str) -> bool:
    return any(char in pattern for char in "*?[")


class Roster:
    """All pools. Finds a worker for a class, and a pool for an offer."""

    __slots__ = ("pools",)

    def __init__(self) -> None:
        self.pools: dict[tuple[Dialect, tuple[str, ...], Labels, int], Pool] = {}

    def pool_for(
        self, dialect: Dialect, patterns: Iterable[str], labels: Labels = (), capacity: int = WORKER_CAPACITY_MAX
    ) -> tuple[Pool, bool]:
        """The pool of an offer, and whether it is new (then the classes that it serves must be told)."""
        offer = tuple(sorted(set(patterns)))
        pool = self.pools.get((dialect, offer, labels, capacity))
        if pool is not None:
            return pool, False
        pool = self.pools[dialect, offer, labels, capacity] = Pool(offer, dialect, labels, capacity)
        return pool, True

    def discard(self, pool: Pool) -> None:
        """Forget a pool without workers."""
        if pool.workers:
            raise InternalError("a pool with workers can't be forgotten")
        pool.clear()
        del self.pools[pool.dialect, pool.offer, tuple(pool.labels.items()), pool.capacity]

    def invariants(self) -> None:
        """Raise InternalError if an index disagrees with what it stands for."""
        for pool in self.pools.values():
            if not pool.workers:
                raise InternalError("a pool without workers was kept")
            pool.invariants()
            if pool.gathering is not None:
                pool.gathering.invariants()


def choose(pools: list[Pool]) -> Worker | None:
    """The least loaded worker with a free slot among some pools, or None. O(number of pools), which is that of distinct offers.

    The pool that was chosen goes to the end of the list, so that pools with equal loads take turns.
    """
    if len(pools) == 1:
        return pools[0].least_loaded()
    best: Worker | None = None
    for pool in pools:
        worker = pool.least_loaded()
        if worker is not None and (best is None or worker.level < best.level):
            best = worker
    if best is not None:
        pools.remove(best.pool)
        pools.append(best.pool)
    return best


def take(pools: list[Pool]) -> Worker | None:
    """Take one slot of the worker that `choose` chooses."""
    worker = choose(pools)
    if worker is not None:
        worker.pool.occupy(worker)
    return worker


def has_free(worker: Worker | None, slots: int) -> bool:
    """Whether there is a worker, and it has so many free slots."""
    return worker is not None and worker.capacity - worker.busy >= slots
