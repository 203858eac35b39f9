"""Row 30 of failures.md: two workers of one name, and a worker that is back before its old connection is seen to be dead. The newer one
wins, the older is fenced; no job has two outcomes, and none is lost that is still held."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType
from reasonchip_broker.protocol.frames import Frame
from tests.process.rows import BrokerProcess, NamedWorker, broker_process, effects_of, outcomes_of, peer_process
from tests.raw_peers import RawClient, connect, echoed, kept

pytestmark = pytest.mark.process

TURNS = 300


async def named(broker: BrokerProcess, instance: bytes, grace_s: int = 0) -> NamedWorker:
    """A worker of the name that they all have, connected and no more."""
    return await connect(broker.workers[0], NamedWorker("the one", instance, grace_s, works=kept))


@pytest.mark.parametrize("grace_s", [0, 60], ids=["no session", "a session"])
async def test_row_30_of_two_workers_with_one_name_the_newer_wins_and_the_older_is_fenced(grace_s: int) -> None:
    """Another process of the same name: what the older one held is lost, or begun again, and what it still says does not count."""
    async with broker_process() as broker:
        client = await broker.client()
        older = await named(broker, b"1" * 16, grace_s)
        await older.begin(2, "held")
        once, again = client.run("held"), client.run("held", att=2, back=0)
        await older.holds(2)
        newer = await named(broker, b"2" * 16, grace_s)
        # What it claims to hold is not its own: it is another process. It takes up a slot until it is reported, and no more.
        await newer.begin(2, "held", held=[(once, 1)])
        assert newer.confirmed == []
        older.send(*(echoed(frame) for frame in older.held))
        assert (await older.sent_away())[0] is CloseReason.REPLACED
        assert (await client.outcome(once)).code == Code.WORKER_WENT_AWAY
        newer.send(echoed(older.held[0]))
        await newer.holds(1)
        assert [(frame[1], frame[4]) for frame in newer.held] == [(again, 2)]
        newer.finish(newer.held[0])
        assert (await client.outcome(again)).code == Code.OK
        state = await broker.becomes(lambda state: state["free"] == state["capacity"] == 2, "slots did not come back")
        assert (state["reserved"], state["counters"]["finished"]) == (0, 2)
        assert outcomes_of(client) == {once: 1, again: 1}


async def test_row_30_a_worker_that_is_back_before_its_old_connection_is_seen_dead_goes_on_with_what_it_holds() -> None:
    async with broker_process() as broker:
        client = await broker.client()
        old = await named(broker, b"1" * 16, 60)
        await old.begin(3, "held")
        cookies = [client.run("held", follow=True) for _ in range(3)]
        await old.holds(3)
        old.send(packets.progress(cookies[0], 1, 1, b"one", "bytes"))
        await old.ping()
        new = await named(broker, b"1" * 16, 60)
        # It has lost the second one, for whatever reason; and it does not know that there is still another connection.
        await new.begin(3, "held", held=[(cookies[0], 1), (cookies[2], 1)])
        assert sorted(new.confirmed) == sorted([(cookies[0], 1), (cookies[2], 1)])
        old.send(*(echoed(frame) for frame in old.held), packets.progress(cookies[0], 1, 2, b"late", "bytes"))
        assert (await old.sent_away())[0] is CloseReason.REPLACED
        assert (await client.outcome(cookies[1])).code == Code.WORKER_WENT_AWAY
        new.send(packets.progress(cookies[0], 1, 2, b"two", "bytes"))
        for frame in (old.held[0], old.held[2]):
            new.send(echoed(frame))
            assert (await client.outcome(frame[1])).code == Code.OK
        assert outcomes_of(client) == dict.fromkeys(cookies, 1)
        assert sum(frame[0] == PacketType.PROGRESS for frame in client.frames) == 2
        state = await broker.state()
        assert (state["free"], state["reserved"], state["counters"]["finished"]) == (3, 0, 3)


class Turns:
    """One worker after the other of one name, each before the one before it has gone, while jobs come and end."""

    def __init__(self, broker: BrokerProcess, client: RawClient) -> None:
        self._broker = broker
        self._client = client
        self._random = random.Random(30)
        self.jobs: dict[bytes, int] = {}
        """Each with its attempts."""
        self.begun: Counter[tuple[bytes, int]] = Counter()
        self._instance = b""
        self.worker: NamedWorker
        self._holds: dict[bytes, Frame] = {}
        """What the process that connects next holds of earlier connections."""

    async def turn(self) -> None:
        """A connection replaces the one before it: of the same process, or of another; in time, late, or in the middle of a word."""
        chance = self._random.random
        is_another = chance() < 0.3
        if is_another or not self._instance:
            self._instance, self._holds = self._random.randbytes(16), {}
        before = getattr(self, "worker", None)
        worker = self.worker = await connect(
            self._broker.workers[0], NamedWorker("the one", self._instance, 60, works=self._works)
        )
        if before is not None:
            for frame in before.held[:] if not is_another else []:
                self._holds[frame[1]] = frame
            # Whatever the older one still says, it says before the broker knows of the newer, or after, or when it has been told.
            self._talk(before)
            worker.say_hello(8, "held", held=[(frame[1], frame[4]) for frame in self._holds.values() if chance() < 0.9])
            self._talk(before)
            assert (await before.sent_away())[0] is CloseReason.REPLACED
        else:
            worker.say_hello(8, "held")
        await worker.kind(PacketType.REPLY)
        # It reports on some of what it holds; on what was not confirmed too.
        for frame in list(self._holds.values()):
            if chance() < 0.7:
                worker.send(echoed(frame))
                del self._holds[frame[1]]
        for _ in range(4):
            attempts = self._random.choice([1, 1, 3])
            self.jobs[self._client.run("held", att=attempts, back=0)] = attempts
        await worker.ping()
        for frame in worker.held[:]:
            if chance() < 0.4:
                worker.finish(frame)

    def _talk(self, older: NamedWorker) -> None:
        for frame in older.held:
            if self._random.random() < 0.3 and not older.is_lost:
                older.send(echoed(frame), packets.progress(frame[1], frame[4], 1, b"late", "bytes"))

    def _works(self, frame: Frame) -> None:
        self.begun[frame[1], frame[4]] += 1


async def test_row_30_many_turns_of_workers_with_one_name_leave_one_outcome_of_each_job_and_no_slot_taken() -> None:
    async with broker_process() as broker:
        client = await broker.client()
        turns = Turns(broker, client)
        for _ in range(TURNS):
            await turns.turn()
        last = await named(broker, b"the last process", 60)
        last.works = echoed
        await last.begin(1000, "held")
        for cookie in turns.jobs:
            await client.outcome(cookie)
        await client.ping()
        assert outcomes_of(client) == dict.fromkeys(turns.jobs, 1)
        codes = Counter(Code(frame[3]) for frame in client.frames if frame[0] == PacketType.RESULT)
        assert codes.keys() <= {Code.OK, Code.WORKER_WENT_AWAY, Code.DEAD_LETTERED}
        assert codes[Code.OK] > TURNS
        assert max(turns.begun.values()) == 1, "an attempt was begun twice"
        state = await broker.becomes(lambda state: state["connections"] == 2, "a replaced worker is still there")
        assert (state["free"], state["jobs"], state["reserved"]) == (1000, 0, 0)


async def test_row_30_a_real_process_that_comes_twice_is_replaced_and_does_not_come_back(tmp_path: Path) -> None:
    """So that two workers of one name don't take turns for ever: who is told that it was replaced stays away."""
    async with broker_process() as broker:
        settings = {
            "url": broker.workers[0],
            "capacity": 4,
            "serves": ["hold"],
            "effects": str(tmp_path / "effects"),
            "grace": 60,
        }
        client = await broker.client()
        async with (
            peer_process("row_worker", **settings, name="twin", instance=(b"1" * 16).hex()) as first,
            peer_process("row_worker", **settings, name="twin", instance=(b"2" * 16).hex()) as second,
        ):
            for twin in (first, second):
                assert await twin.says() == ["registered", []]
            tasks = {asyncio.create_task(peer.says()): peer for peer in (first, second)}
            done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            loser = done.pop()
            assert loser.result() == ["lost", "REPLACED"]
            cookies = [client.run("hold", att=2, back=0) for _ in range(4)]
            (waiting,) = others
            winner = tasks[waiting]
            assert await waiting == ["held", 1]
            for count in range(2, 5):
                assert await winner.says() == ["held", count]
            winner.tell("finish")
            for cookie in cookies:
                assert (await client.outcome(cookie)).code == Code.OK
            state = await broker.becomes(lambda state: state["connections"] == 2, "the older one is still there")
            assert state["capacity"] == 4
        assert outcomes_of(client) == dict.fromkeys(cookies, 1)
        assert set(effects_of(tmp_path / "effects").values()) == {1}
