"""The peers of our binary protocol, with nothing between them but a relay of bytes: no handshake, no registration."""

import asyncio

from benchmarks.generators.ours import OurClient, OurWorker
from benchmarks.generators.recorder import Recorder


class RelayedClient(OurClient):
    """A client whose RUNs reach the worker that it was joined with."""

    def __init__(self, number: int, recorder: Recorder, in_flight: int, payload_bytes: int) -> None:
        super().__init__(number, recorder, in_flight, payload_bytes)
        self.opening = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nobody has to take it."""
        super().connection_made(transport)
        self.set_ready()


class RelayedWorker(OurWorker):
    """The worker that it was joined with."""

    def __init__(self, number: int, recorder: Recorder, capacity: int, payload_bytes: int) -> None:
        super().__init__(number, recorder, capacity, payload_bytes)
        self.opening = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nobody has to take it."""
        super().connection_made(transport)
        self.set_ready()
