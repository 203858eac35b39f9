"""One connection to the broker: how it opens, when it is ready, what happens when it is lost."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from benchmarks.generators.framing import FrameLength, Framing
from benchmarks.generators.recorder import Recorder

READY_TIMEOUT_S = 10.0


class Connection(asyncio.Protocol):
    """What clients and workers of every protocol share. Not yet connected when made."""

    transport: asyncio.Transport

    def __init__(self, name: str, recorder: Recorder, opening: bytes, frame_length: FrameLength) -> None:
        """`name` is for error texts; `opening` is what it sends first."""
        self.name = name
        self.recorder = recorder
        self.opening = opening
        self.framing = Framing(frame_length)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the conversation."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.opening)

    def connection_lost(self, error: Exception | None) -> None:
        """Unless we closed it, that is the end of the run."""
        if not self.closing:
            self.fail(f"the broker closed the connection{f': {error}' if error else ''}")

    def set_ready(self) -> None:
        """The broker has taken us; a second time does no harm."""
        if not self.ready.done():
            self.ready.set_result(None)

    def fail(self, why: str) -> None:
        """Something came that should not: the run is over."""
        self.recorder.fail(f"{self.name}: {why}")

    def close(self) -> None:
        """Leave at once."""
        self.closing = True
        self.transport.abort()


async def connect(url: str, connection: Connection, local_host: str | None = None) -> None:
    """Connect `connection` to `tcp://host:port` or `unix:///path`, from `local_host` if that is given. Raises OSError."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    if parts.scheme == "unix":
        await loop.create_unix_connection(lambda: connection, parts.path)
        return
    if parts.hostname is None or parts.port is None:
        raise ConnectionError(f"{url} names no host and port")
    local = (local_host, 0) if local_host else None
    await loop.create_connection(lambda: connection, parts.hostname, parts.port, local_addr=local)


async def all_ready(connections: Sequence[Connection], recorder: Recorder) -> None:
    """Wait until the broker has taken every one. Raises ConnectionError if one fails, or is not taken in time."""
    waiting = asyncio.gather(*(connection.ready for connection in connections))
    both: set[asyncio.Future[Any]] = {waiting, recorder.failed}
    await asyncio.wait(both, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
    late = [connection.name for connection in connections if not connection.ready.done()]
    waiting.cancel()
    recorder.check()
    if late:
        others = f" and {len(late) - 1} more" if len(late) > 1 else ""
        raise ConnectionError(f"the broker did not take {late[0]}{others} within {READY_TIMEOUT_S:.0f} s")
