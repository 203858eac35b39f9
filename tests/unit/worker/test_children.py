"""Jobs that handlers submit: over the worker's own connection, with their parent, and without holding its slot."""

import asyncio
import gc
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from reasonchip_broker.errors import JobCancelled, JobException, NotAllowed
from reasonchip_broker.peer import payloads
from reasonchip_broker.peer.backoff import Backoff
from reasonchip_broker.peer.options import Options, changed
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType
from reasonchip_broker.worker import ChildJob, JobContext, children
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker import link as links
from reasonchip_broker.worker.jobs import Job
from tests.unit.worker.harness import soon, until
from tests.unit.worker.linked import COOKIE, FakeBroker, Setting, linked

BATCH = UUID(int=9)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    for name in ("STOP_S", "CLOSE_S"):
        monkeypatch.setattr(links, name, 0.05)
    # Who waits for a child parks, however soon that ends.
    monkeypatch.setattr(children, "SOON_S", 0.0)
    monkeypatch.setattr(Backoff, "next_s", lambda self: 0.001)


async def began(broker: FakeBroker, setting: Setting) -> JobContext:
    """The context of a job that runs."""
    setting.start()
    await setting.registered()
    broker.run()
    job: Job = await setting.begun()
    return job.context


async def child_runs(broker: FakeBroker, count: int = 1) -> list[Packet]:
    await until(lambda: len(broker.of(PacketType.RUN)) >= count)
    return broker.of(PacketType.RUN)


def options_of(run: Packet) -> schemas.RunOptions:
    return schemas.run_options(run.meta)


def answer(broker: FakeBroker, run: Packet, value: Any) -> None:
    broker.send(packets.result(run.cookie, 1, payloads.encode(value, "msgpack"), "msgpack"))


async def grant(broker: FakeBroker, count: int = 1) -> None:
    """Give the parent its slot back when it asks."""
    await until(lambda: len(broker.of(PacketType.RESUME)) == count)
    broker.send(packets.resume(COOKIE, 1))


async def test_options_of_many_children_are_checked_once_for_each_parent(monkeypatch) -> None:
    made: list[Options] = []

    def counted(options: Options, changes: Mapping[str, Any]) -> Options:
        made.append(changed(options, changes))
        return made[-1]

    monkeypatch.setattr(children, "changed", counted)
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        for number in range(3):
            context.submit("p", number, attempts=2, detach=True)
            context.submit("p", number, detach=True)
        runs = await child_runs(broker, 6)
        assert [(options_of(run).att, options_of(run).parent) for run in runs] == [(2, COOKIE), (1, COOKIE)] * 3
        assert len({run.cookie for run in runs}) == 6
        for _ in range(2):
            with pytest.raises(TypeError, match="the handler's own"):
                context.submit("p", parent=BATCH)  # type: ignore[call-arg]
    assert len(made) == 2


async def test_a_child_travels_with_its_parent_and_its_result_comes_back() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        task = asyncio.ensure_future(context.run("double", {"n": 4}, deadline_s=5, attempts=3))
        (run,) = await child_runs(broker)
        options = options_of(run)
        assert (options.p, options.parent, options.att, options.loose) == ("double", COOKIE, 3, False)
        assert 0 < run.number <= 5000
        assert payloads.decode(run.payload, options.enc) == {"n": 4}
        await until(lambda: bool(broker.of(PacketType.PARK)))
        assert setting.desk.free == 2, "the parent holds no slot while it waits"
        answer(broker, run, 8)
        await grant(broker)
        assert await soon(task) == 8
        assert setting.desk.free == 1
        kinds = [packet.kind for packet in broker.packets if packet.kind != PacketType.ACK][2:]
        assert kinds == [PacketType.RUN, PacketType.PARK, PacketType.RESUME]


async def test_options_for_many_children_are_said_once() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        view = context.with_options(attempts=3, batch=BATCH).with_options(retention_s=7, loose=True)
        assert view.options.attempts == 3
        view.submit("p", {"n": 1}, attempts=2)
        task = asyncio.ensure_future(view.run("p", {"n": 2}))
        runs = await child_runs(broker, 2)
        told = [(o.parent, o.att, o.keep, o.batch, o.loose) for o in map(options_of, runs)]
        assert told == [(COOKIE, 2, 7000, BATCH.bytes, True), (COOKIE, 3, 7000, BATCH.bytes, True)]
        answer(broker, runs[1], 8)
        await until(lambda: task.done() or bool(broker.of(PacketType.RESUME)))
        broker.send(packets.resume(COOKIE, 1))
        assert await soon(task) == 8


async def test_a_child_may_be_scheduled() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        context.submit("p", not_before=60)
        (run,) = await child_runs(broker)
        options = options_of(run)
        assert options.parent == COOKIE
        assert 59_000 < options.delay <= 60_000


