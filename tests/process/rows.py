"""What the tests of `failures.md`, row by row, have in common: a broker process that can be asked, tiny peers that can be killed."""

import asyncio
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import PREFACE
from tests import attentive
from tests.process.row_broker import unserved_s
from tests.raw_peers import RawClient, RawPeer, RawWorker, connect, hang_up

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ANSWER_S = 30.0
"""How long the broker process may take over anything that it is asked."""


@dataclass(frozen=True)
class Moment:
    """A moment in the life of a process."""

    at: float
    """On the monotonic clock, which all processes share."""
    unserved_s: float
    """For how long the process had been kept from running until then."""

    def own_s(self, since: "Moment") -> float:
        """How much time the process itself has let pass, working, blocked or asleep."""
        return max(0.0, self.at - since.at - (self.unserved_s - since.unserved_s))


class BrokerProcess:
    """A broker of its own process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.clients: list[str] = []
        self.workers: list[str] = []
        self.is_killed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_S):
            line = await self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the broker process ended with {await self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def ready(self) -> None:
        urls = await self._answer()
        self.clients, self.workers = urls["clients"], urls["workers"]

    async def _ask(self, what: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(what + b"\n")
        return await self._answer()

    async def state(self) -> dict[str, Any]:
        """What the broker says of itself; its tables must agree."""
        state = await self._ask(b"state")
        assert not state["verdict"], state["verdict"]
        assert not state["failed"]
        return state

    def unserved_s(self) -> float:
        """For how long it was kept from running so far."""
        return unserved_s(self.pid)

    async def losses(self) -> dict[bytes, "Moment"]:
        """When it has written each WORKER_WENT_AWAY since it was last asked, by the job's cookie. Needs `notes_losses`."""
        return {bytes.fromhex(cookie): Moment(*moment) for cookie, moment in (await self._ask(b"losses")).items()}

    async def becomes(self, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Ask until something holds. Raises AssertionError, with `what` and what was said last, if it does not come to hold."""
        state: dict[str, Any] = {}
        try:
            async with asyncio.timeout(ANSWER_S):
                while not holds(state := await self.state()):
                    pass
        except TimeoutError:
            raise AssertionError(f"within {ANSWER_S:g} s, {what}: {state}") from None
        return state

    async def client(self) -> RawClient:
        """A client that is welcome."""
        client = await connect(self.clients[0], RawClient())
        await client.hello()
        return client

    async def worker(self, capacity: int, *serves: str, **more: Any) -> RawWorker:
        """A worker that is registered."""
        worker = await connect(self.workers[0], RawWorker(**more))
        await worker.register(capacity, *serves)
        return worker

    async def stop(self) -> str:
        """Stop it in good order; returns what it logged."""
        async with asyncio.timeout(ANSWER_S):
            _, log = await self._process.communicate(b"stop\n")
        assert self._process.returncode == 0, log.decode()
        return log.decode()

    def kill(self) -> None:
        """End it, in whatever state."""
        if self._process.returncode is None:
            self._process.kill()

    async def killed(self) -> float:
        """kill -9; returns when it was dead, its sockets closed by the kernel, on the monotonic clock."""
        self.is_killed = True
        self._process.kill()
        await attentive.gone(self.pid, ANSWER_S)
        return time.monotonic()


@asynccontextmanager
async def broker_process(
    *,
    clients: str = "tcp://127.0.0.1:0",
    workers: str = "tcp://127.0.0.1:0",
    loop: str = "uvloop",
    log: str = "WARNING",
    quiet: bool = True,
    notes_losses: bool = False,
    scheduling: Mapping[str, Any] = MappingProxyType({}),
    **limits: Any,
) -> AsyncIterator[BrokerProcess]:
    """A broker process at work; `quiet` means that it may log no warning and no error, `notes_losses` that it can be asked for
    `losses`."""
    settings = {
        "clients": [clients],
        "workers": [workers],
        "loop": loop,
        "log": log,
        "limits": limits,
        "notes_losses": notes_losses,
        "scheduling": dict(scheduling),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "row_broker.py"),
        json.dumps(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 24,
        cwd=ROOT,
    )
    broker = BrokerProcess(process)
    try:
        await broker.ready()
        yield broker
        if not broker.is_killed:
            said = await broker.stop()
            assert not quiet or not said, said[:5000]
    finally:
        broker.kill()
        await buried(process)
        await hang_up()


class TinyPeer:
    """A process that does what its orders say, tells when it has done them, and waits to be killed."""

    def __init__(self, reached: asyncio.Future[int], orders: Sequence[str]) -> None:
        self._reached = reached
        self._orders = " ".join(order[:40] for order in orders)
        self._pidfd = -1

    async def reached(self) -> None:
        """Wait until it has done everything that it was told to."""
        try:
            pid = await asyncio.wait_for(self._reached, ANSWER_S)
        except TimeoutError:
            raise AssertionError(f"within {ANSWER_S:g} s, a tiny peer had not done all of {self._orders}") from None
        assert pid, f"a tiny peer could not do {self._orders}"

    def kill(self) -> None:
        """kill -9, once it has reached what it was told to."""
        self._pidfd = os.pidfd_open(self._reached.result())
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def died(self) -> float:
        """Wait until a killed one is dead, its connection closed by the kernel; returns when it was, on the monotonic clock: later
        than it happened if this process has to wait for a processor, but never before."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        is_dead = poll.poll(1000 * ANSWER_S)
        died_at = time.monotonic()
        os.close(self._pidfd)
        assert is_dead, "a tiny peer survived a kill"
        return died_at


class Nursery:
    """The process of `tiny_peer.py`, of which tiny peers are forked. None of them survives it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._reached: dict[int, asyncio.Future[int]] = {}

    def peer(self, url: str, *orders: str) -> TinyPeer:
        """A new tiny peer."""
        assert self._process.stdin is not None
        number = len(self._reached)
        reached = self._reached[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(f"{number} {url} {' '.join(orders)}\n".encode())
        return TinyPeer(reached, orders)

    async def listen(self) -> None:
        """Hear, as long as it lives, who has reached what it was told to."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            number, pid = map(int, line.split())
            if not self._reached[number].done():
                self._reached[number].set_result(pid)


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """Where tiny peers come from."""
    process = await asyncio.create_subprocess_exec(
        os.path.realpath(sys.executable),
        "-S",
        "-E",
        str(HERE / "tiny_peer.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        process_group=0,
    )
    made = Nursery(process)
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        listening.cancel()
        await asyncio.wait([listening])
        await buried(process)


class NamedWorker(RawWorker):
    """A worker with a name, whose jobs wait `grace_s` for it to come back as the same process (`instance`)."""

    def __init__(self, name: str, instance: bytes, grace_s: int = 0, **more: Any) -> None:
        super().__init__(**more)
        self._who = schemas.HelloMeta(sw="raw", v="1", name=name, inst=instance, grace=grace_s)
        self.confirmed: list[tuple[bytes, int]] = []
        """What the broker says that it still holds."""

    def say_hello(self, capacity: int, *serves: str, held: Sequence[tuple[bytes, int]] = ()) -> None:
        """Greet and register in one go, without waiting for anything."""
        meta = schemas.RegisterMeta(cap=capacity, serves=list(serves), held=list(held))
        self.send(PREFACE, packets.hello(self._who), packets.register(meta))

    async def begin(self, capacity: int, *serves: str, held: Sequence[tuple[bytes, int]] = ()) -> None:
        """Greet and register, with what it holds."""
        self.say_hello(capacity, *serves, held=held)
        answer = await self.kind(PacketType.REPLY)
        assert answer.code == Code.OK, Code(answer.code).name
        self.confirmed = [(cookie, attempt) for cookie, attempt in schemas.reply_meta(answer.meta).held]


class PeerProcess:
    """A peer in a process of its own: `python -m tests.process.NAME JSON`, which says one JSON object a line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def says(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(ANSWER_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise AssertionError(f"a peer's process said nothing for {ANSWER_S:g} s") from None
        assert line, f"a peer's process ended with {await self._process.wait()}"
        return json.loads(line)

    def tell(self, what: str) -> None:
        """Give it a line to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(what.encode() + b"\n")

    def stop(self) -> None:
        """SIGSTOP; returns when it does nothing any more."""
        freeze(self.pid)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def killed(self) -> None:
        """kill -9, and wait until it is dead."""
        if self._process.returncode is None:
            self._process.kill()
        await buried(self._process)


@asynccontextmanager
async def peer_process(module: str, /, **settings: Any) -> AsyncIterator[PeerProcess]:
    """A peer's process at work; it is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.process.{module}",
        json.dumps(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
        cwd=ROOT,
    )
    peer = PeerProcess(process)
    try:
        yield peer
    finally:
        await peer.killed()


def freeze(pid: int) -> None:
    """SIGSTOP a process; returns when it does nothing any more."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        pass


async def lasts(seconds: float) -> None:
    """Let a fault last for so long. Nothing is waited for with this: how long a process stands still is the fault itself."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


async def is_lost(peer: RawPeer) -> None:
    """Wait until a peer has learnt that its connection has ended."""
    await peer.until(lambda: peer.is_lost, "a connection did not end")


def own_address(port: int = 0) -> str:
    """A loopback address that nobody else's connections come from, so that a port of it can be listened at again."""
    pid = os.getpid()
    return f"tcp://127.{64 + (pid >> 14) % 64}.{(pid >> 7) % 128}.{1 + pid % 128}:{port}"


def effects_of(path: Path) -> Counter[bytes]:
    """How often each job was begun, by the lines that workers have written: a cookie and an attempt each."""
    return Counter(bytes.fromhex(line.split()[0]) for line in path.read_text().splitlines())


def outcomes_of(*clients: RawClient) -> Counter[bytes]:
    """How many RESULTs were heard of each job."""
    return Counter(frame[1] for client in clients for frame in client.frames if frame[0] == PacketType.RESULT)


async def buried(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a process that was killed, of all that hold its pipes, and of the pipes: one that is open when the loop is
    closed is found in the middle of some other test."""
    async with asyncio.timeout(ANSWER_S):
        await process.communicate(b"")


def send(*frames: bytes) -> str:
    """The order to send these."""
    return f"send={b''.join(frames).hex()}"


def read(frames: int) -> str:
    """The order to wait for so many frames."""
    return f"read={frames}"


def raise_descriptor_limit() -> None:
    """Thousands of connections need as many descriptors at this end too."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of them lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class ServeProcess:
    """`reasonchip-broker serve`, as anybody runs it. Its log goes to a file."""

    def __init__(self, log: Path, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self.log = log
        with log.open("wb") as sink:
            command = [sys.executable, "-m", "reasonchip_broker", "serve", *arguments]
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=sink, cwd=ROOT, env={**os.environ, **environment}
            )
        assert self._process.stdout is not None
        ready = dict(word.partition("=")[::2] for word in self._process.stdout.readline().decode().split()[1:])
        assert ready, log.read_text()
        self.clients, self.workers = ready["clients"], ready["workers"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def rss_kib(self) -> int:
        """Its resident memory."""
        return rss_kib(self.pid)

    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def ended(self) -> int:
        """Wait for its end; returns its exit code."""
        return self._process.wait(ANSWER_S)

    def stop(self) -> str:
        """SIGTERM; returns what it logged."""
        self.terminate()
        code = self.ended()
        assert code == 0, f"serve ended with {code}: {self.log.read_text()[-2000:]}"
        return self.log.read_text()

    def __enter__(self) -> "ServeProcess":
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(ANSWER_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
