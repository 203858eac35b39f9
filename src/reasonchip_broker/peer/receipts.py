"""Which RESULTs have arrived: what the broker is told of it, so that it need not keep their outcomes.

An ACK is worth a frame of its own only where much is kept: the broker holds an outcome for minutes, and whether it holds it for some
milliseconds more is all the same to everybody. So one ACK stands for many RESULTs: it is sent once `RESULTS_MAX` of them, or
`BYTES_MAX`, are to be acknowledged, and `DELAY_S` after the first of them at the latest. (TCP's delayed acknowledgement, RFC 1122,
4.2.3.2, is the same for segments.)"""

import asyncio
from collections.abc import Callable

from reasonchip_broker.protocol import packets

RESULTS_MAX = 64
"""So many RESULTs are acknowledged at once."""

BYTES_MAX = 64 * 1024
"""Or as few as have so many bytes."""

DELAY_S = 0.05
"""None waits longer for its acknowledgement."""


class Receipts:
    """The RESULTs of one connection. `send` sends a frame on it."""

    __slots__ = ("_bytes", "_loop", "_received", "_send", "_timer", "_waiting")

    def __init__(self, send: Callable[[bytes], None], loop: asyncio.AbstractEventLoop) -> None:
        self._send = send
        self._loop = loop
        self._received = 0
        self._waiting = 0
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def received(self, results: int, size: int) -> None:
        """So many RESULTs have arrived, of `size` bytes together."""
        self._received += results
        self._waiting += results
        self._bytes += size
        if self._waiting >= RESULTS_MAX or self._bytes >= BYTES_MAX:
            self.acknowledge()
        elif self._timer is None:
            self._timer = self._loop.call_later(DELAY_S, self._due)

    def _due(self) -> None:
        self._timer = None
        self.acknowledge()

    def acknowledge(self) -> None:
        """Say now what was not said yet; to be called before the connection is closed."""
        if self._waiting:
            self._waiting = self._bytes = 0
            self._send(packets.ack(self._received))

    def end(self) -> None:
        """The connection is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
