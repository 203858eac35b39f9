"""A worker with a session: what becomes of its jobs and results when connections end."""

import asyncio
import os

import pytest

from reasonchip_broker.errors import ConnectionLost
from reasonchip_broker.peer.backoff import Backoff
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.transports.endpoints import client_transport
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker import link as links
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.link import LinkState
from tests.unit.worker.harness import soon, until
from tests.unit.worker.linked import COOKIE, FakeBroker, Setting, linked

GRACE_S = 30


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """The waits of a link, as short as a test."""
    for name in ("SETTLE_S", "STOP_S", "CLOSE_S"):
        monkeypatch.setattr(links, name, 0.05)
    monkeypatch.setattr(Backoff, "next_s", lambda self: 0.001)


async def began(broker: FakeBroker, setting: Setting, value: object = None) -> Job:
    setting.start()
    await setting.registered()
    broker.run(value=value)
    return await setting.begun()


async def cut(broker: FakeBroker, setting: Setting) -> None:
    """End the connection as a network does."""
    broker.connections[-1].abort(CloseReason.INTERNAL_ERROR)
    await until(lambda: setting.link.state is LinkState.DOWN)


def registers(broker: FakeBroker) -> list[schemas.RegisterMeta]:
    return [schemas.register_meta(packet.meta) for packet in broker.of(PacketType.REGISTER)]


async def test_jobs_go_on_through_a_break_and_their_results_arrive() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        job = await began(broker, setting, "kept")
        assert schemas.hello_meta(broker.packets[0].meta).grace == GRACE_S
        await cut(broker, setting)
        assert not contexts.was_told(job.context)
        await until(lambda: len(registers(broker)) == 2)
        assert registers(broker)[1].held == [(COOKIE, 1)]
        assert registers(broker)[1].cap == 2, "the broker knows that the job holds one of them"
        await setting.registered()
        setting.end(job)
        await until(lambda: setting.desk.owed == 0)
        (result,) = broker.of(PacketType.RESULT)
        assert (result.code, result.cookie) == (Code.OK, COOKIE)


async def test_the_same_process_says_so_when_it_comes_back() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        await began(broker, setting)
        await cut(broker, setting)
        await until(lambda: len(broker.of(PacketType.HELLO)) == 2)
        first, second = (schemas.hello_meta(packet.meta) for packet in broker.of(PacketType.HELLO))
        assert (first.name, first.inst) == (second.name, second.inst)


async def test_a_result_of_the_break_is_delivered_after_it() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        job = await began(broker, setting, "late")
        away, setting.link._transport = setting.link._transport, client_transport("memory://nobody", Role.WORKER)
        await cut(broker, setting)
        setting.end(job)
        assert setting.desk.owed == 1
        setting.link._transport = away
        await until(lambda: bool(broker.of(PacketType.RESULT)))
        assert registers(broker)[1].held == [(COOKIE, 1)]
        kinds = [packet.kind for packet in broker.packets]
        assert kinds[-2:] == [PacketType.REGISTER, PacketType.RESULT]
        await until(lambda: setting.desk.owed == 0)


async def test_a_result_that_was_not_acknowledged_is_sent_again() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        broker.acks = False
        job = await began(broker, setting, "perhaps")
        setting.end(job)
        await until(lambda: len(broker.of(PacketType.RESULT)) == 1)
        broker.acks = True
        await cut(broker, setting)
        await until(lambda: len(broker.of(PacketType.RESULT)) == 2)
        first, second = broker.of(PacketType.RESULT)
        assert first.payload == second.payload
        await until(lambda: setting.desk.owed == 0)


async def test_what_the_broker_does_not_confirm_is_stopped() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        job = await began(broker, setting)
        broker.confirms = False
        await cut(broker, setting)
        await until(lambda: setting.executor.stopped == [(job, True)])
        setting.link.report((job, job.cancelled("cancelled while it ran")))
        await until(lambda: bool(broker.of(PacketType.RESULT)))
        assert broker.of(PacketType.RESULT)[0].code == Code.CANCELLED
        assert setting.desk.free == 2


async def test_progress_waits_through_the_break_and_its_numbers_go_on() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        job = await began(broker, setting)
        await job.context.progress("one")
        await until(lambda: len(broker.of(PacketType.PROGRESS)) == 1)
        await cut(broker, setting)
        waiting = asyncio.ensure_future(job.context.progress("two"))
        await soon(waiting)
        await until(lambda: len(broker.of(PacketType.PROGRESS)) == 2)
        assert [packet.number for packet in broker.of(PacketType.PROGRESS)] == [1, 2]
        assert [packet.kind for packet in broker.packets][-2:] == [PacketType.REGISTER, PacketType.PROGRESS]


