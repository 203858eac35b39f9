"""RESULTs that the broker has not acknowledged: what a worker with a session sends again over its next connection.

Only the connection's thread touches it. ACK counts the RESULTs of one connection, so what was sent on it is kept in order.
"""

from collections import deque

from reasonchip_broker.protocol.binary import NUMBER_MAX

RESULTS_MAX = 20_000
RESULTS_BYTES_MAX = 64 * 1024 * 1024
"""Beyond these the oldest are let go: a broker that never acknowledges must not make a worker grow. (A broker acknowledges as soon
as it has read them, so this is much more than what is ever on the way.)"""

Key = tuple[bytes, int]
"""A cookie and an attempt."""


class Ledger:
    """RESULTs by cookie and attempt, until they are acknowledged."""

    def __init__(self) -> None:
        self._frames: dict[Key, bytes] = {}
        self._bytes = 0
        self._sent: deque[Key] = deque()
        """Those of the present connection, in the order in which they were sent, less those acknowledged."""
        self._acknowledged = 0
        self._out: set[Key] = set()
        """What was sent on the present connection."""

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def keys(self) -> list[Key]:
        """What is kept, oldest first."""
        return list(self._frames)

    def keep(self, key: Key, frame: bytes) -> None:
        """Keep a RESULT."""
        self._drop(key)
        self._frames[key] = frame
        self._bytes += len(frame)
        while len(self._frames) > RESULTS_MAX or (self._bytes > RESULTS_BYTES_MAX and len(self._frames) > 1):
            self._drop(next(iter(self._frames)))

    def frame(self, key: Key) -> bytes | None:
        """A RESULT that is kept."""
        return self._frames.get(key)

    def sent(self, key: Key) -> None:
        """It goes out on the present connection."""
        self._sent.append(key)
        self._out.add(key)
        if len(self._sent) > RESULTS_MAX:
            self._acknowledged = (self._acknowledged + 1) & NUMBER_MAX
            self._out.discard(self._sent.popleft())

    def was_sent(self, key: Key) -> bool:
        """Whether it went out on the present connection, and was not acknowledged."""
        return key in self._out

    def connected(self) -> None:
        """A connection is new: nothing was sent on it."""
        self._sent.clear()
        self._out.clear()
        self._acknowledged = 0

    def acknowledged(self, results: int) -> None:
        """The broker has so many RESULTs of this connection, in all. What can't be is not believed further than what was sent."""
        more = (results - self._acknowledged) & NUMBER_MAX
        if more > len(self._sent):
            return
        self._acknowledged = results
        for _ in range(more):
            key = self._sent.popleft()
            self._out.discard(key)
            self._drop(key)

    def clear(self) -> None:
        """Nobody waits for any of it."""
        self._frames.clear()
        self._bytes = 0
        self.connected()

    def _drop(self, key: Key) -> None:
        frame = self._frames.pop(key, None)
        if frame is not None:
            self._bytes -= len(frame)
