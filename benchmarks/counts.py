"""`python -m benchmarks.counts`: how many instructions a job costs the core, and how often it asks for memory, compared with what is
written in `counts.json`.

Noise can't fool it: `valgrind` counts on a processor of its own. Each workload of `counted.py` is run twice, for so many
rounds and for twice as many, in a Python that starts the same each time; the difference is what the jobs cost, without the start.

Instructions belong to one version of Python, as it was built for one machine. On another they can't be compared, and that is said.

Exit code: 0; 1 if a workload costs more than written, beyond the tolerance; 2 if it can't be found out."""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks.counted import WORKLOADS
from benchmarks.errors import BenchError, Missing

Counts: TypeAlias = Mapping[str, Mapping[str, float]]
"""By what is counted, and by workload: how much of it a job costs."""

ROOT = Path(__file__).parents[1]
WRITTEN = Path(__file__).with_name("counts.json")
TOLERANCE = 0.03
EXIT_MORE, EXIT_UNKNOWN = 1, 2
TIMEOUT_S = 600.0
AT_ONCE = 2
PROGRAM = ("-m", "benchmarks.counted")
"""What is counted, unless something else is asked for."""

ENVIRONMENT = {"PYTHONHASHSEED": "0", "PATH": os.defpath, "LC_ALL": "C.UTF-8"}
"""Nothing of the caller's, and always the same hashes."""

_INSTRUCTIONS = re.compile(r"I +refs: +([\d,]+)")
_ALLOCATIONS = re.compile(r"total heap usage: ([\d,]+) allocs")
_TOOLS = {
    "instructions": (["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"], {}, _INSTRUCTIONS),
    # Python's own allocator would hide nearly all of them. What it keeps in free lists (tuples, floats) is not counted.
    "allocations": (["--tool=memcheck", "--undef-value-errors=no"], {"PYTHONMALLOC": "malloc"}, _ALLOCATIONS),
}
"""What is counted: what valgrind is told, what its process's environment has beside the usual, and where it says the number."""
_IDENTITY = """
import json, platform, reasonchip_broker.switchboard as core
build = "interpreted" if (core.__file__ or "").endswith(".py") else "compiled"
print(json.dumps([build, " ".join([platform.python_version(), platform.python_compiler(), *platform.python_build()])]))
"""


def valgrind() -> str:
    """The program. Raises Missing."""
    found = shutil.which("valgrind")
    if found is None:
        raise Missing("instructions are counted by valgrind, and it is not here: `apt-get install valgrind`")
    return found


def identity(python: str) -> tuple[str, str]:
    """Which build of the core a Python runs, and which Python it is. Raises BenchError."""
    try:
        done = subprocess.run([python, "-c", _IDENTITY], capture_output=True, text=True, cwd=ROOT, check=False)
    except OSError as error:
        raise BenchError(f"{python} does not run the core: {error.strerror}") from error
    if done.returncode:
        raise BenchError(f"{python} does not run the core: {_last_line(done.stderr)}")
    build, version = json.loads(done.stdout)
    return build, version


def total(what: str, python: str, name: str, rounds: int, program: Sequence[str] = PROGRAM) -> tuple[int, int]:
    """How many instructions, or allocations, a process took, and how many jobs it did. Raises BenchError."""
    tool, more, number = _TOOLS[what]
    command = [valgrind(), *tool, python, *program, name, str(rounds)]
    environment = ENVIRONMENT | more
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=TIMEOUT_S, check=False)
    found = number.search(done.stderr)
    if done.returncode or found is None:
        raise BenchError(f"{name!r} could not be counted: {_last_line(done.stderr)}")
    return int(found[1].replace(",", "")), int(done.stdout)


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["it said nothing"])[-1]


def count(what: str, python: str, name: str, program: Sequence[str] = PROGRAM) -> float:
    """Instructions, or allocations, a job; `program` is what Python is told to run. Raises BenchError."""
    rounds = WORKLOADS[name][1]
    # What is read for the first time is compiled, and kept: that is no part of a job.
    subprocess.run([python, "-m", "benchmarks.counted", name, "1"], capture_output=True, cwd=ROOT, env=ENVIRONMENT, check=False)
    (few, few_jobs), (many, many_jobs) = [total(what, python, name, times, program) for times in (rounds, 2 * rounds)]
    return (many - few) / (many_jobs - few_jobs)


