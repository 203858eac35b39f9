"""Row 25 of failures.md: the wall clock moves by a day, forwards or back, and nothing happens."""

import asyncio
import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import Frame
from tests.process.rows import NamedWorker, ServeProcess, lasts, outcomes_of
from tests.raw_peers import RawClient, RawWorker, connect, hang_up

pytestmark = pytest.mark.process

SOURCE = Path(__file__).with_name("clock_shim.c")
LIMITS = {"heartbeat_s": 1.0, "lease_s": 3.0, "cancel_grace_s": 600.0}
A_DAY_MS = 86_400_000 // 2
"""Half a day: whatever reads the wall clock takes it for over, or for a day and a half away."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is what this project is built with"
    library = tmp_path_factory.mktemp("shim") / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def kept(frame: Frame) -> None:
    """Keep a job."""


class Lives:
    """One of everything in the broker that has a time: each has half a day left, or some seconds."""

    def __init__(self, serve: ServeProcess) -> None:
        self._serve = serve
        self.peers: list[RawClient | RawWorker] = []
        self.jobs: dict[str, bytes] = {}

    async def begin(self) -> None:
        self.worker = await connect(self._serve.workers, RawWorker(kept))
        await self.worker.register(20, "held", "echo")
        self.client = await connect(self._serve.clients, RawClient())
        await self.client.hello()
        self.silent = await connect(self._serve.clients, RawClient())
        await self.silent.hello()
        self.peers = [self.worker, self.client, self.silent]
        run = self.client.run
        self.jobs = {
            "with a deadline": run("held", left_ms=A_DAY_MS),
            "with a run limit": run("held", rlim=A_DAY_MS),
            "cancelled, within its grace": run("held", att=1),
            "without any": run("held"),
        }
        await self.worker.holds(4)
        self.client.send(packets.cancel(self.jobs["cancelled, within its grace"], number=1))
        # Of a client that has left, and a worker that has: both have time to come back.
        gone = await connect(self._serve.clients, RawClient())
        await gone.hello()
        self.orphan = gone.run("held", orphan=60_000)
        await self.worker.holds(5)
        gone.live.abort()
        absent = await connect(self._serve.workers, NamedWorker("absent", b"i" * 16, 60, works=kept))
        await absent.begin(1, "suspended")
        self.jobs["suspended"] = run("suspended")
        await absent.holds(1)
        self.suspended = absent.held[0]
        absent.live.abort()
        waiting = [run("unserved", qlim=A_DAY_MS), run("unserved", left_ms=A_DAY_MS)]
        for cookie in waiting:
            assert (await self.client.reply(cookie))[0] == Code.QUEUED
        self.jobs |= {"with a limit on its wait": waiting[0], "waiting": waiting[1]}
        self.kept = run("held", keep=600_000)
        await self.worker.holds(6)
        self.worker.finish(self.worker.held[5])
        await self.client.outcome(self.kept)

    async def go_on(self) -> None:
        """Nothing has timed out: peers are there, jobs run and wait, outcomes are kept; and all of it ends as it would have."""
        client = self.client
        for peer in self.peers:
            await peer.ping()
            assert peer.farewell() is None
        assert {frame[1] for frame in client.frames if frame[0] == PacketType.RESULT} == {self.kept}
        for name, cookie in [*self.jobs.items(), ("orphan", self.orphan)]:
            client.heard.pop((PacketType.REPLY, cookie), None)
            client.send(packets.status(cookie, number=2))
            status = schemas.reply_meta((await client.kind(PacketType.REPLY, cookie)).meta).job
            assert status is not None, name
            assert status.state != "over", name
            assert status.age < 600_000, name
            if "deadline" in name or name == "waiting":
                assert A_DAY_MS - 600_000 < status.left <= A_DAY_MS, name
        client.send(packets.attach(self.kept, number=3), packets.attach(self.orphan, number=4))
        back = await connect(self._serve.workers, NamedWorker("absent", b"i" * 16, 60, works=kept))
        await back.begin(1, "suspended", held=[(self.suspended[1], self.suspended[4])])
        assert back.confirmed == [(self.suspended[1], self.suspended[4])]
        back.held.append(self.suspended)
        back.finish(self.suspended)
        late = await connect(self._serve.workers, RawWorker())
        await late.register(2, "unserved")
        for frame in self.worker.held[:]:
            self.worker.finish(frame)
        for name, cookie in [*self.jobs.items(), ("orphan", self.orphan)]:
            assert (await client.outcome(cookie)).code == Code.OK, name
        assert outcomes_of(client) == {**dict.fromkeys([*self.jobs.values(), self.orphan], 1), self.kept: 2}
        # What is short is short all the same.
        brief = client.run("held", left_ms=100)
        assert (await client.outcome(brief)).code == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("days", [1, -1], ids=["forwards", "back"])
async def test_row_25_the_wall_clock_moves_by_a_day_and_nothing_times_out(days: int, shim: Path, tmp_path: Path) -> None:
    moves = tmp_path / "moves"
    environment = {"LD_PRELOAD": str(shim), "CLOCK_MOVES": str(moves), "CLOCK_DAYS": str(days)}
    arguments = ("--clients", "tcp://127.0.0.1:0", "--workers", "tcp://127.0.0.1:0", "--log-format", "json")
    limits = [f"--limit={name}={value}" for name, value in LIMITS.items()]
    before = datetime.now(UTC)
    with await asyncio.to_thread(ServeProcess, tmp_path / "log", *arguments, *limits, environment=environment) as serve:
        try:
            lives = Lives(serve)
            await lives.begin()
            moves.touch()
            # Each lease is looked at meanwhile.
            await lasts(1.5 * LIMITS["heartbeat_s"])
            await lives.go_on()
        finally:
            await hang_up()
        log = [json.loads(line) for line in (await asyncio.to_thread(serve.stop)).splitlines()]
    told = [datetime.fromisoformat(line["timestamp"]) for line in log]
    assert abs((told[0] - before).days) == 0
    assert abs((told[-1] - before).total_seconds()) > 80_000, "the clock that this broker saw was not moved"
    reasons = {line["reason"] for line in log if "reason" in line}
    assert reasons <= {"PEER_CLOSED", "CONNECTION_LOST", "SHUTTING_DOWN"}, reasons
