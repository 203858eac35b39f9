"""The two ends that a transport is checked with: a handler that writes down what it is told, and a peer that is no `Connection`.

Both can be waited for: `until` returns as soon as something holds, so that no check sleeps and none waits longer than it must.
"""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import cast

from reasonchip_broker.limits import MIB
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import encode, meta_of
from reasonchip_broker.protocol.codes import CloseReason, PacketType
from reasonchip_broker.protocol.frames import BinaryDecoder, Frame
from reasonchip_broker.transports.connection import Connection

DEADLINE_S = 20.0
"""How long a check waits for what must become so. Long, since machines are shared: a check that holds never waits for it."""


def require(holds: bool, rule: str) -> None:
    """Raise AssertionError, with the rule that was broken, unless it holds."""
    if not holds:
        raise AssertionError(rule)


class Watched:
    """Something that changes, and that can be waited for."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    def changed(self) -> None:
        """Let everybody look who waits."""
        for event in self._waiting:
            event.set()

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds. Raises AssertionError, with `what`, if it does not within `DEADLINE_S`."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not holds():
                    event.clear()
                    await event.wait()
        except TimeoutError:
            raise AssertionError(f"within {DEADLINE_S:g} s, {what}") from None
        finally:
            self._waiting.discard(event)


class Recorder(Watched):
    """A `ConnectionHandler` that writes down what it is told. It welcomes every peer at once, so that frames may be large."""

    def __init__(self) -> None:
        super().__init__()
        self.takes = True
        """What `accepts` answers."""
        self.connections: list[Connection] = []
        """Those that were accepted."""
        self.opened_ones: list[Connection] = []
        self.told: dict[Connection, list[str]] = {}
        """The names of the calls, in order, for each connection."""
        self.frames: dict[Connection, list[Frame]] = {}
        self.reasons: dict[Connection, CloseReason] = {}
        self.offences: dict[Connection, tuple[CloseReason, str]] = {}

    def _tell(self, connection: Connection, event: str) -> None:
        self.told.setdefault(connection, []).append(event)
        self.changed()

    def accepts(self, connection: Connection) -> bool:
        """A connection was made."""
        self.frames[connection] = []
        self._tell(connection, "accepts")
        if self.takes:
            self.connections.append(connection)
        return self.takes

    def opened(self, connection: Connection) -> None:
        """Its dialect is known."""
        connection.welcome()
        self.opened_ones.append(connection)
        self._tell(connection, "opened")

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        """Frames came."""
        if frames:
            self.frames[connection].extend(frames)
            self._tell(connection, "received")

    def offended(self, connection: Connection, reason: CloseReason, sentence: str) -> None:
        """Something came that is no frame."""
        self.offences[connection] = reason, sentence
        self._tell(connection, "offended")
        connection.close(reason, sentence)

    def congested(self, connection: Connection) -> None:
        """It has too much to take."""
        self._tell(connection, "congested")

    def writable(self, connection: Connection) -> None:
        """No longer."""
        self._tell(connection, "writable")

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        """It has ended."""
        self.reasons[connection] = reason
        self._tell(connection, "closed")

    def is_congested(self, connection: Connection) -> bool:
        """Whether congestion was told of it, and not its end."""
        told = [event for event in self.told[connection] if event in ("congested", "writable")]
        return told[-1:] == ["congested"]

    def count(self, event: str) -> int:
        """How often this was told, of all connections."""
        return sum(events.count(event) for events in self.told.values())

    def received_numbers(self, connection: Connection) -> list[int]:
        """The numbers of the frames that came."""
        return [frame[5] for frame in self.frames[connection]]

    def require_order(self) -> None:
        """Raise AssertionError if anything of a connection was told twice, before it was announced, or after its end."""
        for events in self.told.values():
            times = Counter(events)
            first_two = events[:2] in (["accepts"], ["accepts", "opened"], ["accepts", "closed"])
            orderly = first_two and times["accepts"] == 1 and times["opened"] <= 1 and times["closed"] <= 1
            orderly = orderly and ("closed" not in events or events[-1] == "closed")
            require(orderly, f"a connection is announced first, and its end is told last, once; told was {events}")


class Peer(Watched, asyncio.Protocol):
    """The other end: reads frames, and does as the check says."""

    def __init__(self, frame_bytes_max: int = 64 * MIB) -> None:
        super().__init__()
        self.transport: asyncio.Transport | None = None
        self.frames: list[Frame] = []
        self.data_bytes = 0
        self.is_lost = False
        self._decoder = BinaryDecoder(frame_bytes_max)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """The broker's end said something."""
        self.data_bytes += len(data)
        self.frames.extend(self._decoder.feed(data))
        self.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has hung up, or we have."""
        self.is_lost = True
        self.changed()

    @property
    def live(self) -> asyncio.Transport:
        """The transport of a connected peer."""
        if self.transport is None:
            raise AssertionError("connect gave the peer no transport")
        return self.transport

    def numbers(self) -> list[int]:
        """The numbers of the frames that came, but for a GOODBYE."""
        return [frame[5] for frame in self.frames if frame[0] != PacketType.GOODBYE]

    def goodbye(self) -> tuple[CloseReason, str] | None:
        """What the broker's end said last, if it was a farewell."""
        if not self.frames or self.frames[-1][0] != PacketType.GOODBYE:
            return None
        frame = self.frames[-1]
        return CloseReason(frame[3]), schemas.goodbye_meta(meta_of(frame[2])).msg

    def reset(self) -> None:
        """Go away as a killed process does that had not read everything: without a farewell of TCP."""
        sock = self.live.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            with socket.socket(fileno=socket.dup(sock.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.live.abort()


def numbered(number: int, payload_bytes: int = 0) -> bytes:
    """A frame with a number, and a payload that is its own: no two frames look the same."""
    payload = (number.to_bytes(4, "big") * (payload_bytes // 4 + 1))[:payload_bytes]
    return encode(PacketType.RUN, number=number, cookie=(number + 1).to_bytes(16, "big"), payload=payload)