async def test_a_child_goes_on_beside_its_parent_until_it_is_waited_for() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        child = context.submit("double", {"n": 4}, loose=True)
        assert isinstance(child, ChildJob)
        (run,) = await child_runs(broker)
        assert UUID(bytes=run.cookie) == child.cookie
        assert options_of(run).loose
        answer(broker, run, "early")
        family = setting.link.kindred.family
        await until(lambda: family._children[run.cookie].done())
        assert broker.of(PacketType.PARK) == []
        task = asyncio.ensure_future(child.result())
        done = asyncio.create_task(_await(child))
        await grant(broker)
        assert await soon(asyncio.gather(task, done)) == ["early", "early"]


async def _await(awaitable: Any) -> Any:
    return await awaitable


async def test_a_thread_waits_for_a_child_as_a_coroutine_does() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        task = asyncio.create_task(asyncio.to_thread(context.run, "double", {"n": 4}))
        (run,) = await child_runs(broker)
        await until(lambda: bool(broker.of(PacketType.PARK)))
        answer(broker, run, 8)
        await grant(broker)
        assert await soon(task) == 8


async def test_what_a_child_ends_with_is_raised_when_the_parent_has_a_slot_again() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        task = asyncio.ensure_future(context.run("fails"))
        (run,) = await child_runs(broker)
        await until(lambda: bool(broker.of(PacketType.PARK)))
        broker.send(packets.failed(run.cookie, 1, Code.EXCEPTION, "no such file", error_type="OSError"))
        await grant(broker)
        with pytest.raises(JobException, match="OSError: no such file"):
            await soon(task)


async def test_a_child_that_is_refused_is_told() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        task = asyncio.ensure_future(context.run("secret"))
        (run,) = await child_runs(broker)
        broker.send(packets.reply(PacketType.RUN, Code.NOT_ALLOWED, "not for you", cookie=run.cookie))
        await grant(broker)
        with pytest.raises(NotAllowed, match="not for you"):
            await soon(task)


async def test_several_children_that_are_waited_for_together_park_once() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        task = asyncio.ensure_future(asyncio.gather(*(context.run("double", {"n": n}) for n in range(3))))
        runs = await child_runs(broker, 3)
        for n, run in enumerate(runs):
            answer(broker, run, n)
        await grant(broker)
        assert await soon(task) == [0, 1, 2]
        assert len(broker.of(PacketType.PARK)) == len(broker.of(PacketType.RESUME)) == 1


async def test_a_wait_that_is_cancelled_cancels_its_child() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        task = asyncio.ensure_future(context.run("slow"))
        (run,) = await child_runs(broker)
        await until(lambda: bool(broker.of(PacketType.PARK)))
        contexts.cancel(context)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        await until(lambda: bool(broker.of(PacketType.CANCEL)))
        assert broker.of(PacketType.CANCEL)[0].cookie == run.cookie
        assert broker.of(PacketType.RESUME) == [], "a job that is to stop needs no slot"


async def test_a_thread_that_waits_in_a_job_that_is_to_stop_waits_no_more() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        task = asyncio.create_task(asyncio.to_thread(context.run, "slow"))
        (run,) = await child_runs(broker)
        await until(lambda: bool(broker.of(PacketType.PARK)))
        contexts.cancel(context)
        with pytest.raises(JobCancelled):
            await soon(task)
        await until(lambda: bool(broker.of(PacketType.CANCEL)))
        assert broker.of(PacketType.CANCEL)[0].cookie == run.cookie


async def test_a_child_is_cancelled_on_request() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        child = context.submit("slow")
        (run,) = await child_runs(broker)
        for ask in (child.cancel, lambda **options: asyncio.to_thread(child.cancel, **options)):
            count = len(broker.of(PacketType.CANCEL))
            task = asyncio.ensure_future(ask(why="enough"))
            await until(lambda count=count: len(broker.of(PacketType.CANCEL)) == count + 1)  # type: ignore[misc]
            cancel = broker.of(PacketType.CANCEL)[-1]
            assert (cancel.cookie, schemas.cancel_meta(cancel.meta).why) == (run.cookie, "enough")
            reply = packets.reply(PacketType.CANCEL, Code.CANCELLING, "asked", cookie=run.cookie, number=cancel.number)
            broker.send(reply)
            assert (await soon(task)).code == Code.CANCELLING


async def test_a_child_that_runs_in_this_very_worker_is_told_from_its_submission() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        child = context.submit("echo", {"value": 5})
        (run,) = await child_runs(broker)
        broker.send(packets.run(run.cookie, run.meta, run.payload))
        job = await setting.begun(2)
        assert job.cookie == run.cookie
        await job.context.progress("chunk")
        await until(lambda: bool(broker.of(PacketType.PROGRESS)))
        # Its client's credit (for inputs) has no attempt; its worker's (for progress) has.
        broker.send(packets.credit(run.cookie, 0, 1))
        broker.send(packets.credit(run.cookie, 1, 1))
        assert job.channel is not None
        await until(lambda: not job.channel._unacked)  # type: ignore[union-attr]
        setting.end(job)
        await until(lambda: bool(broker.of(PacketType.RESULT)))
        answer(broker, run, 5)
        task = asyncio.ensure_future(child.result())
        if not task.done():
            await until(lambda: task.done() or bool(broker.of(PacketType.RESUME)))
            broker.send(packets.resume(COOKIE, 1))
        assert await soon(task) == 5


