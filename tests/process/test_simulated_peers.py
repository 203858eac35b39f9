"""Random clients and workers, from a seed, on real sockets, against a broker in a process of its own.

The simulator's scenarios where the order of things is the network's: peers submit, stream, fail, cancel, take over, vanish and come
again. So what is checked is what any order must leave true: each RUN is refused or its job has one outcome, everybody who asks is told
the same one, no attempt begins twice, no chunk is missing unless a GAP says so, nothing comes after the RESULT, and when all is quiet
no job lives and no slot is taken. `SIMULATION_SEED=7` goes another way.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from random import Random

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.process.rows import BrokerProcess, broker_process
from tests.wire_peers import BinaryPeer

pytestmark = pytest.mark.process

SEED = int(os.environ.get("SIMULATION_SEED", "1"))
JOBS = 60
CLIENTS, WORKERS = 3, 3
TELLS = frozenset({Code.QUEUED, Code.DISPATCHED, Code.CANCELLING, Code.OK})


class Story:
    """What all peers of a run know together."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.outcomes: dict[bytes, set[int]] = {}
        """Codes that anybody was told as a job's outcome."""
        self.refused: set[bytes] = set()
        self.runs: dict[bytes, list[int]] = {}
        """Attempts that workers were sent, by cookie."""
        self.kills = 0
        """Connections that ended in the middle of something."""
        self.broken: list[str] = []

    def cookie(self) -> bytes:
        return self.random.randbytes(16)

    def require(self, kept: bool, broken: str) -> None:
        if not kept:
            self.broken.append(broken)


