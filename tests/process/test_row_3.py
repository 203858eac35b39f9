"""Row 3 of failures.md: the broker is killed while jobs run. What it had taken runs once at most, whatever its clients do next.

The clients here keep the rule of the protocol page: after a reconnect each unfinished RUN is sent again as it was, with the broker's
instance that it was first sent to. The workers write down each job that they begin, in a file that outlives everybody.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import Frame
from tests.process.row_broker import unserved_s
from tests.process.rows import (
    BrokerProcess,
    Moment,
    NamedWorker,
    broker_process,
    effects_of,
    is_lost,
    outcomes_of,
    own_address,
    percentile,
)
from tests.raw_peers import RawClient, connect, echoed, options

pytestmark = pytest.mark.process

ROUNDS = 6
CLIENTS = 4
AT_ONCE_S = 0.1
"""Within this, of this process's own time, clients learn that their broker is dead."""

LOAD = 60
"""Jobs that each client has in the broker at any time."""


class Loyal:
    """A client that sends again, after a reconnect, what it has no outcome of."""

    def __init__(self, number: int) -> None:
        self._random = random.Random(number)
        self.unfinished: dict[bytes, tuple[dict[str, Any], bytes]] = {}
        """Each with its options (`at` among them) and variables."""
        self.outcomes: Counter[bytes] = Counter()
        self.codes: dict[bytes, Code] = {}
        self.again: set[bytes] = set()
        """Jobs that were sent again."""
        self.peer = RawClient()
        self.instance = b""

    async def connect(self, broker: BrokerProcess) -> None:
        self.peer = peer = await connect(broker.clients[0], RawClient())
        self.instance = (await peer.hello()).broker
        for cookie, (said, variables) in self.unfinished.items():
            self.again.add(cookie)
            peer.send(packets.run(cookie, options("side-effect", **said), variables))

    def submit(self) -> None:
        cookie = self._random.randbytes(16)
        said = {"nonce": self._random.randbytes(8), "at": self.instance, "att": 1}
        self.unfinished[cookie] = said, cookie
        self.peer.send(packets.run(cookie, options("side-effect", **said), cookie))

    def fill(self) -> None:
        """Let there be a load."""
        while len(self.unfinished) < LOAD:
            self.submit()

    def reap(self) -> None:
        """Take the outcomes that have come."""
        for frame in self.peer.frames:
            if frame[0] == PacketType.RESULT:
                self.outcomes[frame[1]] += 1
                self.codes[frame[1]] = Code(frame[3])
                del self.unfinished[frame[1]]
        self.peer.frames.clear()

    async def load(self, jobs: int) -> None:
        """Keep the broker busy until so many jobs have ended on this connection, or it is lost."""
        ended = len(self.codes)
        while len(self.codes) < ended + jobs and not self.peer.is_lost:
            self.fill()
            await self.peer.until(lambda: bool(self.peer.frames) or self.peer.is_lost, "nothing came")
            self.reap()

    async def all(self) -> None:
        """Wait for the outcomes of everything."""
        while self.unfinished:
            await self.peer.until(lambda: bool(self.peer.frames), "an outcome did not come")
            self.reap()


def works(effects: int, finish_of: float, chance: random.Random) -> Callable[[Frame], bytes | None]:
    """A worker's work: a side effect, and an answer to most jobs; it is still at the others when the broker is killed."""

    def work(frame: Frame) -> bytes | None:
        os.write(effects, f"{frame[1].hex()} {frame[4]}\n".encode())
        return echoed(frame) if chance.random() < finish_of else None

    return work


