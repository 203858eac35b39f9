"""Many jobs of one kind: in order or as they finish, a bounded number at a time, and none left behind."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import Client
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code
from tests.unit.client.ends import StubWorker, hold, real_broker, soon

CLIENTS, WORKERS = "memory://clients", "memory://workers"


async def counting(to: int) -> AsyncIterator[int]:
    for number in range(to):
        await asyncio.sleep(0)
        yield number


@pytest.mark.parametrize("source", [range, counting], ids=["sync", "async"])
@pytest.mark.parametrize("in_flight", [1, 3, 1000])
async def test_results_come_in_the_order_of_their_variables(source: Any, in_flight: int) -> None:
    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker().connect(WORKERS)
        assert [result async for result in client.map("p", source(100), in_flight=in_flight)] == [*range(100)]


@pytest.mark.parametrize("source", [range, counting], ids=["sync", "async"])
async def test_finished_jobs_come_with_their_variables(source: Any) -> None:
    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker().connect(WORKERS)
        pairs = [(variables, await job) async for variables, job in client.as_completed("p", source(100), in_flight=7)]
        assert sorted(pairs) == [(number, number) for number in range(100)]


async def test_whoever_finishes_first_comes_first() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        completed = client.as_completed("p", range(3))
        asking = asyncio.ensure_future(anext(completed))
        runs = [await worker.next_run() for _ in range(3)]
        worker.succeed(runs[2], "third")
        variables, job = await soon(asking)
        assert (variables, await job) == (2, "third")
        worker.succeed(runs[0], "first")
        worker.succeed(runs[1], "second")
        assert [(number, await job) async for number, job in completed] == [(0, "first"), (1, "second")]


async def test_results_in_order_wait_for_the_first_one() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        results = client.map("p", range(2))
        asking = asyncio.ensure_future(anext(results))
        runs = [await worker.next_run() for _ in range(2)]
        worker.succeed(runs[1], 1)
        assert not asking.done()
        worker.succeed(runs[0], 0)
        assert await soon(asking) == 0
        assert [result async for result in results] == [1]


@pytest.mark.parametrize("how", ["map", "as_completed"])
async def test_an_endless_source_is_read_only_as_far_as_there_is_room(how: str) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold, capacity=100).connect(WORKERS)
        results = getattr(client, how)("p", endless(), in_flight=5)
        asking = asyncio.ensure_future(anext(results))
        runs = [await worker.next_run() for _ in range(5)]
        assert len(taken) == 5
        worker.succeed(runs[0], None)
        await soon(asking)
        await results.aclose()
        assert len(taken) == 5
        assert {(await worker.next_cancel()).cookie for _ in range(4)} == {run.cookie for run in runs[1:]}


async def test_results_flow_while_a_source_has_nothing_to_offer() -> None:
    more = asyncio.Event()

    async def hesitant() -> AsyncIterator[int]:
        yield 0
        await more.wait()
        yield 1

    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker().connect(WORKERS)
        results = client.map("p", hesitant())
        assert await soon(anext(results)) == 0
        more.set()
        assert [result async for result in results] == [1]


def fail_the_third(worker: StubWorker, run: Packet) -> None:
    if run.payload == b"\x02":
        worker.fail(run, Code.EXCEPTION, "the third one fails")
    elif run.payload < b"\x02":
        worker.succeed(run, "fine")


async def test_a_failure_ends_the_iteration_and_cancels_the_rest() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(fail_the_third).connect(WORKERS)
        results = client.map("p", range(5))
        assert [await anext(results), await anext(results)] == ["fine", "fine"]
        with pytest.raises(errors.JobException, match="third"):
            await anext(results)
        assert len({(await worker.next_cancel()).cookie for _ in range(2)}) == 2


async def test_exceptions_take_their_place_when_they_are_asked_for() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker(fail_the_third).connect(WORKERS)
        results = [result async for result in client.map("p", range(3), return_exceptions=True)]
        assert results[:2] == ["fine", "fine"]
        assert isinstance(results[2], errors.JobException)


@pytest.mark.parametrize("how", ["map", "as_completed"])
async def test_a_break_cancels_the_rest_at_once_even_if_the_client_closes_next(how: str) -> None:
    async with real_broker():
        worker = await StubWorker(fail_the_third).connect(WORKERS)
        async with Client(CLIENTS) as client:
            async for _ in getattr(client, how)("p", [0, 3, 4]):
                break
        assert len({(await worker.next_cancel()).cookie for _ in range(2)}) == 2


async def test_cancelling_whoever_iterates_cancels_the_jobs() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)

        async def consume() -> None:
            async for _ in client.map("p", range(2)):
                pass

        task = asyncio.create_task(consume())
        runs = [await worker.next_run() for _ in range(2)]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert [(await worker.next_cancel()).cookie for _ in runs] == [run.cookie for run in runs]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_source_that_fails_ends_the_iteration_with_its_error(kind: str) -> None:
    def broken() -> Iterator[int]:
        yield 0
        raise ZeroDivisionError("the source")

    async def broken_too() -> AsyncIterator[int]:
        yield 0
        raise ZeroDivisionError("the source")

    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker(hold).connect(WORKERS)
        with pytest.raises(ZeroDivisionError, match="the source"):
            await soon(anext(client.map("p", broken() if kind == "sync" else broken_too())))


async def test_an_iteration_that_is_closed_stops_reading_its_source() -> None:
    closed = asyncio.Event()

    async def waiting() -> AsyncIterator[int]:
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            closed.set()

    async with real_broker(), Client(CLIENTS) as client:
        results = client.map("p", waiting())
        asking = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await soon(closed.wait())
        with pytest.raises(StopAsyncIteration):
            await anext(results)


async def test_variables_that_can_not_be_encoded_end_the_iteration() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        with pytest.raises(TypeError):
            await anext(client.map("p", [1, object()]))
        assert (await worker.next_cancel()).cookie == (await worker.next_run()).cookie


async def test_nothing_to_do_is_done_at_once() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        assert [result async for result in client.map("p", [])] == []
        assert [pair async for pair in client.as_completed("p", counting(0))] == []


@pytest.mark.parametrize("how", ["map", "as_completed"])
async def test_no_room_at_all_is_a_mistake(how: str) -> None:
    async with real_broker(), Client(CLIENTS) as client:
        with pytest.raises(ValueError, match="in_flight"):
            getattr(client, how)("p", [], in_flight=0)


async def test_an_iterator_dropped_in_another_thread_cancels_in_its_own() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        results = [client.map("p", range(1))]
        asking = asyncio.ensure_future(anext(results[0]))
        run = await worker.next_run()
        asking.cancel()
        await asyncio.wait({asking})
        assert (await worker.next_cancel()).cookie == run.cookie
        results.append(client.map("p", range(1)))
        results[1]._flight.fill()
        run = await worker.next_run()
        await asyncio.to_thread(results.clear)
        assert (await worker.next_cancel()).cookie == run.cookie