async def frames(peer: BinaryPeer) -> AsyncIterator[Packet]:
    """Whatever comes, until the connection ends."""
    try:
        while True:
            length = await peer.reader.readexactly(4)
            yield decode(length + await peer.reader.readexactly(int.from_bytes(length, "big")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return


class Worker:
    """Answers each RUN: well, badly, slowly, with progress, or by going away."""

    def __init__(self, story: Story, broker: BrokerProcess, capacity: int) -> None:
        self.story, self.broker, self.capacity = story, broker, capacity
        self.is_calm = False

    async def live(self) -> None:
        """Serve, and come again whenever the connection is gone."""
        while True:
            peer = await BinaryPeer.dial(self.broker.workers[0])
            try:
                await peer.register(self.capacity)
                async with asyncio.TaskGroup() as handlers:
                    async for packet in frames(peer):
                        if packet.kind == PacketType.PING:
                            peer.send(packets.pong(packet.number))
                        elif packet.kind == PacketType.RUN:
                            self.story.runs.setdefault(packet.cookie, []).append(packet.attempt)
                            handlers.create_task(self._handle(peer, packet))
            finally:
                await peer.gone()

    async def _handle(self, peer: BinaryPeer, run: Packet) -> None:
        random = self.story.random
        for number in range(1, random.randrange(1, 9)):
            peer.send(packets.progress(run.cookie, run.attempt, number, b"%d" % number, "text"))
        await asyncio.sleep(random.choice((0, 0.001, 0.01)))
        fate = random.random()
        if fate < 0.06 and not self.is_calm:
            self.story.kills += 1
            peer.kill()
        elif fate < 0.2:
            peer.send(packets.failed(run.cookie, run.attempt, Code.EXCEPTION, "no", error_type="Bad"))
        else:
            peer.send(packets.result(run.cookie, run.attempt, b"done", "text"))


class Client:
    """Submits jobs, follows and cancels them, vanishes, and fetches what it missed."""

    def __init__(self, story: Story, broker: BrokerProcess) -> None:
        self.story, self.broker = story, broker
        self.waits: dict[bytes, int] = {}
        """Jobs without an outcome, and the number of progress that comes next (0: it may begin anywhere)."""
        self.left = 0
        """Jobs that are not submitted yet."""

    async def live(self, jobs: int) -> None:
        """Submit so many jobs, and stay until each has its outcome."""
        random, self.left = self.story.random, jobs
        while self.left or self.waits:
            peer = await BinaryPeer.dial(self.broker.clients[0])
            await peer.greet()
            for cookie in self.waits:
                self.waits[cookie] = 1
                peer.send(packets.attach(cookie, first=1, number=1))
            reading = asyncio.create_task(self._read(peer))
            while self.left and random.random() > 0.1:
                self.left -= 1
                self._act(peer)
                await asyncio.sleep(random.choice((0, 0.001, 0.005)))
            if not self.left:
                await reading
            self.story.kills += 1
            peer.kill()
            await asyncio.gather(reading, return_exceptions=True)
            await peer.gone()

    def _act(self, peer: BinaryPeer) -> None:
        random, cookie = self.story.random, self.story.cookie()
        more = random.choice(({}, {"follow": True}, {"att": 3, "back": 1, "again": ["Bad"], "follow": True}, {"rlim": 5000}))
        options = schemas.RunOptions(p="p", nonce=b"n", **more)
        peer.send(packets.run(cookie, schemas.encode_meta(options), b"x"))
        self.waits[cookie] = 1
        if random.random() < 0.15:
            peer.send(packets.cancel(random.choice(list(self.waits)), number=2))

    async def _read(self, peer: BinaryPeer) -> None:
        """Account for what comes until every job has its outcome, or the connection ends."""
        results = 0
        async for packet in frames(peer):
            if packet.kind == PacketType.PING:
                peer.send(packets.pong(packet.number))
            elif packet.kind == PacketType.RESULT:
                results += 1
                self._over(packet)
                peer.send(packets.ack(results))
            elif packet.kind == PacketType.PROGRESS:
                self._progress(peer, packet)
            elif packet.kind == PacketType.REPLY and packet.code not in TELLS:
                self._refused(packet)
            if not self.left and not self.waits:
                return

    def _refused(self, packet: Packet) -> None:
        """Only what never arrived is refused, when it is asked for on the next connection; a CANCEL may always come too late."""
        if schemas.reply_meta(packet.meta).to != PacketType.CANCEL:
            self.story.require(packet.code == Code.COOKIE_NOT_FOUND, f"refused with {Code(packet.code).name}")
            self.story.refused.add(packet.cookie)
            self.waits.pop(packet.cookie, None)

    def _progress(self, peer: BinaryPeer, packet: Packet) -> None:
        cookie = packet.cookie
        first = schemas.chunk_meta(packet.meta).first if packet.code == Code.GAP else packet.number
        expected = self.waits.get(cookie)
        self.story.require(expected is not None, f"progress of {cookie.hex()} after its RESULT")
        self.story.require(expected in (None, first), f"chunk {first} of {cookie.hex()} after {expected}")
        self.waits[cookie] = packet.number + 1
        peer.send(packets.credit(cookie, 0, 1))

    def _over(self, packet: Packet) -> None:
        self.story.require(packet.cookie in self.waits, f"a second RESULT of {packet.cookie.hex()}")
        self.waits.pop(packet.cookie, None)
        self.story.outcomes.setdefault(packet.cookie, set()).add(packet.code)


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
async def test_random_peers_leave_nothing_behind(seed: int) -> None:
    story = Story(seed)
    async with broker_process() as broker:
        workers = [Worker(story, broker, capacity) for capacity in range(1, WORKERS + 1)]
        serving = [asyncio.create_task(worker.live()) for worker in workers]
        clients = [Client(story, broker) for _ in range(CLIENTS)]
        async with asyncio.timeout(40):
            await asyncio.gather(*(client.live(JOBS // CLIENTS) for client in clients))
        for worker in workers:
            worker.is_calm = True

        def is_quiet(state: dict[str, object]) -> bool:
            return state["jobs"] == state["waiting"] == state["reserved"] == 0 and state["free"] == state["capacity"]

        state = await broker.becomes(is_quiet, "quiet")
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
    assert story.broken == []
    assert story.kills > CLIENTS
    assert state["verdict"] == ""
    assert not state["failed"]
    assert {cookie: codes for cookie, codes in story.outcomes.items() if len(codes) > 1} == {}
    assert len(story.outcomes) + len(story.refused) == JOBS
    assert {cookie: runs for cookie, runs in story.runs.items() if runs != sorted(set(runs))} == {}
