"""`python -m benchmarks.peers` (`make bench-peers`): our broker beside those that users would pick otherwise, in turn, several rounds.

Three tables: processor time a job and latency in a closed loop, as `make bench` has it; latency at fixed rates, in an open loop; and
what a Python user gets through the client libraries. A peer that is not on this machine is named with the reason, and left out.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import nats_server
from benchmarks.brokers import Commands, our_command
from benchmarks.errors import BenchError, Missing
from benchmarks.in_turn import COMPILED
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measure import Bench, measure
from benchmarks.peers import libraries, servers
from benchmarks.process import choose_cores, leave_in_order
from benchmarks.report import Table, load_table, print_table
from benchmarks.stats import Spread, spread
from benchmarks.summary import Record, Summary, summarise
from benchmarks.workloads import HUGE, LARGE, MANY_JOBS, MANY_PEERS, ONE, SMALL, Socket, System, Workload, rotated, turns

PEERS = (System.RELAY, System.COMPILED, System.BINARY, System.NATS, System.GEARMAN, System.REDIS, System.RABBITMQ)
CLOSED = (
    *[Workload(system, Socket.TCP, shape) for shape in (ONE, MANY_JOBS, MANY_PEERS, LARGE, HUGE) for system in PEERS],
    *[Workload(System.JSON, Socket.TCP, shape) for shape in (ONE, SMALL, MANY_JOBS)],
    *[Workload(system, Socket.UNIX, shape) for shape in (ONE, MANY_JOBS) for system in (System.RELAY, System.COMPILED)],
)
RATES = (1_000, 10_000, 50_000)
TAKEN = 0.95
"""Who does less than this part of a rate can't take it: what is late then grows with the length of the window."""
IN_FLIGHTS = (1, 64)
PERCENTILES = ("p50", "p90", "p99", "p999", "max")


@dataclass(frozen=True, slots=True)
class OpenSummary:
    """One system at one rate, over all rounds: milliseconds from the moment when a job is due until its answer is read."""

    system: str
    rate: int
    jobs_per_s: Spread | None
    percentiles_ms: dict[str, Spread | None]
    cpu_us_per_job: Spread | None
    broker_busy: Spread | None
    """Share of the window in which the broker used its core."""
    taken: bool
    """Whether it did as many jobs as were due; otherwise how late they were tells nothing."""
    failures: int


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 round of 1 s instead of 3 rounds of 3 s")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured, in turn")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a window, after a warm-up")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="only what has these words in its name: nats, 4x64, open, libraries"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, for benchmarks.plots")
    parser.add_argument("--compiled-python", default=str(COMPILED), metavar="PATH", help="a Python with our compiled wheel")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (1.0 if options.quick else 3.0)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a measurement failed, 2 if nothing could be measured."""
    options = parse(arguments)
    leave_in_order()
    try:
        return run(options)
    except (Missing, BenchError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def absent(compiled: bool) -> dict[str, str]:
    """Which systems can't be measured here, and why."""
    found: dict[str, str] = {system: servers.missing(system) for system in servers.SYSTEMS}
    found[System.COMPILED] = "" if compiled else "there is no compiled build: make test-compiled"
    if not libraries.PYTHON.exists():
        found |= dict.fromkeys(("nats-py", "celery", "dask"), "it is not installed: make bench-peers")
    return {name: why for name, why in found.items() if why}


def run(options: argparse.Namespace) -> int:
    """Measure, and report. Raises Missing before anything is measured if NATS or taskset is not there."""
    left = servers.install()
    if left:
        print(f"these packages are missing, and can't be installed from here: {', '.join(left)}", file=sys.stderr)
    options.compiled_python = os.path.abspath(shutil.which(options.compiled_python) or options.compiled_python)
    compiled = Path(options.compiled_python).exists()
    commands = Commands(
        ours=our_command(sys.executable),
        nats=nats_server.find(),
        compiled=our_command(options.compiled_python) if compiled else (),
    )
    cores = choose_cores()
    bench = Bench(commands, cores, min(1.0, options.seconds / 2), options.seconds, True, 0)
    missing = absent(compiled)
    closed = [
        workload for workload in CLOSED if workload.system not in missing and options.only in f"{workload.name} closed loop"
    ]
    records = closed_rounds(closed, options.rounds, bench)
    summaries = [summarise(workload, records) for workload in closed]
    opened = open_rounds([system for system in PEERS if system not in missing], options, bench)
    names = [name for name in libraries.LIBRARIES if options.only in f"{name} libraries" and name not in missing]
    names = [name for name in names if compiled or name != "ours-compiled"]
    setting = libraries.Setting(commands, cores, bench.warmup_s, bench.window_s)
    through = libraries.measure_all(names, IN_FLIGHTS, options.rounds, setting) if names else {}
    versions = describe_versions(sys.executable, commands)
    # Where it is installed is nobody else's business.
    versions.get("broker", {}).pop("path", None)
    for system in servers.SYSTEMS:
        versions[system] = None if system in missing else servers.version(system)
    machine = describe_machine(cores)
    show(machine, versions, missing, summaries, opened, through)
    if options.json:
        data = {
            "machine": machine,
            "versions": versions,
            "missing": missing,
            "settings": {"rounds": options.rounds, "window_s": options.seconds},
            "closed": [asdict(summary) for summary in summaries],
            "open": [asdict(summary) for summary in opened],
            "libraries": through,
            "rounds": [record.to_dict() for record in records],
        }
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    failed = any(one.failures for one in summaries) or any(one.failures for one in opened)
    return 1 if failed or any("error" in one for rounds in through.values() for one in rounds) else 0


