"""Rows 4 and 5 of failures.md: who stands still. A worker that is stopped loses its lease, and its jobs to others; when it goes on,
nothing that it says of them counts. A broker that is stopped takes nobody's lease for the time that it was away itself."""

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasonchip_broker.limits import KIB, TIMER_TICK_S, Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import ENCODING_BYTES, CloseReason, Code, PacketType
from reasonchip_broker.protocol.frames import PREFACE, Frame
from tests import attentive
from tests.process.rows import (
    BrokerProcess,
    Moment,
    NamedWorker,
    broker_process,
    effects_of,
    freeze,
    lasts,
    outcomes_of,
    peer_process,
)
from tests.raw_peers import HELLO, RawClient, RawPeer, connect, options

pytestmark = pytest.mark.process

SHORT = Limits(heartbeat_s=0.4, lease_s=1.2)
"""Row 4 in short; the defaults are 10 and 30 s."""


# Row 4


async def stop_a_worker(effects: Path, grace_s: int, limits: Limits) -> float:
    """A worker is stopped while it holds jobs, loses them, and goes on. Returns after how long their owner was told."""
    async with (
        broker_process(notes_losses=True, heartbeat_s=limits.heartbeat_s, lease_s=limits.lease_s) as broker,
        peer_process(
            "row_worker",
            url=broker.workers[0],
            capacity=20,
            serves=["hold*"],
            effects=str(effects),
            name="sleeper",
            instance=b"i".hex() * 16,
            grace=grace_s,
        ) as sleeper,
    ):
        assert await sleeper.says() == ["registered", []]
        client = await broker.client()
        once = [client.run("hold-once") for _ in range(8)]
        again = [client.run("hold-again", att=2, back=0) for _ in range(8)]
        for count in range(1, 17):
            assert await sleeper.says() == ["held", count]
        sleeper.stop()
        stopped = Moment(asyncio.get_running_loop().time(), broker.unserved_s())
        # What it was told before it stopped, it will do first when it goes on: report on all of them.
        sleeper.tell("finish")
        other = await broker.worker(20, "hold*")
        for cookie in once:
            outcome = await patiently(client, cookie, 2 * limits.lease_s + grace_s + 20)
            assert outcome == Code.WORKER_WENT_AWAY
        for cookie in again:
            assert await patiently(client, cookie, 20) == Code.OK
        told = await broker.losses()
        assert told.keys() == set(once)
        heard = dict(outcomes_of(client))
        before = await broker.state()

        sleeper.go_on()
        said = [await sleeper.says() for _ in range(3)]
        assert ["finished", 16] in said
        assert ["registered", []] in said, "nothing that it holds is its own any more"
        # Each RESULT that it sends again is dropped, and gives back the slot that it was thought to take up.
        state = await broker.becomes(lambda state: state["free"] == state["capacity"] == 40, "slots did not come back")
        assert state["reserved"] == 0
        assert dict(outcomes_of(client)) == heard == dict.fromkeys([*once, *again], 1)
        assert state["counters"]["finished"] == before["counters"]["finished"] == 16
        assert effects_of(effects) == dict.fromkeys([*once, *again], 1)
        assert sum(frame[0] == PacketType.RUN for frame in other.frames) == 8
        assert [frame[4] for frame in other.frames if frame[0] == PacketType.RUN] == [2] * 8
        await client.echo(pipeline="hold-nothing")
        return max(moment.own_s(stopped) for moment in told.values())


async def patiently(client: RawClient, cookie: bytes, patience_s: float) -> Code:
    """The code of an outcome that may take longer than others."""
    await attentive.until(lambda: (PacketType.RESULT, cookie) in client.heard, "an outcome did not come", patience_s)
    return Code((await client.outcome(cookie)).code)


