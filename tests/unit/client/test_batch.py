"""Batches: many jobs in a bounded window under one id, counted, and cancelled at one word."""

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import Client
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.transports.connection import Connection
from tests.unit.client.ends import RawBroker, StubWorker, raw_broker, real_broker, soon

RAW = "memory://raw"
CLIENTS, WORKERS = "memory://clients", "memory://workers"


def batch_of(run: Packet) -> bytes | None:
    return schemas.run_options(run.meta).batch


async def answer(broker: RawBroker, connection: Connection, count: int) -> None:
    """Let the next jobs end well, with their variables."""
    for _ in range(count):
        run = await broker.next_packet(PacketType.RUN)
        connection.send(packets.result(run.cookie, 1, run.payload, "msgpack"))


async def test_ten_thousand_jobs_are_one_call_and_one_window() -> None:
    most = 0

    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker(capacity=1000).connect(WORKERS)
        batch = client.submit_many("p", range(10_000), in_flight=500)
        total = 0
        async for variables, job in batch:
            most = max(most, len(client._exchange._jobs))
            assert await job == variables
            total += variables
        assert total == sum(range(10_000))
        assert (batch.submitted, batch.succeeded, batch.failed, batch.done) == (10_000, 10_000, 0, 10_000)
        assert most <= 500


async def test_results_come_in_order_and_failures_in_their_place() -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        connection = await broker.next_connection()
        batch = client.submit_many("p", [1, 2, 3], in_flight=3)
        results = batch.results(return_exceptions=True)
        first = asyncio.ensure_future(anext(results))
        runs = [await broker.next_packet(PacketType.RUN) for _ in range(3)]
        connection.send(packets.result(runs[2].cookie, 1, b"\x03", "msgpack"))
        connection.send(packets.failed(runs[1].cookie, 1, Code.EXCEPTION, "broke"))
        connection.send(packets.result(runs[0].cookie, 1, b"\x01", "msgpack"))
        assert await soon(first) == 1
        rest = [item async for item in results]
        assert isinstance(rest[0], errors.JobException)
        assert rest[1] == 3
        assert (batch.submitted, batch.succeeded, batch.failed) == (3, 2, 1)


async def test_all_jobs_carry_the_id_of_their_batch_and_other_jobs_do_not() -> None:
    mine = uuid.uuid4()
    async with raw_broker() as broker, Client(RAW) as client:
        connection = await broker.next_connection()
        finishing = asyncio.ensure_future(client.submit_many("p", [1], batch=mine).finish())
        run = await broker.next_packet(PacketType.RUN)
        assert batch_of(run) == mine.bytes
        connection.send(packets.result(run.cookie, 1, b"", "msgpack"))
        assert (await soon(finishing)).succeeded == 1
        client.submit("p")
        assert batch_of(await broker.next_packet(PacketType.RUN)) is None
        assert client.submit_many("p", []).id != client.submit_many("p", []).id


async def test_one_cancel_takes_the_batch_and_no_more_is_submitted() -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        connection = await broker.next_connection()
        batch = client.submit_many("p", range(1000), in_flight=2)
        finishing = asyncio.ensure_future(batch.finish())
        runs = [await broker.next_packet(PacketType.RUN) for _ in range(2)]
        cancelling = asyncio.ensure_future(batch.cancel(why="enough"))
        cancel = await broker.next_packet(PacketType.CANCEL)
        assert schemas.cancel_meta(cancel.meta).batch == batch.id.bytes
        connection.send(packets.reply(PacketType.CANCEL, Code.OK, "", number=cancel.number, count=2))
        assert (await soon(cancelling)).jobs == 2
        for run in runs:
            connection.send(packets.failed(run.cookie, 1, Code.CANCELLED, "enough"))
        await soon(finishing)
        assert (batch.submitted, batch.succeeded, batch.failed) == (2, 0, 2)
        assert broker.packets.empty()


async def test_an_iteration_that_ends_early_cancels_the_rest_at_one_word() -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        connection = await broker.next_connection()
        batch = client.submit_many("p", range(1000), in_flight=10)
        answering = asyncio.ensure_future(answer(broker, connection, 1))
        async for _variables, _job in batch:
            break
        await soon(answering)
        runs = [await broker.next_packet(PacketType.RUN) for _ in range(9)]
        cancel = await broker.next_packet(PacketType.CANCEL)
        assert schemas.cancel_meta(cancel.meta).batch == batch.id.bytes
        assert len(runs) == 9
        await soon(asyncio.sleep(0))
        assert broker.packets.empty()
        assert (batch.submitted, batch.succeeded, batch.failed) == (10, 1, 9)


async def test_a_batch_is_iterated_over_once_and_needs_room() -> None:
    async with raw_broker(), Client(RAW) as client:
        batch = client.submit_many("p", [])
        assert [each async for each in batch] == []
        for again in (batch.results, batch.__aiter__):
            with pytest.raises(RuntimeError, match="once"):
                again()
        with pytest.raises(ValueError, match="in_flight"):
            client.submit_many("p", [], in_flight=0)


async def test_a_source_that_fails_ends_the_batch_and_cancels_it() -> None:
    def source() -> Iterator[Any]:
        yield 1
        raise ZeroDivisionError

    async with raw_broker() as broker, Client(RAW) as client:
        with pytest.raises(ZeroDivisionError):
            await client.submit_many("p", source()).finish()
        await broker.next_packet(PacketType.RUN)
        await broker.next_packet(PacketType.CANCEL)