def closed_rounds(workloads: Sequence[Workload], rounds: int, bench: Bench) -> list[Record]:
    """Every workload in each round; what fails is recorded as failed."""
    order = [(workload, number) for number in range(rounds if workloads else 0) for workload in turns(workloads, number)]
    return [_measured(workload, number + 1, bench, 0, workload.name) for workload, number in order]


def _measured(workload: Workload, number: int, bench: Bench, rate: float, name: str) -> Record:
    try:
        figures = measure(workload, bench, rate)
    except (BenchError, Missing) as error:
        print(f"round {number}  {name}: {error}", file=sys.stderr)
        return Record(number, name, None, str(error))
    each_us = figures["broker_cpu_ns"] / 1e3 / figures["jobs"]
    print(f"round {number}  {name}: {each_us:.2f} µs/job, {figures['jobs'] / figures['seconds']:,.0f} jobs/s", file=sys.stderr)
    return Record(number, name, figures)


def open_rounds(systems: Sequence[System], options: argparse.Namespace, bench: Bench) -> list[OpenSummary]:
    """Every system at every rate, in turn."""
    wanted = [(system, rate) for rate in RATES for system in systems if options.only in f"open-{system}-{rate} open loop"]
    found: dict[tuple[System, int], list[Record]] = {pair: [] for pair in wanted}
    for number in range(options.rounds):
        for system, rate in rotated(wanted, number):
            workload = Workload(system, Socket.TCP, MANY_JOBS)
            found[system, rate].append(_measured(workload, number + 1, bench, rate, f"open-{system}-{rate}"))
    return [open_summary(system, rate, records) for (system, rate), records in found.items()]


def open_summary(system: System, rate: int, records: Sequence[Record]) -> OpenSummary:
    """Medians, and their spread."""
    figures: list[dict[str, Any]] = [record.figures for record in records if record.figures is not None]
    done = spread([one["jobs"] / one["seconds"] for one in figures])
    return OpenSummary(
        system=system,
        rate=rate,
        jobs_per_s=done,
        percentiles_ms={name: spread([one[f"{name}_ns"] / 1e6 for one in figures]) for name in PERCENTILES},
        cpu_us_per_job=spread([one["broker_cpu_ns"] / 1e3 / one["jobs"] for one in figures]),
        broker_busy=spread([one["broker_cpu_ns"] / 1e9 / one["seconds"] for one in figures]),
        taken=done is not None and done.median >= TAKEN * rate,
        failures=len(records) - len(figures),
    )


def show(
    machine: dict[str, Any],
    versions: dict[str, Any],
    missing: dict[str, str],
    summaries: Sequence[Summary],
    opened: Sequence[OpenSummary],
    through: dict[str, list[dict[str, Any]]],
) -> None:
    """The tables, on stdout."""
    print(f"{machine['processor']}, kernel {machine['kernel']}, load {machine['load_average'][0]:.1f}")
    print("; ".join(f"{name} {said}" for name, said in versions.items() if isinstance(said, str) and said))
    for name, why in missing.items():
        print(f"not measured: {name}, {why}")
    if summaries:
        print_table(load_table(summaries))
    if opened:
        print_table(open_table(opened))
    if through:
        columns = ("", "jobs/s", "client µs", "workers µs", "broker µs", "p50 ms", "p99 ms", "note")
        print_table(Table("Through the client libraries: processor time a job", columns, libraries.rows(through)))


def open_table(opened: Sequence[OpenSummary]) -> Table:
    """One row for each system and rate."""
    rows = []
    for summary in opened:
        values = [f"{one.median:.2f}" if one and summary.taken else "–" for one in summary.percentiles_ms.values()]
        done = f"{summary.jobs_per_s.median:,.0f}" if summary.jobs_per_s else "–"
        cpu = f"{summary.cpu_us_per_job.median:,.1f}" if summary.cpu_us_per_job else "–"
        rows.append((f"{summary.system}, {summary.rate:,}/s", done, *values, cpu, _open_note(summary)))
    columns = ("due", "jobs/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "processor µs/job", "note")
    return Table("Latency from the moment when a job is due (4 clients, 4 workers, 100 bytes, TCP)", columns, rows)


def _open_note(summary: OpenSummary) -> str:
    notes = [f"{summary.failures} failed"] if summary.failures else []
    if summary.broker_busy is not None and not summary.taken:
        notes.append(f"can't take this rate (its core {summary.broker_busy.median:.0%} busy)")
    return ", ".join(notes)


if __name__ == "__main__":
    sys.exit(main())
