"""The life of a job as its handler and its owner see it: real worker, real broker, real client."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from reasonchip_broker.client import Client
from reasonchip_broker.errors import DeadlineExceeded, JobCancelled, PipelineFailed
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import CloseReason
from reasonchip_broker.worker import JobContext, Worker
from tests.unit.worker.harness import Stage, soon, staged, until


@pytest.fixture
async def stage(tmp_path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


@pytest.fixture
async def client(stage) -> AsyncIterator[Client]:
    async with Client(stage.broker.client_urls[0]) as made:
        yield made


async def test_progress_of_coroutines_and_threads_arrives_in_order_beyond_every_window(stage, client) -> None:
    worker = Worker(stage.worker_url, capacity=2)

    @worker.pipeline("task")
    async def task(count: int, context: JobContext) -> int:
        for n in range(count):
            await context.progress(n)
        return count

    @worker.pipeline("thread")
    def thread(count: int, context: JobContext) -> int:
        for n in range(count):
            context.progress(n)
        return count

    async with stage.working(worker):
        for pipeline in ("task", "thread"):
            job = client.with_options(follow=True).submit(pipeline, {"count": 500})
            chunks = await soon(collect(job))
            assert chunks == list(range(500))
            assert await soon(job.result()) == 500


async def collect(job: Any) -> list[Any]:
    return [chunk async for chunk in job]


async def test_a_person_answers_a_running_job_which_holds_no_slot_meanwhile(stage, client) -> None:
    worker = Worker(stage.worker_url, capacity=1)

    @worker.pipeline("ask")
    async def ask(context: JobContext) -> str:
        await context.progress("may I?")
        async with context.parked():
            answer = await anext(context.inputs())
        return f"you said {answer}"

    @worker.pipeline("other")
    async def other() -> str:
        return "meanwhile"

    async with stage.working(worker):
        job = client.with_options(follow=True).submit("ask")
        chunks = job.chunks()
        assert await soon(anext(chunks)) == "may I?"
        assert await soon(client.run("other")) == "meanwhile"
        await soon(job.send("yes"))
        assert await soon(job.result()) == "you said yes"


async def fibonacci(n: int, context: JobContext) -> int:
    if n < 2:
        return n
    parts = await asyncio.gather(*(context.run("fibonacci", {"n": n - k}) for k in (1, 2)))
    return sum(parts)


def fibonacci_in_thread(n: int, context: JobContext) -> int:
    return n if n < 2 else sum(context.run("fibonacci", {"n": n - k}) for k in (1, 2))


@pytest.mark.parametrize("handler", [fibonacci, fibonacci_in_thread])
async def test_a_tree_that_is_deeper_than_there_are_slots_comes_to_its_end(stage, client, handler) -> None:
    worker = Worker(stage.worker_url, capacity=1)
    worker.add("fibonacci", handler)
    async with stage.working(worker):
        assert await soon(client.run("fibonacci", {"n": 7})) == 13
        assert stage.broker.switchboard.free_slots("fibonacci") == 1


async def test_cancelling_a_parent_cancels_its_children(stage, client) -> None:
    worker = Worker(stage.worker_url, capacity=2)
    ended: list[str] = []
    begun = asyncio.Event()

    @worker.pipeline("parent")
    async def parent(context: JobContext) -> Any:
        return await context.run("child")

    @worker.pipeline("child")
    async def child() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("child")

    async with stage.working(worker):
        job = client.submit("parent")
        await soon(begun.wait())
        await soon(job.cancel())
        with pytest.raises(JobCancelled):
            await soon(job.result())
        other = await soon(client.submit("parent").cancel())
        assert other.jobs == 1
    assert ended[:1] == ["child"]


async def test_a_loose_job_goes_on_when_its_parent_is_cancelled_whoever_submitted_it(stage, client) -> None:
    worker = Worker(stage.worker_url, capacity=4)
    loose: list[UUID] = []
    begun = [asyncio.Event() for _ in range(3)]
    may_end = asyncio.Event()

    @worker.pipeline("parent")
    async def parent(context: JobContext) -> None:
        loose.append(context.submit("child", {"number": 0}, loose=True).cookie)
        await context.run("child", {"number": 1})

    @worker.pipeline("child")
    async def child(number: int) -> int:
        begun[number].set()
        await may_end.wait()
        return number

    async with stage.working(worker):
        job = client.submit("parent")
        await soon(begun[1].wait())
        mine = client.submit("child", {"number": 2}, parent=job.cookie, loose=True)
        await soon(asyncio.gather(*(event.wait() for event in begun)))
        await soon(job.cancel())
        with pytest.raises(JobCancelled):
            await soon(job.result())
        handlers = client.attach(*loose)
        assert (await soon(handlers.status())).parent is None
        may_end.set()
        assert await soon(asyncio.gather(mine, handlers)) == [2, 0]


class RateLimited(Exception):
    """What a handler of somebody's own module raises."""


