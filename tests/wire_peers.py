"""Peers made of bytes: a socket, a decoder, and deadlines. They say exactly what a test tells them to, right or wrong."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.protocol.frames import PREFACE, BinaryDecoder
from tests import attentive

DEADLINE_S = 10.0
"""How long anything may take that a test waits for."""


class Peer:
    """One connection, as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, url: str) -> Self:
        """Connect to a tcp:// or unix:// URL, and say nothing."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return cls(*await asyncio.open_unix_connection(parts.path))
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    def send(self, *data: bytes) -> None:
        """Write these bytes."""
        self.writer.write(b"".join(data))

    async def read(self, count: int) -> bytes:
        """Exactly so many bytes. Raises asyncio.IncompleteReadError, and TimeoutError."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(count)

    async def ended(self) -> bytes:
        """What still comes until the broker ends the connection."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        """End the connection in good order."""
        self.writer.close()

    async def gone(self) -> None:
        """End the connection, however it stands, and wait until that is done."""
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass

    async def rest(self) -> bytes:
        """Say that nothing more will come, which ends the connection, and return all that the broker has sent and nobody has read."""
        self.writer.write_eof()
        return await self.ended()

    def kill(self) -> None:
        """End it as a process does that is killed: at once, with a reset if anything is unread."""
        self.writer.transport.abort()


class JsonPeer(Peer):
    """An existing peer's side of a connection."""

    def say(self, **fields: Any) -> None:
        """Send a packet with these fields, in whatever order they come."""
        self.send(json_frame(json.dumps(fields).encode()))

    async def frame(self) -> bytes:
        """The next frame, with its length."""
        length = await self.read(4)
        return length + await self.read(int.from_bytes(length, "big"))

    async def packet(self) -> dict[str, Any]:
        """The next packet, its nulls left out."""
        fields: dict[str, Any] = json.loads((await self.frame())[4:])
        return {key: value for key, value in fields.items() if value is not None}

    async def settle(self) -> list[dict[str, Any]]:
        """All that the broker had to say to a client so far: what comes before the answer to a packet of an unknown type."""
        token = str(uuid4())
        self.say(packet_type="SETTLE", cookie=token)
        before: list[dict[str, Any]] = []
        while (packet := await self.packet()).get("cookie") != token:
            before.append(packet)
        assert packet["rc"] == "UNSUPPORTED_PACKET_TYPE"
        return before


class BinaryPeer(Peer):
    """A binary peer's side of a connection."""

    async def frame(self) -> bytes:
        """The next frame."""
        length = await self.read(4)
        return length + await self.read(int.from_bytes(length, "big"))

    async def packet(self, kind: PacketType | None = None) -> Packet:
        """The next packet, which has to be of that type."""
        packet = decode(await self.frame())
        assert kind is None or packet.kind == kind, f"{PacketType(packet.kind).name} with code {packet.code} {packet.meta!r}"
        return packet

    async def greet(self, hello: schemas.HelloMeta | None = None) -> schemas.WelcomeMeta:
        """Preface, HELLO, WELCOME."""
        self.send(PREFACE, packets.hello(hello or schemas.HelloMeta(sw="test")))
        return schemas.welcome_meta((await self.packet(PacketType.WELCOME)).meta)

    async def register(self, capacity: int = 1, *serves: str) -> None:
        """Greet, REGISTER, and the REPLY."""
        await self.greet()
        self.send(packets.register(schemas.RegisterMeta(cap=capacity, serves=list(serves) or ["*"])))
        assert (await self.packet(PacketType.REPLY)).code == 0

    async def settle(self) -> list[Packet]:
        """All that the broker had to say so far: what comes before the answer to a PING."""
        self.send(packets.ping(0xABCDEF))
        before: list[Packet] = []
        while (packet := await self.packet()).kind != PacketType.PONG or packet.number != 0xABCDEF:
            before.append(packet)
        return before


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something in the broker that nobody is told of."""
    await attentive.until(condition, "it did not come about", DEADLINE_S)


def json_frame(body: bytes) -> bytes:
    """A JSON body with its length."""
    return len(body).to_bytes(4, "big") + body


def binary_frames(data: bytes) -> list[bytes]:
    """The frames in some bytes, the last of which may be cut short."""
    return [frame[2] for frame in BinaryDecoder(1 << 26).feed(data)]
