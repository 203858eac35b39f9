"""A loop whose time passes on command, and a transport that shows what was done to it: enough of both for a `Connection`."""

import asyncio
import os
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, cast

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Dialect, Role
from reasonchip_broker.testing.transport_peers import Recorder
from reasonchip_broker.testing.virtual_clock import VirtualClock
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher


class Handle:
    """A timer of `ManualLoop`."""

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    """As much of an event loop as a connection uses."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self._ready: list[Handle] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = 0

    def time(self) -> float:
        return self.clock.now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        self._ready.append(Handle(callback, args))
        return self._ready[-1]

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        self._count += 1
        handle = Handle(callback, args)
        heappush(self._timers, (self.clock.now + delay, self._count, handle))
        return handle

    @property
    def timers(self) -> int:
        """How many are armed."""
        return sum(not handle.cancelled for _, _, handle in self._timers)

    @property
    def is_ready(self) -> bool:
        """Whether anything is to run in the next turn."""
        return bool(self._ready)

    def turn(self) -> None:
        """Run what is ready, and what that makes ready."""
        while self._ready:
            ready, self._ready = self._ready, []
            for handle in ready:
                if not handle.cancelled:
                    handle.callback(*handle.args)

    def advance(self, seconds: float) -> None:
        """Let time pass, and fire what becomes due, each at its time."""
        end = self.clock.now + seconds
        self.turn()
        while self._timers and self._timers[0][0] <= end:
            when, _, handle = heappop(self._timers)
            self.clock.advance_to(max(when, self.clock.now))
            if not handle.cancelled:
                handle.callback(*handle.args)
            self.turn()
        self.clock.advance_to(end)


class FakeTransport(asyncio.Transport):
    """Takes what is written, up to `room` bytes; the rest waits, and is reported as a socket's transport would."""

    def __init__(self, loop: ManualLoop, peername: object = ("127.0.0.1", 1234)) -> None:
        super().__init__({"peername": peername})
        self.loop = loop
        self.connection: Connection | None = None
        self.writes: list[bytes] = []
        self.room = 1 << 40
        self.waiting_bytes = 0
        self.reading = True
        self.closing = False
        self.lost = False
        self._is_full = False
        self._high = 64 * 1024
        self._low = 16 * 1024

    @property
    def written(self) -> bytes:
        """All of it."""
        return b"".join(self.writes)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = high or 0, low or 0

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def write(self, data: Any) -> None:
        if self.closing:
            return
        self.writes.append(bytes(data))
        taken = min(self.room, len(data))
        self.room -= taken
        self.waiting_bytes += len(data) - taken
        if self.waiting_bytes > self._high and not self._is_full and self.connection is not None:
            self._is_full = True
            self.connection.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def take(self, count: int) -> None:
        """The peer reads so many bytes of what waits."""
        self.waiting_bytes -= min(count, self.waiting_bytes)
        if self._is_full and self.waiting_bytes <= self._low and self.connection is not None:
            self._is_full = False
            self.connection.resume_writing()
        if self.closing and not self.waiting_bytes:
            self.lose()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.reading = False
            if not self.waiting_bytes:
                self.loop.call_soon(self.lose)

    def abort(self) -> None:
        self.closing = True
        self.waiting_bytes = 0
        self.loop.call_soon(self.lose)

    def lose(self, error: Exception | None = None) -> None:
        """The end, as a transport tells it."""
        if not self.lost and self.connection is not None:
            self.lost = True
            self.connection.connection_lost(error)

    def eof(self) -> None:
        """The peer half-closes; as asyncio has it, a protocol that says no more is closed."""
        if self.connection is not None and not self.connection.eof_received():
            self.close()


class Rig:
    """A connection on a fake transport, and everything around it."""

    def __init__(self, *, dialect: Dialect | None = None, role: Role = Role.CLIENT, takes: bool = True, **limits: Any) -> None:
        self.loop = ManualLoop()
        self.recorder = Recorder()
        self.recorder.takes = takes
        self.limits = Limits(**limits)
        self.flusher = Flusher(cast(asyncio.AbstractEventLoop, self.loop))
        self.transport = FakeTransport(self.loop)
        self.connection = self.made(self.transport, dialect, role)

    def made(self, transport: FakeTransport, dialect: Dialect | None = None, role: Role = Role.CLIENT) -> Connection:
        """One more connection of the same handler and flusher."""
        connection = Connection(self.recorder, os.urandom(16), role, self.limits, self.flusher, dialect=dialect)
        transport.connection = connection
        connection.connection_made(transport)
        return connection

    @property
    def told(self) -> list[str]:
        """What the handler was told of the first connection."""
        return self.recorder.told[self.connection]

    def hear(self, data: bytes) -> None:
        """The peer sends bytes."""
        self.connection.data_received(data)
        self.loop.turn()

    def send(self, *frames: bytes) -> None:
        """Send frames in one loop turn."""
        for frame in frames:
            self.connection.send(frame)
        self.loop.turn()
