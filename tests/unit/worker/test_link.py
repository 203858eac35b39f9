"""The connection of a worker: with a real broker, and with one that does what a test wants. All in one loop, over memory."""

import asyncio
import logging
import os

import pytest

from reasonchip_broker.errors import ConnectionLost, NotAllowed, UnsupportedPacketType
from reasonchip_broker.limits import MIB, Limits
from reasonchip_broker.peer.backoff import Backoff
from reasonchip_broker.peer.session import Session
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.transports.endpoints import client_transport
from reasonchip_broker.worker import link as links
from reasonchip_broker.worker.link import LinkState
from tests.unit.worker.harness import Outcome, soon, until
from tests.unit.worker.linked import COOKIE, linked


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """The waits of a link, as short as a test."""
    for name in ("SETTLE_S", "STOP_S", "CLOSE_S"):
        monkeypatch.setattr(links, name, 0.05)
    monkeypatch.setattr(Backoff, "next_s", lambda self: 0.001)


# ── Coming ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_says_hello_then_registers_then_runs_jobs() -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        assert [packet.kind for packet in broker.packets] == [PacketType.HELLO, PacketType.REGISTER]
        assert schemas.hello_meta(broker.packets[0].meta).name == "tester"
        register = schemas.register_meta(broker.packets[1].meta)
        assert (register.cap, register.serves) == (2, ["echo"])
        assert setting.desk.frame_bytes_max == 16 * MIB
        broker.run(value=[1])
        setting.end(await setting.begun())
        await until(lambda: bool(broker.of(PacketType.RESULT)))
        result = broker.of(PacketType.RESULT)[0]
        assert (result.cookie, result.attempt, result.code) == (COOKIE, 1, Code.OK)