@pytest.mark.parametrize("grace_s", [0, 1], ids=["no session", "a session"])
async def test_row_4_a_stopped_worker_loses_its_lease_and_its_late_packets_are_fenced(
    grace_s: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    told_s = await stop_a_worker(tmp_path / "effects", grace_s, SHORT)
    record_property("told_s", round(told_s, 3))
    assert told_s <= SHORT.lease_s + grace_s + 2 * TIMER_TICK_S


@pytest.mark.soak
async def test_row_4_with_the_default_lease_an_owner_is_told_within_thirty_seconds(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    told_s = await stop_a_worker(tmp_path / "effects", 0, Limits())
    record_property("told_s", round(told_s, 3))
    assert told_s <= 30 + 2 * TIMER_TICK_S


# Row 5


class Crowd:
    """Peers of every kind, alive all of them, in the middle of whatever they may be in the middle of."""

    def __init__(self, broker: BrokerProcess) -> None:
        self._broker = broker
        self.peers: dict[str, list[RawPeer]] = {}
        self.cookies: list[bytes] = []
        self.client: RawClient
        self.worker: NamedWorker
        self.stream: RawClient

    async def gather(self, count: int) -> None:
        """Let them come."""
        clients, workers = self._broker.clients[0], self._broker.workers[0]
        self.worker = await connect(workers, NamedWorker("worker", b"i" * 16, 1, works=lambda frame: None))
        await self.worker.begin(100, "held")
        self.client = await self._broker.client()
        self.cookies = [self.client.run("held", att=2) for _ in range(50)]
        await self.worker.holds(50)
        finished = (await self._broker.state())["counters"]["finished"] + 100
        self.stream = await self._broker.client()
        self.stream.live.pause_reading()
        self.cookies += [self.stream.run("large") for _ in range(100)]
        self.peers["at work"] = [self.client, self.worker, self.stream]
        self.peers["silent"] = [await self._broker.client() for _ in range(count)]
        for kind in BEGUN:
            self.peers[kind] = [await connect(clients, Begun()) for _ in range(count)]
            for peer in self.peers[kind]:
                peer.send(BEGUN[kind][0])
        # The broker has read all of that once it has answered this.
        await self._broker.becomes(lambda state: state["counters"]["finished"] >= finished, "the large results are not there")
        await self.client.ping()

    def go_on(self) -> None:
        """What they do while the broker stands still."""
        for kind, (_, rest) in BEGUN.items():
            for peer in self.peers[kind]:
                peer.send(rest)
        for peer in self.peers["silent"][::2]:
            peer.send(packets.ping(7))
        self.stream.live.resume_reading()
        for frame in self.worker.held[:25]:
            self.worker.finish(frame)

    async def is_well(self) -> None:
        """None of them was sent away, and each is served."""
        for kind in BEGUN:
            for peer in self.peers[kind]:
                await heard(peer, kind)
                assert peer.farewell() is None, f"{kind}: {peer.farewell()}"
                assert not peer.is_lost, kind
        for peer in (*self.peers["silent"], *self.peers["at work"]):
            await peer.ping()
        for frame in self.worker.held[:]:
            self.worker.finish(frame)
        for client in (self.client, self.stream):
            for cookie in self.cookies[:50] if client is self.client else self.cookies[50:]:
                assert (await client.outcome(cookie)).code == Code.OK
        assert all(frame[4] == 1 for frame in self.worker.frames if frame[0] == PacketType.RUN), "a job was taken away"
        assert set(outcomes_of(self.client, self.stream).values()) == {1}


class Begun(RawPeer):
    """One of whichever dialect."""

    def data_received(self, data: bytes) -> None:
        self.data_bytes += len(data)
        super().data_received(data)


async def heard(peer: RawPeer, kind: str) -> None:
    """Wait until a peer was told something, whichever it is."""
    await peer.until(lambda: bool(peer.data_bytes) or peer.is_lost, f"nothing was said to one that was {kind}")


def json_frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


JSON_CANCEL = json_frame(b'{"packet_type":"CANCEL","cookie":"' + b"6a" * 16 + b'"}')
BEGUN = {
    "in the preface": (PREFACE[:2], HELLO[2:]),
    "before HELLO": (PREFACE, HELLO[4:]),
    "in HELLO": (HELLO[:20], HELLO[20:]),
    "in a RUN": (HELLO + packets.run(b"r" * 16, options("none", queue=False), b"x")[:50], b""),
    "in a JSON frame": (JSON_CANCEL[:30], JSON_CANCEL[30:]),
}
"""What peers have said before the broker stands still, and what they say while it does."""


def large(frame: Frame) -> bytes:
    """A large result for any job."""
    return packets.result(frame[1], frame[4], bytes(64 * KIB), ENCODING_BYTES)


async def stop_the_broker(stops: int, stopped_s: float, crowd_of: int, **limits: Any) -> None:
    """The broker is stopped for so long, so many times, with many peers; nobody may lose anything by it."""
    async with broker_process(log="INFO", quiet=False, **limits) as broker:
        await broker.worker(10, "large", works=large)
        for _ in range(stops):
            crowd = Crowd(broker)
            await crowd.gather(crowd_of)
            freeze(broker.pid)
            assert not any(peer.is_lost for peers in crowd.peers.values() for peer in peers), "it took too long to gather them"
            crowd.go_on()
            await lasts(stopped_s)
            os.kill(broker.pid, signal.SIGCONT)
            await crowd.is_well()
            for peers in crowd.peers.values():
                for peer in peers:
                    peer.live.abort()
            await broker.becomes(lambda state: state["connections"] == 1, "somebody is left")
        log = await broker.stop()
    reasons = Counter(re.findall(r"reason='(\w+)'", log))
    assert reasons.keys() <= {"PEER_CLOSED", "CONNECTION_LOST", "SHUTTING_DOWN", "NORMAL"}, reasons


async def test_row_5_a_broker_that_was_stopped_for_many_leases_evicts_nobody() -> None:
    limits: dict[str, Any] = {"heartbeat_s": 0.4, "lease_s": 1.2, "handshake_s": 1.0, "write_deadline_s": 1.0}
    await stop_the_broker(1, 4.0, 20, **limits)


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_row_5_a_broker_that_was_stopped_for_a_minute_evicts_nobody() -> None:
    await stop_the_broker(1, 60.0, 100)


async def test_row_5_after_a_stop_silence_counts_again_from_the_start() -> None:
    """Who says nothing is found out all the same: a whole lease after the broker went on, and not before."""
    async with broker_process(heartbeat_s=SHORT.heartbeat_s, lease_s=SHORT.lease_s) as broker:
        mute = await connect(broker.clients[0], Mute())
        mute.send(HELLO)
        await mute.kind(PacketType.WELCOME)
        freeze(broker.pid)
        await lasts(2 * SHORT.lease_s)
        went_on = Moment(asyncio.get_running_loop().time(), broker.unserved_s())
        os.kill(broker.pid, signal.SIGCONT)
        assert (await mute.sent_away())[0] is CloseReason.HEARTBEAT_TIMEOUT
        ended = Moment(asyncio.get_running_loop().time(), broker.unserved_s())
        assert ended.at - went_on.at >= SHORT.lease_s
        assert ended.own_s(went_on) <= 2 * SHORT.lease_s


class Mute(RawPeer):
    """One that answers no PING."""

    def hears(self, frame: Frame) -> None:
        pass
