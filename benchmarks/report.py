"""The table for people and the JSON file for programs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.stats import Spread
from benchmarks.summary import IdleSummary, Record, Summary

NOTES = (
    "Medians over the rounds (lowest–highest). `× NATS` is computed in each round from that round's two figures, then the median.",
    "processor µs/job: user and system time of the broker process alone, per RUN and RESULT. This is the figure that counts.",
    "Latency is of a closed loop: a client sends a job when another ends, so while the broker stalls nobody asks. That is",
    "coordinated omission: p99 and p99.9 are too good by it, alike for all. Compare them; do not promise them.",
)
_WIDE = 150
_NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Report:
    """All that a run found."""

    machine: dict[str, Any]
    versions: dict[str, Any]
    settings: dict[str, Any]
    summaries: Sequence[Summary]
    idle: Sequence[IdleSummary]
    records: Sequence[Record]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every round's raw figures, and what was made of them."""
        return {
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.settings,
            "summary": [asdict(summary) for summary in self.summaries],
            "idle": [asdict(summary) for summary in self.idle],
            "rounds": [record.to_dict() for record in self.records],
        }


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; all columns but the first are numbers and stand at the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def median(value: Spread | None) -> str:
    """The median alone."""
    return _NOTHING if value is None else number(value.median)


def with_spread(value: Spread | None) -> str:
    """The median, and the spread if there is more than one value."""
    if value is None:
        return _NOTHING
    if value.count == 1:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)}–{number(value.high)})"


def load_table(summaries: Sequence[Summary]) -> Table:
    """One row for each workload."""
    columns = ("workload", "processor µs/job", "× NATS", "jobs/s", "p50 ms", "× NATS", "p99 ms", "p99.9 ms", "RSS MiB", "note")
    rows = [
        (
            summary.workload,
            with_spread(summary.cpu_us_per_job),
            with_spread(summary.cpu_ratio),
            median(summary.jobs_per_s),
            median(summary.p50_ms),
            with_spread(summary.p50_ratio),
            median(summary.p99_ms),
            median(summary.p999_ms),
            median(summary.rss_mib),
            _note(summary),
        )
        for summary in summaries
    ]
    return Table("A job: RUN to a worker, RESULT back to its client", columns, rows)


def _note(summary: Summary) -> str:
    notes = [f"{summary.failures} failed"] if summary.failures else []
    if summary.generator_was_limit:
        notes.append("generator was the limit")
    return ", ".join(notes)


def idle_table(summaries: Sequence[IdleSummary]) -> Table:
    """One row for each system."""
    rows = [
        (
            summary.workload,
            f"{summary.connections:,}",
            with_spread(summary.kib_per_connection),
            with_spread(summary.ratio),
            f"{summary.failures} failed" if summary.failures else "",
        )
        for summary in summaries
    ]
    return Table(
        "Memory of the broker for a connection that does nothing", ("", "connections", "KiB each", "× NATS", "note"), rows
    )


def print_report(report: Report) -> None:
    """The tables, and how to read them, on stdout."""
    broker = report.versions["broker"]
    core = "compiled" if broker["compiled"] else "pure Python"
    print(f"{report.machine['processor']}, kernel {report.machine['kernel']}, load {report.machine['load_average'][0]:.1f}")
    ours = f"reasonchip-broker {broker['version'] or '(unknown version)'} ({core}, Python {broker['python']})"
    print(f"{ours}; NATS {report.versions['nats'] or 'left out'}")
    tables = [load_table(report.summaries)] if report.summaries else []
    if report.idle:
        tables.append(idle_table(report.idle))
    for table in tables:
        print()
        print_table(table)
    print()
    print("\n".join(NOTES))


def print_table(table: Table) -> None:
    """With rich, if it is installed; else in plain text."""
    try:
        from rich.console import Console
        from rich.table import Table as RichTable
    except ImportError:
        print(plain(table))
        return
    drawn = RichTable(title=table.title, title_justify="left")
    for index, name in enumerate(table.columns):
        drawn.add_column(name, justify="left" if index == 0 or name == "note" else "right", no_wrap=name != "note")
    for row in table.rows:
        drawn.add_row(*row)
    Console(width=None if sys.stdout.isatty() else _WIDE).print(drawn)


def plain(table: Table) -> str:
    """The table in plain text."""
    lines = [list(table.columns), *(list(row) for row in table.rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    text = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([table.title, *(line.rstrip() for line in text)])


def write_json(report: Report, path: Path) -> None:
    """Write everything to `path`. Raises OSError."""
    path.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
