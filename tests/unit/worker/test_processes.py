"""Handlers in processes: what happens to one of them happens to its job alone."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reasonchip_broker.limits import MIB
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.worker import JobContext
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.pipelines import Pipeline
from reasonchip_broker.worker.processes import ProcessExecutor
from tests.attentive import Word, gone
from tests.unit.worker.harness import DEADLINE_S, Outcome
from tests.unit.worker.test_executors import Reports
from tests.unit.worker.test_pipe_kin import PaperKin

pytestmark = pytest.mark.process


def identity(n: int) -> list[int]:
    return [n, os.getpid()]


async def identity_async(n: int, context: JobContext) -> list[int]:
    await asyncio.sleep(0)
    return [n, os.getpid()]


def exits(code: int) -> None:
    os._exit(code)


def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(begun: str) -> None:
    Path(begun).write_text("begun")
    while True:
        time.sleep(3600)


def cleans_up(begun: str, cleaned: str) -> None:
    try:
        Path(begun).write_text("begun")
        time.sleep(3600)
    finally:
        Path(cleaned).touch()


async def cleans_up_async(begun: str, cleaned: str) -> None:
    try:
        Path(begun).write_text("begun")
        await asyncio.Event().wait()
    finally:
        Path(cleaned).touch()


def stubborn(begun: str) -> None:
    word = "begun"
    while True:
        try:
            Path(begun).write_text(word)
            time.sleep(3600)
        except Exception:
            word = "told"


async def converses(context: JobContext) -> list[Any]:
    for n in range(5):
        await context.progress(n)
    async with context.parked():
        pass
    context.extend(5)
    taken = []
    async for item in context.inputs():
        taken.append(item)
        if item == "last":
            break
    return [taken, context.attempts, context.remaining_s is not None]


async def submits(context: JobContext) -> Any:
    return await context.run("double", {"n": 4})


def submits_and_waits(context: JobContext) -> Any:
    return context.run("double", {"n": 4})


def forks_and_exits(begun: str) -> None:
    # The grandchild holds the pipe open, so that its end tells nothing.
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    Path(begun).write_text(str(pid))
    os._exit(9)


def unsendable() -> object:
    return object()


PIPELINES = {
    handler: Pipeline(handler.__name__, handler, executor="process")
    for handler in (
        identity,
        identity_async,
        exits,
        crashes,
        hangs,
        cleans_up,
        cleans_up_async,
        stubborn,
        converses,
        submits,
        submits_and_waits,
        forks_and_exits,
        unsendable,
    )
}


def job_of(handler: Callable[..., Any], **variables: Any) -> Job:
    payload = payloads.encode(variables, "msgpack")
    pipeline = PIPELINES[handler]
    run_until = time.monotonic() + 60
    return Job(
        *(os.urandom(16), 1, pipeline, handler.__name__, "msgpack", payload, MIB),
        attempts=3,
        run_until=run_until,
        allowance=(3, MIB),
    )


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def begun(tmp_path) -> Iterator[Word]:
    """What a handler that hangs says first."""
    with Word(tmp_path / "word") as word:
        yield word


@pytest.fixture
def processes(reports):
    executor = ProcessExecutor(2, list(PIPELINES.values()), reports, reports.say, PaperKin())
    yield executor
    executor.close()
    assert not any(thread.is_alive() for thread in executor._threads)


async def run(executor: ProcessExecutor, reports: Reports, job: Job) -> Outcome:
    executor.start(job)
    return await reports.of(job)


async def test_a_process_is_kept_for_the_next_job(processes, reports) -> None:
    answers = [(await run(processes, reports, job_of(identity, n=n))).value for n in range(3)]
    answers.append((await run(processes, reports, job_of(identity_async, n=3))).value)
    assert [n for n, _ in answers] == [0, 1, 2, 3]
    assert {pid for _, pid in answers} == {answers[0][1]}
    assert answers[0][1] != os.getpid()


async def test_a_handler_that_exits_or_crashes_costs_only_its_job_row_29(processes, reports, begun) -> None:
    other = job_of(hangs, begun=str(begun.path))
    processes.start(other)
    outcome = await run(processes, reports, job_of(exits, code=7))
    assert (outcome.code, outcome.may_have_run) == (Code.EXCEPTION, True)
    assert (outcome.failure.type, outcome.failure.error) == ("HandlerProcessDied", "the handler's process exited with code 7")
    outcome = await run(processes, reports, job_of(crashes))
    assert outcome.failure.error == "the handler's process was killed by SIGSEGV"
    assert (await run(processes, reports, job_of(unsendable))).code == Code.EXCEPTION
    assert (await run(processes, reports, job_of(identity, n=5))).value[0] == 5
    await begun.heard(DEADLINE_S)
    assert other not in reports.outcomes
    contexts.cancel(other.context)
    processes.stop(other, at_once=True)
    outcome = await reports.of(other)
    assert (outcome.code, outcome.failure.error) == (Code.CANCELLED, "cancelled; its process was killed")
    assert (await run(processes, reports, job_of(identity, n=6))).value[0] == 6


async def test_a_forked_grandchild_does_not_hide_the_end_of_a_process_row_29(processes, reports, tmp_path) -> None:
    begun = tmp_path / "grandchild"
    outcome = await run(processes, reports, job_of(forks_and_exits, begun=str(begun)))
    os.kill(int(begun.read_text()), signal.SIGKILL)
    assert outcome.failure.error == "the handler's process exited with code 9"


async def test_a_job_that_is_stopped_while_its_process_starts_never_runs(processes, reports, begun, monkeypatch) -> None:
    claimed = threading.Event()

    def claim(job: Job, claim: Callable[[Job], bool] = Job.claim) -> bool:
        try:
            return claim(job)
        finally:
            claimed.set()

    monkeypatch.setattr(Job, "claim", claim)
    job = job_of(hangs, begun=str(begun.path))
    processes.start(job)
    assert await asyncio.to_thread(claimed.wait, DEADLINE_S)
    contexts.cancel(job.context)
    processes.stop(job, at_once=True)
    assert (await reports.of(job)).code == Code.CANCELLED


async def test_who_stops_a_finished_job_does_not_hit_the_next_one(processes, reports) -> None:
    first = job_of(identity, n=1)
    pid = (await run(processes, reports, first)).value[1]
    processes.stop(first, at_once=True)
    assert (await run(processes, reports, job_of(identity, n=2))).value == [2, pid]


async def test_a_process_that_was_killed_from_outside_is_replaced(processes, reports) -> None:
    pid = (await run(processes, reports, job_of(identity, n=1))).value[1]
    os.kill(pid, signal.SIGKILL)
    await gone(pid, DEADLINE_S)
    answer = (await run(processes, reports, job_of(identity, n=2))).value
    assert answer[0] == 2
    assert answer[1] != pid


async def test_a_process_that_cannot_be_started_is_told(processes, reports, monkeypatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr("multiprocessing.context.SpawnProcess._Popen", staticmethod(refuse))
        outcome = await run(processes, reports, job_of(identity, n=1))
    assert outcome.code == Code.EXCEPTION
    assert "could not be started: [Errno 11]" in outcome.failure.error
    assert (await run(processes, reports, job_of(identity, n=2))).code == Code.OK


async def test_closing_leaves_no_process(reports, begun) -> None:
    executor = ProcessExecutor(2, list(PIPELINES.values()), reports, reports.say)
    executor.start(job_of(hangs, begun=str(begun.path)))
    idle_pid = (await run(executor, reports, job_of(identity, n=1))).value[1]
    await begun.heard(DEADLINE_S)
    pids = [lane._process.process.pid or 0 for lane in executor._lanes if lane._process is not None]
    assert len(pids) == 2
    assert idle_pid in pids
    await asyncio.to_thread(executor.close)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# ── Being told to stop ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("handler", [cleans_up, cleans_up_async])
async def test_a_polite_cancellation_leaves_the_handler_and_keeps_the_process(
    processes, reports, begun, tmp_path, handler
) -> None:
    pid = (await run(processes, reports, job_of(identity, n=1))).value[1]
    cleaned = tmp_path / "cleaned"
    job = job_of(handler, begun=str(begun.path), cleaned=str(cleaned))
    processes.start(job)
    await begun.heard(DEADLINE_S)
    job.why = "enough"
    contexts.cancel(job.context)
    processes.stop(job, at_once=False)
    outcome = await reports.of(job)
    assert (outcome.code, outcome.failure.error) == (Code.CANCELLED, "cancelled while it ran: enough")
    assert cleaned.exists()
    assert (await run(processes, reports, job_of(identity, n=2))).value == [2, pid]


async def test_a_handler_that_swallows_its_cancellation_is_killed_at_once(processes, reports, begun) -> None:
    job = job_of(stubborn, begun=str(begun.path))
    processes.start(job)
    await begun.heard(DEADLINE_S)
    contexts.cancel(job.context)
    processes.stop(job, at_once=False)
    assert await begun.heard(DEADLINE_S) == "told"
    assert reports.order == []
    processes.stop(job, at_once=True)
    assert (await reports.of(job)).failure.error == "cancelled; its process was killed"


# ── Talking ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_handler_in_a_process_converses_as_one_in_the_worker_does(processes, reports) -> None:
    job = job_of(converses)
    processes.deliver(job, packets.input_chunk(job.cookie, 1, b"early", "text", 1))
    processes.start(job)
    heard: list[Packet] = []

    async def said(kind: PacketType) -> Packet:
        await reports.until(lambda: any(frame[4] == kind for frame in reports.said))
        while heard[-1:] == [] or heard[-1].kind != kind:
            heard.append(decode(reports.said.pop(0)))
        return heard[-1]

    await reports.until(lambda: len(reports.said) == 3)
    assert [decode(frame).number for frame in reports.said] == [1, 2, 3], "its allowance is three"
    processes.deliver(job, packets.credit(job.cookie, 1, 3))
    await said(PacketType.PARK)
    assert [packet.number for packet in heard if packet.kind == PacketType.PROGRESS] == [1, 2, 3, 4, 5]
    await said(PacketType.RESUME)
    processes.deliver(job, packets.resume(job.cookie, 1))
    assert (await said(PacketType.EXTEND)).number == 5000
    processes.deliver(job, packets.input_chunk(job.cookie, 2, b"last", "text", 1))
    assert (await reports.of(job)).value == [["early", "last"], 3, True]


async def test_what_a_process_says_while_there_is_no_connection_waits_for_one(processes, reports) -> None:
    job = job_of(converses)
    processes.suspend(job)
    processes.start(job)
    # It has begun when it has no more to start, and says nothing.
    await run(processes, reports, job_of(identity, n=1))
    processes.restart(job, 2, MIB)
    await reports.until(lambda: len(reports.said) == 2)
    assert [decode(frame).number for frame in reports.said] == [1, 2]
    contexts.cancel(job.context)
    processes.stop(job, at_once=True)
    await reports.of(job)


@pytest.mark.parametrize("handler", [submits, submits_and_waits])
async def test_a_handler_in_a_process_submits_jobs_of_its_own(processes, reports, handler) -> None:
    kin = processes._kin
    job = job_of(handler)
    processes.start(job)
    await reports.until(lambda: len(kin.told) == 2 and bool(reports.said))
    submission, question = kin.told
    options = schemas.run_options(submission.meta)
    assert (options.p, options.parent) == ("double", job.cookie)
    assert question == ("result", submission.cookie)
    assert decode(reports.said[0]).kind == PacketType.PARK
    frame = packets.result(submission.cookie, 1, payloads.encode(8, "msgpack"), "msgpack")
    kin.futures[0].set_result((None, (frame, schemas.ResultMeta(enc="msgpack"))))
    await reports.until(lambda: len(reports.said) == 2)
    processes.deliver(job, packets.resume(job.cookie, 1))
    assert (await reports.of(job)).value == 8
    assert ("release", submission.cookie) in kin.told
