"""A broker on real TCP, for peers made of bytes."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from reasonchip_broker.broker import Broker
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.endpoints import server_transport
from tests.captures.recorded import recorded
from tests.wire_peers import BinaryPeer, JsonPeer, Peer, json_frame, until

P = TypeVar("P", bound=Peer)


@dataclass
class House:
    """A running broker, and ways to come in."""

    broker: Broker
    peers: list[Peer] = field(default_factory=list)

    async def _dial(self, kind: type[P], url: str) -> P:
        peer = await kind.dial(url)
        self.peers.append(peer)
        return peer

    async def leave(self) -> None:
        """End every connection that is still there."""
        for peer in self.peers:
            await peer.gone()

    async def client(self) -> JsonPeer:
        """An existing client."""
        return await self._dial(JsonPeer, self.broker.client_urls[0])

    async def worker(self, case: str = "") -> JsonPeer:
        """An existing worker; with a case, one that has registered as the worker of that case did."""
        worker = await self._dial(JsonPeer, self.broker.worker_urls[0])
        if case:
            await self._register(worker, recorded(case, "worker1-to-broker")[0])
        return worker

    async def registered(self, capacity: int) -> JsonPeer:
        """An existing worker of another capacity."""
        worker = await self.worker()
        await self._register(worker, json_frame(json.dumps({"packet_type": "REGISTER", "capacity": capacity}).encode()))
        return worker

    async def _register(self, worker: JsonPeer, frame: bytes) -> None:
        """An existing worker hears nothing of having registered, so look into the broker."""
        before = self.workers
        worker.send(frame)
        await until(lambda: self.workers > before)

    @property
    def workers(self) -> int:
        """How many workers have registered."""
        return sum(peer.worker is not None for peer in self.broker.switchboard.peers.values())

    @property
    def dropped(self) -> int:
        """How many RESULTs counted for nothing."""
        return self.broker.switchboard.counters.results_dropped

    @property
    def jobs(self) -> int:
        """How many jobs are not over."""
        return self.broker.switchboard.jobs

    async def binary_client(self) -> BinaryPeer:
        """A binary client that was welcomed."""
        peer = await self._dial(BinaryPeer, self.broker.client_urls[0])
        await peer.greet()
        return peer

    async def binary_worker(self, capacity: int = 1) -> BinaryPeer:
        """A binary worker that serves everything."""
        peer = await self._dial(BinaryPeer, self.broker.worker_urls[0])
        await peer.register(capacity)
        return peer


Build = Callable[..., Awaitable[House]]


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    """Start a broker with these settings; it is checked and stopped at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(client_url: str = "tcp://127.0.0.1:0", **settings: Any) -> House:
            clients = [server_transport(client_url, Role.CLIENT)]
            workers = [server_transport("tcp://127.0.0.1:0", Role.WORKER)]
            broker = Broker(clients, workers, **settings)
            await broker.start()
            stack.push_async_callback(broker.stop)
            stack.callback(broker.switchboard.invariants)
            house = House(broker)
            stack.push_async_callback(house.leave)
            return house

        yield start


@pytest.fixture
async def house(build: Build) -> House:
    """A broker as it comes."""
    return await build()
