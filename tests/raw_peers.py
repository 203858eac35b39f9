"""Clients and workers made of nothing but frames: what a broker's tests need to say exactly what they want to, at any step.

The product's own client and worker refuse to misbehave; these do as they are told. They work over any transport that `connect` knows.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from reasonchip_broker.broker import Broker
from reasonchip_broker.limits import MIB, Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode, meta_of, payload_of
from reasonchip_broker.protocol.codes import ENCODING_BYTES, CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import PREFACE, BinaryDecoder, Frame
from reasonchip_broker.testing.transport_peers import DEADLINE_S, Peer
from reasonchip_broker.transports.endpoints import Endpoint, parse, server_transport
from reasonchip_broker.transports.memory import MemoryClientTransport
from tests import attentive

P = TypeVar("P", bound=asyncio.Protocol)


_dials: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[asyncio.Transport]]] = []
"""All that `connect` has begun since the last `hang_up`, done or not: a connection has to be known here before it is made."""


async def connect(url: str, protocol: P) -> P:
    """Connect a protocol to a URL of tcp, unix or memory. `hang_up` ends what is left of such connections."""
    loop = asyncio.get_running_loop()
    dial: asyncio.Future[asyncio.Transport]
    endpoint = parse(url, Role.CLIENT)
    if endpoint.scheme == "memory":
        dial = loop.create_future()
        dial.set_result(MemoryClientTransport(endpoint.path).connect(protocol))
    else:
        dial = loop.create_task(_dial(endpoint, protocol))
    _dials.append((loop, dial))
    await dial
    return protocol


async def _dial(endpoint: Endpoint, protocol: asyncio.Protocol) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    if endpoint.scheme == "unix":
        transport, _ = await loop.create_unix_connection(lambda: protocol, endpoint.path)
    else:
        transport, _ = await loop.create_connection(lambda: protocol, endpoint.host, endpoint.port)
    return transport


async def hang_up() -> None:
    """End every connection of this loop that `connect` has made, is making, or is about to make.

    When a test fails while it connects a hundred peers at a time, some are connected, some are half connected, and some tasks have not
    begun. None of them has anybody left who waits for it, so whatever is not ended here is a socket that is found open when its loop
    has long been closed, in the middle of some other test.
    """
    loop = asyncio.get_running_loop()
    _dials[:] = [(owner, dial) for owner, dial in _dials if not owner.is_closed()]
    while True:
        await asyncio.sleep(0)  # who was about to connect does so now
        mine = [dial for owner, dial in _dials if owner is loop]
        if not mine:
            return
        _dials[:] = [(owner, dial) for owner, dial in _dials if owner is not loop]
        for dial in mine:
            dial.cancel()
        for made in await asyncio.gather(*mine, return_exceptions=True):
            # One that was closed before all was written, and is gone, can't be aborted: CPython 3.11 fails over that.
            if not isinstance(made, BaseException):
                held = made.get_extra_info("socket")
                if held is None or held.fileno() >= 0:
                    made.abort()


def options(pipeline: str, **more: object) -> bytes:
    """A RUN's options, encoded."""
    return schemas.encode_meta(schemas.RunOptions(p=pipeline, enc=ENCODING_BYTES, **more))  # type: ignore[arg-type]


HELLO = PREFACE + packets.hello(schemas.HelloMeta(sw="raw", v="1"))


class RawPeer(Peer):
    """A connection that keeps what it hears: `frames` in order, the last of each kind for a cookie in `heard`."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[tuple[int, bytes], Frame] = {}
        self.heard_at: dict[bytes, float] = {}
        """When the last frame with a cookie came, on the loop's clock."""
        self._loop = asyncio.get_running_loop()
        self._decoder = BinaryDecoder(64 * MIB)

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self.frames.append(frame)
            self.heard[frame[0], frame[1]] = frame
            self.heard_at[frame[1]] = self._loop.time()
            self.hears(frame)
        self.changed()

    def hears(self, frame: Frame) -> None:
        """Each frame, as it comes."""
        if frame[0] == PacketType.PING:
            self.send(packets.pong(frame[5]))

    def send(self, *frames: bytes) -> None:
        """Write frames, or any other bytes."""
        self.live.write(b"".join(frames))

    async def kind(self, kind: PacketType, cookie: bytes = bytes(16)) -> Packet:
        """Wait for a packet of a kind (and cookie)."""
        await self.until(lambda: (kind, cookie) in self.heard or self.is_lost, f"{kind.name} was not heard")
        if (kind, cookie) not in self.heard:
            raise AssertionError(f"the connection ended before {kind.name} was heard; it said {self.farewell()}")
        return decode(self.heard[kind, cookie][2])

    async def hello(self) -> schemas.WelcomeMeta:
        """Greet, and wait for the welcome."""
        self.send(HELLO)
        return schemas.welcome_meta((await self.kind(PacketType.WELCOME)).meta)

    def farewell(self) -> tuple[CloseReason, str] | None:
        """The reason and sentence of the GOODBYE that was heard, if any."""
        frame = self.heard.get((PacketType.GOODBYE, bytes(16)))
        return None if frame is None else (CloseReason(frame[3]), schemas.goodbye_meta(meta_of(frame[2])).msg)

    async def sent_away(self) -> tuple[CloseReason, str]:
        """Wait until the broker has hung up; return what it said."""
        await self.until(lambda: self.is_lost, "the connection was not ended")
        said = self.farewell()
        if said is None:
            raise AssertionError("the connection ended without a word")
        return said

    async def ping(self, number: int = 1) -> float:
        """A round trip to the broker; returns its seconds."""
        began = self._loop.time()
        self.heard.pop((PacketType.PONG, bytes(16)), None)
        self.send(packets.ping(number))
        await self.kind(PacketType.PONG)
        return self._loop.time() - began


