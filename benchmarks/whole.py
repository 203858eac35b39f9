"""`python -m benchmarks.whole`: instructions that a job costs a whole broker, loop and sockets and core, where jobs come one by one.

`counts.py` has the core alone, many jobs at a time. Here `serve` runs as users run it, under valgrind (callgrind), with one client and
one worker on Unix sockets that each do one thing at a time. What the kernel does is not counted.

Exit code: 0; 2 if it can't be counted.
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.brokers import our_command, parse_ready
from benchmarks.counts import valgrind
from benchmarks.errors import BenchError, Missing
from benchmarks.generators import ours
from benchmarks.process import Child, leave_in_order

WARM_UP: Final = 200
JOBS: Final = 1_000
PAYLOAD_BYTES: Final = 100
ACK_EVERY: Final = 16
TIMEOUT_S: Final = 60.0
_TOTALS: Final = re.compile(r"^totals: (\d+)", re.MULTILINE)


class Peer:
    """A client or worker that waits for each of its frames."""

    def __init__(self, url: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(url.removeprefix("unix://"))
        self.send(ours.hello())
        self.read(ours.WELCOME)

    def send(self, frame: bytes) -> None:
        """Send one frame."""
        self._socket.sendall(frame)

    def read(self, kind: int) -> bytes:
        """The next frame, which must be of this kind; PINGs are answered. Raises BenchError."""
        while True:
            frame = self._exactly(4)
            frame += self._exactly(int.from_bytes(frame, "big"))
            if frame[4] == kind:
                return frame
            if frame[4] != ours.PING:
                raise BenchError(f"the broker sent {ours.describe(frame)}")
            self.send(ours.pong(frame))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise BenchError("the broker closed the connection")
            data += more
        return data

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def work(client: Peer, worker: Peer, first: int, jobs: int) -> None:
    """So many jobs, one after the other. Raises BenchError."""
    for number in range(first, first + jobs):
        cookie = (0xBE << 120 | number).to_bytes(16, "big")
        client.send(ours.frame(ours.RUN, {"p": "p", "enc": "bytes"}, b"v" * PAYLOAD_BYTES, attempt=1, cookie=cookie))
        worker.read(ours.RUN)
        worker.send(ours.frame(ours.RESULT, None, b"r" * PAYLOAD_BYTES, attempt=1, cookie=cookie))
        client.read(ours.RESULT)
        if not number % ACK_EVERY:
            client.send(ours.frame(ours.ACK, number=number))


def control(broker: Child, *what: str) -> None:
    """Tell callgrind to count, or not to. Raises BenchError, and Missing without its tool."""
    program = shutil.which("callgrind_control")
    if program is None:
        raise Missing("callgrind_control is not here; it comes with valgrind")
    done = subprocess.run([program, *what, str(broker.pid)], capture_output=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise BenchError(f"{program} {' '.join(what)} failed: {done.stderr.decode(errors='replace').strip()}")


def count(python: str, jobs: int = JOBS) -> float:
    """Instructions a job of the broker that this Python runs. Raises Missing, and BenchError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rcb-bench-")))
        out = folder / "callgrind.out"
        command = [valgrind(), "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}", *our_command(python)]
        command += ["serve", "--clients", f"unix://{folder}/clients.sock", "--workers", f"unix://{folder}/workers.sock"]
        # Hashes are always the same; and tools in front of the interpreter would be counted in its place.
        broker = stack.enter_context(Child("our broker", ["env", "PYTHONHASHSEED=0", *command], folder / "log", cwd=folder))
        clients, workers = parse_ready(broker.read_line(TIMEOUT_S, "that it is ready"))
        worker, client = Peer(workers), Peer(clients)
        stack.callback(worker.close)
        stack.callback(client.close)
        worker.send(ours.frame(ours.REGISTER, {"cap": 1, "serves": ["p"], "labels": {}}, number=1))
        worker.read(ours.REPLY)
        work(client, worker, 1, WARM_UP)
        control(broker, "-i", "on")
        work(client, worker, 1 + WARM_UP, jobs)
        control(broker, "-i", "off")
        control(broker, "-d")
        found = [_TOTALS.search(path.read_text("utf-8", "replace")) for path in folder.glob("callgrind.out*")]
    counted = sum(int(number[1]) for number in found if number is not None)
    if not counted:
        raise BenchError("callgrind counted nothing")
    return counted / jobs


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole", description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="the Python whose broker is counted (default: this one)")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"how many jobs are counted (default: {JOBS:,})")
    options = parser.parse_args(arguments)
    leave_in_order()
    try:
        # It runs elsewhere, where a relative path would lead nowhere.
        print(f"{count(os.path.abspath(shutil.which(options.python) or options.python), options.jobs):,.0f} instructions a job")
    except (Missing, BenchError, subprocess.TimeoutExpired, OSError) as error:
        print(f"whole: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