def count_all(python: str, whats: Sequence[str]) -> Counts:
    """These, of each workload. Raises BenchError."""
    asked = [(what, name) for what in whats for name in WORKLOADS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        counted = list(pool.map(lambda pair: count(pair[0], python, pair[1]), asked))
    return {what: {name: count for (one, name), count in zip(asked, counted, strict=True) if one == what} for what in whats}


def table(found: Counts, written: Counts) -> Table:
    """What was counted, beside what is written."""
    told = Table("a job", *[column for what in found for column in (what, "of written")])
    for name in next(iter(found.values())):
        row: list[str] = []
        for what, values in found.items():
            value, before = values[name], written.get(what, {}).get(name)
            row += [f"{value:,.0f}" if value >= 1000 else f"{value:.1f}", f"{value / before:.3f}" if before else ""]
        told.add_row(name, *row)
    return told


def more(found: Counts, written: Counts) -> list[str]:
    """The workloads that cost more than is written, beyond the tolerance."""
    return _beyond(found, written, lambda value, before: value > before * (1 + TOLERANCE))


def less(found: Counts, written: Counts) -> list[str]:
    """Those that cost less, by as much: then it is time to write that down."""
    return _beyond(found, written, lambda value, before: value < before * (1 - TOLERANCE))


def _beyond(found: Counts, written: Counts, is_beyond: Callable[[float, float], bool]) -> list[str]:
    names: dict[str, None] = {}
    for what, values in found.items():
        before = written.get(what, {})
        names |= {name: None for name, value in values.items() if name in before and is_beyond(value, before[name])}
    return list(names)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """What is written, by build: for which Python, and the figures."""
    written: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counts", description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="the Python whose core is counted (default: this one)")
    parser.add_argument("--update", action="store_true", help="write down what is counted, instead of comparing it")
    parser.add_argument("--if-possible", action="store_true", help="exit code 0 where nothing can be compared here")
    parser.add_argument("--instructions", action="store_true", help="count nothing but these, which takes half the time")
    options = parser.parse_args(arguments)
    if options.update and options.instructions:
        parser.error("--update writes down all that there is to count")
    try:
        return run(options)
    except (Missing, BenchError, subprocess.TimeoutExpired) as error:
        print(f"counts: {error}", file=sys.stderr)
        return 0 if options.if_possible and isinstance(error, Missing) else EXIT_UNKNOWN


def run(options: argparse.Namespace) -> int:
    """Count, and compare or write down. Raises Missing where that can't be done here, BenchError where something went wrong."""
    valgrind()
    build, version = identity(options.python)
    every = read(WRITTEN)
    written = every.get(build, {})
    if not options.update and written.get("python") != version:
        known = written.get("python", "none").split(" ")[0]
        raise Missing(f"the figures of the {build} core are those of Python {known}, and this is another: nothing to compare")
    found = count_all(options.python, ["instructions"] if options.instructions else list(_TOOLS))
    before: Counts = {what: written.get(what, {}) for what in _TOOLS}
    Console().print(f"the {build} core, Python {platform.python_version()}", table(found, before))
    if options.update:
        every[build] = {"python": version} | {
            what: {name: round(value) if value >= 1000 else round(value, 1) for name, value in values.items()}
            for what, values in found.items()
        }
        WRITTEN.write_text(json.dumps(every, indent=2) + "\n")
        return 0
    if cheaper := less(found, before):
        print(f"counts: cheaper than written: {', '.join(cheaper)}; write it down: make counts ARGS=--update")
    dearer = more(found, before)
    if dearer:
        print(f"counts: more than {TOLERANCE:.0%} over what is written: {', '.join(dearer)}", file=sys.stderr)
    return EXIT_MORE if dearer else 0


if __name__ == "__main__":
    sys.exit(main())