class RawClient(RawPeer):
    """A client."""

    def run(self, pipeline: str = "echo", variables: bytes = b"", *, left_ms: int = 0, **more: object) -> bytes:
        """Send a RUN; returns its cookie."""
        cookie = os.urandom(16)
        self.send(packets.run(cookie, options(pipeline, **more), variables, left_ms))
        return cookie

    def run_all(self, pipeline: str, count: int, variables: bytes = b"") -> list[bytes]:
        """Send so many RUNs in one piece; returns their cookies. Of a client that reads nothing, a RUN that the broker has not read by
        the time that the first results are in the way is not read at all."""
        cookies = [os.urandom(16) for _ in range(count)]
        self.send(*(packets.run(cookie, options(pipeline), variables) for cookie in cookies))
        return cookies

    async def outcome(self, cookie: bytes) -> Packet:
        """Wait for a job's RESULT."""
        return await self.kind(PacketType.RESULT, cookie)

    async def reply(self, cookie: bytes = bytes(16)) -> tuple[Code, str]:
        """Wait for the REPLY about a job (or about none), and return what it says."""
        packet = await self.kind(PacketType.REPLY, cookie)
        return Code(packet.code), schemas.reply_meta(packet.meta).msg

    async def echo(self, variables: bytes = b"x", pipeline: str = "echo") -> None:
        """Run a job, and require that it ends well, with its variables for a result."""
        packet = await self.outcome(self.run(pipeline, variables))
        if packet.code != Code.OK or packet.payload != variables:
            raise AssertionError(f"a job ended with {Code(packet.code).name}: {packet.payload[:200]!r}")


class RawWorker(RawPeer):
    """A worker. `works` says what becomes of a RUN: the frames to answer with, or None to keep the job."""

    def __init__(self, works: Callable[[Frame], bytes | None] | None = None) -> None:
        super().__init__()
        self.works = works or echoed
        self.held: list[Frame] = []
        """The RUNs that came and were kept."""

    async def register(self, capacity: int = 1, *serves: str) -> None:
        """Greet and declare slots; returns when the broker knows of them."""
        await self.hello()
        self.send(packets.register(schemas.RegisterMeta(cap=capacity, serves=list(serves) or ["echo"])))
        packet = await self.kind(PacketType.REPLY)
        if packet.code != Code.OK:
            raise AssertionError(f"REGISTER was answered with {Code(packet.code).name}")

    def hears(self, frame: Frame) -> None:
        if frame[0] == PacketType.RUN:
            answer = self.works(frame)
            if answer is None:
                self.held.append(frame)
            else:
                self.send(answer)
        else:
            super().hears(frame)

    def finish(self, frame: Frame) -> None:
        """End a job that was kept."""
        self.held.remove(frame)
        self.send(echoed(frame))

    async def holds(self, count: int) -> None:
        """Wait until so many jobs are kept."""
        await self.until(lambda: len(self.held) >= count, f"{count} jobs did not come, but {len(self.held)}")


def echoed(frame: Frame) -> bytes:
    """The RESULT that gives a job's variables back."""
    return packets.result(frame[1], frame[4], payload_of(frame[2]), ENCODING_BYTES)


def kept(frame: Frame) -> None:
    """Keep a job."""


@asynccontextmanager
async def serving(
    limits: Limits | None = None, *, clients: tuple[str, ...] = (), workers: tuple[str, ...] = (), **more: Any
) -> AsyncIterator[Broker]:
    """A broker at work, by default on memory://clients and memory://workers. Its tables agree at the end, and nobody is left."""
    broker = Broker(
        [server_transport(url, Role.CLIENT) for url in clients or ("memory://clients",)],
        [server_transport(url, Role.WORKER) for url in workers or ("memory://workers",)],
        limits=limits,
        **more,
    )
    await broker.start()
    try:
        yield broker
        broker.switchboard.invariants()
        assert not broker.failed.is_set()
    finally:
        await broker.stop()
        await hang_up()
    assert broker.connections == 0
    assert broker.switchboard.jobs == 0


async def client_of(broker: Broker) -> RawClient:
    """A client that is welcome."""
    client = await connect(broker.client_urls[0], RawClient())
    await client.hello()
    return client


async def worker_of(
    broker: Broker, capacity: int = 1, *serves: str, works: Callable[[Frame], bytes | None] | None = None
) -> RawWorker:
    """A worker that is registered."""
    worker = await connect(broker.worker_urls[0], RawWorker(works))
    await worker.register(capacity, *serves)
    return worker


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something in this loop that nobody tells of."""
    await attentive.until(holds, what, DEADLINE_S)