async def test_a_worker_that_was_replaced_stops_its_jobs_and_does_not_come_back() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        job = await began(broker, setting)
        broker.connections[0].close(CloseReason.REPLACED, "the same worker has connected anew")
        with pytest.raises(ConnectionLost, match="another worker of the name 'tester' has taken this one's place") as caught:
            await soon(setting.task)
        assert caught.value.reason == CloseReason.REPLACED
        assert setting.executor.stopped == [(job, True)]
        assert len(broker.connections) == 1
        setting.end(job)


async def test_without_a_session_a_break_loses_the_jobs() -> None:
    async with linked() as (broker, setting):
        job = await began(broker, setting)
        await cut(broker, setting)
        assert contexts.was_told(job.context)
        setting.end(job)
        await until(lambda: len(registers(broker)) == 2)
        assert registers(broker)[1].held == []
        assert broker.of(PacketType.RESULT) == []


async def test_jobs_that_the_broker_cannot_be_waiting_for_are_stopped(monkeypatch) -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        job = await began(broker, setting)
        setting.link._grace._grace_s = 0
        setting.link._dead_s = 0.01
        setting.link._transport = client_transport("memory://nobody", Role.WORKER)
        await cut(broker, setting)
        await until(lambda: setting.executor.stopped == [(job, True)])
        setting.end(job)


# ── Leaving ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_that_is_to_stop_comes_back_to_deliver_what_it_owes() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        job = await began(broker, setting, "owed")
        away, setting.link._transport = setting.link._transport, client_transport("memory://nobody", Role.WORKER)
        await cut(broker, setting)
        setting.link.leave()
        await until(setting.link._stop.is_set)
        setting.link._transport = away
        await until(lambda: bool(broker.of(PacketType.DRAIN)))
        setting.end(job)
        await soon(setting.task)
        kinds = [packet.kind for packet in broker.packets]
        assert kinds[-4:] == [PacketType.REGISTER, PacketType.DRAIN, PacketType.RESULT, PacketType.GOODBYE]


async def test_goodbye_waits_for_the_last_acknowledgement_but_not_for_ever(monkeypatch) -> None:
    for acks in (True, False):
        monkeypatch.setattr(links, "ACK_S", 20.0 if acks else 0.02)
        async with linked(grace_s=GRACE_S) as (broker, setting):
            broker.acks = False
            job = await began(broker, setting, "last")
            setting.link.leave()
            await until(lambda: setting.link.state is LinkState.DISMISSED)
            setting.end(job)
            await until(lambda: bool(broker.of(PacketType.RESULT)))
            await asyncio.sleep(0)
            assert broker.of(PacketType.GOODBYE) == []
            if acks:
                broker.send(packets.ack(1))
            await soon(setting.task)
            assert broker.packets[-1].kind == PacketType.GOODBYE


async def test_a_stop_that_does_not_wait_does_not_wait_for_a_connection_either() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        job = await began(broker, setting)
        setting.link._transport = client_transport("memory://nobody", Role.WORKER)
        await cut(broker, setting)
        setting.link.leave()
        setting.link.hurry()
        await soon(setting.task)
        assert contexts.was_told(job.context)
        setting.end(job)


async def test_a_worker_that_an_operator_drains_leaves_for_good() -> None:
    async with linked() as (broker, setting):
        job = await began(broker, setting, "last")
        broker.send(packets.drain(worker="tester"))
        await until(lambda: setting.link.state is LinkState.DISMISSED)
        setting.end(job)
        await soon(setting.task)
        assert [packet.kind for packet in broker.packets][2:] == [PacketType.RESULT, PacketType.GOODBYE]
        assert len(broker.connections) == 1


async def test_no_result_is_lost_through_ten_breaks() -> None:
    async with linked(grace_s=GRACE_S) as (broker, setting):
        setting.start()
        await setting.registered()
        for turn in range(10):
            for count in (1, 2):
                broker.run(os.urandom(16), value=turn)
                await setting.begun(2 * turn + count)
            early, late = setting.executor.started[-2:]
            setting.end(early)
            await cut(broker, setting)
            setting.end(late)
            await until(lambda: setting.changes[-1:] == [True] and setting.desk.owed == 0)
        assert {packet.cookie for packet in broker.of(PacketType.RESULT)} == {job.cookie for job in setting.executor.started}
        assert {packet.code for packet in broker.of(PacketType.RESULT)} == {Code.OK}