async def test_a_worker_may_start_before_its_broker(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    async with linked() as (_, setting):
        url, setting.link._transport = setting.link._transport, client_transport("memory://nobody", Role.WORKER)
        setting.start()
        await until(lambda: caplog.text.count("nobody listens there") >= 3)
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == 1, "the same news is news once"
        setting.link._transport = url
        await setting.registered()


async def test_a_registration_that_is_refused_ends_the_worker() -> None:
    async with linked() as (broker, setting):
        broker.answer[PacketType.REGISTER] = Code.NOT_ALLOWED
        setting.start()
        with pytest.raises(NotAllowed, match="so be it"):
            await soon(setting.task)
        assert setting.changes == [False]


async def test_a_worker_that_connects_where_clients_do_is_told_so() -> None:
    async with linked() as (broker, setting):
        broker.answer[PacketType.REGISTER] = Code.UNSUPPORTED_PACKET_TYPE
        setting.start()
        with pytest.raises(UnsupportedPacketType, match="is where a broker's clients connect"):
            await soon(setting.task)


@pytest.mark.parametrize("reason", [CloseReason.REPLACED, CloseReason.NOT_AUTHENTICATED, CloseReason.UNSUPPORTED_VERSION])
async def test_a_worker_that_is_not_to_come_back_does_not(reason) -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.connections[0].close(reason, "go away\x1b[31m")
        with pytest.raises(ConnectionLost, match=reason.name) as caught:
            await soon(setting.task)
        assert caught.value.reason == reason
        assert len(broker.connections) == 1


@pytest.mark.parametrize("reason", [CloseReason.SHUTTING_DOWN, CloseReason.SLOW_CONSUMER, CloseReason.PROTOCOL_ERROR])
async def test_after_any_other_end_it_comes_back(reason, caplog) -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.connections[0].close(reason, "two\nlines\x1b[31m")
        await until(lambda: len(broker.of(PacketType.REGISTER)) == 2)
        await setting.registered()
        assert setting.changes == [True, False, True]
        assert all("\n" not in record.getMessage() and "\x1b" not in record.getMessage() for record in caplog.records)


async def test_what_a_broker_may_not_say_ends_the_connection() -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.send(packets.welcome(schemas.WelcomeMeta(bytes(16), bytes(16), 4096, 1, 1, 2, 1)))
        await until(lambda: len(broker.connections) == 2)
        goodbye = broker.of(PacketType.GOODBYE)[0]
        assert goodbye.code == CloseReason.PROTOCOL_ERROR


async def test_what_is_no_frame_ends_the_connection() -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.send(bytes(64))
        await until(lambda: len(broker.connections) == 2)
        assert broker.of(PacketType.GOODBYE)[0].code == CloseReason.PROTOCOL_ERROR


# ── Staying alive ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_silent_broker_is_left_for_another_connection() -> None:
    async with linked(Limits(heartbeat_s=0.02, lease_s=0.06)) as (broker, setting):
        setting.start()
        await setting.registered()
        broker.connections[0]._transport.pause_reading()  # type: ignore[union-attr]
        await until(lambda: len(broker.connections) == 2)


async def test_a_broker_that_does_not_welcome_is_left() -> None:
    async with linked(Limits(handshake_s=0.03)) as (broker, setting):
        broker.welcomes = False
        setting.start()
        await until(lambda: len(broker.connections) == 2)
        assert broker.of(PacketType.REGISTER) == []


async def test_a_broker_that_answers_pings_is_kept() -> None:
    async with linked(Limits(heartbeat_s=0.01, lease_s=5.0)) as (broker, setting):
        setting.start()
        await until(lambda: len(broker.of(PacketType.PING)) >= 5)
        assert len(broker.connections) == 1


async def test_results_wait_while_the_broker_does_not_read_and_none_is_lost() -> None:
    # Far more than the hard cap of an outbox, at which the connection would end.
    limits = Limits(outbox_bytes_mark=50_000, outbox_bytes_max=100_000)
    async with linked(limits) as (broker, setting):
        setting.start()
        await setting.registered()
        theirs = broker.connections[0]._transport
        assert theirs is not None
        theirs.pause_reading()
        cookies = [os.urandom(16) for _ in range(50)]
        for cookie in cookies:
            setting.link.transmit(packets.result(cookie, 1, b"x" * 20_000, "bytes"))
        await asyncio.sleep(0)
        assert len(setting.link._outflow)
        theirs.resume_reading()
        await until(lambda: len(broker.of(PacketType.RESULT)) == 50)
        assert [packet.cookie for packet in broker.of(PacketType.RESULT)] == cookies
        assert len(broker.connections) == 1


async def test_the_silence_of_a_broker_that_is_not_read_from_does_not_count(monkeypatch) -> None:
    limits = Limits(outbox_bytes_mark=50_000, heartbeat_s=0.02, lease_s=0.06)
    async with linked(limits) as (broker, setting):
        setting.start()
        await setting.registered()
        theirs = broker.connections[0]._transport
        assert theirs is not None
        theirs.pause_reading()
        setting.link.transmit(packets.result(COOKIE, 1, b"x" * 100_000, "bytes"))
        await until(lambda: setting.link._outflow.congested)
        checks = 0
        check = Session.check

        def count(session: Session, now: float) -> bytes | None:
            nonlocal checks
            checks += 1
            return check(session, now)

        monkeypatch.setattr(Session, "check", count)
        await until(lambda: checks >= 8)
        theirs.resume_reading()
        await until(lambda: bool(broker.of(PacketType.RESULT)))
        assert len(broker.connections) == 1


# ── Losing the connection ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_jobs_of_a_lost_connection_are_stopped_and_their_results_sent_nowhere() -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.run(value="old")
        job = await setting.begun()
        broker.connections[0].abort(CloseReason.INTERNAL_ERROR)
        await until(lambda: setting.executor.stopped == [(job, True)])
        await until(lambda: len(broker.connections) == 2)
        setting.end(job)
        await until(lambda: len(broker.of(PacketType.REGISTER)) == 2)
        assert schemas.register_meta(broker.of(PacketType.REGISTER)[1].meta).cap == 2, "it waited for the slot"
        assert broker.of(PacketType.RESULT) == []


async def test_slots_that_a_lost_job_keeps_are_not_offered_until_it_has_ended(caplog) -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.run()
        stuck = await setting.begun()
        broker.connections[0].abort(CloseReason.INTERNAL_ERROR)
        await until(lambda: len(broker.of(PacketType.REGISTER)) == 2)
        assert schemas.register_meta(broker.of(PacketType.REGISTER)[1].meta).cap == 1
        assert "1 of 2 slots are still taken" in caplog.text
        await setting.registered()
        broker.run(os.urandom(16), value=5)
        job = await setting.begun(2)
        setting.end(stuck)
        setting.end(job)
        # Now that all slots are free it leaves in good order, and is back with all of them.
        await until(lambda: len(broker.of(PacketType.REGISTER)) == 3)
        assert schemas.register_meta(broker.of(PacketType.REGISTER)[2].meta).cap == 2
        kinds = [packet.kind for packet in broker.packets]
        assert kinds[-5:] == [
            PacketType.RESULT,
            PacketType.DRAIN,
            PacketType.GOODBYE,
            PacketType.HELLO,
            PacketType.REGISTER,
        ]


async def test_a_worker_without_a_free_slot_waits_for_one_before_it_registers() -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.run()
        first = await setting.begun()
        broker.run(os.urandom(16))
        second = await setting.begun(2)
        broker.connections[0].abort(CloseReason.INTERNAL_ERROR)
        await until(lambda: setting.link.state is LinkState.SETTLING)
        await asyncio.sleep(links.SETTLE_S * 3)
        assert len(broker.of(PacketType.REGISTER)) == 1
        setting.end(first)
        await until(lambda: len(broker.of(PacketType.REGISTER)) == 2)
        setting.end(second)


# ── Leaving ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_leaving_drains_finishes_and_says_goodbye() -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.run(value=1)
        first = await setting.begun()
        broker.answer[PacketType.DRAIN] = None
        setting.link.leave()
        await until(lambda: bool(broker.of(PacketType.DRAIN)))
        # A RUN that crosses the DRAIN is a job like any other.
        crossing = os.urandom(16)
        broker.run(crossing, value=2)
        second = await setting.begun(2)
        setting.end(first)
        broker.send(packets.reply(PacketType.DRAIN, Code.OK, "no more", number=broker.of(PacketType.DRAIN)[0].number))
        await until(lambda: setting.link.state is LinkState.DISMISSED)
        setting.end(second)
        await soon(setting.task)
        kinds = [packet.kind for packet in broker.packets]
        assert kinds[2:] == [PacketType.DRAIN, PacketType.RESULT, PacketType.RESULT, PacketType.GOODBYE]
        assert broker.packets[-1].code == CloseReason.NORMAL


async def test_what_is_not_done_when_the_time_is_over_is_stopped_and_left_to_the_broker(caplog) -> None:
    async with linked() as (broker, setting):
        setting.start(drain_s=0.02)
        await setting.registered()
        broker.run()
        stopped = await setting.begun()
        broker.run(os.urandom(16))
        stuck = await setting.begun(2)
        setting.link.leave()
        await until(lambda: len(setting.executor.stopped) == 2)
        setting.link.report((stopped, stopped.cancelled("cancelled while it ran")))
        await soon(setting.task)
        assert broker.of(PacketType.RESULT) == []
        assert broker.packets[-1].kind == PacketType.GOODBYE
        assert "2 unfinished jobs are stopped" in caplog.text
        setting.end(stuck)


async def test_what_is_done_after_all_while_it_is_stopped_is_delivered(monkeypatch) -> None:
    monkeypatch.setattr(links, "STOP_S", 20.0)
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.run(value="done")
        job = await setting.begun()
        setting.link.leave()
        await until(lambda: setting.link.state is LinkState.DISMISSED)
        assert setting.executor.stopped == []
        setting.link.hurry()
        await until(lambda: len(setting.executor.stopped) == 1)
        setting.end(job)
        await soon(setting.task)
        assert [packet.kind for packet in broker.packets][-2:] == [PacketType.RESULT, PacketType.GOODBYE]


async def test_goodbye_comes_after_results_that_had_to_wait() -> None:
    async with linked(Limits(outbox_bytes_mark=50_000)) as (broker, setting):
        setting.start()
        await setting.registered()
        broker.run(value="x" * 40_000)
        job = await setting.begun()
        theirs = broker.connections[0]._transport
        assert theirs is not None
        setting.link.leave()
        await until(lambda: setting.link.state is LinkState.DISMISSED)
        theirs.pause_reading()
        setting.link.transmit(packets.result(os.urandom(16), 1, b"x" * 100_000, "bytes"))
        await until(lambda: setting.link._outflow.congested)
        setting.end(job)
        theirs.resume_reading()
        await soon(setting.task)
        assert [packet.kind for packet in broker.packets][-3:] == [PacketType.RESULT, PacketType.RESULT, PacketType.GOODBYE]


async def test_a_worker_that_is_not_connected_leaves_at_once() -> None:
    async with linked() as (_, setting):
        setting.link._transport = client_transport("memory://nobody", Role.WORKER)
        setting.start()
        await asyncio.sleep(0)
        setting.link.leave()
        await soon(setting.task)


async def test_a_broker_that_does_not_answer_a_farewell_does_not_hold_up_the_leaving() -> None:
    async with linked() as (broker, setting):
        broker.answer[PacketType.DRAIN] = None
        broker.closes_on_goodbye = False
        setting.start(drain_s=0.02)
        await setting.registered()
        setting.link.leave()
        await soon(setting.task)
        assert broker.packets[-1].kind == PacketType.GOODBYE


async def test_a_worker_that_the_broker_drains_finishes_leaves_and_comes_back() -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.run(value=1)
        job = await setting.begun()
        broker.send(packets.drain())
        await until(lambda: setting.link.state is LinkState.DISMISSED)
        setting.end(job)
        await until(lambda: len(broker.of(PacketType.REGISTER)) == 2)
        kinds = [packet.kind for packet in broker.packets]
        assert kinds[2:] == [PacketType.RESULT, PacketType.GOODBYE, PacketType.HELLO, PacketType.REGISTER]


async def test_jobs_are_cancelled_on_the_brokers_word() -> None:
    async with linked() as (broker, setting):
        setting.start()
        await setting.registered()
        broker.run()
        await until(lambda: len(setting.executor.started) == 1)
        broker.send(packets.cancel(COOKIE, attempt=1))
        await until(lambda: bool(broker.of(PacketType.RESULT)))
        assert broker.of(PacketType.RESULT)[0].code == Code.CANCELLED


async def test_a_run_over_this_ends_limit_is_answered() -> None:
    async with linked() as (broker, setting):
        setting.link._limits = Limits(frame_bytes_max=4096)
        setting.start()
        await setting.registered()
        broker.run(value="x" * 5000)
        await until(lambda: bool(broker.of(PacketType.RESULT)))
        result = broker.of(PacketType.RESULT)[0]
        assert (result.code, result.cookie) == (Code.TOO_LARGE, COOKIE)
        outcome = Outcome(packets.failed(result.cookie, 1, Code(result.code), ""))
        assert outcome.code == Code.TOO_LARGE
