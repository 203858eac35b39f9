"""Reading large frames from a socket straight to where they belong.

An asyncio transport copies what it reads into an object of bytes before it says so, which costs a large frame as much as the kernel's
own copy. So a connection over a socket on which a large frame has begun is read from through this protocol instead: it gives the
transport the very place of the frame (`FrameDecoder.place`), and for all else a small buffer, so that little of the next frame gets
there. It stays until no large frame has come for a while.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from reasonchip_broker.protocol.frames import FrameDecoder

if TYPE_CHECKING:
    from reasonchip_broker.transports.connection import Connection

_HEAD_BYTES: Final = 16 * 1024
"""How much is read at once where a frame is to begin."""

_PATIENCE: Final = 64
"""After so many reads without a large frame the connection is read from as others are."""


class BulkReader(asyncio.BufferedProtocol):
    """What the transport of a connection tells while large frames come; all but what was read goes on to the connection as it is."""

    __slots__ = ("_connection", "_decoder", "_head", "_in_place", "_patience", "_transport")

    def __init__(self, connection: "Connection", decoder: FrameDecoder, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._decoder = decoder
        self._transport = transport
        self._head = memoryview(bytearray(_HEAD_BYTES))
        self._in_place = False
        self._patience = _PATIENCE

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        place = self._decoder.place
        self._in_place = place is not None
        return place if place is not None else self._head

    def buffer_updated(self, nbytes: int) -> None:
        """So many are there."""
        if self._in_place:
            self._patience = _PATIENCE
            self._decoder.filled(nbytes)
            self._connection.data_received(b"")
            return
        self._patience -= 1
        if not self._patience:
            self._transport.set_protocol(self._connection)
            self._connection.reads_in_bulk = False
        self._connection.data_received(bytes(self._head[:nbytes]))

    def pause_writing(self) -> None:
        """As for the connection."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """As for the connection."""
        self._connection.resume_writing()

    def eof_received(self) -> bool:
        """As for the connection."""
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """As for the connection."""
        self._connection.connection_lost(exc)


def read_in_bulk(connection: "Connection", decoder: FrameDecoder, transport: asyncio.Transport) -> bool:
    """Let a connection be read from so, if it can be: only a socket's bytes can be had without a copy, if they are not encrypted."""
    if transport.get_extra_info("socket") is None or transport.get_extra_info("sslcontext") is not None:
        return False
    transport.set_protocol(BulkReader(connection, decoder, transport))
    return True
