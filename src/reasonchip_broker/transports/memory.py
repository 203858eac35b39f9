"""An in-process transport: a broker and its peers in one event loop, without a socket.

Not a fake: bytes go through the same `Connection` at both ends, in pieces as they were written, and what is written while the other end
has paused its reading is held, and reported as `pause_writing`, as a socket would.
"""

import asyncio
import os
from typing import Any

from reasonchip_broker.errors import ConnectError, ListenError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Dialect, Role
from reasonchip_broker.transports.client_transport import ClientTransport
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.server_transport import ConnectionHandler, ServerTransport

_listeners: dict[tuple[asyncio.AbstractEventLoop, str], "MemoryServerTransport"] = {}


class MemoryTransport(asyncio.Transport):
    """One end of a pipe between two protocols."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": "memory"})
        self._loop = loop
        self._protocol = protocol
        self._other: MemoryTransport | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._high = 64 * 1024
        self._low = 16 * 1024
        self._pump_due = False
        self._paused_protocol = False
        self._reading = True
        self._closing = False
        self._lost = False

    def join(self, other: "MemoryTransport") -> None:
        """Make these two the ends of one pipe."""
        self._other, other._other = other, self

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When to call `pause_writing` and `resume_writing`."""
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """Bytes that the other end has not taken."""
        return self._held_bytes

    def write(self, data: Any) -> None:
        """Send bytes to the other end, in the next loop turn."""
        if self._closing or not data:
            return
        self._held.append(bytes(data))
        self._held_bytes += len(data)
        self._schedule()
        if self._held_bytes > self._high and not self._paused_protocol:
            self._paused_protocol = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """Send several pieces."""
        for data in list_of_data:
            self.write(data)

    def _schedule(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        other = self._other
        while self._held and other is not None and other._reading and not other._lost:
            data = self._held.pop(0)
            self._held_bytes -= len(data)
            try:
                other._protocol.data_received(data)
            except Exception as error:
                context = {"message": "a protocol failed on what it received", "exception": error, "protocol": other._protocol}
                self._loop.call_exception_handler(context)
                other.abort()
                return
        if self._paused_protocol and self._held_bytes <= self._low:
            self._paused_protocol = False
            self._protocol.resume_writing()
        if self._closing and not self._held:
            self._lose(None)

    def pause_reading(self) -> None:
        """Take nothing from the other end."""
        self._reading = False

    def resume_reading(self) -> None:
        """Take what it has sent meanwhile."""
        self._reading = True
        if self._other is not None:
            self._other._schedule()

    def is_reading(self) -> bool:
        """Whether anything is taken from the other end."""
        return self._reading

    def can_write_eof(self) -> bool:
        """A pipe has no half-open state."""
        return False

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._closing or self._lost

    def close(self) -> None:
        """End the pipe once the other end has taken everything."""
        if not self._closing:
            self._closing = True
            self._schedule()

    def abort(self) -> None:
        """End it now."""
        self._closing = True
        self._held.clear()
        self._held_bytes = 0
        self._loop.call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._protocol.connection_lost(error)
        other = self._other
        if other is not None and not other._lost:
            self._loop.call_soon(other._lose, None)


class MemoryServerTransport(ServerTransport):
    """Listens for a name, in this process and loop."""

    def __init__(self, name: str, *, json_queue: bool = False) -> None:
        self.name = name
        self.json_queue = json_queue
        self._loop: asyncio.AbstractEventLoop | None = None
        self._make: Any = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"memory://{self.name}"

    async def start(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> None:
        """Listen. Raises ListenError."""
        loop = asyncio.get_running_loop()
        if (loop, self.name) in _listeners:
            raise ListenError(f"can't listen on {self.url}: somebody listens there already")

        def make() -> Connection:
            return Connection(handler, os.urandom(16), role, limits, flusher, json_queue=self.json_queue)

        self._make = make
        self._loop = loop
        _listeners[loop, self.name] = self

    async def stop(self) -> None:
        """Stop listening."""
        if self._loop is not None:
            _listeners.pop((self._loop, self.name), None)
            self._loop = None

    def accept(self, far: MemoryTransport) -> None:
        """Join a dialler's end to a new connection."""
        loop = asyncio.get_running_loop()
        connection: Connection = self._make()
        near = MemoryTransport(loop, connection)
        near.join(far)
        connection.connection_made(near)


class MemoryClientTransport(ClientTransport):
    """Dials a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def url(self) -> str:
        """Where it dials."""
        return f"memory://{self.name}"

    def connect(self, protocol: asyncio.Protocol) -> MemoryTransport:
        """Connect any asyncio protocol. Raises ConnectError."""
        loop = asyncio.get_running_loop()
        listener = _listeners.get((loop, self.name))
        if listener is None:
            raise ConnectError(f"can't connect to {self.url}: nobody listens there in this event loop")
        transport = MemoryTransport(loop, protocol)
        listener.accept(transport)
        protocol.connection_made(transport)
        return transport

    async def dial(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> Connection:
        """Connect. Raises ConnectError."""
        connection = Connection(handler, os.urandom(16), role, limits, flusher, dialect=Dialect.BINARY)
        self.connect(connection)
        return connection
