"""A worker in a process of its own: signals, kills, and handlers that misbehave, with a real broker at the other end."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reasonchip_broker.limits import KIB, Limits
from reasonchip_broker.protocol.codes import Code
from tests.attentive import Word, gone
from tests.unit.worker.harness import DEADLINE_S, Stage, soon, staged, until

pytestmark = pytest.mark.process

APP = Path(__file__).with_name("worker_app.py")


class App:
    """The running worker process."""

    def __init__(self, process: asyncio.subprocess.Process, begun: Word, end: Word) -> None:
        self.process = process
        self.begun = begun
        self.end = end
        self.words = {"begun": str(begun.path), "end": str(end.path)}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def has_begun(self) -> str:
        """Wait until a handler says so; returns what it says."""
        return await self.begun.heard(DEADLINE_S)

    async def exit_code(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


@asynccontextmanager
async def app(
    stage: Stage, *, capacity: int = 4, drain_s: float = 20.0, patience_s: float | None = None, grace_s: int = 0
) -> AsyncIterator[App]:
    """The worker process, once it is registered; killed at the end, if it still runs, with all that is in its group."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(APP),
        stage.worker_url,
        str(capacity),
        str(drain_s),
        *([] if patience_s is None else [str(patience_s)]),
        process_group=0,
        env=os.environ | {"WORKER_GRACE_S": str(grace_s)},
    )
    try:
        await until(lambda: stage.broker.switchboard.free_slots("echo") == capacity or process.returncode is not None)
        assert process.returncode is None
        with Word(stage.folder / "begun") as begun, Word(stage.folder / "end") as end:
            yield App(process, begun, end)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await process.wait()
        await until(lambda: len(stage.broker.switchboard.peers) <= 1)  # its owner is left, if the broker still is
        stage.broker.switchboard.invariants()


@pytest.fixture
async def stage(tmp_path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


# ── Signals ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_running_job_finish_and_delivers_its_result(stage, number) -> None:
    async with app(stage) as worker:
        _, running = stage.owner.submit("until", worker.words)
        await worker.has_begun()
        worker.signal(number)
        await until(lambda: stage.broker.switchboard.free_slots("echo") == 0)
        _, late = stage.owner.submit("echo")
        worker.end.say()
        assert (await soon(running)).value == "finished"
        assert await worker.exit_code() == 0
        assert not late.done()
        assert stage.broker.switchboard.waiting == 1


async def test_a_signal_is_heard_while_a_handler_blocks_the_main_loop(stage) -> None:
    async with app(stage) as worker:
        _, running = stage.owner.submit("block", {"begun": str(worker.begun.path), "seconds": 0.8})
        await worker.has_begun()
        worker.signal(signal.SIGTERM)
        await until(lambda: stage.broker.switchboard.free_slots("echo") == 0)
        assert not running.done()
        assert (await soon(running)).value == "loaded"
        assert await worker.exit_code() == 0


async def test_a_second_signal_stops_what_runs(stage) -> None:
    async with app(stage, drain_s=3600) as worker:
        _, running = stage.owner.submit("until", worker.words)
        await worker.has_begun()
        worker.signal(signal.SIGTERM)
        await until(lambda: stage.broker.switchboard.free_slots("echo") == 0)
        assert not running.done()
        worker.signal(signal.SIGTERM)
        assert (await soon(running)).code == Code.WORKER_WENT_AWAY
        assert await worker.exit_code() == 0


async def test_when_the_drain_limit_is_over_what_runs_is_stopped(stage) -> None:
    async with app(stage, drain_s=0.1) as worker:
        _, running = stage.owner.submit("until", worker.words)
        await worker.has_begun()
        worker.signal(signal.SIGTERM)
        assert (await soon(running)).code == Code.WORKER_WENT_AWAY
        assert await worker.exit_code() == 0


async def test_ctrl_c_reaches_a_handlers_process_too_and_its_job_finishes(stage) -> None:
    async with app(stage) as worker:
        _, running = stage.owner.submit("process.until", worker.words)
        child_pid = int(await worker.has_begun())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child_pid, number)
        os.killpg(worker.process.pid, signal.SIGINT)
        await until(lambda: stage.broker.switchboard.free_slots("echo") == 0)
        worker.end.say()
        assert (await soon(running)).value == ["finished", 1]
        assert await worker.exit_code() == 0


async def test_a_killed_worker_takes_its_handlers_processes_with_it(stage) -> None:
    async with app(stage) as worker:
        _, running = stage.owner.submit("process.until", worker.words)
        child_pid = int(await worker.has_begun())
        killed_at = time.monotonic()
        worker.signal(signal.SIGKILL)
        assert (await soon(running)).code == Code.WORKER_WENT_AWAY
        assert time.monotonic() - killed_at < 1.0
        await gone(child_pid, DEADLINE_S)


