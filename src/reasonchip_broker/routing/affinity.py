"""Affinity: jobs that name the same key go to the same worker, which may have something of theirs at hand.

A job with an *affinity key* is given to the worker that served the key last, as long as that one is not much more loaded than the
least loaded that may run it (the *imbalance* that the operator allows); if it has no slot free, the job waits for it, for a bounded
time, before it waits for any. A key that nobody has served, or whose worker is gone, is placed by consistent hashing with bounded
loads (Karger et al. 1997; Mirrokni, Thorup, Zadimoghaddam 2018): so the same keys come to the same worker again after a restart of
the broker, and when a worker goes, only its own keys move.

A worker is known by its name, so that one which comes back gets its keys back; one without a name, by its connection."""

from bisect import bisect_left
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from reasonchip_broker.limits import AFFINITY_KEYS_MAX
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.roster import Pool, Worker
from reasonchip_broker.scheduling import Scheduling

_POINTS: Final = 32
"""Of each worker on the ring: with so many, the largest share of keys is about half as large again as the mean."""

_TRIES: Final = 16
"""Workers looked at for a new key. Beyond, it goes to the least loaded."""


class Ring:
    """The workers of one pool, on a circle."""

    __slots__ = ("_is_sorted", "_points", "_void")

    def __init__(self) -> None:
        self._points: list[tuple[int, int, Worker]] = []
        self._is_sorted = True
        self._void = 0

    def add(self, worker: Worker) -> None:
        """One more worker."""
        identity = identity_of(worker)
        self._points += [
            (_place(b"%d %b" % (number, identity)), len(self._points) + number, worker) for number in range(_POINTS)
        ]
        self._is_sorted = False

    def remove(self, worker: Worker) -> None:
        """A worker is gone from its pool; its points are passed by from now on."""
        self._void += _POINTS
        if self._void * 2 > len(self._points):
            self._points = [point for point in self._points if point[2] is not worker and point[2] in point[2].pool.workers]
            self._void = 0

    def after(self, place: int) -> Iterator[tuple[int, Worker]]:
        """The workers as they come from a place on, each once, and how far away."""
        if not self._is_sorted:
            self._points.sort()
            self._is_sorted = True
        points = self._points
        first = bisect_left(points, place, key=_point)
        seen: dict[Worker, None] = {}
        for number in range(len(points)):
            point, _, worker = points[(first + number) % len(points)]
            if worker not in seen and worker in worker.pool.workers:
                seen[worker] = None
                yield (point - place) % _CIRCLE, worker


class Affinity:
    """Which worker has served which key, and which one is to."""

    __slots__ = ("_imbalance", "_rings", "_served", "_workers", "wait_s")

    def __init__(self, scheduling: Scheduling) -> None:
        self._served: dict[tuple[str, str], bytes] = {}
        """Who served a key of a principal last; those that came up last are at the end."""
        self._workers: dict[bytes, Worker] = {}
        self._rings: dict[Pool, Ring] = {}
        """Of pools that a job with a key has been placed in."""
        self.configure(scheduling)

    def configure(self, scheduling: Scheduling) -> None:
        """Other rules hold from now on."""
        self._imbalance = scheduling.affinity_imbalance
        self.wait_s = scheduling.affinity_wait_s
        """How long a job waits for the worker that it would rather have."""

    def came(self, worker: Worker) -> None:
        """A worker has registered."""
        self._workers[identity_of(worker)] = worker
        ring = self._rings.get(worker.pool)
        if ring is not None:
            ring.add(worker)

    def left(self, worker: Worker) -> None:
        """A worker is gone."""
        identity = identity_of(worker)
        if self._workers.get(identity) is worker:
            del self._workers[identity]
        ring = self._rings.get(worker.pool)
        if ring is not None:
            if worker.pool.workers:
                ring.remove(worker)
            else:
                del self._rings[worker.pool]

    def served(self, worker: Worker, principal: str, key: str) -> None:
        """A worker was given a job with a key."""
        self._served.pop((principal, key), None)
        self._served[principal, key] = identity_of(worker)
        if len(self._served) > AFFINITY_KEYS_MAX:
            del self._served[next(iter(self._served))]

    def choose(self, kind: EligibilityClass, principal: str, key: str, *, may_wait: bool) -> Worker | None:
        """Who is to have a job with a key: one with the slots free, or, if it `may_wait`, one that it is to wait for. None: nobody has,
        and it may as well wait for any."""
        least = kind.choose()
        before = self._workers.get(self._served.get((principal, key), b""))
        if before is None or before.pool not in kind.pools:
            return self._placed(kind, principal, key, least) if least is not None else None
        if least is not None and _load(before) - _load(least) > self._imbalance:
            return least
        if before.available and before.free >= kind.slots:
            return before
        if may_wait and self.wait_s > 0 and kind.slots == 1 and before.may_take:
            return before
        return least

    def _placed(self, kind: EligibilityClass, principal: str, key: str, least: Worker) -> Worker:
        """Who is to have a new key."""
        place = _place(f"{principal}\n{key}".encode("utf-8", "surrogatepass"))
        most = _load(least) + self._imbalance
        likes = least.pool.matches(kind.like)
        best, nearest = least, _CIRCLE
        for pool in kind.pools:
            if kind.like and pool.matches(kind.like) < likes:
                continue
            for tries, (distance, worker) in enumerate(self._ring(pool).after(place)):
                if tries == _TRIES or distance >= nearest:
                    break
                if worker.available and worker.free >= kind.slots and _load(worker) <= most:
                    best, nearest = worker, distance
                    break
        return best

    def _ring(self, pool: Pool) -> Ring:
        ring = self._rings.get(pool)
        if ring is None:
            ring = self._rings[pool] = Ring()
            for worker in pool.workers:
                ring.add(worker)
        return ring


_CIRCLE: Final = 1 << 64


def _place(what: bytes) -> int:
    return int.from_bytes(blake2b(what, digest_size=8).digest())


def _point(entry: tuple[int, int, Worker]) -> int:
    return entry[0]


def _load(worker: Worker) -> float:
    return worker.busy / worker.capacity


def identity_of(worker: Worker) -> bytes:
    """By which a worker is known again."""
    peer = worker.peer
    return b"name %b %b" % (peer.principal.encode(), peer.name.encode()) if peer.name else b"id %b" % peer.id
