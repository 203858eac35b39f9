"""Writes what was sent in a turn of the loop, at the end of it."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reasonchip_broker.transports.connection import Connection


class Flusher:
    """Writes the outboxes of all connections of one loop, once a turn."""

    __slots__ = ("_dirty", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._dirty: list[Connection] = []

    def add(self, connection: "Connection") -> None:
        """Flush this connection before the loop next waits."""
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()
