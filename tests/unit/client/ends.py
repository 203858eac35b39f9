"""The other ends that a client is tested against: a worker that does as it is told, and a broker that says whatever a test wants.

Both are raw connections that speak the protocol's own packets. Each waiting step has a deadline; none polls.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from reasonchip_broker.broker import Broker
from reasonchip_broker.limits import Limits
from reasonchip_broker.peer import payloads
from reasonchip_broker.peer.session import Session
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.endpoints import client_transport, server_transport
from reasonchip_broker.transports.flusher import Flusher

Value = TypeVar("Value")

DEADLINE_S = 10.0

Answer = Callable[["StubWorker", Packet], None]


class Ended:
    """The parts of a connection's handler that nobody here has a use for."""

    def accepts(self, connection: Connection) -> bool:
        return True

    def offended(self, connection: Connection, reason: CloseReason, sentence: str) -> None:
        raise AssertionError(f"{reason.name}: {sentence}")

    def congested(self, connection: Connection) -> None: ...

    def writable(self, connection: Connection) -> None: ...


def echo(worker: "StubWorker", run: Packet) -> None:
    """Answer a RUN with its own variables."""
    options = schemas.run_options(run.meta)
    worker.connection.send(packets.result(run.cookie, run.attempt, run.payload, options.enc))


def hold(worker: "StubWorker", run: Packet) -> None:
    """Leave a RUN to the test."""


class StubWorker(Ended):
    """A worker on a raw connection. Every RUN is put in `runs`, every CANCEL in `cancels`, and every RUN is given to `answer`."""

    def __init__(self, answer: Answer = echo, capacity: int = 64, serves: list[str] | None = None) -> None:
        self.runs: asyncio.Queue[Packet] = asyncio.Queue()
        self.cancels: asyncio.Queue[Packet] = asyncio.Queue()
        self.registered = asyncio.Event()
        self.gone = asyncio.Event()
        self.connection: Connection
        self.answer = answer
        self._meta = schemas.RegisterMeta(cap=capacity, serves=serves or ["*"])
        self._session = Session(Role.WORKER, schemas.HelloMeta(name="stub", inst=bytes(range(16))), Limits())

    async def connect(self, url: str) -> "StubWorker":
        loop = asyncio.get_running_loop()
        await client_transport(url, Role.WORKER).dial(Role.WORKER, self, Limits(), Flusher(loop))
        await soon(self.registered.wait())
        return self

    async def next_run(self) -> Packet:
        return await soon(self.runs.get())

    async def next_cancel(self) -> Packet:
        return await soon(self.cancels.get())

    def succeed(self, run: Packet, value: object, encoding: str = "msgpack") -> None:
        payload, tag = payloads.encode_tagged(value, encoding)
        self.connection.send(packets.result(run.cookie, run.attempt, payload, tag))

    def fail(self, run: Packet, code: Code, error: str, **more: Any) -> None:
        self.connection.send(packets.failed(run.cookie, run.attempt, code, error, **more))

    def opened(self, connection: Connection) -> None:
        self.connection = connection
        connection.send(self._session.opening())

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        fresh = self._session.welcome is None
        answers, frames = self._session.receive(frames, asyncio.get_running_loop().time())
        for frame in answers:
            connection.send(frame)
        if fresh and self._session.welcome is not None:
            connection.send(packets.register(self._meta))
        for packet in (decode(frame[2]) for frame in frames):
            if packet.kind == PacketType.RUN:
                self.runs.put_nowait(packet)
                self.answer(self, packet)
            elif packet.kind == PacketType.CANCEL:
                self.cancels.put_nowait(packet)
            elif packet.kind == PacketType.REPLY and packet.code == Code.OK:
                self.registered.set()

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        self.gone.set()


class RawBroker(Ended):
    """A listener that says what a test tells it to.

    Every packet of a client goes into `packets` (what an ACK says: into `acks`), every connection that said HELLO into
    `connections`, every end into `ends`.
    Unless `greet` is False, HELLO is answered with a WELCOME.
    """

    def __init__(
        self, url: str, *, greet: bool = True, jobs: int = 100, beat_ms: int = 10_000, frame: int = 1 << 20, credit: int = 1
    ) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.packets: asyncio.Queue[Packet] = asyncio.Queue()
        self.ends: asyncio.Queue[CloseReason] = asyncio.Queue()
        self.acks: list[int] = []
        self.greet = greet
        self.welcome = schemas.WelcomeMeta(
            conn=b"c" * 16, broker=b"b" * 16, frame=frame, jobs=jobs, beat=beat_ms, dead=3 * beat_ms, credit=credit
        )
        self._transport = server_transport(url, Role.CLIENT)
        self._open: set[Connection] = set()

    @property
    def url(self) -> str:
        return self._transport.url

    async def start(self) -> "RawBroker":
        loop = asyncio.get_running_loop()
        await self._transport.start(Role.CLIENT, self, Limits(), Flusher(loop))
        return self

    async def stop(self) -> None:
        await self._transport.stop()
        for connection in self._open:
            connection.abort(CloseReason.NORMAL)
        while self._open:
            await soon(self.ends.get())

    async def next_connection(self) -> Connection:
        return await soon(self.connections.get())

    async def next_packet(self, kind: int) -> Packet:
        """The next packet, which must be of this kind."""
        packet = await soon(self.packets.get())
        assert packet.kind == kind
        return packet

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        for packet in (decode(frame[2]) for frame in frames):
            if packet.kind == PacketType.ACK:
                self.acks.append(packet.number)
                continue
            if packet.kind != PacketType.HELLO:
                self.packets.put_nowait(packet)
                continue
            connection.context = schemas.hello_meta(packet.meta)
            if self.greet:
                connection.welcome()
                connection.send(packets.welcome(self.welcome))
            self.connections.put_nowait(connection)

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        self._open.discard(connection)
        self.ends.put_nowait(reason)


@asynccontextmanager
async def raw_broker(url: str = "memory://raw", **how: Any) -> AsyncIterator[RawBroker]:
    """A raw broker, and its end."""
    broker = await RawBroker(url, **how).start()
    try:
        yield broker
    finally:
        await broker.stop()


@asynccontextmanager
async def real_broker(scheme: str = "memory", **how: Any) -> AsyncIterator[Broker]:
    """A real broker in this loop, and its end."""
    urls = ("memory://clients", "memory://workers") if scheme == "memory" else ("tcp://127.0.0.1:0",) * 2
    broker = Broker([server_transport(urls[0], Role.CLIENT)], [server_transport(urls[1], Role.WORKER)], **how)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
        broker.switchboard.invariants()


async def soon(awaitable: Awaitable[Value]) -> Value:
    """What is awaited, which must come within the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable
