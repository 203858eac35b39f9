"""A client's connection against a broker that says whatever a test wants: it is made, watched, ended, and made again."""

import asyncio
import logging
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import Client
from reasonchip_broker.client import link as module
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import CloseReason, PacketType
from tests.unit.client.ends import RawBroker, raw_broker, soon

RAW = "memory://raw"


@pytest.fixture(autouse=True)
def quick_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt comes at once: what is tested is that it comes."""
    monkeypatch.setattr("reasonchip_broker.peer.backoff.Backoff.next_s", lambda self: 0.001)


async def test_a_connection_that_ends_is_made_again_and_jobs_go_on() -> None:
    async with raw_broker() as broker, Client(RAW, patience_s=0) as client:
        for number in range(3):
            connection = await broker.next_connection()
            await soon(client.connect())
            job = client.submit("p", number)
            run = await broker.next_packet(PacketType.RUN)
            connection.send(packets.result(run.cookie, 1, run.payload, "msgpack"))
            assert await soon(job) == number
            lost = client.submit("p")
            await broker.next_packet(PacketType.RUN)
            connection.abort(CloseReason.NORMAL)
            with pytest.raises(errors.BrokerWentAway):
                await soon(lost)


async def test_what_is_submitted_while_there_is_no_broker_goes_to_the_next_one() -> None:
    broker = await RawBroker(RAW).start()
    async with Client(RAW, patience_s=0) as client:
        canary = client.submit("p")
        await broker.stop()
        with pytest.raises(errors.BrokerWentAway):
            await soon(canary)
        job = client.submit("p", 7)
        async with raw_broker() as successor:
            connection = await successor.next_connection()
            run = await successor.next_packet(PacketType.RUN)
            assert run.payload == b"\x07"
            connection.send(packets.result(run.cookie, 1, run.payload, "msgpack"))
            assert await soon(job) == 7


async def test_without_reconnect_the_end_is_the_end_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    broker = await RawBroker(RAW).start()
    async with Client(RAW, patience_s=0, reconnect=False) as client:
        job = client.submit("p")
        await broker.stop()
        with pytest.raises(errors.BrokerWentAway):
            await soon(job)
        with pytest.raises(errors.ConnectError, match="no connection to memory://raw"):
            await soon(client.run("p"))
    assert "no connection to memory://raw, and no other will be tried: the connection ended" in caplog.text


async def test_connecting_once_tells_the_first_failure_and_leaves_a_client_that_may_try_again() -> None:
    attempts: list[Any] = []

    async def refuse(*arguments: Any) -> None:
        attempts.append(arguments)
        raise errors.ConnectError("nobody there")

    client = Client(RAW, connect_timeout_s=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client._link._transport, "dial", refuse)
        with pytest.raises(errors.ConnectError, match="nobody there"):
            await soon(client.connect(once=True))
    assert len(attempts) == 1
    async with raw_broker():
        await soon(client.connect(once=True))
        assert client.connected
        await client.close()


async def test_a_connection_that_was_made_once_is_made_again_when_it_ends() -> None:
    async with raw_broker() as broker:
        client = Client(RAW)
        await client.connect(once=True)
        async with client:
            job = client.submit("p", 3)
            (await broker.next_connection()).abort(CloseReason.NORMAL)
            connection = await broker.next_connection()
            await broker.next_packet(PacketType.RUN)
            connection.send(packets.result(job.cookie.bytes, 1, b"\x03", "msgpack"))
            assert await soon(job) == 3


async def test_goodbye_fails_the_jobs_with_its_reason_and_the_client_comes_back() -> None:
    async with raw_broker() as broker, Client(RAW, patience_s=0) as client:
        connection = await broker.next_connection()
        job = client.submit("p")
        await broker.next_packet(PacketType.RUN)
        connection.close(CloseReason.SHUTTING_DOWN, "maintenance")
        with pytest.raises(errors.BrokerWentAway, match=r"SHUTTING_DOWN, maintenance"):
            await soon(job)
        await broker.next_connection()
        await soon(client.connect())


@pytest.mark.parametrize("reason", sorted(module.FINAL))
async def test_a_broker_that_will_never_take_us_is_not_asked_again(reason: CloseReason) -> None:
    async with raw_broker(greet=False) as broker:
        connecting = asyncio.create_task(Client(RAW, patience_s=0).connect())
        connection = await broker.next_connection()
        connection.close(reason, "never")
        with pytest.raises(errors.ConnectError, match=rf"{reason.name}, never"):
            await soon(connecting)
        assert broker.connections.empty()


async def test_a_token_that_is_no_good_any_more_ends_a_client_that_was_connected() -> None:
    async with raw_broker() as broker, Client(RAW, patience_s=0) as client:
        connection = await broker.next_connection()
        broker.greet = False
        connection.abort(CloseReason.NORMAL)
        job = client.submit("p")
        connection = await broker.next_connection()
        connection.close(CloseReason.NOT_AUTHENTICATED, "revoked")
        with pytest.raises((errors.ConnectError, errors.BrokerWentAway), match=r"revoked|ended"):
            await soon(job)
        with pytest.raises(errors.ConnectError, match="revoked"):
            await soon(client.connect())


NONSENSE = {
    "a length that is none": b"\x00\x00\x00\x01",
    "meta beyond the frame": b"\x00\x00\x00\x1c\x12" + b"\x00" * 23 + b"\x00\x00\x00\xff",
    "meta that is none": encode(PacketType.RESULT, cookie=b"c" * 16, meta=b"\xc1"),
    "a second welcome": encode(PacketType.WELCOME, meta=b"\x80"),
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + b"\x00" * 100,
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_closes_the_connection_with_a_reason_and_the_client_comes_back(nonsense: bytes) -> None:
    async with raw_broker() as broker, Client(RAW, patience_s=0) as client:
        connection = await broker.next_connection()
        job = client.submit("p")
        await broker.next_packet(PacketType.RUN)
        assert connection._transport is not None
        connection._transport.write(nonsense)
        if nonsense.startswith(b"HTTP"):
            connection._transport.close()  # Read as a length, that is a very large frame: its end never comes.
        else:
            goodbye = await broker.next_packet(PacketType.GOODBYE)
            assert goodbye.code == CloseReason.PROTOCOL_ERROR
        with pytest.raises(errors.BrokerWentAway):
            await soon(job)
        await broker.next_connection()
        await soon(client.connect())


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 31, 32, 40])
async def test_a_connection_that_ends_within_a_frame_is_just_over(cut: int, caplog: pytest.LogCaptureFixture) -> None:
    async with raw_broker() as broker, Client(RAW, patience_s=0) as client:
        connection = await broker.next_connection()
        job = client.submit("p")
        run = await broker.next_packet(PacketType.RUN)
        assert connection._transport is not None
        connection._transport.write(packets.result(run.cookie, 1, b"x" * 100, "bytes")[:cut])
        connection._transport.close()
        with pytest.raises(errors.BrokerWentAway):
            await soon(job)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_result_in_pieces_is_a_result() -> None:
    async with raw_broker() as broker, Client(RAW, patience_s=0) as client:
        connection = await broker.next_connection()
        job = client.submit("p")
        run = await broker.next_packet(PacketType.RUN)
        assert connection._transport is not None
        for byte in packets.result(run.cookie, 1, b"\x05", "msgpack"):
            connection._transport.write(bytes((byte,)))
        assert await soon(job) == 5


@pytest.mark.parametrize("url", ["memory://raw", "tcp://127.0.0.1:0"])
async def test_results_are_read_while_the_broker_takes_no_jobs(url: str) -> None:
    """It may take none just because its results are not read: if the client waited too, both would for ever."""
    async with raw_broker(url, frame=1 << 26) as broker, Client(broker.url, patience_s=0) as client:
        connection = await broker.next_connection()
        job = client.submit("p")
        run = await broker.next_packet(PacketType.RUN)
        assert connection._transport is not None
        connection._transport.pause_reading()
        large = [client.submit("p", b"x" * (8 << 20)) for _ in range(3)]
        await asyncio.sleep(0)
        assert client._exchange._held.jobs, "the connection is full"
        connection.send(packets.result(run.cookie, 1, b"\x01", "msgpack"))
        assert await soon(job) == 1
        connection._transport.resume_reading()
        for _ in large:
            run = await broker.next_packet(PacketType.RUN)
            connection.send(packets.result(run.cookie, 1, b"\x02", "msgpack"))
        assert [await soon(each) for each in large] == [2, 2, 2]


async def test_a_broker_that_does_not_answer_hello_is_given_up() -> None:
    async with raw_broker(greet=False) as broker:
        connecting = asyncio.create_task(Client(RAW, patience_s=0, limits=Limits(handshake_s=0.02), reconnect=False).connect())
        await broker.next_connection()
        with pytest.raises(errors.ConnectError, match=r"did not answer HELLO within 0\.02 s"):
            await soon(connecting)


async def test_a_broker_that_falls_silent_is_asked_and_then_given_up_and_its_jobs_fail() -> None:
    async with raw_broker(beat_ms=20) as broker, Client(RAW, patience_s=0) as client:
        job = client.submit("p")
        await broker.next_packet(PacketType.RUN)
        await broker.next_packet(PacketType.PING)
        with pytest.raises(errors.BrokerWentAway, match="nothing was heard"):
            await soon(job)


async def test_a_ping_is_answered() -> None:
    async with raw_broker() as broker, Client(RAW, patience_s=0):
        (await broker.next_connection()).send(packets.ping(9))
        assert (await broker.next_packet(PacketType.PONG)).number == 9


async def test_closing_says_goodbye_after_what_was_submitted() -> None:
    async with raw_broker() as broker:
        async with Client(RAW, patience_s=0) as client:
            client.with_options(detach=True).submit("p")
        await broker.next_packet(PacketType.RUN)
        assert (await broker.next_packet(PacketType.GOODBYE)).code == CloseReason.NORMAL


async def test_closing_while_connecting_leaves_nothing_behind() -> None:
    client = Client(RAW, patience_s=0)
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(connecting)
    async with raw_broker() as broker:
        connecting = asyncio.create_task(client.connect())
        await broker.next_connection()
        await soon(client.close())
        await asyncio.gather(connecting, return_exceptions=True)
        assert await soon(broker.ends.get()) is not None


async def test_closing_does_not_wait_for_a_broker_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    async with raw_broker(frame=1 << 26) as broker, Client(RAW, patience_s=0) as client:
        connection = await broker.next_connection()
        assert connection._transport is not None
        connection._transport.pause_reading()
        job = client.submit("p", b"x" * (4 << 20))
        await soon(client.close())
        with pytest.raises(errors.BrokerWentAway):
            await job


async def test_an_unexpected_error_of_a_transport_hangs_nobody() -> None:
    """Not every resolver's error is an OSError: this name can't even be encoded."""
    client = Client("tcp://" + "a" * 70 + ".example:1", connect_timeout_s=0.2)
    with pytest.raises(errors.ConnectError, match="can't connect"):
        await soon(client.connect())


async def test_a_bug_while_connecting_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    async with raw_broker() as broker, Client(RAW, patience_s=0) as client:
        monkeypatch.setattr("reasonchip_broker.transports.memory.MemoryClientTransport.dial", broken)
        canary = client.submit("p")
        (await broker.next_connection()).abort(CloseReason.NORMAL)
        with pytest.raises(errors.BrokerWentAway):
            await soon(canary)
        with pytest.raises(errors.ConnectError, match="a bug"):
            await soon(client.run("p"))


async def test_the_pause_between_attempts_grows_until_a_connection_was_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[None] = []
    monkeypatch.setattr("reasonchip_broker.peer.backoff.Backoff.reset", lambda self: resets.append(None))
    async with raw_broker() as broker, Client(RAW, patience_s=0) as client:
        for _ in range(3):
            connection = await broker.next_connection()
            await soon(client.connect())
            connection.abort(CloseReason.NORMAL)
        connection = await broker.next_connection()
        await soon(client.connect())
        assert resets == [], "short-lived connections are no success"
        monkeypatch.setattr(module, "STEADY_S", 0.0)
        connection.abort(CloseReason.NORMAL)
        await broker.next_connection()
        assert resets == [None]
