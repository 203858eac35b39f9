"""QUEUE: who waits for what.

What must be seen: what is told is so, of all workers, and of the jobs of whoever asks; others' are counted, and no more. And a worker
may not ask.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.rules import Rules
from reasonchip_broker.testing.simulation.records import Check, Client, End, Labels, Worker, require

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

ROWS = (0, 1, 3, 100, 100, 100)
OK, UNSUPPORTED = frozenset({Code.OK}), frozenset({Code.UNSUPPORTED_PACKET_TYPE})

Operation = tuple[object, ...]
Offer = tuple[tuple[str, ...], Labels, int, bool]
"""Patterns, labels, capacity, and whether it is a JSON worker."""


class Reports(Feature):
    """Tells an operator who waits for what."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._rules = world.find(Rules)

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"queue": self.queue}

    def queue(self, id: int, rows: int = 100) -> None:
        """A connection asks who waits for what."""
        end = self.world.speaker(id)
        if end is None or end.is_json:
            return
        if isinstance(end, Client):
            self.model.answer(end, PacketType.QUEUE, OK, self._check(end, rows))
        else:
            self.model.answer(end, PacketType.QUEUE, UNSUPPORTED)
        self.world.send(end, packets.queue(rows, 17))

    def _check(self, end: End, rows: int) -> Check:
        """What is told is as it was before the request."""
        model = self.model
        waiting = [job for kind in model.kinds for job in kind.queue.values()]
        own = [job for job in waiting if job.principal == end.principal]
        said = len(waiting), len(model.scheduled), len(waiting) - len(own)
        lines = Counter((job.kind.pipeline, job.kind.as_json, job.kind.need, job.options.prio) for job in own)
        running = self._rules.running()
        pools: dict[Offer, list[int]] = {}
        for worker in model.workers.values():
            if worker.capacity:
                served = sum(len(kind.queue) for kind in model.kinds if kind.bit & worker.mask)
                numbers = pools.setdefault(_offer_of(worker), [0, 0, 0, 0, served])
                for place, number in enumerate((1, worker.draining, worker.congested, worker.capacity)):
                    numbers[place] += number

        def check(packet: Packet) -> None:
            told = schemas.reply_meta(packet.meta).queue
            if told is None:
                require(False, "no report")
                return
            require((told.wait, told.sched, told.others) == said, f"{told} is told, and {said} wait")
            tables = told.pools, told.keys, told.lines, told.limits
            require(
                [len(table) for table in tables] == [min(rows, there) for there in told.of],
                "a table has not the rows it should",
            )
            require(told.of[0] == len(pools), f"{told.of[0]} pools are told of, and there are {len(pools)}")
            for pool in told.pools:
                offer = tuple(pool.serves), tuple(sorted(pool.labels.items())), pool.cap, pool.json
                numbers = [pool.n, pool.drain, pool.slow, pool.slots, pool.wait]
                require(pools.get(offer) == numbers, f"of {offer} {numbers} is told, and it is {pools.get(offer)}")
                require(pool.run + pool.free + pool.held + pool.rest <= pool.slots, "a pool has more slots than it has")
            if rows > len(told.lines):
                found: Counter[tuple[str, bool, Labels, int]] = Counter()
                for line in told.lines:
                    found[line.pipe, line.json, tuple(line.need.items()), line.prio] += line.n
                require(found == lines, f"{found} is told to wait, and {lines} does")
            if rows > len(told.keys):
                require(sum(key.wait for key in told.keys) == len(own), "the keys have other jobs than wait")
            for limit in told.limits:
                run = running.get((limit.name, limit.of), limit.run)
                require(limit.run == run, f"{limit.run} jobs are told to count for the limit {limit.name!r}, and {run} do")

        return check

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        def queue() -> Operation | None:
            ends = chooser.ends(lambda end: not end.is_json) if chooser.chance(0.05) else chooser.clients()
            return chooser.about("queue", ends, chooser.one_of(ROWS))

        return [(1, queue)]


def _offer_of(worker: Worker) -> Offer:
    return tuple(sorted(set(worker.serves))), tuple(sorted(worker.labels)), worker.capacity, worker.is_json
