"""Processes that a command starts, and never leaves behind.

Each is ended when its `Children` block is left, however that happens: politely with SIGTERM, then with SIGKILL. On Linux the kernel
kills them too if this process itself is killed. They are in sessions of their own, so that Ctrl-C on the terminal reaches only this
process, which then ends them in order.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from reasonchip_broker.cli.exits import Exit, Fault

OURSELVES = (sys.executable, "-m", "reasonchip_broker")
START_S = 15.0
END_S = 5.0
"""How long a process may take to end in order."""

HURRIED_S = 0.5
"""The same, when something failed or somebody said Ctrl-C: nobody wants to wait for jobs then."""

_TAIL_LINES = 3
_PR_SET_PDEATHSIG = 1

Result = TypeVar("Result")


@dataclass
class Child:
    """One process that runs this program with other arguments; what it logs is in the file `log`."""

    name: str
    process: Process
    log: Path
    expected_to_end: bool = False
    """Whether it was told to end, or killed on purpose."""

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.returncode is None

    def tail(self) -> str:
        """The end of what it logged, for a message."""
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return " | ".join(lines[-_TAIL_LINES:])


@dataclass
class Children:
    """The processes of one command, in the order in which they were started."""

    children: dict[str, Child] = field(default_factory=dict)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _watches: list[asyncio.Task[None]] = field(default_factory=list)
    _ended: asyncio.Queue[Child] = field(default_factory=asyncio.Queue)

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="reasonchip-")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end(END_S if error is None else HURRIED_S)
        for watch in self._watches:
            watch.cancel()
        if self._folder is not None:
            self._folder.cleanup()

    async def start_broker(self, *options: str) -> tuple[str, str]:
        """Start a broker on free ports of this machine; its URLs for clients and for workers. Raises Fault if it does not answer."""
        addresses = ("--clients", "tcp://127.0.0.1:0", "--workers", "tcp://127.0.0.1:0")
        child = await self.start("broker", "serve", *addresses, "--log-format", "json", *options, stdout=PIPE)
        try:
            async with asyncio.timeout(START_S):
                line = await child.process.stdout.readline() if child.process.stdout is not None else b""
        except TimeoutError:
            line = b""
        words = dict(word.split("=", 1) for word in line.decode().split() if "=" in word)
        if not {"clients", "workers"} <= words.keys():
            raise Fault(f"The broker did not start: {child.tail() or 'it said nothing'}", Exit.UNREACHABLE)
        return words["clients"], words["workers"]

    async def start_worker(self, name: str, target: str, url: str, capacity: int) -> Child:
        """Start a worker process."""
        options = ("--broker", url, "--capacity", str(capacity), "--name", name, "--log-format", "json")
        return await self.start(name, "worker", target, *options)

    async def start(self, name: str, *arguments: str, stdout: int = DEVNULL) -> Child:
        """Start this program with other arguments."""
        if self._folder is None:
            raise RuntimeError("use it as `async with Children()`")
        log = Path(self._folder.name, f"{name}.log")
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *OURSELVES,
                *arguments,
                stdin=DEVNULL,
                stdout=stdout,
                stderr=errors,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        finally:
            os.close(errors)
        child = self.children[name] = Child(name, process, log)
        self._watches.append(asyncio.create_task(self._watch(child)))
        return child

    async def _watch(self, child: Child) -> None:
        await child.process.wait()
        self._ended.put_nowait(child)

    async def guard(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do the work, but not for longer than the processes that it needs live. Raises Fault if one ends by itself."""
        task = asyncio.create_task(work)
        death = asyncio.create_task(self._unexpected_end())
        try:
            await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                child = await death
                raise Fault(f"{child.name} ended by itself (exit code {child.process.returncode}): {child.tail()}", Exit.FAILED)
            return task.result()
        finally:
            await _dropped(task, death)

    async def _unexpected_end(self) -> Child:
        while True:
            child = await self._ended.get()
            if not child.expected_to_end:
                return child

    async def kill(self, name: str) -> None:
        """End one with SIGKILL, as the kernel does when memory runs out."""
        child = self.children[name]
        child.expected_to_end = True
        _signal(child, signal.SIGKILL)
        await child.process.wait()

    async def end(self, patience_s: float = END_S) -> None:
        """End all: workers first, so that they can still say goodbye to their broker. Those that take too long are killed."""
        for child in self.children.values():
            child.expected_to_end = True
        workers = [child for name, child in self.children.items() if name != "broker"]
        for group in (workers, [child for child in self.children.values() if child not in workers]):
            await self._end(group, patience_s)

    async def _end(self, group: Sequence[Child], patience_s: float) -> None:
        for child in group:
            _signal(child, signal.SIGTERM)
        waits = [asyncio.ensure_future(child.process.wait()) for child in group]
        try:
            if waits:
                await asyncio.wait(waits, timeout=patience_s)
        finally:
            for child in group:
                _signal(child, signal.SIGKILL)
            if waits:
                await asyncio.wait(waits)


def _signal(child: Child, number: signal.Signals) -> None:
    if child.alive:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)


async def _dropped(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _die_with(parent: int) -> Any:
    """What a new process does before it becomes another program: ask the kernel to be killed when its parent is gone."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
