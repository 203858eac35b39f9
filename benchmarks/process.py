"""Child processes: pinned to one core, and never left behind.

Each child leads a process group of its own. It is killed when its `with` block ends, however that ends, and by the kernel if the
harness itself is killed (`setpriv --pdeathsig`, where there is one). SIGTERM ends the harness like Ctrl-C does, so that the blocks
are left in order.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO, Self

from benchmarks.errors import BenchError, Missing

_TAIL_BYTES = 2000
_TAIL_LINES = 3


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the broker runs on, and which one the load generator."""

    broker: int
    generator: int

    @property
    def shared(self) -> bool:
        """Both on one core: jobs a second and latency mean little then."""
        return self.broker == self.generator


def choose_cores() -> Cores:
    """The first core that we may use for the broker, the second for the generator."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(broker=usable[0], generator=usable[1] if len(usable) > 1 else usable[0])


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """`command`, to run on `core` alone; the tools in front of it replace themselves by it, so the process id stays.

    Raises Missing without taskset.
    """
    taskset = shutil.which("taskset")
    if taskset is None:
        raise Missing("taskset is not on this machine (it comes with util-linux): nothing can be pinned to a core")
    setpriv = shutil.which("setpriv")
    mortal = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
    return [*mortal, taskset, "-c", str(core), *command]


def leave_in_order() -> None:
    """Let SIGTERM and SIGHUP end this process as an exception does, so that children are ended on the way out."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


class Child:
    """A process that ends with its `with` block. What it writes on stderr goes to `log`, whose end is quoted if it fails."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, cwd: Path, feed: bool = False) -> None:
        """Start `command` in `cwd`. With `feed` it has a pipe for stdin, otherwise nothing. Raises Missing if it can't be run."""
        self.name = name
        self._log = log
        self._expired = False
        try:
            with log.open("wb") as errors:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=cwd,
                    start_new_session=True,
                )
        except OSError as error:
            raise Missing(f"{name} could not be started: {error}") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def read_line(self, timeout_s: float, purpose: str) -> str:
        """The next line that it prints, without its end. Raises BenchError if it ends first, or takes longer than `timeout_s`."""
        with self._deadline(timeout_s):
            line = self._stdout.readline()
        if not line.endswith(b"\n"):
            raise self.failed(f"did not say {purpose} within {timeout_s:.0f} s" if self._expired else f"ended before {purpose}")
        return line.decode().rstrip("\r\n")

    def say(self, message: bytes) -> None:
        """Give it `message` on stdin, which stays open. Raises BenchError if it has ended."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(message)
            stdin.flush()
        except BrokenPipeError:
            raise self.failed("ended before it was told what to do") from None

    def converse(self, message: bytes, timeout_s: float) -> bytes:
        """Give it `message` on stdin, which ends with that, and return all that it prints; it must end well. Raises BenchError if it
        does not."""
        with self._deadline(timeout_s):
            answer, _ = self._process.communicate(message)
        if self._expired:
            raise self.failed(f"did not end within {timeout_s:.0f} s")
        if self._process.returncode != 0:
            raise self.failed("failed")
        return answer

    def failed(self, what: str) -> BenchError:
        """An error that says what happened to this process, and quotes the end of what it wrote on stderr."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        code = self._process.returncode
        state = "" if code is None else f" (exit code {code})"
        text = self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip() if self._log.exists() else ""
        quoted = " | ".join(line.strip() for line in text.splitlines()[-_TAIL_LINES:])
        return BenchError(f"{self.name} {what}{state}" + (f": {quoted}" if quoted else ""))

    def end(self) -> None:
        """Kill its whole group and wait for it. Does no harm if it has ended."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    @property
    def _stdout(self) -> BinaryIO:
        assert self._process.stdout is not None
        return self._process.stdout  # type: ignore[return-value]  # typeshed has the wider IO[bytes]

    def _deadline(self, timeout_s: float) -> "_Deadline":
        self._expired = False
        return _Deadline(self, timeout_s)

    def expire(self) -> None:
        """Its time is up: kill it, so that whoever reads from it stops waiting."""
        self._expired = True
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


class _Deadline:
    """Kills a child if its `with` block takes too long."""

    def __init__(self, child: Child, timeout_s: float) -> None:
        self._timer = threading.Timer(timeout_s, child.expire)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        self._timer.join()
