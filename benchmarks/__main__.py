"""`python -m benchmarks`: what a job costs our broker, beside NATS in the same run."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import nats_server
from benchmarks.brokers import Commands, our_command
from benchmarks.errors import BenchError, Missing
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measure import Bench, measure, measure_idle
from benchmarks.process import choose_cores, leave_in_order
from benchmarks.procstat import raise_file_limit
from benchmarks.report import Report, print_report, write_json
from benchmarks.summary import Record, summarise, summarise_idle
from benchmarks.workloads import EVERYTHING, IDLE, IdleWorkload, Workload, select, select_idle, turns

EXIT_FAILED = 1
EXIT_MISSING = 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line. `rounds`, `seconds` and `connections` are filled in from `quick`."""
    names = [workload.name for workload in EVERYTHING] + [workload.name for workload in IDLE]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="Workloads: " + ", ".join(names) + ", and nats-tcp-… of each shape. Exit code: 0; 1 if a measurement failed; "
        "2 if something needed is missing.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer workloads, 2 rounds of 1 s, 2,000 idle connections")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured, in turn (default 5)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a window, after a warm-up (default 3)")
    parser.add_argument(
        "--only", metavar="PATTERN", help="only workloads with these words in their name (4x64), or that match it (*-unix-*)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw figures there")
    parser.add_argument("--broker-python", metavar="PATH", default=sys.executable, help="the Python that our broker runs on")
    parser.add_argument("--no-nats", action="store_true", help="leave NATS out: quicker, but no ratios")
    parser.add_argument("--no-acks", dest="acks", action="store_false", help="binary clients do not acknowledge RESULTs")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1.0 if options.quick else 3.0)
    options.connections = 2_000 if options.quick else 10_000
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be more than 0")
    # Not resolved: a virtual environment's python is a link, and what it is called by decides what it finds.
    options.broker_python = os.path.abspath(shutil.which(options.broker_python) or options.broker_python)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = parse(arguments)
    leave_in_order()
    try:
        return run(options)
    except Missing as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return EXIT_MISSING
    except BenchError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """Measure what is asked for, and report it. Raises Missing before anything is measured if something is not there."""
    nats = not options.no_nats
    workloads = select(options.only, quick=options.quick, nats=nats)
    idle = select_idle(options.only, nats=nats)
    if not workloads and not idle:
        raise Missing(f"no workload is called {options.only!r}; --help lists them")
    commands = Commands(ours=our_command(options.broker_python), nats=nats_server.find() if nats else None)
    cores = choose_cores()
    versions = describe_versions(options.broker_python, commands)
    machine = describe_machine(cores)
    if cores.shared:
        say("there is only one core to use: broker and generator share it, so trust no latency and no jobs/s")
    files = raise_file_limit()
    connections = min(options.connections, files - 1000)
    if idle and connections < options.connections:
        say(f"a process may open only {files} files here: {connections} idle connections instead of {options.connections}")
    warmup_s = min(1.0, options.seconds / 2)
    bench = Bench(commands, cores, warmup_s, options.seconds, options.acks, connections)
    records = [*_all_idle(idle, bench), *_all_rounds(workloads, options.rounds, bench)]
    report = Report(
        machine=machine,
        versions=versions,
        settings={"rounds": options.rounds, "window_s": options.seconds, "warmup_s": warmup_s, "acks": options.acks},
        summaries=[summarise(workload, records) for workload in workloads],
        idle=[summarise_idle(workload, records) for workload in idle],
        records=records,
    )
    print_report(report)
    if options.json:
        write_json(report, options.json)
    return EXIT_FAILED if any(record.error for record in records) else 0


def _all_rounds(workloads: Sequence[Workload], rounds: int, bench: Bench) -> list[Record]:
    """Measure each workload once in each round, in the order of `turns`; what fails is told and recorded."""
    records = []
    for number in range(rounds):
        for workload in turns(workloads, number):
            title = f"round {number + 1}/{rounds}  {workload.name}"
            try:
                figures = measure(workload, bench)
            except BenchError as error:
                say(f"{title}: {error}")
                records.append(Record(number + 1, workload.name, None, str(error)))
                continue
            cost = figures["broker_cpu_ns"] / 1e3 / figures["jobs"]
            say(f"{title}: {cost:.2f} µs/job, {figures['jobs'] / figures['seconds']:,.0f} jobs/s")
            records.append(Record(number + 1, workload.name, figures))
    return records


def _all_idle(workloads: Sequence[IdleWorkload], bench: Bench) -> list[Record]:
    """Measure idle connections, once for each system."""
    records = []
    for workload in workloads:
        try:
            figures = measure_idle(workload, bench)
        except BenchError as error:
            say(f"{workload.name}: {error}")
            records.append(Record(1, workload.name, None, str(error)))
            continue
        say(f"{workload.name}: {figures['per_connection_bytes'] / 1024:.2f} KiB a connection")
        records.append(Record(1, workload.name, figures))
    return records


def say(line: str) -> None:
    """How it is going, on stderr: stdout is for the report."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
