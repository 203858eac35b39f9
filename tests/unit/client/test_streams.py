"""Running jobs through a real broker: progress, input, attaching and status, over connections that break."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import Client, Gap, JobState
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType
from reasonchip_broker.transports.connection import Connection
from tests.unit.client.ends import StubWorker, hold, real_broker, soon

CLIENTS, WORKERS = "memory://clients", "memory://workers"


@pytest.fixture(autouse=True)
def quick_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt comes at once: what is tested is that it comes."""
    monkeypatch.setattr("reasonchip_broker.peer.backoff.Backoff.next_s", lambda self: 0.001)


class Streaming(StubWorker):
    """A worker whose test sends progress and takes input. Credit is counted in `credit`, and `inputs` has what came."""

    def __init__(self) -> None:
        super().__init__(hold)
        self.credit = 0
        self.credited = asyncio.Event()
        self.inputs: asyncio.Queue[Packet] = asyncio.Queue()

    def received(self, connection: Connection, frames: Any) -> None:
        for frame in frames:
            if frame[0] == PacketType.CREDIT:
                self.credit += frame[5]
                self.credited.set()
            elif frame[0] == PacketType.INPUT:
                self.inputs.put_nowait(decode(frame[2]))
        super().received(connection, [frame for frame in frames if frame[0] not in (PacketType.CREDIT, PacketType.INPUT)])

    def report(self, run: Packet, *numbers: int) -> None:
        for number in numbers:
            self.connection.send(packets.progress(run.cookie, run.attempt, number, str(number).encode(), "text"))


@asynccontextmanager
async def ends(**limits: Any) -> AsyncIterator[tuple[Client, Streaming]]:
    async with real_broker(limits=Limits(**limits)), Client(CLIENTS) as client:
        worker = Streaming()
        await worker.connect(WORKERS)
        yield client, worker


def cut(client: Client) -> None:
    """Break a client's connection."""
    connection = client._link._connection
    assert connection is not None
    connection.abort(CloseReason.NORMAL)


async def test_progress_comes_as_it_is_reported_and_then_the_result() -> None:
    async with ends() as (client, worker):
        job = client.with_options(follow=True).submit("p")
        run = await worker.next_run()
        reader = job.chunks()
        for number in (1, 2, 3):
            worker.report(run, number)
            assert await soon(anext(reader)) == str(number)
        worker.succeed(run, "done")
        assert [chunk async for chunk in reader] == []
        assert await job == "done"


async def test_a_slow_reader_makes_the_worker_wait_and_nothing_is_lost() -> None:
    async with ends(credit_frames=8) as (client, worker):
        job = client.with_options(follow=True).submit("p")
        run = await worker.next_run()
        reader = job.chunks()
        sent, taken = 0, 0
        while sent < 100:
            while sent < 100 and sent - worker.credit < 8:
                sent += 1
                worker.report(run, sent)
            worker.credited.clear()
            if sent - worker.credit >= 8:
                taken += 1
                assert await soon(anext(reader)) == str(taken)
                assert sent - taken <= 16 + 8, "a window on each hop, and what is not credited yet"
            await asyncio.sleep(0)
        worker.succeed(run, None)
        rest = [chunk async for chunk in reader]
        assert rest == [str(number) for number in range(taken + 1, 101)]


async def test_a_job_that_is_only_awaited_gives_its_worker_credit_for_everything() -> None:
    async with ends(credit_frames=8) as (client, worker):
        job = client.with_options(follow=True).submit("p")
        run = await worker.next_run()
        waiting = asyncio.create_task(job.result())
        for number in range(1, 101):
            while number - worker.credit > 8:
                worker.credited.clear()
                await soon(worker.credited.wait())
            worker.report(run, number)
        worker.succeed(run, "done")
        assert await soon(waiting) == "done"
        items = [item async for item in job]
        assert isinstance(items[0], Gap)
        assert items[-1] == "100"


async def test_progress_is_asked_for_by_iterating_and_by_another_client() -> None:
    async with ends() as (client, worker), Client(CLIENTS) as other:
        job = client.submit("p")
        run = await worker.next_run()
        worker.report(run, 1, 2)
        reader = job.chunks()
        assert [await soon(anext(reader)) for _ in range(2)] == ["1", "2"]
        watching = other.attach(job.cookie, follow=True, first=2, take=False)
        assert await soon(anext(watching.chunks())) == "2"
        worker.succeed(run, 3)
        assert (await soon(job.result()), await soon(watching.result())) == (3, 3)


