"""Thousands of clients in one process, who come back: `python -m tests.process.row_flock JSON`.

The JSON object says `url`, `count`, and a `seed`. Each is a connection that greets, and waits for its welcome; when it is lost, it
comes back as our client does, after waits that are drawn from the product's own backoff. Whenever all are welcome the process says
`["all", lost, attempts]`: how many that were welcome were lost, and how often all together dialled, since the last time. A line on
standard input asks all of them for a PONG; `["all", …]` is the answer to that too.
"""

import asyncio
import json
import random
import sys
from typing import Any

import uvloop

from reasonchip_broker.peer.backoff import Backoff
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import PacketType
from tests.process.rows import raise_descriptor_limit
from tests.raw_peers import HELLO


class Flock:
    """All of them, and how many are welcome."""

    def __init__(self, given: dict[str, Any]) -> None:
        host, _, port = given["url"].removeprefix("tcp://").rpartition(":")
        self.address = host, int(port)
        self.random = random.Random(given["seed"])
        self.count = given["count"]
        self.birds = [Bird(self) for _ in range(self.count)]
        self.welcome = self.lost = self.attempts = 0
        self.dials: set[asyncio.Task[None]] = set()

    def arrived(self) -> None:
        self.welcome += 1
        if self.welcome == self.count:
            sys.stdout.write(json.dumps(["all", self.lost, self.attempts]) + "\n")
            sys.stdout.flush()
            self.lost = self.attempts = 0

    def ask(self) -> None:
        self.welcome = 0
        for bird in self.birds:
            assert bird.transport is not None
            bird.transport.write(packets.ping(1))


class Bird(asyncio.Protocol):
    """One client."""

    def __init__(self, flock: Flock) -> None:
        self._flock = flock
        self._backoff = Backoff(random=flock.random)
        self.transport: asyncio.Transport | None = None
        self.is_welcome = False

    def dial(self) -> None:
        task = asyncio.get_running_loop().create_task(self._dial())
        self._flock.dials.add(task)
        task.add_done_callback(self._flock.dials.discard)

    async def _dial(self) -> None:
        self._flock.attempts += 1
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, *self._flock.address)
        except OSError:
            self.again()

    def again(self) -> None:
        asyncio.get_running_loop().call_later(self._backoff.next_s(), self.dial)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(HELLO)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        # Frames are small, and come one at a time: the fifth byte says which.
        if data[4] in (PacketType.WELCOME, PacketType.PONG):
            self._backoff.reset()
            self.is_welcome = True
            self._flock.arrived()

    def connection_lost(self, exc: Exception | None) -> None:
        # It may have been one that the old broker's kernel took, and nobody ever welcomed.
        self._flock.welcome -= self.is_welcome
        self._flock.lost += self.is_welcome
        self.is_welcome = False
        self.again()


async def main() -> None:
    raise_descriptor_limit()
    flock = Flock(json.loads(sys.argv[1]))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    for bird in flock.birds:
        # Not at once: it is the coming back that is to be seen.
        bird.again()
    while await reader.readline():
        flock.ask()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