async def test_what_cannot_be_asked_for_is_told_at_once() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        for options, error in (
            ({"parent": context.cookie}, TypeError),
            ({"dedline_s": 1}, TypeError),
            ({"attempts": 0}, ValueError),
        ):
            with pytest.raises(error):
                context.submit("p", **options)
        with pytest.raises(TypeError):
            context.submit("p", object())
        with pytest.raises(ValueError, match="can't be the name"):
            context.submit("two\nlines")
        context.submit("last")
        assert [options_of(run).p for run in await child_runs(broker)] == ["last"]
    with pytest.raises(RuntimeError, match="nobody to submit to"):
        JobContext(COOKIE, "p", channel=setting.executor.started[0].channel).submit("p")


async def test_children_that_nobody_can_ask_for_are_forgotten() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        family = setting.link.kindred.family
        child: Any = context.submit("p")
        await child_runs(broker)
        assert len(family._children) == 1
        del child
        gc.collect()
        await until(lambda: not family._children)


async def test_a_child_waits_for_the_connection_that_a_session_comes_back_on() -> None:
    async with linked(grace_s=30) as (broker, setting):
        context = await began(broker, setting)
        broker.connections[0].abort(CloseReason.INTERNAL_ERROR)
        await until(lambda: setting.changes[-1:] == [False])
        task = asyncio.ensure_future(context.run("double"))
        (run,) = await child_runs(broker)
        assert [packet.kind for packet in broker.packets].count(PacketType.REGISTER) == 2, "its parent is held again by then"
        answer(broker, run, 8)
        await grant(broker)
        assert await soon(task) == 8


async def test_a_worker_that_has_left_takes_no_children(caplog) -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        setting.link.leave()
        setting.link.hurry()
        await soon(setting.task)
        with pytest.raises(Exception, match="has left its broker"):
            await soon(context.submit("p").result())
        setting.end(setting.executor.started[0])


# ── While a child runs ───────────────────────────────────────────────────────────────────────────────────────────────────


def report(broker: FakeBroker, run: Packet, number: int, chunk: Any) -> None:
    broker.send(packets.progress(run.cookie, 1, number, payloads.encode(chunk, "msgpack"), "msgpack"))


async def collect(child: ChildJob) -> list[Any]:
    return [chunk async for chunk in child]


async def test_a_childs_progress_comes_to_a_coroutine_and_to_a_thread(monkeypatch) -> None:
    monkeypatch.setattr(children, "SOON_S", 20.0)
    monkeypatch.setattr(children, "PARK_AFTER_S", 20.0)
    for gather in (collect, lambda child: asyncio.to_thread(list, child)):
        async with linked() as (broker, setting):
            context = await began(broker, setting)
            child = context.submit("streams", follow=True)
            (run,) = await child_runs(broker)
            assert options_of(run).follow
            for number in (1, 2, 3):
                report(broker, run, number, number * 10)
            answer(broker, run, "done")
            assert await soon(gather(child)) == [10, 20, 30]
            assert await soon(child.result()) == "done"
            assert broker.of(PacketType.PARK) == [], "nothing had to be waited for long"


async def test_a_coroutine_that_would_hold_up_all_others_is_told_what_to_write() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        with pytest.raises(RuntimeError, match="async for chunk in child"):
            next(context.submit("streams", follow=True))


async def test_who_waits_long_for_a_chunk_lends_its_slot_out(monkeypatch) -> None:
    monkeypatch.setattr(children, "PARK_AFTER_S", 0.001)
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        child = context.submit("streams", follow=True)
        (run,) = await child_runs(broker)
        for count, wait in enumerate((lambda: anext(child), lambda: asyncio.to_thread(next, child)), 1):
            task = asyncio.ensure_future(wait())
            await until(lambda count=count: len(broker.of(PacketType.PARK)) == count)  # type: ignore[misc]
            report(broker, run, count, count)
            await grant(broker, count)
            assert await soon(task) == count


async def test_items_go_to_a_running_child_and_its_place_is_told() -> None:
    async with linked() as (broker, setting):
        context = await began(broker, setting)
        child = context.submit("asks")
        (run,) = await child_runs(broker)
        await soon(child.send("yes"))
        await soon(asyncio.to_thread(child.send, "no"))
        await until(lambda: len(broker.of(PacketType.INPUT)) == 2)
        assert [(packet.number, packet.attempt) for packet in broker.of(PacketType.INPUT)] == [(1, 0), (2, 0)]
        broker.send(packets.credit(run.cookie, 0, 2))
        await soon(child.flush())
        await soon(asyncio.to_thread(child.flush))
        task = asyncio.ensure_future(child.status(tree=True))
        await until(lambda: bool(broker.of(PacketType.STATUS)))
        (asked,) = broker.of(PacketType.STATUS)
        job = schemas.JobStatus(state="running", cookie=run.cookie)
        broker.send(packets.reply(PacketType.STATUS, Code.OK, "it runs", cookie=run.cookie, number=asked.number, job=job))
        assert (await soon(task)).state == "running"
