"""Row 29 of the faults: handlers that misbehave, and what becomes of their job, their worker and everybody else's jobs."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from reasonchip_broker.limits import KIB, Limits
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.worker import PipelineFailed, Worker, executors
from tests import attentive
from tests.attentive import Word
from tests.unit.worker.harness import DEADLINE_S, Stage, soon, staged, until
from tests.unit.worker.test_processes import exits, hangs, identity


@pytest.fixture
async def stage(tmp_path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


def _echo(value: Any = None) -> Any:
    return value


async def _echo_async(value: Any = None) -> Any:
    return value


async def test_a_handler_that_raises_costs_only_its_job_row_29(stage) -> None:
    worker = Worker(stage.worker_url)

    def deep() -> None:
        raise KeyError("missing")

    @worker.pipeline("task")
    async def task() -> None:
        deep()

    @worker.pipeline("thread")
    def thread() -> None:
        deep()

    @worker.pipeline("exits")
    async def exiting() -> None:
        sys.exit(3)

    @worker.pipeline("interrupts")
    async def interrupting() -> None:
        raise KeyboardInterrupt

    @worker.pipeline("refuses")
    def refusing() -> None:
        raise PipelineFailed("the model refused")

    worker.add("echo", _echo_async)
    async with stage.working(worker):
        for pipeline in ("task", "thread"):
            outcome = await stage.owner.run(pipeline)
            assert (outcome.code, outcome.failure.type, outcome.failure.error) == (Code.EXCEPTION, "KeyError", "'missing'")
            assert [line for line in outcome.failure.stack or [] if " in deep" in line]
            assert "reasonchip_broker/worker" not in "".join(outcome.failure.stack or [])
        assert (await stage.owner.run("exits")).failure.type == "SystemExit"
        assert (await stage.owner.run("interrupts")).failure.type == "KeyboardInterrupt"
        assert (await stage.owner.run("refuses")).code == Code.PROCESSOR_EXCEPTION
        assert (await stage.owner.run("echo", {"value": 1})).value == 1


async def test_results_that_cannot_be_sent_cost_only_their_job_row_29(tmp_path) -> None:
    async with staged(tmp_path, Limits(frame_bytes_max=64 * KIB)) as stage:
        worker = Worker(stage.worker_url)
        worker.add("unserialisable", lambda: object())
        worker.add("too large", lambda: b"x" * (64 * KIB))
        worker.add("echo", _echo)
        async with stage.working(worker):
            outcome = await stage.owner.run("unserialisable")
            assert outcome.failure.error.startswith("the handler returned what can't be sent (object): ")
            outcome = await stage.owner.run("too large")
            assert outcome.code == Code.TOO_LARGE
            assert outcome.failure.error.endswith("over the broker's limit of 65536")
            assert (await stage.owner.run("echo", {"value": 1})).value == 1


async def test_a_handler_that_blocks_the_main_loop_costs_no_lease_row_29(tmp_path) -> None:
    # The test's loop is the worker's main loop and the broker's, so the broker is in a thread, with the worker's owner.
    limits = Limits(heartbeat_s=0.1, lease_s=0.3)
    blocked_s = 1.2
    ready, done = threading.Event(), threading.Event()
    told: dict[str, Any] = {}

    async def other_side() -> None:
        async with staged(tmp_path, limits) as stage:
            told["url"] = stage.worker_url
            ready.set()
            await until(lambda: stage.broker.switchboard.free_slots("block") == 2)
            _, blocking = stage.owner.submit("block")
            told["thread"] = await stage.owner.run("thread")
            told["thread_at"] = time.monotonic()
            told["block"] = await soon(blocking)
            told["block_at"] = time.monotonic()
            told["connections"] = len(stage.broker.switchboard.peers)
            done.set()
            await until(lambda: len(stage.broker.switchboard.peers) == 1)

    thread = threading.Thread(target=attentive.run, args=(other_side(),))
    thread.start()
    await asyncio.to_thread(ready.wait, 20)
    worker = Worker(told["url"], capacity=2)
    begun = threading.Event()

    @worker.pipeline("block")
    async def block() -> str:
        begun.set()
        time.sleep(blocked_s)
        return "loaded"

    @worker.pipeline("thread")
    def in_thread() -> str:
        begun.wait(20)
        return "meanwhile"

    serving = asyncio.get_running_loop().create_task(worker.serve())
    await asyncio.to_thread(done.wait, 20)
    await soon(worker.stop())
    await soon(serving)
    await asyncio.to_thread(thread.join, 20)
    assert (told["block"].code, told["block"].value) == (Code.OK, "loaded")
    assert told["thread"].value == "meanwhile"
    assert told["block_at"] - told["thread_at"] > blocked_s / 2, "jobs in threads run while the main loop is blocked"
    assert told["connections"] == 2, "the same connection all the while"


async def test_a_handler_that_hangs_past_its_cancellation_costs_only_its_job_row_29(stage, monkeypatch) -> None:
    monkeypatch.setattr(executors, "ABANDON_S", 0.02)
    worker = Worker(stage.worker_url, capacity=2)
    begun, released, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @worker.pipeline("stubborn")
    async def stubborn() -> str:
        begun.set()
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                pass
        ended.set()
        return "too late"

    worker.add("echo", _echo_async)
    async with stage.working(worker):
        cookie, outcome = stage.owner.submit("stubborn")
        await soon(begun.wait())
        stage.owner.cancel(cookie)
        assert (await stage.owner.run("echo", {"value": 1})).value == 1
        assert not outcome.done()
        stage.owner.cancel(cookie, at_once=True)
        assert (await soon(outcome)).code == Code.CANCELLED
        assert stage.broker.switchboard.free_slots("echo") == 2
        released.set()
        await soon(ended.wait())
        assert (await stage.owner.run("echo", {"value": 2})).value == 2
        assert stage.broker.switchboard.counters.results_dropped == 0


async def test_a_thread_that_hangs_past_its_cancellation_keeps_its_slot_until_it_ends_row_29(tmp_path) -> None:
    async with staged(tmp_path, Limits(cancel_grace_s=0.02, kill_grace_s=0.02)) as stage:
        worker = Worker(stage.worker_url, capacity=2)
        begun, released = threading.Event(), threading.Event()

        @worker.pipeline("stubborn")
        def stubborn() -> None:
            begun.set()
            released.wait(20)

        worker.add("echo", _echo)
        async with stage.working(worker):
            cookie, outcome = stage.owner.submit("stubborn")
            await asyncio.to_thread(begun.wait, 20)
            stage.owner.cancel(cookie)
            assert (await soon(outcome)).code == Code.CANCELLED, "the broker gives it up"
            assert (await stage.owner.run("echo", {"value": 1})).value == 1
            assert stage.broker.switchboard.free_slots("echo") == 1, "and its slot is not free"
            released.set()
            await until(lambda: stage.broker.switchboard.free_slots("echo") == 2)


@pytest.mark.process
async def test_a_handler_that_exits_its_process_costs_only_its_job_row_29(stage, tmp_path) -> None:
    worker = Worker(stage.worker_url, capacity=2)
    worker.add("exits", exits, executor="process")
    worker.add("identity", identity, executor="process")
    worker.add("hangs", hangs, executor="process")
    worker.add("echo", _echo_async)
    async with stage.working(worker):
        outcome = await stage.owner.run("exits", {"code": 3})
        assert (outcome.code, outcome.failure.error) == (Code.EXCEPTION, "the handler's process exited with code 3")
        assert (await stage.owner.run("identity", {"n": 3})).value[0] == 3
        assert (await stage.owner.run("echo", {"value": 1})).value == 1
        with Word(tmp_path / "begun") as begun:
            cookie, outcome = stage.owner.submit("hangs", {"begun": str(begun.path)})
            await begun.heard(DEADLINE_S)
        stage.owner.cancel(cookie, why="enough")
        assert (await soon(outcome)).failure.error == "cancelled while it ran: enough"