async def test_row_3_no_job_runs_twice_when_the_broker_is_killed_and_started_again(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    effects = os.open(tmp_path / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    chance = random.Random(3)
    clients = [Loyal(number) for number in range(CLIENTS)]
    learnt_s: list[float] = []
    loop = asyncio.get_running_loop()
    address, worker_address = own_address(), own_address()
    async with AsyncExitStack() as stack:
        for number in range(ROUNDS):
            broker = await stack.enter_async_context(broker_process(clients=address, workers=worker_address))
            address, worker_address = broker.clients[0], broker.workers[0]
            for client in clients:
                await client.connect(broker)
            is_last = number == ROUNDS - 1
            # So few slots that some jobs are always waiting, so many jobs unanswered that some are always running.
            worker = await broker.worker(1000, "side-effect", works=works(effects, 1.0 if is_last else 0.97, chance))
            await asyncio.gather(*(client.load(200 + 50 * number) for client in clients))
            if is_last:
                await asyncio.gather(*(client.all() for client in clients))
                continue
            for client in clients:
                client.fill()
            died = Moment(await broker.killed(), unserved_s())
            for client in clients:
                await is_lost(client.peer)
                learnt_s.append(Moment(loop.time(), unserved_s()).own_s(died))
                client.reap()
            await is_lost(worker)
    os.close(effects)
    begun = effects_of(tmp_path / "effects")
    codes = Counter(code for client in clients for code in client.codes.values())
    again = {cookie for client in clients for cookie in client.again}
    assert codes.keys() == {Code.OK, Code.BROKER_WENT_AWAY}
    assert len(again) >= CLIENTS * (ROUNDS - 1) * LOAD / 2
    assert max(learnt_s) <= AT_ONCE_S
    assert max(begun.values()) == 1, "a job of one attempt ran twice"
    for client in clients:
        assert set(client.outcomes.values()) == {1}
        for cookie, code in client.codes.items():
            assert (code == Code.BROKER_WENT_AWAY) == (cookie in again), (
                "a RUN that was sent again may have run, and is told so"
            )
            assert code != Code.OK or begun[cookie] == 1
    record_property("jobs", sum(codes.values()))
    record_property("sent again", len(again))
    record_property("of those had run", sum(begun[cookie] for cookie in again))
    record_property("learnt_ms, worst", round(1000 * percentile(learnt_s, 1.0), 1))


async def test_row_3_what_a_new_broker_says_of_jobs_of_the_old_one(tmp_path: Path) -> None:
    """Sent again it may have run; asked for it is unknown; what was never sent before runs, and so does what was sent to this one."""
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(broker_process(clients=own_address(), workers=own_address()))
        client = await connect(old.clients[0], RawClient())
        at = (await client.hello()).broker
        worker = await old.worker(1, "held", works=lambda frame: None)
        said = {
            name: {"nonce": b"nonce", "at": at, "att": attempts}
            for name, attempts in (("running", 1), ("waiting", 1), ("retried", 5))
        }
        cookies = {name: os.urandom(16) for name in said}
        for name, cookie in cookies.items():
            client.send(packets.run(cookie, options("held", **said[name]), b""))
        await worker.holds(1)
        await old.killed()
        await is_lost(client)
        assert client.farewell() is None

        new = await stack.enter_async_context(broker_process(clients=old.clients[0], workers=old.workers[0]))
        worker = await new.worker(10, "held", works=lambda frame: None)
        client = await connect(new.clients[0], RawClient())
        instance = (await client.hello()).broker
        assert instance != at
        for number, (name, cookie) in enumerate(cookies.items(), 1):
            client.send(packets.attach(cookie, number=number), packets.status(cookie, number=number))
            client.send(packets.run(cookie, options("held", **said[name]), b""))
            outcome = await client.outcome(cookie)
            assert outcome.code == Code.BROKER_WENT_AWAY, name
            assert schemas.result_meta(outcome.meta).ran, name
            replies = [decode(frame[2]) for frame in client.frames if frame[0] == PacketType.REPLY and frame[1] == cookie]
            assert [(reply.code, reply.number) for reply in replies] == [(Code.COOKIE_NOT_FOUND, number)] * 2, name
        assert not worker.held
        for first in (None, instance):
            cookie = client.run("held", nonce=b"nonce", at=first)
            await worker.holds(1)
            worker.finish(worker.held[0])
            assert (await client.outcome(cookie)).code == Code.OK
        assert set(outcomes_of(client).values()) == {1}
        state = await new.state()
        assert (state["jobs"], state["reserved"], state["counters"]["finished"]) == (0, 0, 2)


async def test_row_3_a_worker_that_outlives_its_broker_ends_no_job_of_the_next_one() -> None:
    """It lists what it holds, of which the new broker confirms nothing; its slots count as taken until it has reported."""
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(broker_process(clients=own_address(), workers=own_address()))
        client = await old.client()
        worker = await connect(old.workers[0], NamedWorker("survivor", b"i" * 16, 60, works=lambda frame: None))
        await worker.begin(3, "held")
        cookies = [client.run("held") for _ in range(3)]
        await worker.holds(3)
        await old.killed()
        await is_lost(worker)

        new = await stack.enter_async_context(broker_process(clients=old.clients[0], workers=old.workers[0]))
        client = await new.client()
        back = await connect(new.workers[0], NamedWorker("survivor", b"i" * 16, 60, works=lambda frame: None))
        await back.begin(3, "held", held=[(frame[1], frame[4]) for frame in worker.held])
        assert back.confirmed == []
        state = await new.state()
        assert (state["free"], state["jobs"], state["reserved"]) == (0, 0, 3)
        # The cookie of a job that still runs somewhere must not begin another one.
        client.send(packets.run(cookies[0], options("held", nonce=b"other"), b""))
        assert (await client.reply(cookies[0]))[0] == Code.COOKIE_COLLISION
        for frame in worker.held:
            back.send(echoed(frame))
        state = await new.becomes(lambda state: state["free"] == 3, "slots did not come back")
        assert (state["jobs"], state["reserved"], state["counters"]["finished"]) == (0, 0, 0)
        assert not outcomes_of(client)
