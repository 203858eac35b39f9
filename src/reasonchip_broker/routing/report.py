"""Who waits for what: pools of workers, fairness keys, lines of jobs and the operator's limits, for a person to look at.

Who asks is told of the jobs and keys of their own principal, and of all workers. Nothing changes by it; and it holds nobody up for
long, however much there is: no more than a bounded number of lines, keys and limits is looked at."""

from collections.abc import Iterator
from heapq import nlargest, nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Final

from reasonchip_broker.limits import QUEUE_LOOK_MAX
from reasonchip_broker.protocol.binary import NUMBER_MAX
from reasonchip_broker.protocol.codes import Dialect, Waiting
from reasonchip_broker.protocol.schemas import KeyStatus, LimitStatus, LineStatus, PoolStatus, QueueReport
from reasonchip_broker.routing.gates import LimitGate
from reasonchip_broker.routing.lines import Line
from reasonchip_broker.routing.roster import Pool
from reasonchip_broker.routing.shares import Share

if TYPE_CHECKING:
    from reasonchip_broker.routing.dispatcher import Dispatcher

_SHOWN: Final = 10
"""Patterns of a pool, and its labels, that are shown."""

_HOUR_S: Final = 3600


class Report:
    """Tells who waits for what."""

    __slots__ = ("_dispatcher",)

    def __init__(self, dispatcher: "Dispatcher") -> None:
        self._dispatcher = dispatcher

    def of(self, principal: str, rows: int) -> QueueReport:
        """For a principal, in so many rows of each table at most."""
        dispatcher = self._dispatcher
        now = dispatcher.clock.now
        lines = list(islice(self._lines(), QUEUE_LOOK_MAX))
        own = [line for line in lines if line.share.principal == principal]
        keys = dict.fromkeys(line.share for line in own)
        for share in islice(dispatcher.shares.all, QUEUE_LOOK_MAX):
            if share.running and share.principal == principal:
                keys[share] = None
        limits = list(islice(dispatcher.gates.counts(principal), QUEUE_LOOK_MAX))
        pools = dispatcher.roster.pools.values()
        waits = self._waits()
        return QueueReport(
            wait=dispatcher.backlog.jobs,
            size=dispatcher.backlog.bytes,
            sched=dispatcher.scheduled.jobs,
            left=_whole(dispatcher.pressure.rate * _HOUR_S),
            others=sum(line.size for line in lines) - sum(line.size for line in own),
            pools=[
                _pool(pool, waits.get(pool, 0))
                for pool in nlargest(rows, pools, key=lambda pool: (waits.get(pool, 0), len(pool.workers)))
            ],
            keys=[_key(share, now) for share in nsmallest(rows, keys, key=lambda share: share.place(now))],
            lines=[self._line(line) for line in nsmallest(rows, own, key=self._place)],
            limits=[self._limit(of, gate, lines) for of, gate in nlargest(rows, limits, key=_weight)],
            of=[len(pools), len(keys), len(own), len(limits)],
        )

    def _lines(self) -> Iterator[Line]:
        for kind in self._dispatcher.backlog.waiting():
            yield from kind.lines.values()

    def _waits(self) -> dict[Pool, int]:
        """How many jobs wait that a pool serves."""
        waits: dict[Pool, int] = {}
        looked_at = 0
        for kind in self._dispatcher.backlog.waiting():
            looked_at += len(kind.pools)
            if looked_at > QUEUE_LOOK_MAX:
                break
            for pool in kind.pools:
                waits[pool] = waits.get(pool, 0) + kind.size
        return waits

    def _place(self, line: Line) -> tuple[int, float, int]:
        """Whose turn comes first is shown first."""
        backlog, now = self._dispatcher.backlog, self._dispatcher.clock.now
        head = line.head()
        if head is None:
            return 0, 0.0, 0
        return -backlog.level_of(line, head, now), line.share.place(now), head.sequence

    def _line(self, line: Line) -> LineStatus:
        backlog, status, now = self._dispatcher.backlog, self._dispatcher.status, self._dispatcher.clock.now
        head, kind = line.head(), line.kind
        why = status.why(head) if head is not None else None
        return LineStatus(
            pipe=kind.pipeline,
            json=kind.as_json,
            need=dict(kind.need),
            like=dict(kind.like),
            prio=line.priority,
            level=backlog.level_of(line, head, now) if head is not None else line.priority,
            key=line.share.name,
            n=line.size,
            age=_whole((now - head.queued_at) * 1000) if head is not None else 0,
            why=why or "",
            # Of slots the pools tell; to count them for each line would take long.
            msg=status.sentence(head) if head is not None and why is not Waiting.NO_FREE_SLOT else "",
        )

    def _limit(self, of: str, gate: LimitGate, lines: list[Line]) -> LimitStatus:
        now, limit = self._dispatcher.clock.now, gate.limit
        is_shut = not gate.may_pass(now)
        return LimitStatus(
            name=limit.name,
            of=of,
            run=gate.running,
            most=limit.concurrency,
            wait=sum(line.size for line in lines if gate in line.gates) if gate.lines else 0,
            shut=is_shut,
            opens=_whole(max(0.0, gate.opens_at - now) * 1000) if is_shut else 0,
        )


def _weight(entry: tuple[str, LimitGate]) -> tuple[int, int]:
    gate = entry[1]
    return gate.lines, gate.running


def _pool(pool: Pool, waiting: int) -> PoolStatus:
    workers = pool.workers
    busy = sum(worker.busy for worker in workers)
    held = sum(worker.withheld for worker in workers)
    return PoolStatus(
        serves=list(pool.offer[:_SHOWN]),
        cap=pool.capacity,
        labels=dict(islice(pool.labels.items(), _SHOWN)),
        more=max(0, len(pool.offer) - _SHOWN) + max(0, len(pool.labels) - _SHOWN),
        json=pool.dialect == Dialect.JSON,
        n=len(workers),
        drain=sum(worker.draining for worker in workers),
        slow=sum(worker.peer.congested for worker in workers),
        aside=sum(worker.set_aside for worker in workers),
        slots=pool.capacity * len(workers),
        run=busy - held - pool.resting,
        free=pool.free,
        held=held,
        rest=pool.resting,
        wait=waiting,
    )


def _key(share: Share, now: float) -> KeyStatus:
    return KeyStatus(
        key=share.name,
        named=share.is_named,
        weight=1.0 / share.per_weight,
        run=share.running,
        wait=sum(line.size for line in islice(share.lines, QUEUE_LOOK_MAX)),
        used=_whole(share.used_s(now) * 1000),
        turn=_whole(share.turn_s * 1000),
    )


def _whole(number: float) -> int:
    return max(0, min(NUMBER_MAX, round(number)))
