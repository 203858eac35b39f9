"""A real broker with a real worker, and an owner of jobs that says exactly what it is told to."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from reasonchip_broker.broker import Broker
from reasonchip_broker.limits import Limits
from reasonchip_broker.peer import payloads
from reasonchip_broker.peer.session import Session
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.endpoints import client_transport, server_transport
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.worker import Worker
from tests import attentive

DEADLINE_S = 20.0
_names = itertools.count()


class Outcome:
    """What an owner was told of a job."""

    def __init__(self, frame: bytes) -> None:
        packet = decode(frame)
        meta = schemas.result_meta(packet.meta)
        self.code = Code(packet.code)
        self.attempt = packet.attempt
        self.encoding = meta.enc
        self.may_have_run = meta.ran
        self.value: Any = None
        self.failure = schemas.Failure()
        if self.code == Code.OK:
            self.value = payloads.decode(packet.payload, meta.enc)
        else:
            self.failure = schemas.failure(packet.payload)

    def __repr__(self) -> str:
        return f"<{self.code.name} {self.value!r} {self.failure}>"


class Owner:
    """A client's end of one connection, in the loop of the test."""

    def __init__(self, url: str) -> None:
        self._transport = client_transport(url, Role.CLIENT)
        self._session = Session(Role.CLIENT, schemas.HelloMeta(), Limits())
        self._connection: Connection | None = None
        self._welcomed = asyncio.Event()
        self._closed = asyncio.Event()
        self._jobs: dict[bytes, asyncio.Future[Outcome]] = {}
        self.replies: list[tuple[int, Code]] = []

    async def open(self) -> "Owner":
        limits = Limits()
        self._connection = await self._transport.dial(Role.CLIENT, self, limits, Flusher(asyncio.get_running_loop()))
        self._connection.send(self._session.opening())
        async with asyncio.timeout(DEADLINE_S):
            await self._welcomed.wait()
        return self

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.abort(CloseReason.NORMAL)
            await self._closed.wait()

    def submit(
        self, pipeline: str, variables: Any = None, *, encoding: str = "msgpack", payload: bytes | None = None, **options: Any
    ) -> tuple[bytes, asyncio.Future[Outcome]]:
        """Send a RUN. Returns its cookie and what becomes of it; `left_ms` is its deadline."""
        assert self._connection is not None
        cookie = os.urandom(16)
        left_ms = options.pop("left_ms", 0)
        if payload is None:
            payload, encoding = payloads.encode_tagged(variables, encoding)
        meta = schemas.encode_meta(schemas.RunOptions(p=pipeline, enc=encoding, **options))
        outcome = self._jobs[cookie] = asyncio.get_running_loop().create_future()
        self._connection.send(packets.run(cookie, meta, payload, left_ms))
        return cookie, outcome

    async def run(self, pipeline: str, variables: Any = None, **options: Any) -> Outcome:
        outcome: Outcome = await soon(self.submit(pipeline, variables, **options)[1])
        return outcome

    def cancel(self, cookie: bytes, *, at_once: bool = False, why: str = "") -> None:
        assert self._connection is not None
        self._connection.send(packets.cancel(cookie, at_once=at_once, why=why, number=1))

    # What the connection says

    def accepts(self, connection: Connection) -> bool:
        return True

    def opened(self, connection: Connection) -> None:
        pass

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        answers, left = self._session.receive(frames, asyncio.get_running_loop().time())
        for answer in answers:
            connection.send(answer)
        if self._session.welcome is not None:
            self._welcomed.set()
        for view in left:
            packet = decode(view[2])
            if packet.kind == PacketType.RESULT:
                self._jobs.pop(packet.cookie).set_result(Outcome(view[2]))
            else:
                self.replies.append((schemas.reply_meta(packet.meta).to, Code(packet.code)))

    def offended(self, connection: Connection, reason: CloseReason, sentence: str) -> None:
        raise AssertionError(sentence)

    def congested(self, connection: Connection) -> None:
        pass

    def writable(self, connection: Connection) -> None:
        pass

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        self._closed.set()


async def soon(awaitable: Any) -> Any:
    """What is awaited, within the time that a test has."""
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


class Stage:
    """A broker, and what takes part in a test with it."""

    def __init__(self, broker: Broker, owner: Owner, folder: Path) -> None:
        self.broker = broker
        self.owner = owner
        self.folder = folder

    @property
    def worker_url(self) -> str:
        return self.broker.worker_urls[0]

    @property
    def worker_peer(self) -> Any:
        """The broker's record of the one worker that is connected."""
        (peer,) = [peer for peer in self.broker.switchboard.peers.values() if peer.role == Role.WORKER]
        return peer

    @asynccontextmanager
    async def working(self, worker: Worker) -> AsyncIterator[Worker]:
        """Serve with a worker while the block runs, and stop it."""
        serving = asyncio.get_running_loop().create_task(worker.serve())
        ready = asyncio.get_running_loop().create_task(worker.ready())
        try:
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            yield worker
        finally:
            ready.cancel()
            await soon(worker.stop(at_once=True))
            await soon(serving)
            self.broker.switchboard.invariants()


@asynccontextmanager
async def staged(folder: Path, limits: Limits | None = None, worker_url: str = "") -> AsyncIterator[Stage]:
    """A running broker: owners come in by memory, since a worker has a thread and a loop of its own, by a Unix socket."""
    client_url = f"memory://worker-tests-{next(_names)}"
    worker_url = worker_url or f"unix://{folder}/w{next(_names)}.sock"
    broker = Broker(
        [server_transport(client_url, Role.CLIENT)], [server_transport(worker_url, Role.WORKER)], limits=limits or Limits()
    )
    await broker.start()
    owner = await Owner(client_url).open()
    try:
        yield Stage(broker, owner, folder)
    finally:
        await owner.close()
        await broker.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something in this loop that nobody tells of."""
    await attentive.until(condition, "it did not come about", DEADLINE_S)
