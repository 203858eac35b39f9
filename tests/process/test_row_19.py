"""Row 19 of failures.md: a peer that never reads, and one that reads slowly. Neither is anybody else's business."""

import asyncio
from collections.abc import Callable

import pytest

from reasonchip_broker.limits import KIB, MIB, Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import ENCODING_BYTES, Code, PacketType
from reasonchip_broker.protocol.frames import Frame
from tests.process.rows import BrokerProcess, broker_process, percentile
from tests.process.side_by_side import p99_ratios
from tests.raw_peers import RawClient

pytestmark = pytest.mark.process

RESULT_BYTES = 64 * KIB
PAIRS = 20
SURE = 16
"""Of 20 pairs so many would be above the median by chance in 0.6% of all runs: then it is no chance."""


def large(frame: Frame) -> bytes:
    """A large result for any job."""
    return packets.result(frame[1], frame[4], bytes(RESULT_BYTES), ENCODING_BYTES)


async def stuck_client(broker: BrokerProcess, jobs: int) -> RawClient:
    """A client that has sent so many jobs with large results and reads none of them; returns once the broker is done with those."""
    client = await broker.client()
    finished = (await broker.state())["counters"]["finished"]
    client.live.pause_reading()
    client.run_all("large", jobs)
    await broker.becomes(lambda state: state["counters"]["finished"] >= finished + jobs, "the jobs did not end")
    return client


async def test_row_19_a_peer_that_never_reads_does_not_slow_anybody_down(
    record_property: Callable[[str, object], None],
) -> None:
    """With and without it, in turn, in one run. It fails only when the median is over 10% worse beyond doubt, not on a noisy day."""
    async with broker_process() as broker:
        large_worker = await broker.worker(100, "large", works=large)
        await broker.worker(4)
        client = await broker.client()

        async def stuck() -> RawClient:
            client = await stuck_client(broker, 300)
            large_worker.frames.clear()
            return client

        ratios = await p99_ratios(broker, client, PAIRS, stuck)
        record_property("median p99 ratio", round(percentile(ratios, 0.5), 3))
        assert sum(ratio > 1.1 for ratio in ratios) < SURE, f"p99 ratios with and without: {sorted(ratios)}"


async def test_row_19_what_waits_for_a_peer_that_never_reads_is_bounded() -> None:
    """Results of 128 MiB for one that reads none of them: it is let go at the hard cap, and the memory with it."""
    limits = Limits()
    # Results that are kept until they are acknowledged have a bound of their own.
    async with broker_process(outcomes_bytes_max=MIB, client_outcomes_bytes_max=MIB) as broker:
        worker = await broker.worker(100, "large", works=large)
        other = await broker.client()
        await other.outcome(other.run("large"))
        before = (await broker.state())["rss_kib"]
        stuck = await broker.client()
        stuck.live.pause_reading()
        stuck.run_all("large", 2000)
        state = await broker.becomes(lambda state: state["connections"] == 2, "a client far over the cap is still there")
        assert state["rss_kib"] - before < (limits.outbox_bytes_max + 16 * MIB) / KIB
        await broker.becomes(lambda state: state["jobs"] == 0, "jobs of one that was let go are still there")
        assert not worker.is_lost
        await other.outcome(other.run("large"))


async def test_row_19_a_peer_that_never_reads_is_let_go_after_the_write_deadline() -> None:
    loop = asyncio.get_running_loop()
    async with broker_process(write_deadline_s=1.0, log="INFO", quiet=False) as broker:
        await broker.worker(100, "large", works=large)
        other = await broker.client()
        stuck = await stuck_client(broker, 200)
        stuck_at = loop.time()
        while (await broker.state())["connections"] == 3:
            await other.outcome(other.run("large"))
            assert loop.time() - stuck_at < 5
        assert loop.time() - stuck_at > 0.5
        state = await broker.state()
        assert state["jobs"] == 0
        said = stuck
        said.live.abort()


async def test_row_19_a_peer_that_reads_slowly_is_served_to_the_end() -> None:
    """A little every tenth of a second, for three write deadlines; nothing may be missing."""
    loop = asyncio.get_running_loop()
    async with broker_process(write_deadline_s=1.0) as broker:
        await broker.worker(100, "large", works=large)
        slow, other = await broker.client(), await broker.client()
        slow.live.pause_reading()
        cookies = [slow.run("large") for _ in range(300)]
        began = loop.time()

        def sip() -> None:
            if not slow.is_lost:
                slow.live.resume_reading()
                if loop.time() < began + 3:
                    loop.call_later(0.001, slow.live.pause_reading)
                    loop.call_later(0.1, sip)

        sip()
        while loop.time() < began + 3:
            await other.outcome(other.run("large"))
            assert not slow.is_lost
        for cookie in cookies:
            outcome = await slow.outcome(cookie)
            assert (outcome.code, len(outcome.payload)) == (Code.OK, RESULT_BYTES)
        assert sum(frame[0] == PacketType.RESULT for frame in slow.frames) == len(cookies)


async def test_row_19_a_worker_that_never_reads_is_let_go_and_its_jobs_owners_are_told() -> None:
    async with broker_process(write_deadline_s=1.0) as broker:
        stuck = await broker.worker(1000, "large", works=large)
        stuck.live.pause_reading()
        client = await broker.client()
        cookies = []
        for _ in range(100):
            cookies.append(client.run("large", bytes(RESULT_BYTES)))
            await client.ping()
        state = await broker.state()
        assert 0 < state["waiting"] < 100, "a worker that takes nothing is given no more jobs, and the rest waits"
        lost = 100 - state["waiting"]
        await client.until(
            lambda: sum((PacketType.RESULT, cookie) in client.heard for cookie in cookies) == lost, "nobody was told"
        )
        for cookie in cookies:
            if (PacketType.RESULT, cookie) in client.heard:
                assert (await client.outcome(cookie)).code == Code.WORKER_WENT_AWAY
        await broker.worker(100, "large", works=large)
        for cookie in cookies:
            assert (await client.outcome(cookie)).code in (Code.OK, Code.WORKER_WENT_AWAY)
