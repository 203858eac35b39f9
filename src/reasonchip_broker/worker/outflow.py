"""What a worker sends, at the pace at which its broker takes it.

A connection that has more than its hard cap to write would end as a slow consumer, so what is sent while it is congested waits
here. (Its amount is bounded by the jobs: one RESULT each, and of progress what their allowance permits.)
"""

from collections import deque

from reasonchip_broker.transports.connection import Connection


class Outflow:
    """Frames on their way to the present connection, if there is one; without one they are gone."""

    __slots__ = ("_burst_bytes", "_connection", "_held", "_unwritten_bytes", "congested")

    def __init__(self, burst_bytes: int) -> None:
        self.congested = False
        self._burst_bytes = burst_bytes
        self._connection: Connection | None = None
        self._held: deque[bytes] = deque()
        self._unwritten_bytes = 0
        """Sent since the last flush of our own; what the connection has written by itself is in it too."""

    def __len__(self) -> int:
        return len(self._held)

    def opened(self, connection: Connection) -> None:
        """There is a connection."""
        self._connection = connection

    def closed(self) -> None:
        """There is none any more."""
        self._connection = None
        # What comes now would wait for the next connection, otherwise, and be said there in the middle of something else.
        self.congested = False
        self._held.clear()

    def send(self, frame: bytes) -> None:
        """Send a frame, now or when the connection takes more."""
        if self.congested:
            self._held.append(frame)
        elif self._connection is not None:
            self._write(self._connection, frame)

    def flush(self) -> None:
        """Let the connection write, and find out whether it takes more."""
        if self._connection is not None:
            self._connection.flush()

    def writable(self) -> None:
        """The connection takes more."""
        self.congested = False
        while self._held and not self.congested and self._connection is not None:
            self._write(self._connection, self._held.popleft())

    def _write(self, connection: Connection, frame: bytes) -> None:
        connection.send(frame)
        # A connection writes once a loop turn, and learns only then that it is congested; one turn may bring thousands of results.
        self._unwritten_bytes += len(frame)
        if self._unwritten_bytes > self._burst_bytes:
            self._unwritten_bytes = 0
            connection.flush()
