"""A worker's link with a broker that does what a test wants, in one loop, over memory."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from reasonchip_broker.limits import Limits
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.endpoints import client_transport, server_transport
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.worker.desk import Desk
from reasonchip_broker.worker.jobs import Job, perform
from reasonchip_broker.worker.link import Link, LinkState
from reasonchip_broker.worker.pipelines import Pipeline, Pipelines, Runs
from tests.unit.worker.harness import until
from tests.unit.worker.test_desk import HandExecutor

_names = itertools.count()
COOKIE = bytes(range(16))


class FakeBroker:
    """Takes connections and answers HELLO, REGISTER and DRAIN as told; the rest is the test's."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.url = f"memory://link-tests-{next(_names)}"
        self.connections: list[Connection] = []
        self.packets: list[Packet] = []
        self.ends: list[CloseReason] = []
        self.answer: dict[int, Code | None] = {PacketType.REGISTER: Code.OK, PacketType.DRAIN: Code.OK}
        self.welcomes = True
        self.closes_on_goodbye = True
        self.confirms = True
        """Whether what a REGISTER lists is confirmed."""
        self.acks = True
        """Whether RESULTs of a worker with a session are acknowledged."""
        self._results = 0

    def send(self, frame: bytes) -> None:
        self.connections[-1].send(frame)

    def run(self, cookie: bytes = COOKIE, value: Any = None) -> None:
        options = schemas.encode_meta(schemas.RunOptions(p="echo", enc="msgpack"))
        self.send(packets.run(cookie, options, payloads.encode({"value": value}, "msgpack")))

    def of(self, kind: PacketType) -> list[Packet]:
        return [packet for packet in self.packets if packet.kind == kind]

    # What a connection says

    def accepts(self, connection: Connection) -> bool:
        return True

    def opened(self, connection: Connection) -> None:
        self.connections.append(connection)

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        for view in frames:
            packet = decode(view[2])
            self.packets.append(packet)
            if packet.kind == PacketType.HELLO and self.welcomes:
                self._results = 0
                limits = self.limits
                connection.welcome()
                beat, dead = int(limits.heartbeat_s * 1000), int(limits.lease_s * 1000)
                frame = limits.frame_bytes_max
                connection.send(packets.welcome(schemas.WelcomeMeta(os.urandom(16), bytes(16), frame, 100, beat, dead, 64)))
            elif packet.kind == PacketType.PING:
                connection.send(packets.pong(packet.number))
            elif packet.kind == PacketType.GOODBYE and self.closes_on_goodbye:
                connection.close(CloseReason.NORMAL, "goodbye")
            elif packet.kind == PacketType.RESULT and self.acks:
                self._results += 1
                connection.send(packets.ack(self._results))
            elif (code := self.answer.get(packet.kind)) is not None:
                held = schemas.register_meta(packet.meta).held if packet.kind == PacketType.REGISTER and self.confirms else []
                connection.send(packets.reply(packet.kind, code, "so be it", number=packet.number, held=held))

    def offended(self, connection: Connection, reason: CloseReason, sentence: str) -> None:
        raise AssertionError(sentence)

    def congested(self, connection: Connection) -> None: ...

    def writable(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        self.ends.append(reason)


class Setting:
    """A link with two slots, its desk, and an executor by hand."""

    def __init__(self, url: str, limits: Limits, grace_s: int) -> None:
        self.changes: list[bool] = []
        self.executor = HandExecutor()
        pipelines = Pipelines()
        pipelines.add(Pipeline("echo", lambda value=None: value))
        hello = schemas.HelloMeta(name="tester", inst=bytes(16), grace=grace_s)
        offer = schemas.RegisterMeta(cap=2, serves=["echo"])
        loop = asyncio.get_running_loop()
        self.link = Link(client_transport(url, Role.WORKER), hello, offer, limits, loop, self.changes.append)
        self._loop = loop
        executors = {Runs.THREAD: self.executor}
        kin = self.link.kindred
        self.desk = Desk(pipelines, 2, executors, self.link.transmit, self.say, kin, session=grace_s > 0)
        self.link.desk = self.desk
        self.task: asyncio.Task[None]

    def start(self, drain_s: float = 20.0) -> None:
        self.task = asyncio.get_running_loop().create_task(self.link.run(drain_s))

    async def registered(self) -> None:
        await until(lambda: self.changes[-1:] == [True])

    async def begun(self, count: int = 1) -> Job:
        await until(lambda: len(self.executor.started) == count)
        job = self.executor.started[-1]
        assert job.claim()
        return job

    def say(self, frame: bytes) -> None:
        """What jobs say, through the loop as a mailbox has it."""
        self._loop.call_soon_threadsafe(self.link.report, (None, frame))

    def end(self, job: Job) -> None:
        self.link.report((job, perform(job)))


@asynccontextmanager
async def linked(limits: Limits | None = None, grace_s: int = 0) -> AsyncIterator[tuple[FakeBroker, Setting]]:
    """A broker that listens, and a link that is about to be started."""
    broker = FakeBroker(limits or Limits())
    listener = server_transport(broker.url, Role.WORKER)
    await listener.start(Role.WORKER, broker, broker.limits, Flusher(asyncio.get_running_loop()))
    setting = Setting(broker.url, limits or Limits(), grace_s)
    try:
        yield broker, setting
    finally:
        if not setting.task.done():
            setting.link.leave()
            setting.link.hurry()
            await asyncio.wait((setting.task,), timeout=20)
        await listener.stop()
        assert setting.task.done()
        assert setting.link.state is LinkState.DOWN
