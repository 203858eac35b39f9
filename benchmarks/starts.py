"""`python -m benchmarks.starts [PYTHON]`: how long it takes until there is something to use, a client library that is imported, or a
broker that answers.

Either is measured from outside or in a fresh interpreter, on whatever core there is, as often as asked.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.brokers import our_command, parse_ready
from benchmarks.errors import BenchError, Missing
from benchmarks.process import Child
from reasonchip_broker.client import Client

TIMEOUT_S = 20.0
TIMES = 7
_IMPORT = """
import time
began = time.perf_counter()
import reasonchip_broker.client
print(time.perf_counter() - began)
"""


def import_s(python: str, times: int) -> list[float]:
    """Seconds that `import reasonchip_broker.client` takes, in a new process each time. Raises BenchError if it can't be imported."""
    found = []
    for _ in range(times):
        try:
            done = subprocess.run(
                [python, "-c", _IMPORT], capture_output=True, text=True, timeout=TIMEOUT_S, check=True, cwd="/"
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise BenchError(f"reasonchip_broker.client can't be imported by {python}: {error}") from error
        found.append(float(done.stdout))
    return found


def serve_s(python: str, times: int) -> list[float]:
    """Seconds from starting `reasonchip-broker serve` until a client has its answer, for a new broker each time. Raises BenchError."""
    return [_served(python) for _ in range(times)]


def _served(python: str) -> float:
    addresses = ["--clients", "tcp://127.0.0.1:0", "--workers", "tcp://127.0.0.1:0"]
    with tempfile.TemporaryDirectory(prefix="rcb-bench-") as name:
        began = time.perf_counter()
        command = [*our_command(python), "serve", *addresses]
        with Child("our broker", command, Path(name) / "broker.log", cwd=Path(name)) as child:
            clients, _ = parse_ready(child.read_line(TIMEOUT_S, "that it is ready"))
            asyncio.run(_greet(clients))
            return time.perf_counter() - began


async def _greet(url: str) -> None:
    """Connect, which takes the broker's WELCOME."""
    client = Client(url)
    await client.connect(once=True)
    await client.close()


def main(python: str) -> int:
    """Print both, for this Python. Returns the exit code."""
    # Not resolved: a virtual environment's python is a link, and what it is called by decides what it finds.
    python = os.path.abspath(shutil.which(python) or python)
    try:
        for name, measure in (("import reasonchip_broker.client", import_s), ("serve, to the first answer", serve_s)):
            found = measure(python, TIMES)
            print(f"{name}: {median(found):.3f} s ({min(found):.3f}–{max(found):.3f} in {TIMES})")
    except (BenchError, Missing) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else sys.executable))
