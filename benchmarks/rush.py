"""`python -m benchmarks.rush`: jobs done a second when more are sent than can be done, beside NATS and a relay.

Clients send jobs at fixed rates, whether others are answered or not, to workers that have 256 slots and answer at once; before, as
many as there are slots are kept in flight. A broker that spends its time on taking in what has to wait does less the more is sent.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import in_turn
from benchmarks.in_turn import Found, Program
from benchmarks.measure import Bench, measure
from benchmarks.report import Table, median, with_spread
from benchmarks.stats import Spread
from benchmarks.summary import Metric
from benchmarks.workloads import MANY_JOBS, Socket, System, Workload

RATES = (20_000, 50_000, 100_000, 200_000)
"""Jobs sent a second."""


def done_at(rate: int) -> Metric:
    """Jobs done a second while so many were sent; in a closed loop, if none."""
    return lambda figures: figures[str(rate)]["jobs"] / figures[str(rate)]["seconds"]


def least(figures: dict[str, Any]) -> float:
    """The least that was done at any rate, of what was sent or of what a closed loop does, whichever is less."""
    closed = done_at(0)(figures)
    return min(done_at(rate)(figures) / min(rate, closed) for rate in RATES)


def measured(system: System, bench: Bench) -> dict[str, Any]:
    """A closed loop and all rates, each at a fresh broker. Raises BenchError."""
    workload = Workload(system, Socket.TCP, MANY_JOBS)
    return {str(rate): measure(workload, bench, rate) for rate in (0, *RATES)}


def line(figures: Mapping[str, Any]) -> str:
    """All of them in a few words."""
    told = dict(figures)
    rates = ", ".join(f"{done_at(rate)(told):,.0f} of {rate:,}" for rate in RATES)
    return f"{done_at(0)(told):,.0f} jobs/s in a closed loop; {rates}"


def summary(found: Found, system: System) -> dict[str, Spread | None]:
    """The figures of one system over all rounds."""
    rates = {f"done_at_{rate}": found.spread(system, done_at(rate)) for rate in RATES}
    return {"closed_loop": found.spread(system, done_at(0)), **rates, "least": found.spread(system, least)}


def table(found: Found) -> Table:
    """One row for each system."""
    columns = ("", "closed loop", *(f"sent {rate:,}/s" for rate in RATES), "least of what it can", "note")
    rows = []
    for system in found.systems:
        one = summary(found, system)
        least_of_all = one.pop("least")
        note = f"{found.failures(system)} failed" if found.failures(system) else ""
        rows.append((str(system), *(median(figure) for figure in one.values()), with_spread(least_of_all), note))
    return Table("Jobs done a second (4 × 64 slots, 100 bytes)", columns, rows)


PROGRAM = Program("rush", __doc__, measured, line, summary, table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a measurement failed, 2 if nothing could be measured."""
    return in_turn.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
