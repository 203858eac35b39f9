"""An application's wait for a job survives a broken connection: a client against a broker that says whatever a test wants."""

import asyncio
import uuid

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import Client, JobState
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType
from tests.unit.client.ends import RawBroker, raw_broker, soon

RAW = "memory://raw"


@pytest.fixture(autouse=True)
def quick_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt comes at once: what is tested is that it comes."""
    monkeypatch.setattr("reasonchip_broker.peer.backoff.Backoff.next_s", lambda self: 0.001)


async def test_await_survives_connections_that_break() -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        waiting = asyncio.create_task(client.run("p", 5))
        for _ in range(3):
            connection = await broker.next_connection()
            run = await broker.next_packet(PacketType.RUN)
            connection.abort(CloseReason.NORMAL)
        connection = await broker.next_connection()
        run = await broker.next_packet(PacketType.RUN)
        assert schemas.run_options(run.meta).at == broker.welcome.broker
        connection.send(packets.result(run.cookie, 1, run.payload, "msgpack"))
        assert await soon(waiting) == 5


async def test_await_survives_a_broker_that_is_replaced() -> None:
    broker = await RawBroker(RAW).start()
    async with Client(RAW) as client:
        job = client.submit("p", 7)
        await broker.next_packet(PacketType.RUN)
        await broker.stop()
        async with raw_broker() as successor:
            connection = await successor.next_connection()
            run = await successor.next_packet(PacketType.RUN)
            assert run.cookie == job.cookie.bytes
            connection.send(packets.failed(run.cookie, 0, Code.BROKER_WENT_AWAY, "not known here"))
            with pytest.raises(errors.BrokerWentAway, match="not known here") as caught:
                await soon(job)
            assert caught.value.may_have_run


async def test_a_broker_that_stays_away_fails_the_jobs_when_patience_ends() -> None:
    broker = await RawBroker(RAW).start()
    async with Client(RAW, patience_s=0.02) as client:
        job = client.submit("p")
        await broker.next_packet(PacketType.RUN)
        await broker.stop()
        with pytest.raises(errors.BrokerWentAway) as caught:
            await soon(job)
        assert caught.value.may_have_run


async def test_closing_a_client_waits_for_no_connection() -> None:
    broker = await RawBroker(RAW).start()
    async with Client(RAW) as client:
        job = client.submit("p")
        await broker.next_packet(PacketType.RUN)
        await broker.stop()
        with pytest.raises(TimeoutError):
            await job.result(timeout=0.02)
        assert job.state is JobState.ADRIFT
    with pytest.raises(errors.BrokerWentAway):
        await soon(job)


async def test_an_outage_counts_from_when_the_broker_was_last_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        connection = await broker.next_connection()
        job = client.submit("p")
        await broker.next_packet(PacketType.RUN)
        heard_at = client._link._session.heard_at = client._link._session.heard_at - 1000.0
        connection.abort(CloseReason.NORMAL)
        await broker.next_packet(PacketType.ATTACH)
        assert job._forgotten_at == heard_at + broker.welcome.retain / 1000


@pytest.mark.parametrize("patience_s", [-1, float("nan")])
def test_patience_is_no_negative_number(patience_s: float) -> None:
    with pytest.raises(ValueError, match="patience_s"):
        Client(RAW, patience_s=patience_s)


async def test_another_client_attaches_by_cookie() -> None:
    cookie = uuid.uuid4()
    async with raw_broker() as broker, Client(RAW) as client:
        connection = await broker.next_connection()
        job = client.attach(cookie, follow=True, first=3)
        attach = await broker.next_packet(PacketType.ATTACH)
        assert (attach.cookie, schemas.attach_meta(attach.meta).first) == (cookie.bytes, 3)
        connection.send(
            packets.reply(
                PacketType.ATTACH,
                Code.OK,
                "",
                cookie=attach.cookie,
                number=attach.number,
                job=schemas.JobStatus(state="running"),
            )
        )
        connection.send(packets.progress(attach.cookie, 1, 3, b"c", "text"))
        connection.send(packets.result(attach.cookie, 1, b"\x01", "msgpack"))
        assert [chunk async for chunk in job] == ["c"]
        assert await job == 1
        with pytest.raises(ValueError, match="first"):
            client.attach(cookie, first=0)


async def test_attaching_needs_a_client_that_was_connected() -> None:
    with pytest.raises(errors.ConnectError):
        Client(RAW).attach(uuid.uuid4())