async def test_streams_and_jobs_go_on_over_a_connection_that_breaks() -> None:
    async with ends() as (client, worker):
        job, plain = client.with_options(follow=True).submit("p"), client.submit("p")
        run, plain_run = await worker.next_run(), await worker.next_run()
        reader = job.chunks()
        worker.report(run, 1, 2)
        await soon(job.send("a"))
        assert await soon(anext(reader)) == "1"
        assert (await soon(worker.inputs.get())).number == 1
        for round_ in range(3):
            cut(client)
            worker.report(run, 3 + round_)
            await soon(client.connect())
            await soon(job.send(round_))
            assert (await soon(worker.inputs.get())).number == 2 + round_
        worker.succeed(run, "done")
        worker.succeed(plain_run, "plain")
        assert [chunk async for chunk in reader] == ["2", "3", "4", "5"]
        assert (await job, await soon(plain.result())) == ("done", "plain")
        assert worker.runs.empty(), "nothing ran twice"


async def test_what_ended_while_there_was_no_connection_is_fetched() -> None:
    async with ends() as (client, worker):
        jobs = [client.with_options(follow=follow).submit("p") for follow in (True, False)]
        runs = [await worker.next_run() for _ in jobs]
        cut(client)
        worker.report(runs[0], 1)
        for run in runs:
            worker.succeed(run, 7)
        assert [chunk async for chunk in jobs[0]] == ["1"]
        assert [await soon(job.result()) for job in jobs] == [7, 7]


async def test_input_reaches_a_job_that_waits_for_a_slot_and_more_than_the_window() -> None:
    async with ends(credit_frames=4) as (client, worker):
        job = client.submit("p")
        sending = asyncio.gather(*(job.send(number) for number in range(10)))
        run = await worker.next_run()
        numbers: list[int] = []
        while len(numbers) < 10:
            numbers.append((await soon(worker.inputs.get())).number)
            worker.connection.send(packets.credit(run.cookie, run.attempt, 1))
        await soon(sending)
        assert numbers == [*range(1, 11)]
        worker.succeed(run, None)
        await soon(job.result())
        with pytest.raises(errors.CookieNotFound):
            await job.send(11)


async def test_flush_waits_for_the_broker_and_not_for_the_worker() -> None:
    async with ends(credit_frames=4) as (client, worker):
        job = client.submit("p")
        run = await worker.next_run()
        for number in range(6):
            await soon(job.send(number))
        await soon(job.flush())
        assert (await soon(job.status())).inputs == 6
        assert [(await soon(worker.inputs.get())).number for _ in range(4)] == [1, 2, 3, 4]
        assert worker.inputs.empty(), "it has given no credit for more"
        worker.succeed(run, None)
        await soon(job.result())


async def test_a_client_that_was_started_again_fetches_by_cookie() -> None:
    async with ends() as (client, worker):
        async with Client(CLIENTS) as first:
            cookies = [first.with_options(follow=True).submit("p").cookie for _ in range(3)]
            runs = [await worker.next_run() for _ in cookies]
        for run in runs:
            worker.report(run, 1, 2)
            worker.succeed(run, "kept")
        for cookie in cookies:
            job = client.attach(cookie, follow=True)
            assert [chunk async for chunk in job] == ["1", "2"]
            assert await soon(job.result()) == "kept"
        with pytest.raises(errors.CookieNotFound):
            await soon(client.attach(uuid.uuid4()).result())


async def test_an_outcome_that_was_received_is_gone() -> None:
    async with ends() as (client, worker), Client(CLIENTS) as other:
        job = client.submit("p")
        worker.succeed(await worker.next_run(), 1)
        assert await soon(job.result()) == 1
        assert (await soon(client.status(job.cookie))).is_over
        with pytest.raises(errors.OutcomeGone) as caught:
            await soon(other.attach(job.cookie).result())
        assert caught.value.outcome == Code.OK


async def test_status_says_where_a_job_is_and_why() -> None:
    async with ends() as (client, worker):
        running = client.submit("p")
        await worker.next_run()
        status = await soon(running.status())
        assert (status.state, status.pipeline, status.attempt, status.worker) == ("running", "p", 1, "stub")
        with pytest.raises(errors.CookieNotFound):
            await soon(client.status(uuid.uuid4()))


async def test_a_job_cancelled_from_elsewhere_is_seen_to_be_cancelled() -> None:
    async with ends() as (client, worker), Client(CLIENTS) as other:
        job = client.with_options(follow=True).submit("p")
        run = await worker.next_run()
        assert (await soon(other.cancel(job.cookie))).is_stopping
        await soon(client.status(job.cookie))
        assert job.state is JobState.CANCELLING
        worker.fail(run, Code.CANCELLED, "stopped")
        with pytest.raises(errors.JobCancelled):
            await soon(job.result())


async def test_a_dead_letter_has_its_history() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        job = client.with_options(attempts=2, backoff_s=0).submit("p")
        for attempt in (1, 2):
            worker = await StubWorker(hold).connect(WORKERS)
            run = await worker.next_run()
            assert run.attempt == attempt
            worker.connection.abort(CloseReason.NORMAL)
        with pytest.raises(errors.DeadLettered) as caught:
            await soon(job.result())
        assert [each.attempt for each in caught.value.history] == [1, 2]
