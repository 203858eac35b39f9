"""Jobs in tasks and in threads: begun once, ended once, stopped as far as can be."""

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from reasonchip_broker.limits import MIB
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.worker import JobContext, executors
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker.executors import Executor, TaskExecutor, ThreadExecutor
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.pipelines import Pipeline
from tests.unit.worker.harness import Outcome, soon, until


class Reports:
    """What executors report, in the order in which it comes."""

    def __init__(self) -> None:
        self.order: list[Job] = []
        self.outcomes: dict[Job, Outcome] = {}
        self.said: list[bytes] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, job: Job, frame: bytes) -> None:
        self.order.append(job)
        self.outcomes[job] = Outcome(frame)
        self._tell()

    def say(self, frame: bytes) -> None:
        """What jobs say besides their results."""
        self.said.append(frame)
        self._tell()

    def _tell(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            # Most reports come from other threads, and whoever waits for one has to look.
            self._loop.call_soon_threadsafe(lambda: None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that changes with what is reported or said."""
        self._loop = asyncio.get_running_loop()
        await until(holds)

    async def of(self, job: Job) -> Outcome:
        await self.until(lambda: job in self.outcomes)
        return self.outcomes[job]


def job_of(handler: Callable[..., Any], variables: Any = None) -> Job:
    payload = payloads.encode(variables, "msgpack")
    return Job(os.urandom(16), 1, Pipeline("p", handler), "p", "msgpack", payload, MIB)


def stop(executor: Executor, job: Job, *, at_once: bool = False) -> None:
    contexts.cancel(job.context)
    executor.stop(job, at_once=at_once)


@pytest.fixture
def reports() -> Reports:
    return Reports()


# ── Tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def tasks(reports):
    executor = TaskExecutor(asyncio.get_running_loop(), reports)
    yield executor
    executor.close()
    await asyncio.sleep(0)


async def test_tasks_run_side_by_side(tasks, reports) -> None:
    both = asyncio.Barrier(2)

    async def meet(n: int) -> int:
        await both.wait()
        return n

    jobs = [job_of(meet, {"n": n}) for n in range(2)]
    for job in jobs:
        tasks.start(job)
    assert [(await reports.of(job)).value for job in jobs] == [0, 1]


async def test_a_cancelled_task_is_reported_as_that(tasks, reports) -> None:
    begun = asyncio.Event()
    cleaned = asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    job = job_of(wait)
    tasks.start(job)
    await soon(begun.wait())
    stop(tasks, job)
    outcome = await reports.of(job)
    assert (outcome.code, outcome.may_have_run) == (Code.CANCELLED, True)
    assert cleaned.is_set()


async def test_a_result_that_is_there_before_the_cancellation_is_the_result(tasks, reports) -> None:
    async def quick() -> str:
        return "done"

    job = job_of(quick)
    tasks.start(job)
    await asyncio.sleep(0)
    stop(tasks, job)
    assert (await reports.of(job)).value == "done"


async def test_a_task_may_answer_its_cancellation_with_a_result(tasks, reports) -> None:
    begun = asyncio.Event()

    async def save(value: str | None = None) -> str | None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return value

    for variables, code in (({"value": "half"}, Code.OK), (None, Code.CANCELLED)):
        begun.clear()
        job = job_of(save, variables)
        tasks.start(job)
        await soon(begun.wait())
        stop(tasks, job)
        assert (await reports.of(job)).code == code


async def test_a_job_that_was_claimed_before_its_task_began_never_begins(tasks, reports) -> None:
    called: list[int] = []

    async def handler() -> None:
        called.append(1)

    early, late = job_of(handler), job_of(handler)
    assert early.claim()
    tasks.start(early)
    tasks.start(late)
    await asyncio.sleep(0)
    assert late.claim(), "its task exists, and has not had its first step"
    for _ in range(5):
        await asyncio.sleep(0)
    assert called == []
    assert reports.order == []


async def test_a_task_that_somebody_else_cancels_before_its_first_step_is_reported(tasks, reports) -> None:
    async def handler() -> None: ...

    job = job_of(handler)
    tasks.start(job)
    await asyncio.sleep(0)
    assert job.task is not None
    job.task.cancel()
    assert (await reports.of(job)).code == Code.EXCEPTION


async def test_of_many_tasks_the_one_that_somebody_else_cancels_is_reported(tasks, reports) -> None:
    go_on = asyncio.Event()

    async def handler(n: int) -> int:
        await go_on.wait()
        return n

    jobs = [job_of(handler, {"n": n}) for n in range(5)]
    for job in jobs:
        tasks.start(job)
    await asyncio.sleep(0)
    assert jobs[3].task is not None
    jobs[3].task.cancel()
    assert (await reports.of(jobs[3])).code == Code.EXCEPTION
    assert reports.order == [jobs[3]]
    go_on.set()
    assert [(await reports.of(jobs[n])).value for n in (0, 1, 2, 4)] == [0, 1, 2, 4]
    assert not tasks._running


async def test_a_task_that_swallows_its_cancellation_is_abandoned_row_29(tasks, reports, monkeypatch, caplog) -> None:
    monkeypatch.setattr(executors, "ABANDON_S", 0.01)
    begun, released, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    swallowed = 0

    async def stubborn() -> str:
        nonlocal swallowed
        begun.set()
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                swallowed += 1
        ended.set()
        return "too late"

    job = job_of(stubborn)
    tasks.start(job)
    await soon(begun.wait())
    stop(tasks, job)
    await until(lambda: swallowed == 1)
    assert reports.order == [], "a polite cancellation gives it as long as it wants"
    stop(tasks, job, at_once=True)
    outcome = await reports.of(job)
    assert outcome.code == Code.CANCELLED
    assert outcome.failure.error == "cancelled; it did not stop, and was abandoned"
    assert swallowed == 2
    assert "abandoned" in caplog.text
    released.set()
    await soon(ended.wait())
    await until(lambda: not tasks._abandoned)
    assert reports.order == [job], "what it returned in the end is dropped"


async def test_a_task_that_stops_in_time_is_not_abandoned(tasks, reports, monkeypatch) -> None:
    monkeypatch.setattr(executors, "ABANDON_S", 0.0)
    begun = asyncio.Event()

    async def polite() -> None:
        begun.set()
        await asyncio.Event().wait()

    job = job_of(polite)
    tasks.start(job)
    await soon(begun.wait())
    stop(tasks, job, at_once=True)
    assert (await reports.of(job)).failure.error == "cancelled while it ran"
    await asyncio.sleep(0.01)
    assert reports.order == [job]


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


async def test_handlers_see_what_the_server_has_set_and_not_each_other(reports) -> None:
    async def read() -> str:
        return variable.get()

    async def write() -> None:
        variable.set("another job's")

    def read_plain() -> str:
        return variable.get()

    def write_plain() -> None:
        variable.set("another job's")

    variable.set("the server's")
    tasks, threads = TaskExecutor(asyncio.get_running_loop(), reports), ThreadExecutor(1, reports)
    for executor, writer, reader in ((tasks, write, read), (threads, write_plain, read_plain)):
        for handler in (writer, reader):
            job = job_of(handler)
            contextvars.Context().run(executor.start, job)
            await reports.of(job)
        assert reports.outcomes[reports.order[-1]].value == "the server's"
        executor.close()


# ── Threads ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def threads(reports):
    executor = ThreadExecutor(3, reports)
    yield executor
    executor.close()
    for thread in executor._threads:
        thread.join(20)
        assert not thread.is_alive()


async def test_as_many_threads_run_as_there_are_slots(threads, reports) -> None:
    barrier = threading.Barrier(3)

    def meet(n: int) -> int:
        barrier.wait(20)
        return n

    jobs = [job_of(meet, {"n": n}) for n in range(3)]
    for job in jobs:
        threads.start(job)
    assert [(await reports.of(job)).value for job in jobs] == [0, 1, 2]


async def test_an_idle_thread_is_used_before_another_is_made(threads, reports) -> None:
    def handler() -> None: ...

    for _ in range(20):
        job = job_of(handler)
        threads.start(job)
        await reports.of(job)
    assert len(threads._threads) == 1


async def test_a_thread_that_is_told_to_stop_keeps_its_job_until_it_ends_row_29(threads, reports) -> None:
    begun, seen, may_end = threading.Event(), threading.Event(), threading.Event()

    def work(context: JobContext) -> None:
        begun.set()
        assert context.wait_cancelled(20)
        seen.set()
        may_end.wait(20)

    job = job_of(work)
    threads.start(job)
    await asyncio.to_thread(begun.wait, 20)
    stop(threads, job, at_once=True)
    await asyncio.to_thread(seen.wait, 20)
    assert reports.order == []
    may_end.set()
    assert (await reports.of(job)).code == Code.CANCELLED


async def test_an_exit_in_a_thread_costs_only_its_job_row_29(threads, reports) -> None:
    def leave() -> None:
        raise SystemExit(3)

    for _ in range(5):
        job = job_of(leave)
        threads.start(job)
        outcome = await reports.of(job)
        assert (outcome.code, outcome.failure.type, outcome.failure.error) == (Code.EXCEPTION, "SystemExit", "3")
    assert len(threads._threads) == 1


async def test_a_job_that_was_claimed_before_its_thread_took_it_never_begins(threads, reports) -> None:
    called: list[int] = []
    claimed, other = job_of(lambda: called.append(1)), job_of(lambda: "other")
    assert claimed.claim()
    for job in (claimed, other):
        threads.start(job)
    assert (await reports.of(other)).value == "other"
    assert reports.order == [other]
    assert called == []


async def test_jobs_beyond_the_capacity_have_threads_which_are_not_kept(reports) -> None:
    # A job that has lent its slot out keeps its thread.
    executor = ThreadExecutor(1, reports)
    barrier = threading.Barrier(4)
    jobs = [job_of(lambda: barrier.wait(20)) for _ in range(4)]
    for job in jobs:
        executor.start(job)
    for job in jobs:
        await reports.of(job)
    assert len(executor._threads) <= 1
    job = job_of(lambda: "still at work")
    executor.start(job)
    assert (await reports.of(job)).value == "still at work"
    executor.close()
