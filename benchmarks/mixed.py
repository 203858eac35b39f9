"""`python -m benchmarks.mixed`: how long small jobs take while others of 1 MiB go through the same broker, as through NATS and a relay.

One client has one job of 100 bytes in flight, first alone, then while another one on another connection has two of 1 MiB, for another
worker. The large load is a process of its own on the generator's core, which yields to the one that measures. What both have to share
all the same, a processor and its caches, is in the relay's row too.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import in_turn
from benchmarks.in_turn import Found, Program
from benchmarks.measure import Bench, measure, measure_beside
from benchmarks.report import Table, median, with_spread
from benchmarks.stats import Spread
from benchmarks.summary import Metric
from benchmarks.workloads import MIB, ONE, Shape, Socket, System, Workload

LARGE_BESIDE = Shape("1x2-1MiB", clients=1, in_flight=2, workers=1, capacity=2, payload_bytes=MIB)
GOAL_TIMES = 10
"""p99 beside large jobs is to be at most so many times that of small ones alone."""

METRICS: dict[str, Metric] = {
    "p50_alone_ms": lambda f: f["alone"]["p50_ns"] / 1e6,
    "p99_alone_ms": lambda f: f["alone"]["p99_ns"] / 1e6,
    "p50_beside_ms": lambda f: f["beside"]["p50_ns"] / 1e6,
    "p99_beside_ms": lambda f: f["beside"]["p99_ns"] / 1e6,
    "p99_times": lambda f: f["beside"]["p99_ns"] / f["alone"]["p99_ns"],
    "small_per_s": lambda f: f["beside"]["jobs"] / f["beside"]["seconds"],
    "large_per_s": lambda f: f["large"]["jobs"] / f["large"]["seconds"],
}


def measured(system: System, bench: Bench) -> dict[str, Any]:
    """Small jobs alone, and then, at a fresh broker, beside large ones. Raises BenchError."""
    small = Workload(system, Socket.TCP, ONE)
    alone = measure(small, bench)
    beside, large = measure_beside(small, LARGE_BESIDE, bench)
    return {"alone": alone, "beside": beside, "large": large}


def line(figures: Mapping[str, Any]) -> str:
    """Both in a few words."""
    told = {name: metric(dict(figures)) for name, metric in METRICS.items()}
    return f"p99 {told['p99_alone_ms']:.2f} ms alone, {told['p99_beside_ms']:.2f} ms beside {told['large_per_s']:,.0f} large ones/s"


def summary(found: Found, system: System) -> dict[str, Spread | None]:
    """The figures of one system over all rounds."""
    return {name: found.spread(system, metric) for name, metric in METRICS.items()}


def table(found: Found) -> Table:
    """One row for each system."""
    columns = ("", "alone: p50 ms", "p99 ms", "beside 1 MiB: p50 ms", "p99 ms", "× p99 alone", "small/s", "large/s", "note")
    rows = []
    for system in found.systems:
        one = summary(found, system)
        middle = [median(one[name]) for name in ("p50_alone_ms", "p99_alone_ms", "p50_beside_ms", "p99_beside_ms")]
        counts = [median(one[name]) for name in ("small_per_s", "large_per_s")]
        note = f"{found.failures(system)} failed" if found.failures(system) else ""
        rows.append((str(system), *middle, with_spread(one["p99_times"]), *counts, note))
    title = f"A job of 100 bytes, alone and beside jobs of 1 MiB (the goal: at most {GOAL_TIMES} × p99 alone)"
    return Table(title, columns, rows)


PROGRAM = Program("mixed", __doc__, measured, line, summary, table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a measurement failed, 2 if nothing could be measured."""
    return in_turn.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
