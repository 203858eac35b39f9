"""`python -m benchmarks.chunks`: what a chunk of progress costs the broker, beside NATS and a byte relay in C.

64 jobs run, 16 of each of 4 clients, on 4 workers. Each sends chunks of 100 bytes as fast as the flow control of the protocol lets it;
its client counts them, checks their numbers, and gives credit as our client library does. NATS has one publisher and one subscriber for
each job; it and the relay know no credit, and the load is bounded by the load generator (`generators/chunks.py`).
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import in_turn
from benchmarks.in_turn import Found, Program
from benchmarks.measure import Bench, measure
from benchmarks.report import Table, median, with_spread
from benchmarks.stats import Spread
from benchmarks.summary import GENERATOR_LIMIT, Metric
from benchmarks.workloads import Shape, Socket, System, Workload

LIVE = Shape("4x16-chunks-100B", clients=4, in_flight=16, workers=4, capacity=16, payload_bytes=100)
GOAL_PER_CORE = 500_000
"""Chunks a second that one core is to pass on, compiled."""

COST = "cpu_us_per_chunk"
METRICS: dict[str, Metric] = {
    COST: lambda f: f["broker_cpu_ns"] / 1e3 / f["chunks"],
    "chunks_per_core_s": lambda f: f["chunks"] * 1e9 / f["broker_cpu_ns"],
    "chunks_per_s": lambda f: f["chunks"] / f["seconds"],
    "missing": lambda f: f["missing"],
    "generator_busy": lambda f: f["generator_cpu_ns"] / 1e9 / f["seconds"],
}


def measured(system: System, bench: Bench) -> dict[str, Any]:
    """One window. Raises BenchError."""
    return measure(Workload(system, Socket.TCP, LIVE), bench, chunks=True)


def line(figures: Mapping[str, Any]) -> str:
    """One window in a few words."""
    whole = dict(figures)
    per_core = METRICS["chunks_per_core_s"](whole)
    return f"{METRICS[COST](whole):.2f} µs/chunk, {per_core:,.0f} a second of one core, {figures['missing']} missing"


def summary(found: Found, system: System) -> dict[str, Spread | None]:
    """The figures of one system over all rounds, and its cost as so many times that of the others."""
    told = {name: found.spread(system, metric) for name, metric in METRICS.items()}
    others = {f"times_{other}": found.ratio(system, other, METRICS[COST]) for other in (System.NATS, System.RELAY)}
    return told | others


def table(found: Found) -> Table:
    """One row for each system."""
    columns = ("", "processor µs/chunk", "× NATS", "× relay", "chunks/s of one core", "delivered/s", "missing", "note")
    rows = []
    for system in found.systems:
        one = summary(found, system)
        busy = one["generator_busy"]
        notes = [f"{found.failures(system)} failed"] if found.failures(system) else []
        if busy is not None and busy.median >= GENERATOR_LIMIT:
            notes.append("generator was the limit")
        figures = [with_spread(one[name]) for name in (COST, "times_nats", "times_relay", "chunks_per_core_s")]
        counts = median(one["chunks_per_s"]), missing(one["missing"])
        rows.append((str(system), *figures, *counts, ", ".join(notes)))
    title = f"A chunk of progress (the goal: {GOAL_PER_CORE:,} a second of one core, compiled)"
    return Table(title, columns, rows)


def missing(figure: Spread | None) -> str:
    """A count: none is a 0 and nothing else."""
    return median(figure) if figure is None or figure.high else "0"


PROGRAM = Program("chunks", __doc__, measured, line, summary, table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a measurement failed, 2 if nothing could be measured."""
    return in_turn.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
