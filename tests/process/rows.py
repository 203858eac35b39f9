"""What the tests of `failures.md`, row by row, have in common: a broker process that can be asked, tiny peers that can be killed."""

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.raw_peers import RawClient, RawWorker, connect, hang_up

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ANSWER_S = 30.0
"""How long the broker process may take over anything that it is asked."""


class BrokerProcess:
    """A broker of its own process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.clients: list[str] = []
        self.workers: list[str] = []

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

    async def state(self) -> dict[str, Any]:
        """What the broker says of itself; its tables must agree."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"state\n")
        state = await self._answer()
        assert not state["verdict"], state["verdict"]
        assert not state["failed"]
        return state

    async def becomes(self, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Ask until something holds."""
        async with asyncio.timeout(ANSWER_S):
            while not holds(state := await self.state()):
                pass
        assert holds(state), what
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


@asynccontextmanager
async def broker_process(
    *,
    clients: str = "tcp://127.0.0.1:0",
    workers: str = "tcp://127.0.0.1:0",
    loop: str = "uvloop",
    log: str = "WARNING",
    quiet: bool = True,
    **limits: Any,
) -> AsyncIterator[BrokerProcess]:
    """A broker process at work; `quiet` means that it may log no warning and no error."""
    settings = {"clients": [clients], "workers": [workers], "loop": loop, "log": log, "limits": limits}
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
        said = await broker.stop()
        assert not quiet or not said, said[:5000]
    finally:
        await hang_up()
        broker.kill()
        await process.wait()


class TinyPeer:
    """A process of `tiny_peer.py`: it does what its orders say, tells when it has done them, and waits to be killed."""

    def __init__(self, url: str, *orders: str) -> None:
        command = [os.path.realpath(sys.executable), "-S", "-E", str(HERE / "tiny_peer.py"), url, *orders]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def reached(self) -> None:
        """Wait until it has done everything that it was told to."""
        assert self._process.stdout is not None
        said = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.read, 1), ANSWER_S)
        assert said == b".", f"a tiny peer ended with {self._process.wait()} before it had done what it was told to"

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    def reap(self) -> None:
        """Forget a process that was killed."""
        self._process.wait(ANSWER_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def send(*frames: bytes) -> str:
    """The order to send these."""
    return f"send={b''.join(frames).hex()}:0"


def read(frames: int) -> str:
    """The order to wait for so many frames."""
    return f"read=:{frames}"


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

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        with log.open("wb") as sink:
            command = [sys.executable, "-m", "reasonchip_broker", "serve", *arguments]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, cwd=ROOT)
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

    def stop(self) -> str:
        """SIGTERM; returns what it logged."""
        self._process.terminate()
        code = self._process.wait(ANSWER_S)
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
