"""Row 19 of failures.md, of streams: a reader that stops reading while a worker streams a lot to it. It costs the broker no more memory
than an outbox and a ring, and nobody else any time; and when it is back it gets the rest, with every gap announced."""

import asyncio
from collections.abc import Callable

import pytest

from reasonchip_broker.limits import KIB, MIB, Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code
from tests.process.rows import BrokerProcess, broker_process, lasts, percentile
from tests.process.side_by_side import p99_ratios
from tests.process.streams import Reader, Streamer
from tests.raw_peers import connect

pytestmark = pytest.mark.process

CHUNK_BYTES = 16 * KIB
LARGE_BYTES = 256 * KIB
"""Of such chunks fewer than a client has credit for are more than its socket takes: then it is the outbox that fills."""

Property = Callable[[str, object], None]


async def reader_of(broker: BrokerProcess) -> Reader:
    """A reader that is welcome."""
    reader = await connect(broker.clients[0], Reader())
    await reader.hello()
    return reader


async def streamer_of(broker: BrokerProcess) -> Streamer:
    """A worker that streams."""
    streamer = await connect(broker.workers[0], Streamer())
    await streamer.register(10)
    return streamer


async def stop_reading(stream_bytes: int, stopped_s: float, limits: Limits, record_property: Property) -> None:
    """Three readers stop: an owner, one that only follows, and one whose connection reads on, but which takes nothing."""
    chunks, large_chunks = stream_bytes // CHUNK_BYTES, stream_bytes // LARGE_BYTES
    async with broker_process(write_deadline_s=limits.write_deadline_s, log="INFO", quiet=False) as broker:
        streamer = await streamer_of(broker)
        reads, owner, follows, takes_none = [await reader_of(broker) for _ in range(4)]
        await reads.over(reads.stream(2 * MIB // CHUNK_BYTES, CHUNK_BYTES))
        before_kib = (await broker.state())["rss_kib"]

        held = takes_none.stream(500, CHUNK_BYTES)
        takes_none.credits = False
        owned = owner.stream(large_chunks, LARGE_BYTES)
        flowing = reads.stream(chunks, CHUNK_BYTES)
        await owner.until(lambda: bool(owner.taken), "the stream did not begin")
        owner.live.pause_reading()
        follows.last[flowing] = 0
        follows.go_on(flowing, 0, take=False)
        await follows.until(lambda: bool(follows.last[flowing]), "the follower follows nothing")
        follows.live.pause_reading()
        stopped = asyncio.create_task(lasts(stopped_s))
        most_kib = before_kib
        async with asyncio.timeout(30 + 10 * stopped_s):
            while not (stopped.done() and flowing in reads.results and owned not in streamer.jobs):
                most_kib = max(most_kib, (await broker.state())["rss_kib"])
        grown_mib = (most_kib - before_kib) * KIB / MIB
        record_property("streamed MiB", round(streamer.sent_bytes / MIB))
        record_property("grown MiB, of three", round(grown_mib, 1))
        # For each that does not read, and the one that does. By the limits' own word it could be an outbox of 32 MiB, but what goes to
        # one who takes nothing waits in the ring, and no more than the mark is ever handed over.
        assert grown_mib * MIB <= 4 * (limits.outbox_bytes_mark + limits.ring_bytes_max), "what nobody takes piles up"
        assert (reads.taken[flowing], reads.missing, reads.faults) == (chunks, {}, [])
        assert takes_none.taken[held] == limits.credit_frames
        assert held not in takes_none.results

        for stuck, cookie, count in ((owner, owned, large_chunks), (follows, flowing, chunks)):
            last = stuck.last[cookie]
            stuck.live.abort()
            back = await reader_of(broker)
            back.go_on(cookie, last)
            await back.over(cookie)
            assert (back.last[cookie], back.faults) == (count, []), "the end of the stream is there, and every gap is told"
            assert back.missing[cookie] + back.taken[cookie] == count - last
            assert back.results[cookie] == Code.OK
        takes_none.credits = True
        takes_none.send(packets.credit(held, 0, takes_none.taken[held]))
        await takes_none.over(held)
        assert (takes_none.taken[held], takes_none.missing, takes_none.faults) == (500, {}, [])
        log = await broker.stop()
    assert log.count("SLOW_CONSUMER") == 1, "whose outbox was full was let go after the write deadline, and nobody else"


async def test_row_19_a_reader_that_stops_costs_an_outbox_and_a_ring_and_misses_nothing_without_a_word(
    record_property: Property,
) -> None:
    await stop_reading(64 * MIB, 1.5, Limits(write_deadline_s=1.0), record_property)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_row_19_a_reader_that_stops_for_a_minute_while_a_gigabyte_is_streamed_to_it(record_property: Property) -> None:
    await stop_reading(1024 * MIB, 60.0, Limits(), record_property)


# Nobody else is slower


async def compare(pairs: int, sure: int, record_property: Property, *, flows: bool) -> None:
    """With a stream whose reader has stopped, and without, in turn; with `flows` while another stream flows as fast as it can.

    It fails only when the median is over 10% worse beyond doubt: `sure` of so many pairs are that by chance in 0.5% of all runs."""
    async with broker_process() as broker:
        await broker.worker(4)
        await streamer_of(broker)
        reads, client = await reader_of(broker), await broker.client()
        if flows:
            reads.stream(1 << 30, CHUNK_BYTES)
        ratios = await p99_ratios(broker, client, pairs, lambda: stopped_reader(broker))
        record_property("median p99 ratio", round(percentile(ratios, 0.5), 3))
        assert not reads.faults
        assert sum(ratio > 1.1 for ratio in ratios) < sure, f"p99 ratios with and without: {sorted(ratios)}"


async def stopped_reader(broker: BrokerProcess) -> Reader:
    """One that owns a stream, and has stopped reading in the middle of it."""
    reader = await reader_of(broker)
    cookie = reader.stream(1 << 30, CHUNK_BYTES, orphan=0)
    await reader.until(lambda: bool(reader.taken), "the stream did not begin")
    reader.live.pause_reading()
    await broker.becomes(lambda state: state["counters"]["progress"] > 0, f"{cookie.hex()} did not begin")
    return reader


async def test_row_19_a_reader_that_stops_slows_nobody_down(record_property: Property) -> None:
    await compare(12, 11, record_property, flows=False)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_row_19_a_reader_that_stops_slows_nobody_down_at_length(record_property: Property) -> None:
    await compare(40, 29, record_property, flows=True)