# ── Row 4 ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("grace_s", [0, 1], ids=["no session", "a session"])
async def test_a_stopped_worker_loses_its_jobs_and_its_late_result_is_none_of_theirs_row_4(tmp_path, grace_s: int) -> None:
    """The lease is over, the job is begun again elsewhere; the worker goes on, finishes what it had, and is of use again."""
    async with staged(tmp_path, Limits(heartbeat_s=0.4, lease_s=1.2)) as stage, app(stage, grace_s=grace_s) as worker:
        _, running = stage.owner.submit("until", worker.words, att=2, back=0)
        await worker.has_begun()
        worker.signal(signal.SIGSTOP)
        await until(lambda: stage.broker.switchboard.waiting == 1)
        counters = stage.broker.switchboard.counters
        assert counters.retried == 1
        worker.signal(signal.SIGCONT)
        # It begins anew in the same process, once the slot of the first attempt is known to be free or another one is.
        await worker.has_begun()
        assert not running.done()
        worker.end.say()
        assert (await soon(running)).value == "finished"
        assert counters.finished == 1
        assert (await stage.owner.run("echo", {"value": 5})).value == 5
        await until(lambda: stage.broker.switchboard.free_slots("echo") == 4)
        assert counters.finished == 2


# ── Row 29 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_blocking_the_main_loop_for_longer_than_the_lease_keeps_the_lease_row_29(tmp_path) -> None:
    async with staged(tmp_path, Limits(heartbeat_s=0.2, lease_s=0.6)) as stage, app(stage) as worker:
        _, blocking = stage.owner.submit("block", {"begun": str(worker.begun.path), "seconds": 2.0})
        await worker.has_begun()
        assert (await stage.owner.run("pid")).value == worker.process.pid, "threads go on meanwhile"
        assert not blocking.done()
        assert (await soon(blocking)).value == "loaded"
        assert stage.broker.switchboard.free_slots("echo") == 4


async def test_raising_or_returning_what_cannot_be_sent_costs_only_the_job_row_29(tmp_path) -> None:
    async with staged(tmp_path, Limits(frame_bytes_max=256 * KIB)) as stage, app(stage) as worker:
        outcome = await stage.owner.run("raise")
        assert (outcome.code, outcome.failure.type, outcome.failure.error) == (Code.EXCEPTION, "LookupError", "nothing there")
        assert (await stage.owner.run("unserialisable")).code == Code.EXCEPTION
        assert (await stage.owner.run("large", {"size": 256 * KIB})).code == Code.TOO_LARGE
        assert len((await stage.owner.run("large", {"size": 255 * KIB})).value) == 255 * KIB
        assert (await stage.owner.run("pid")).value == worker.process.pid


async def test_hanging_past_its_cancellation_costs_only_the_job_row_29(stage) -> None:
    async with app(stage, drain_s=0.1, patience_s=0.1) as worker:
        cookie, outcome = stage.owner.submit("stubborn", {"begun": str(worker.begun.path)})
        await worker.has_begun()
        stage.owner.cancel(cookie, at_once=True)
        assert (await soon(outcome)).code == Code.CANCELLED
        assert (await stage.owner.run("echo", {"value": 1})).value == 1
        assert stage.broker.switchboard.free_slots("echo") == 4
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0, "what swallows its cancellation does not keep the process"


async def test_a_thread_that_never_ends_does_not_keep_the_process_row_29(stage) -> None:
    async with app(stage, drain_s=0.1, patience_s=0.1) as worker:
        _, outcome = stage.owner.submit("stuck thread", {"begun": str(worker.begun.path)})
        await worker.has_begun()
        worker.signal(signal.SIGTERM)
        assert (await soon(outcome)).code == Code.WORKER_WENT_AWAY
        assert await worker.exit_code() == 0


async def test_a_handler_that_ends_the_workers_process_is_told_as_its_loss_row_29(stage) -> None:
    async with app(stage) as worker:
        outcome = await stage.owner.run("leave", {"code": 3})
        assert outcome.code == Code.WORKER_WENT_AWAY
        assert await worker.exit_code() == 3


async def test_a_handler_that_ends_its_own_process_costs_only_its_job_row_29(stage) -> None:
    async with app(stage) as worker:
        for _ in range(2):
            outcome = await stage.owner.run("process.leave", {"code": 3})
            assert (outcome.code, outcome.failure.error) == (Code.EXCEPTION, "the handler's process exited with code 3")
        assert (await stage.owner.run("pid")).value == worker.process.pid


# ── What a script says ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("configure", ["", "import logging; logging.basicConfig(level=logging.ERROR)"])
async def test_a_script_that_configures_no_logging_is_told_on_stderr_what_its_worker_does(stage, configure) -> None:
    code = (
        f"from reasonchip_broker.worker import Worker\n{configure}\n"
        f"worker = Worker({stage.worker_url!r}, capacity=1)\nworker.add('echo', lambda: None)\nworker.run()"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
    await until(lambda: stage.broker.switchboard.free_slots("echo") == 1)
    process.terminate()
    _, err = await soon(process.communicate())
    assert process.returncode == 0
    assert ("registered 1 slots for 1 pipelines" in err.decode()) is not bool(configure)
    assert err.decode().count("left the broker") == (0 if configure else 1)


# ── The broker's end ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_finds_the_next_broker_at_the_same_place(tmp_path) -> None:
    async with staged(tmp_path) as stage, app(stage) as worker:
        url = stage.worker_url
        await stage.broker.stop()
        async with staged(tmp_path, worker_url=url) as next_stage:
            await until(lambda: next_stage.broker.switchboard.free_slots("echo") == 4)
            assert (await next_stage.owner.run("pid")).value == worker.process.pid
            worker.signal(signal.SIGTERM)
            assert await worker.exit_code() == 0
