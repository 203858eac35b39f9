"""What belongs to running jobs, for code that blocks: progress, input, status, attaching, batches."""

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import BlockingClient, ClientExecutor, Gap
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.transports.connection import Connection
from tests.unit.client.ends import DEADLINE_S, RawBroker

CREDITED_CHUNKS = 3


class ScriptedBroker(RawBroker):
    """Says at once what a broker and a worker would. A job reports as many chunks as its variables say, and ends: "p" with these
    variables, "hold" with its first input, "credited" once three chunks are credited.
    """

    def __init__(self, url: str, **how: Any) -> None:
        super().__init__(url, **how)
        self.credits: dict[bytes, int] = {}

    def received(self, connection: Connection, frames: Any) -> None:
        super().received(connection, frames)
        while not self.packets.empty():
            self._answer(connection, self.packets.get_nowait())

    def _answer(self, connection: Connection, packet: Packet) -> None:
        cookie = packet.cookie
        if packet.kind == PacketType.CREDIT:
            self.credits[cookie] = self.credits.get(cookie, 0) + packet.number
            if self.credits[cookie] == CREDITED_CHUNKS:
                connection.send(packets.result(cookie, 1, b"\x01", "msgpack"))
        elif packet.kind == PacketType.RUN:
            chunks = packet.payload[0] if packet.payload else 0
            for number in range(1, chunks + 1):
                connection.send(packets.progress(cookie, 1, number, bytes((number,)), "msgpack"))
            if schemas.run_options(packet.meta).p == "p":
                connection.send(packets.result(cookie, 1, packet.payload, "msgpack"))
        elif packet.kind == PacketType.INPUT:
            connection.send(packets.result(cookie, 1, packet.payload, "msgpack"))
        elif packet.kind in (PacketType.STATUS, PacketType.ATTACH):
            job = schemas.JobStatus(state="running", pipe="p")
            connection.send(packets.reply(packet.kind, Code.OK, "fine", cookie=cookie, number=packet.number, job=job))
            if packet.kind == PacketType.ATTACH:
                connection.send(packets.progress(cookie, 1, 1, b"\x07", "msgpack"))
                connection.send(packets.result(cookie, 1, b"\x08", "msgpack"))
        elif packet.kind == PacketType.CANCEL:
            connection.send(packets.reply(packet.kind, Code.OK, "", cookie=cookie, number=packet.number, count=3))
        elif packet.kind == PacketType.QUEUE:
            queue = schemas.QueueReport(wait=schemas.queue_meta(packet.meta).rows)
            connection.send(packets.reply(packet.kind, Code.OK, "", number=packet.number, queue=queue))
        elif packet.kind == PacketType.DRAIN:
            connection.send(packets.reply(packet.kind, Code.WORKER_NOT_FOUND, "no such worker", number=packet.number))


@contextmanager
def scripted() -> Iterator[BlockingClient]:
    """A client of such a broker, which runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="broker of a test")
    thread.start()

    async def start() -> RawBroker:
        return await ScriptedBroker("tcp://127.0.0.1:0", credit=4).start()

    try:
        broker = asyncio.run_coroutine_threadsafe(start(), loop).result(DEADLINE_S)
        with BlockingClient(broker.url) as client:
            yield client
        asyncio.run_coroutine_threadsafe(broker.stop(), loop).result(DEADLINE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()


def test_progress_is_iterated_over() -> None:
    with scripted() as client:
        job = client.with_options(follow=True).submit("p", 100)
        assert [*job] == [*range(1, 101)]
        assert (job.result(), job.last_chunk) == (100, 100)


def test_a_followed_job_that_is_only_awaited_goes_on() -> None:
    with scripted() as client:
        job = client.with_options(follow=True).submit("p", 100)
        assert job.result(timeout=DEADLINE_S) == 100
        first = next(job.chunks())
        assert first == 1 or isinstance(first, Gap)
        with ClientExecutor(client.with_options(follow=True)) as executor:
            assert executor.submit("p", 50).result(DEADLINE_S) == 50
        assert [*client.with_options(follow=True).map("p", [20, 30])] == [20, 30]


def test_only_waiting_for_a_job_credits_its_chunks_and_so_does_waiting_after_a_break() -> None:
    with scripted() as client:
        following = client.with_options(follow=True)
        assert following.submit("credited", CREDITED_CHUNKS).result(DEADLINE_S) == 1
        job = following.submit("credited", CREDITED_CHUNKS)
        for _ in job:
            break
        assert job.result(DEADLINE_S) == 1
        with ClientExecutor(following) as executor:
            assert executor.submit("credited", CREDITED_CHUNKS).result(DEADLINE_S) == 1
        assert [job.result() for _, job in following.as_completed("credited", [CREDITED_CHUNKS])] == [1]


def test_iterating_may_end_early_and_the_job_goes_on() -> None:
    with scripted() as client:
        job = client.with_options(follow=True).submit("hold", 2)
        for chunk in job:
            assert chunk == 1
            break
        job.flush()
        job.send(9)
        with pytest.raises(errors.CookieNotFound, match="may not have got the last 1"):
            job.flush()  # This broker ends the job, and never says that the worker got it.
        assert job.result(timeout=DEADLINE_S) == 9
        with pytest.raises(errors.CookieNotFound):
            job.send(10)


def test_status_cancel_queue_and_drain_are_asked_for() -> None:
    with scripted() as client:
        job = client.submit("hold")
        assert job.status().sentence == client.status(job.cookie, tree=True).sentence == "fine"
        assert client.cancel_batch(uuid.uuid4()).jobs == 3
        assert (client.queue().waiting, client.queue(rows=7).waiting) == (20, 7)
        with pytest.raises(errors.WorkerNotFound):
            client.drain("w")


def test_a_job_is_attached_to() -> None:
    with scripted() as client:
        job = client.attach(uuid.uuid4(), follow=True)
        assert [*job] == [7]
        assert job.result() == 8


def test_a_batch_is_run_counted_and_cancelled() -> None:
    with scripted() as client:
        batch = client.submit_many("p", range(1, 120), in_flight=20)
        assert sorted(job.result() for _, job in batch) == [*range(1, 120)]
        assert (batch.submitted, batch.succeeded, batch.failed, batch.done) == (119, 119, 0, 119)
        with pytest.raises(RuntimeError, match="once"):
            batch.results()
        assert [*client.submit_many("p", [1, 2]).results()] == [1, 2]
        stopped = client.submit_many("p", range(1, 1000), in_flight=1)
        assert next(iter(stopped))[0] == 1
        assert stopped.cancel().jobs == 3
        assert stopped.submitted <= 2
        assert client.submit_many("p", [1, 2, 3]).finish().submitted == 3
