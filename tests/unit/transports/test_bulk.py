"""Large frames, read straight to where they belong: what of it can be seen at a connection over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import uvloop

from reasonchip_broker.limits import KIB, MIB, Limits
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.protocol.frames import PREFACE, Frame
from reasonchip_broker.testing.transport_peers import Peer, Recorder, numbered
from reasonchip_broker.transports import bulk
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.memory import MemoryClientTransport, MemoryServerTransport
from reasonchip_broker.transports.tcp import TcpServerTransport

LARGE = numbered(1, MIB)


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop) as runner:
        yield runner


class Listener(Recorder):
    """One that can be waited for whenever anything has come."""

    def __init__(self) -> None:
        super().__init__()
        self.signs = 0

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        self.signs += 1
        super().received(connection, frames)
        self.changed()


@dataclass
class Scene:
    """A connection of a listener, and who is at its other end."""

    recorder: Listener
    connection: Connection
    peer: Peer

    async def hear(self, data: bytes) -> None:
        """Let the peer send bytes, of which the last make a frame, and wait for that."""
        known = len(self.recorder.frames[self.connection])
        self.peer.live.write(data)
        await self.recorder.until(lambda: len(self.recorder.frames[self.connection]) > known, "a frame did not arrive")

    async def begin(self, begin: int = 0, end: int = 100 * KIB) -> None:
        """Let the peer send these bytes of a large frame, and wait until they are there."""
        self.peer.live.write(LARGE[begin:end])
        await self.recorder.until(lambda: self.connection.buffered_bytes >= end, "a part of a frame did not arrive")
        assert self.connection.reads_in_bulk


@asynccontextmanager
async def scene(limits: Limits | None = None, preface: bytes = PREFACE) -> AsyncIterator[Scene]:
    recorder, peer = Listener(), Peer()
    transport = TcpServerTransport("127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    await transport.start(Role.CLIENT, recorder, limits or Limits(), Flusher(loop))
    await loop.create_connection(lambda: peer, "127.0.0.1", transport.port)
    peer.live.write(preface)
    await recorder.until(lambda: bool(recorder.connections), "a connection was not announced")
    try:
        yield Scene(recorder, recorder.connections[0], peer)
    finally:
        peer.live.abort()
        await recorder.until(lambda: recorder.count("closed") == 1, "its end was not told")
        await transport.stop()
        recorder.require_order()


def test_a_connection_is_read_in_bulk_from_a_large_frame_until_none_has_come_for_a_while(runner: asyncio.Runner) -> None:
    async def check() -> None:
        async with scene() as it:
            await it.hear(numbered(0))
            assert not it.connection.reads_in_bulk
            await it.begin()
            await it.hear(LARGE[100 * KIB :])
            for number in range(bulk._PATIENCE // 2):
                await it.hear(numbered(number))
            await it.hear(LARGE)
            it.recorder.frames[it.connection] = []
            # With its last byte the large frame took the first of the reads that it may be waited for.
            small = [numbered(number, number) for number in range(bulk._PATIENCE - 1)]
            for frame in small:
                assert it.connection.reads_in_bulk
                await it.hear(frame)
            assert not it.connection.reads_in_bulk
            await it.hear(LARGE)
            assert it.connection.reads_in_bulk
            assert [frame[2] for frame in it.recorder.frames[it.connection]] == [*small, LARGE]

    runner.run(check())


def test_bytes_that_are_written_to_their_place_are_a_sign_of_life(runner: asyncio.Runner) -> None:
    async def check() -> None:
        async with scene() as it:
            await it.begin()
            known = it.recorder.signs
            await it.begin(100 * KIB, 200 * KIB)
            assert it.recorder.signs > known

    runner.run(check())


def test_a_peer_that_leaves_in_the_middle_of_a_large_frame_has_left(runner: asyncio.Runner) -> None:
    async def check() -> None:
        async with scene() as it:
            await it.begin()
            it.peer.live.write_eof()
            await it.recorder.until(lambda: it.recorder.count("closed") == 1, "its end was not told")
            assert it.recorder.reasons[it.connection] == CloseReason.PEER_CLOSED
            assert it.recorder.frames[it.connection] == []

    runner.run(check())


def test_a_connection_that_is_closed_in_the_middle_of_a_large_frame_hears_no_more_of_it(runner: asyncio.Runner) -> None:
    async def check() -> None:
        async with scene() as it:
            await it.begin()
            it.connection.close(CloseReason.NORMAL, "enough")
            it.peer.live.write(LARGE[100 * KIB :] + numbered(2))
            await it.peer.until(lambda: it.peer.goodbye() is not None, "no farewell arrived")
            it.peer.live.write_eof()
            await it.recorder.until(lambda: it.recorder.count("closed") == 1, "its end was not told")
            assert it.recorder.frames[it.connection] == []
            assert it.peer.goodbye() == (CloseReason.NORMAL, "enough")

    runner.run(check())


def test_a_peer_that_is_read_in_bulk_and_does_not_read_is_congested_and_then_not(runner: asyncio.Runner) -> None:
    async def check() -> None:
        async with scene() as it:
            await it.begin()
            it.peer.live.pause_reading()
            it.connection.send(numbered(5, 16 * MIB))
            await it.recorder.until(lambda: it.recorder.is_congested(it.connection), "congestion was not told")
            it.peer.live.resume_reading()
            await it.recorder.until(lambda: not it.recorder.is_congested(it.connection), "it stayed congested")
            await it.hear(LARGE[100 * KIB :])

    runner.run(check())


def test_a_large_json_frame_that_stops_coming_is_overdue_though_it_is_read_in_bulk(runner: asyncio.Runner) -> None:
    async def check() -> None:
        body = (MIB).to_bytes(4, "big") + b'{"packet_type": "RUN", "cookie": "'
        async with scene(Limits(handshake_s=0.2), body) as it:
            it.peer.live.write(b"x" * 100 * KIB)
            await it.recorder.until(lambda: bool(it.recorder.offences), "it was not overdue")
            assert it.connection.reads_in_bulk
            assert it.recorder.offences[it.connection][0] == CloseReason.HANDSHAKE_TIMEOUT

    runner.run(check())


async def test_where_there_is_no_socket_nothing_is_read_in_bulk() -> None:
    loop = asyncio.get_running_loop()
    transport, recorder, peer = MemoryServerTransport("bulk"), Listener(), Peer()
    await transport.start(Role.CLIENT, recorder, Limits(), Flusher(loop))
    MemoryClientTransport("bulk").connect(peer)
    await recorder.until(lambda: bool(recorder.connections), "a connection was not announced")
    connection = recorder.connections[0]
    peer.live.write(PREFACE + LARGE[: 100 * KIB])
    await recorder.until(lambda: connection.buffered_bytes == 100 * KIB, "a part of a frame did not arrive")
    assert not connection.reads_in_bulk
    peer.live.write(LARGE[100 * KIB :])
    await recorder.until(lambda: len(recorder.frames[connection]) == 1, "a frame did not arrive")
    await transport.stop()