class Refused(PipelineFailed):
    """The same, of one that fails politely."""


@pytest.mark.parametrize("errors", [(RateLimited, Refused), ("RateLimited", "Refused")])
async def test_a_handlers_own_exceptions_are_retried_on_by_class_and_by_name(stage, client, errors) -> None:
    worker = Worker(stage.worker_url)
    raised: list[Exception] = [RateLimited("slow down"), Refused("not now")]

    @worker.pipeline("flaky")
    async def flaky(context: JobContext) -> int:
        if raised[context.attempt - 1 :]:
            raise raised[context.attempt - 1]
        return context.attempt

    async with stage.working(worker):
        options = {"attempts": 4, "backoff_s": 0, "retry_on": errors}
        assert await soon(client.run("flaky", **options)) == 3


async def test_a_break_of_the_connection_is_no_break_of_a_job(stage, client) -> None:
    worker = Worker(stage.worker_url, capacity=2, session_grace_s=30)
    begun, may_end = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    @worker.pipeline("long")
    async def long(context: JobContext) -> str:
        await context.progress("before")
        begun.set()
        await may_end.wait()
        await context.progress("after")
        ended.append("long")
        return "kept"

    async with stage.working(worker):
        job = client.with_options(follow=True).submit("long")
        await soon(begun.wait())
        for _ in range(3):
            stage.worker_peer.link.abort(CloseReason.INTERNAL_ERROR)
            await until(lambda: not worker._ready.is_set())
            await soon(worker.ready())
        may_end.set()
        assert await soon(job.result()) == "kept"
        assert ended == ["long"]
        assert stage.broker.switchboard.free_slots("long") == 2


async def test_a_handler_that_asks_for_more_time_gets_it_and_one_that_does_not_is_stopped(tmp_path) -> None:
    async with staged(tmp_path, Limits(cancel_grace_s=5)) as stage:
        worker = Worker(stage.worker_url, capacity=2)

        @worker.pipeline("slow")
        async def slow(extends: bool, context: JobContext) -> str:
            assert context.remaining_s is not None
            if extends:
                context.extend(20)
                assert context.remaining_s > 10
            await asyncio.sleep(0.3)
            return "done"

        async with stage.working(worker), Client(stage.broker.client_urls[0]) as client:
            limited = client.with_options(run_limit_s=0.1)
            assert await soon(limited.run("slow", {"extends": True})) == "done"
            with pytest.raises(DeadlineExceeded):
                await soon(limited.run("slow", {"extends": False}))


async def test_an_operators_drain_ends_the_worker_after_its_jobs(stage, client) -> None:
    worker = Worker(stage.worker_url, capacity=1, name="to-be-drained")
    begun, may_end = threading.Event(), threading.Event()

    @worker.pipeline("p")
    def handler() -> str:
        begun.set()
        may_end.wait(20)
        return "finished"

    worker_serves = asyncio.get_running_loop().create_task(worker.serve())
    await soon(worker.ready())
    job = client.submit("p")
    await asyncio.to_thread(begun.wait, 20)
    await soon(client.drain("to-be-drained"))
    may_end.set()
    assert await soon(job.result()) == "finished"
    await soon(worker_serves)


async def test_rolling_restarts_under_load_lose_nothing_and_run_nothing_twice(stage, client) -> None:
    runs: list[int] = []

    def fresh() -> Worker:
        worker = Worker(stage.worker_url, capacity=4, session_grace_s=30)

        @worker.pipeline("count")
        async def count(n: int) -> int:
            runs.append(n)
            await asyncio.sleep(0)
            return n

        return worker

    async def load() -> list[int]:
        return list(await asyncio.gather(*(client.submit("count", {"n": n}).result() for n in range(400))))

    loading: asyncio.Task[list[int]] | None = None
    for _ in range(4):
        async with stage.working(fresh()) as worker:
            loading = loading or asyncio.create_task(load())
            seen, under_way = len(runs), loading
            await until(lambda seen=seen, job=under_way: len(runs) > seen + 50 or job.done())  # type: ignore[misc]
            await soon(worker.stop())
    async with stage.working(fresh()):
        assert loading is not None
        assert await soon(loading) == list(range(400))
    assert sorted(runs) == list(range(400))
