"""What a Python user would pick, through its own client library: ours, nats-py, Celery on Redis, Dask.

One client process keeps jobs in flight, and one worker process (or what a library makes of it) takes them: the task gives back the
hundred letters that it gets. The broker has a core to itself; client and worker share the other one, so jobs a second are what the
two of them make of it, and the processor time of each is told apart.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import nats_server
from benchmarks.brokers import Commands, parse_ready
from benchmarks.errors import BenchError, Missing
from benchmarks.peers import servers
from benchmarks.process import Child, Cores, pinned
from benchmarks.procstat import read_cpu
from benchmarks.workloads import Socket, System, rotated

CHECKOUT = Path(__file__).parents[2]
PYTHON = CHECKOUT / ".venv-peers" / "bin" / "python"
READY_TIMEOUT_S = 60.0
SPARE_S = 90.0
CAPACITY = 1000
LIBRARIES = ("ours", "ours-compiled", "nats-py", "celery", "dask")


@dataclass(frozen=True, slots=True)
class Setting:
    """What all measurements of a run have in common."""

    commands: Commands
    cores: Cores
    warmup_s: float
    window_s: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What is running: the broker, its workers, and where the client connects."""

    broker: Child
    workers: Sequence[Child]
    url: str
    client: str
    """The Python that the client runs on."""


def measure(library: str, in_flight: int, setting: Setting) -> dict[str, Any]:
    """Jobs, latencies, and the processor time of client, workers and broker in one window.

    Raises BenchError, or Missing if a part is not on this machine."""
    with tempfile.TemporaryDirectory(prefix="rcb-bench-") as name:
        directory = Path(name)
        with _parts(library, setting, directory) as parts:
            return _observe(library, parts, in_flight, setting, directory)


def _observe(library: str, parts: Parts, in_flight: int, setting: Setting, directory: Path) -> dict[str, Any]:
    system = library.split("-")[0]
    arguments = [system, parts.url, str(in_flight), str(setting.warmup_s), str(setting.window_s)]
    command = pinned(setting.cores.generator, [parts.client, "-m", "benchmarks.peers.client_load", *arguments])
    timeout_s = setting.warmup_s + setting.window_s + SPARE_S
    with Child("the client", command, directory / "client.log", cwd=CHECKOUT) as client:
        marks = []
        for word in ("begin", "end"):
            if client.read_line(timeout_s, f"that its window would {word}") != word:
                raise client.failed("said something else than was expected")
            marks.append((_cpu([parts.broker]), _cpu(parts.workers)))
        found: dict[str, Any] = json.loads(client.read_line(timeout_s, "what it found"))
    (broker, workers), (broker_after, workers_after) = marks
    return found | {"broker_cpu_ns": broker_after - broker, "workers_cpu_ns": workers_after - workers}


def _cpu(children: Sequence[Child]) -> int:
    """The processor time of some process groups so far, in nanoseconds."""
    groups = {child.pid for child in children}
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) in groups:
                    total += read_cpu(int(entry.name)).total_ns
            except ProcessLookupError:
                continue
    return total


@contextmanager
def _parts(library: str, setting: Setting, directory: Path) -> Iterator[Parts]:
    if library not in ("ours", "ours-compiled") and not PYTHON.exists():
        raise Missing(f"{library} is not installed: make bench-peers")
    make = {"nats-py": _nats, "celery": _celery, "dask": _dask}.get(library)
    with ExitStack() as stack:
        yield make(stack, setting, directory) if make else _ours(stack, setting, directory, library == "ours-compiled")


def _start(stack: ExitStack, name: str, core: int, command: Sequence[str], directory: Path, cwd: Path = CHECKOUT) -> Child:
    log = directory / f"{name.replace(' ', '-')}.log"
    return stack.enter_context(Child(name, pinned(core, command), log, cwd=cwd))


def _ours(stack: ExitStack, setting: Setting, directory: Path, compiled: bool) -> Parts:
    command = setting.commands.compiled if compiled else setting.commands.ours
    if not command:
        raise Missing("there is no compiled build: make test-compiled")
    addresses = ["--clients", "tcp://127.0.0.1:0", "--workers", "tcp://127.0.0.1:0"]
    broker = _start(stack, "our broker", setting.cores.broker, [*command, "serve", *addresses], directory, directory)
    clients, workers = parse_ready(broker.read_line(READY_TIMEOUT_S, "that it is ready"))
    work = [sys.executable, "-m", "benchmarks.peers.our_worker", workers, str(CAPACITY)]
    worker = _start(stack, "our worker", setting.cores.generator, work, directory)
    return Parts(broker, [worker], clients, sys.executable)


