"""Programs that measure one thing of our broker, both builds, of NATS and of a byte relay in C, in turn: what they have in common.

Each round measures every one of them, and another one goes first. What is not on this machine is named and left out; a measurement
that fails is told in a line and counted, and the others go on.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import nats_server
from benchmarks.brokers import Commands, our_command
from benchmarks.errors import BenchError, Missing
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measure import Bench
from benchmarks.peers import servers
from benchmarks.process import choose_cores, leave_in_order
from benchmarks.report import Table, print_table
from benchmarks.stats import Spread, ratios, spread
from benchmarks.summary import Metric, Record, by_round
from benchmarks.workloads import System, rotated

COMPILED = Path(__file__).parents[1] / ".venv-compiled" / "bin" / "python"
SYSTEMS = (System.RELAY, System.COMPILED, System.BINARY, System.NATS)
EXIT_FAILED, EXIT_MISSING = 1, 2


@dataclass(frozen=True, slots=True)
class Found:
    """All that was measured, round by round."""

    systems: Sequence[System]
    records: Sequence[Record]

    def spread(self, system: System, metric: Metric) -> Spread | None:
        """One figure of one system."""
        return spread(list(by_round(self.records, system, metric).values()))

    def ratio(self, system: System, other: System, metric: Metric) -> Spread | None:
        """That, divided by another system's in the same round."""
        if system is other:
            return None
        return spread(ratios(by_round(self.records, system, metric), by_round(self.records, other, metric)))

    def failures(self, system: System) -> int:
        """How many measurements failed."""
        return sum(record.workload == system and record.figures is None for record in self.records)


@dataclass(frozen=True, slots=True)
class Program:
    """One of these programs."""

    name: str
    """As in `python -m benchmarks.name`."""
    text: str
    """What `--help` says of it."""
    measure: Callable[[System, Bench], dict[str, Any]]
    """One measurement. Raises BenchError."""
    line: Callable[[Mapping[str, Any]], str]
    """Its figures in a few words."""
    summary: Callable[[Found, System], dict[str, Spread | None]]
    """What is made of all the rounds of one system."""
    table: Callable[[Found], Table]


def parse(program: Program, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program.name}", description=program.text)
    parser.add_argument("--quick", action="store_true", help="1 round of 1 s instead of 3 rounds of 3 s")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured, in turn")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a window, after a warm-up")
    parser.add_argument("--only", metavar="NAMES", help=f"only some of these, with commas between: {', '.join(SYSTEMS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--broker-python", metavar="PATH", default=sys.executable, help="the Python that our broker runs on")
    parser.add_argument("--compiled-python", metavar="PATH", default=str(COMPILED), help="a Python with our compiled wheel")
    options = parser.parse_args(arguments)
    options.rounds = (1 if options.quick else 3) if options.rounds is None else options.rounds
    options.seconds = (1.0 if options.quick else 3.0) if options.seconds is None else options.seconds
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be more than 0")
    options.systems = [system for system in SYSTEMS if options.only is None or system in options.only.split(",")]
    if not options.systems or (options.only or "").count(",") >= len(options.systems):
        parser.error(f"--only {options.only}: there are {', '.join(SYSTEMS)}")
    # Not resolved: a virtual environment's python is a link, and what it is called by decides what it finds.
    options.broker_python = os.path.abspath(shutil.which(options.broker_python) or options.broker_python)
    options.compiled_python = os.path.abspath(shutil.which(options.compiled_python) or options.compiled_python)
    return options


def main(program: Program, arguments: Sequence[str] | None) -> int:
    """Returns the exit code: 0, 1 if a measurement failed, 2 if nothing could be measured."""
    options = parse(program, arguments)
    leave_in_order()
    try:
        return run(program, options)
    except BenchError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return EXIT_MISSING if isinstance(error, Missing) else EXIT_FAILED
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        return 130


def run(program: Program, options: argparse.Namespace) -> int:
    """Measure, and report. Raises Missing before anything is measured if our broker or taskset is not there."""
    commands, missing = _commands(options)
    systems = [system for system in options.systems if system not in missing]
    for system in options.systems:
        if system in missing:
            say(f"not measured: {system}, {missing[system]}")
    if not systems:
        raise Missing("there is nothing to measure")
    cores = choose_cores()
    if cores.shared:
        say("there is only one core to use: broker and generator share it, so trust processor time alone")
    versions = describe_versions(options.broker_python, commands)
    machine = describe_machine(cores)
    warmup_s = min(1.0, options.seconds / 2)
    bench = Bench(commands, cores, warmup_s, options.seconds, acks=True, idle_connections=0)
    found = Found(systems, rounds(program, systems, options.rounds, bench))
    print(f"{machine['processor']}, kernel {machine['kernel']}, load {machine['load_average'][0]:.1f}")
    print_table(program.table(found))
    if options.json:
        data = {
            "machine": machine,
            "versions": versions,
            "missing": missing,
            "settings": {"rounds": options.rounds, "window_s": options.seconds, "warmup_s": warmup_s},
            "summary": {system: _plain(program.summary(found, system)) for system in systems},
            "rounds": [record.to_dict() for record in found.records],
        }
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    return EXIT_FAILED if any(record.error for record in found.records) else 0


def _plain(figures: Mapping[str, Spread | None]) -> dict[str, Any]:
    return {name: asdict(figure) if figure else None for name, figure in figures.items()}


def _commands(options: argparse.Namespace) -> tuple[Commands, dict[str, str]]:
    """How the brokers are started, and why some can't be."""
    missing = {str(System.RELAY): servers.missing(System.RELAY)}
    compiled = Path(options.compiled_python).exists()
    if not compiled:
        missing[System.COMPILED] = "there is no compiled build: make test-compiled"
    nats = None
    try:
        nats = nats_server.find()
    except Missing as error:
        missing[System.NATS] = str(error)
    compiled_command = our_command(options.compiled_python) if compiled else ()
    commands = Commands(ours=our_command(options.broker_python), nats=nats, compiled=compiled_command)
    return commands, {system: why for system, why in missing.items() if why}


def rounds(program: Program, systems: Sequence[System], count: int, bench: Bench) -> list[Record]:
    """Every system in each round; what fails is told, and recorded as failed."""
    records = []
    for number in range(count):
        for system in rotated(systems, number):
            title = f"round {number + 1}/{count}  {system}"
            try:
                figures = program.measure(system, bench)
            except BenchError as error:
                say(f"{title}: {error}")
                records.append(Record(number + 1, system, None, str(error)))
                continue
            say(f"{title}: {program.line(figures)}")
            records.append(Record(number + 1, system, figures))
    return records


def say(line: str) -> None:
    """How it is going, on stderr: stdout is for the table."""
    print(line, file=sys.stderr, flush=True)
