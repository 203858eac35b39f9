"""`reasonchip-broker bench`."""

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.bench_jobs import PIPELINE
from reasonchip_broker.cli.command import Command, json_option
from reasonchip_broker.cli.exits import Exit, Fault
from reasonchip_broker.cli.output import emit, emit_json, note
from reasonchip_broker.cli.processes import START_S, Children
from reasonchip_broker.client import Client
from reasonchip_broker.errors import JobFailed, RequestRefused
from reasonchip_broker.protocol.codes import Code

TARGET = "reasonchip_broker.cli.bench_jobs"
WARM_UP_S = 0.5
"""Until connections, caches and the processor's clock have settled; not counted."""


@dataclass(frozen=True)
class Load:
    """What is asked of the broker."""

    clients: int
    in_flight: int
    workers: int
    capacity: int
    payload: int
    seconds: float


@dataclass
class Measured:
    """What came of it. Latencies are in seconds."""

    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = 0.0
    broker_s: float | None = None
    """Processor time that the broker used meanwhile; None for a broker that is not ours."""


@click.command(
    "bench",
    cls=Command,
    examples=[
        ("reasonchip-broker bench", "a broker of its own, 4 clients with 16 jobs in flight each, for 3 seconds"),
        ("reasonchip-broker bench --clients 1 --in-flight 1", "one job at a time: latency"),
        ("reasonchip-broker bench --payload 65536 --json", "64 KiB there and back; the figures as JSON"),
        ("reasonchip-broker bench --broker tcp://localhost:51500 --worker-broker tcp://localhost:51510", "a broker that runs"),
    ],
)
@click.option("--clients", type=click.IntRange(1, 1000), default=4, show_default=True, metavar="N", help="Connections.")
@click.option(
    "--in-flight", type=click.IntRange(1, 1000), default=16, show_default=True, metavar="N", help="Jobs at a time on each."
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Worker processes.")
@click.option(
    "--capacity", type=click.IntRange(1, 10_000), default=64, show_default=True, metavar="N", help="Slots of each worker."
)
@click.option(
    "--payload",
    type=click.IntRange(0, 8 * 1024 * 1024),
    default=100,
    show_default=True,
    metavar="BYTES",
    help="There and back.",
)
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=3.0, show_default=True, help="How long to measure.")
@click.option("--broker", metavar="URL", help="A running broker's address for clients. [default: a broker of its own]")
@click.option(
    "--worker-broker",
    metavar="URL",
    default="tcp://localhost",
    show_default=True,
    help="With --broker: its address for workers.",
)
@json_option
def command(broker: str | None, worker_broker: str, as_json: bool, **load: float) -> Exit:
    """Measure jobs a second and latency on this machine.

    Each job goes from a client through the broker to a worker, which sends its payload back: with the client and worker libraries as
    anybody uses them, all on this machine, so that what is measured is all of it together. `make bench` in the project's repository
    measures the broker alone.
    """
    asked = Load(**load)  # type: ignore[arg-type]  # click has made them what Load says
    measured = loop.run(_bench(asked, broker, worker_broker))
    if as_json:
        emit_json({**asdict(asked), **_figures(measured)})
    else:
        _report(asked, measured)
    return Exit.FAILED if measured.failures or not measured.latencies else Exit.OK


async def _bench(load: Load, broker: str | None, worker_broker: str) -> Measured:
    async with Children() as children:
        if broker is None:
            broker, worker_broker = await children.start_broker("--log-level", "warning")
        for number in range(1, load.workers + 1):
            await children.start_worker(f"worker-{number}", TARGET, worker_broker, load.capacity)
        note(
            f"{load.clients} clients × {load.in_flight} jobs in flight, {load.workers} × {load.capacity} slots, {load.payload} bytes"
        )
        own = children.children.get("broker")
        return await children.guard(_measure(load, broker, own.process.pid if own is not None else None))


async def _measure(load: Load, url: str, broker_pid: int | None) -> Measured:
    measured = Measured()
    clients = [Client(url, reconnect=False) for _ in range(load.clients)]
    try:
        for client in clients:
            await client.connect()
        await _first_job(clients[0])
        warm_at = time.monotonic() + WARM_UP_S
        end_at = warm_at + load.seconds
        payload = os.urandom(load.payload)
        slots = [
            asyncio.create_task(_ask(client, payload, measured, warm_at, end_at))
            for client in clients
            for _ in range(load.in_flight)
        ]
        await asyncio.sleep(warm_at - time.monotonic())
        before = _processor_s(broker_pid)
        await asyncio.gather(*slots)
        after = _processor_s(broker_pid)
        measured.elapsed_s = time.monotonic() - warm_at
        measured.broker_s = after - before if after is not None and before is not None else None
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    return measured


async def _first_job(client: Client) -> None:
    """It waits until a worker is there. Raises Fault if none comes."""
    try:
        await client.run(PIPELINE, {"payload": b""}, timeout=START_S)
    except TimeoutError:
        sentence = f"No worker registered within {START_S:.0f} s; does --worker-broker name the same broker as --broker?"
        raise Fault(sentence, Exit.UNREACHABLE) from None


async def _ask(client: Client, payload: bytes, measured: Measured, warm_at: float, end_at: float) -> None:
    """One job after the other, until it is time to end."""
    clock: Callable[[], float] = time.monotonic
    latencies = measured.latencies
    while (began_at := clock()) < end_at:
        try:
            await client.run(PIPELINE, {"payload": payload})
        except (JobFailed, RequestRefused) as error:
            measured.failures[Code(error.code).name] += 1
            await asyncio.sleep(0)  # Else a broker that refuses at once would keep this loop for itself.
        else:
            if began_at >= warm_at:
                latencies.append(clock() - began_at)


def _processor_s(pid: int | None) -> float | None:
    """User and system time of a process so far, where the system tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _figures(measured: Measured) -> dict[str, object]:
    jobs = len(measured.latencies)
    ordered = sorted(measured.latencies)
    return {
        "jobs": jobs,
        "failures": dict(measured.failures),
        "jobs_per_second": round(jobs / measured.elapsed_s, 1),
        "latency_ms": {name: round(_percentile(ordered, part) * 1000, 3) for name, part in PERCENTILES.items()}
        if ordered
        else {},
        "broker_us_per_job": round(measured.broker_s / jobs * 1e6, 1) if measured.broker_s is not None and jobs else None,
    }


PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def _percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that this part of all values does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def _report(load: Load, measured: Measured) -> None:
    figures = _figures(measured)
    emit(f"{figures['jobs_per_second']:,} jobs/s ({figures['jobs']:,} jobs in {measured.elapsed_s:.1f} s)")
    if isinstance(latency := figures["latency_ms"], dict):
        emit("latency " + "  ".join(f"{name} {value:,.2f} ms" for name, value in latency.items()))
    if figures["broker_us_per_job"] is not None:
        emit(f"broker {figures['broker_us_per_job']} µs of processor time a job")
    for name, count in measured.failures.items():
        emit(f"{count:,} jobs ended with {name}")