def _nats(stack: ExitStack, setting: Setting, directory: Path) -> Parts:
    if setting.commands.nats is None:
        raise Missing("NATS was left out")
    broker = stack.enter_context(nats_server.start(setting.commands.nats, setting.cores.broker, directory))
    url = "nats" + nats_server.wait_for_url(broker, directory).removeprefix("tcp")
    work = [str(PYTHON), "-m", "benchmarks.peers.nats_worker", url]
    worker = _start(stack, "a worker on nats-py", setting.cores.generator, work, directory)
    # Nobody answers a request before its subscription is there.
    if worker.read_line(READY_TIMEOUT_S, "that it is ready") != "ready":
        raise worker.failed("said something else than was expected")
    return Parts(broker, [worker], url, str(PYTHON))


def _celery(stack: ExitStack, setting: Setting, directory: Path) -> Parts:
    started = servers.running(System.REDIS, Socket.TCP, setting.cores.broker, directory)
    broker, url, _ = stack.enter_context(started)
    url = "redis" + url.removeprefix("tcp") + "/0"
    work = ["env", f"BENCH_REDIS={url}", str(PYTHON), "-m", "celery", "--app", "benchmarks.peers.celery_app", "worker"]
    work += ["--concurrency", "2", "--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
    worker = _start(stack, "a worker of Celery", setting.cores.generator, work, directory)
    return Parts(broker, [worker], url, str(PYTHON))


def _dask(stack: ExitStack, setting: Setting, directory: Path) -> Parts:
    port = servers.free_port()
    url = f"tcp://127.0.0.1:{port}"
    dask = [str(PYTHON), "-m", "distributed.cli"]
    command = [*dask[:2], "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    broker = _start(stack, "the scheduler of Dask", setting.cores.broker, command, directory)
    work = [*dask[:2], "distributed.cli.dask_worker", url, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    work += ["--local-directory", str(directory)]
    worker = _start(stack, "workers of Dask", setting.cores.generator, work, directory)
    return Parts(broker, [worker], url, str(PYTHON))


def rows(found: dict[str, list[dict[str, Any]]]) -> list[tuple[str, ...]]:
    """A row for each library and number of jobs in flight: medians over the rounds."""
    told = []
    for name, rounds in found.items():
        figures = [one for one in rounds if "error" not in one]
        if not figures:
            told.append((name, *["–"] * 6, str(rounds[0]["error"])[:80]))
            continue
        done = median(one["jobs"] / one["seconds"] for one in figures)
        each = [median(one[f"{who}_cpu_ns"] / 1e3 / one["jobs"] for one in figures) for who in ("client", "workers", "broker")]
        late = [median(one[f"{part}_ns"] / 1e6 for one in figures) for part in ("p50", "p99")]
        told.append((name, f"{done:,.0f}", *[f"{value:,.1f}" for value in each], *[f"{value:.2f}" for value in late], ""))
    return told


def measure_all(
    names: Sequence[str], in_flights: Sequence[int], rounds: int, setting: Setting
) -> dict[str, list[dict[str, Any]]]:
    """Every library with each number of jobs in flight, in turn, so many rounds; what failed has an `error`."""
    found: dict[str, list[dict[str, Any]]] = {f"{name}, {count} in flight": [] for count in in_flights for name in names}
    for number in range(rounds):
        for count in in_flights:
            for name in rotated(names, number):
                began = time.monotonic()
                try:
                    figures = measure(name, count, setting)
                except (BenchError, Missing) as error:
                    figures = {"error": str(error)}
                found[f"{name}, {count} in flight"].append(figures)
                told = figures.get("error") or f"{figures['jobs'] / figures['seconds']:,.0f} jobs/s"
                took = time.monotonic() - began
                print(f"round {number + 1}/{rounds}  {name}, {count} in flight: {told} ({took:.0f} s)", file=sys.stderr)
    return found
