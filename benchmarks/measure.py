"""One measurement: a fresh broker, one generator, one result."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.brokers import Commands, Running, running
from benchmarks.generators.load import LOADED
from benchmarks.generators.redis import spread
from benchmarks.generators.spec import Spec
from benchmarks.process import Child, Cores, pinned
from benchmarks.workloads import IdleWorkload, Shape, Socket, System, Workload

CHECKOUT = Path(__file__).resolve().parent.parent
SPARE_S = 60.0
"""What a generator may take beyond its window before it is given up."""
SPARE_PER_CONNECTION_S = 0.02
BESIDE_FIRST = 100
"""The number of the first peer of a load beside another one."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements of a run have in common."""

    commands: Commands
    cores: Cores
    warmup_s: float
    window_s: float
    acks: bool
    idle_connections: int


def measure(workload: Workload, bench: Bench, rate: float = 0, *, chunks: bool = False) -> dict[str, Any]:
    """The figures of one window (as `LoadResult` has them), of an open loop with so many jobs a second if there is a `rate`; with
    `chunks` those of jobs that send progress (`ChunksResult`). Raises BenchError if it could not be measured."""
    with _broker(workload.system, workload.socket, bench) as (broker, directory):
        spec = _spec(workload, broker, bench, rate=rate, chunks=chunks)
        return _generate(spec, broker, bench, directory, bench.warmup_s + bench.window_s + SPARE_S)


def measure_beside(workload: Workload, other: Shape, bench: Bench) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of a workload while another process, on other connections, has the broker do jobs of another shape; and those of
    that. It yields its core to the generator that is measured. Raises BenchError if it could not be measured."""
    with _broker(workload.system, workload.socket, bench) as (broker, directory):
        beside = replace(workload, shape=other)
        spec = _spec(beside, broker, bench, pipeline="beside", first=BESIDE_FIRST, until_told=True)
        command = ["nice", "-n", "19", sys.executable, "-m", "benchmarks.generators"]
        log = directory / "beside.log"
        with Child("the other load", pinned(bench.cores.generator, command), log, cwd=CHECKOUT, feed=True) as load:
            load.say(spec.to_json() + b"\n")
            if load.read_line(bench.warmup_s + SPARE_S, "that its load is there") != LOADED:
                raise load.failed("said something else than was expected")
            spec = _spec(workload, broker, bench)
            found = _generate(spec, broker, bench, directory, bench.warmup_s + bench.window_s + SPARE_S)
            return found, json.loads(load.converse(b"", SPARE_S))


def _spec(workload: Workload, broker: Running, bench: Bench, **more: Any) -> Spec:
    """What the generator is asked for."""
    shape = workload.shape
    workers, capacity = shape.workers, shape.capacity
    if workload.system is System.REDIS:
        workers, capacity = spread(workers, capacity), 1
    return Spec(
        system=workload.system,
        clients_url=broker.clients,
        workers_url=broker.workers,
        broker_pid=broker.child.pid,
        clients=shape.clients,
        in_flight=shape.in_flight,
        workers=workers,
        capacity=capacity,
        payload_bytes=shape.payload_bytes,
        warmup_s=bench.warmup_s,
        window_s=bench.window_s,
        acks=bench.acks,
        **more,
    )


def measure_idle(workload: IdleWorkload, bench: Bench) -> dict[str, Any]:
    """What idle connections cost (as `IdleResult` has it). Raises BenchError if it could not be measured."""
    with _broker(workload.system, Socket.TCP, bench) as (broker, directory):
        spec = Spec(
            system=workload.system,
            clients_url=broker.clients,
            workers_url=broker.workers,
            broker_pid=broker.child.pid,
            clients=0,
            in_flight=0,
            workers=0,
            capacity=0,
            payload_bytes=0,
            warmup_s=0,
            window_s=0,
            idle_connections=bench.idle_connections,
        )
        timeout_s = SPARE_S + SPARE_PER_CONNECTION_S * bench.idle_connections
        return _generate(spec, broker, bench, directory, timeout_s)


@contextmanager
def _broker(system: System, socket: Socket, bench: Bench) -> Iterator[tuple[Running, Path]]:
    """A fresh broker, and the directory that the measurement's files go to; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="rcb-bench-") as name:
        directory = Path(name)
        with running(system, socket, bench.commands, bench.cores.broker, directory) as broker:
            yield broker, directory


def _generate(spec: Spec, broker: Running, bench: Bench, directory: Path, timeout_s: float) -> dict[str, Any]:
    """Run the generator; if it fails because the broker is gone, say that instead."""
    command = pinned(bench.cores.generator, [sys.executable, "-m", "benchmarks.generators"])
    with Child("the load generator", command, directory / "generator.log", cwd=CHECKOUT, feed=True) as generator:
        try:
            answer: dict[str, Any] = json.loads(generator.converse(spec.to_json(), timeout_s))
        except Exception:
            if not broker.child.alive:
                raise broker.child.failed("ended in the middle of a measurement") from None
            raise
    return answer
