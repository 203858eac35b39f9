"""Row 23 of failures.md: one client queues 100,000 jobs, and another sends one now and then: whose turn is it?

What is counted is what the worker sees: the RUNs that it gets, in their order. It is not a matter of time, since it is the worker that
ends one job after the other, and nothing starts before.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from reasonchip_broker.protocol.frames import Frame
from tests.process.rows import broker_process
from tests.raw_peers import RawClient, RawWorker, kept

pytestmark = pytest.mark.process

QUEUED = 100_000
SLOTS = 4
ACTIVE = 3
"""Keys that have more jobs than are run, beside the newcomer's: that of the many jobs is one of them."""

NEWCOMERS = 20
ENOUGH = 300
"""So many jobs the other active keys have: more than are run until the end."""

MEAN_S = 0.01
JOBS = 1_000
WEIGHT = 3.0
TOLERANCE = 0.05


async def test_row_23_a_newcomer_waits_for_no_more_than_one_turn_of_each_active_key(
    record_property: Callable[[str, object], None],
) -> None:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(broker_process(clients="tcp://127.0.0.1:0", workers="tcp://127.0.0.1:0"))
        worker = await broker.worker(SLOTS, "echo", works=kept)
        others = [await broker.client() for _ in range(ACTIVE)]
        for other, count in zip(others, (QUEUED, *[ENOUGH] * (ACTIVE - 1)), strict=True):
            other.run_all("echo", count)
            # Frames are handled in their order.
            await other.ping()
        assert (await broker.state())["waiting"] == QUEUED + ENOUGH * (ACTIVE - 1) - SLOTS
        for _ in range(5 * ACTIVE * SLOTS):
            await end_oldest(worker)
        firsts, later = [], []
        for _ in range(NEWCOMERS):
            newcomer = await broker.client()
            firsts.append(await starts_before(worker, newcomer))
            # It stays, and sends another one as soon as that has started.
            later.append(await starts_before(worker, newcomer))
            newcomer.live.abort()
        record_property("starts before a first job, worst", max(firsts))
        record_property("starts before a further job, mean", sum(later) / len(later))
        assert max(firsts) <= ACTIVE
        assert sum(later) <= (ACTIVE + 1) * len(later)


async def end_oldest(worker: RawWorker) -> Frame:
    """The worker ends the job that it has had longest, and gets another one; returns that."""
    await worker.holds(SLOTS)
    worker.finish(worker.held[0])
    await worker.holds(SLOTS)
    return worker.held[-1]


async def starts_before(worker: RawWorker, newcomer: RawClient) -> int:
    """A job comes, once the broker has heard of it: how many others start before it does?"""
    cookie = newcomer.run("echo")
    await newcomer.ping()
    starts = 0
    while (await end_oldest(worker))[1] != cookie:
        starts += 1
    return starts


async def test_row_23_slot_time_goes_by_weight(record_property: Callable[[str, object], None]) -> None:
    """Two keys of weights 3 and 1, jobs of mixed length. The worker measures how long it has each of them: on a machine that stands
    still at times, all that run then take longer, and count for more."""
    scheduling = {"weights": {"heavy": WEIGHT}}
    async with broker_process(clients="tcp://127.0.0.1:0", workers="tcp://127.0.0.1:0", scheduling=scheduling) as broker:
        client = await broker.client()
        whose = {}
        for _ in range(JOBS + SLOTS):
            for key in ("heavy", "light"):
                whose[client.run("echo", key=key)] = key
        await client.ping()
        timed = Timed(whose)
        worker = await broker.worker(2 * SLOTS, "echo", works=timed.begin)
        timed.worker = worker
        await worker.until(lambda: timed.ended >= JOBS, f"{JOBS} jobs did not end")
        ratio = timed.used_s["heavy"] / timed.used_s["light"]
        record_property("slot-time of weight 3 over that of weight 1", round(ratio, 3))
        assert ratio == pytest.approx(WEIGHT, rel=TOLERANCE)


class Timed:
    """Jobs that take as long as chance will have it, and how much slot-time each key has had."""

    def __init__(self, whose: dict[bytes, str]) -> None:
        self.worker: RawWorker
        self.ended = 0
        self.used_s = {"heavy": 0.0, "light": 0.0}
        self._whose = whose
        self._loop = asyncio.get_running_loop()
        self._random = random.Random(23)

    def begin(self, frame: Frame) -> None:
        """A RUN came."""
        self._loop.call_later(self._random.expovariate(1 / MEAN_S), self._end, frame, self._loop.time())

    def _end(self, frame: Frame, began: float) -> None:
        if self.worker.is_lost:
            return
        self.used_s[self._whose[frame[1]]] += self._loop.time() - began
        self.ended += 1
        self.worker.finish(frame)
        self.worker.changed()
