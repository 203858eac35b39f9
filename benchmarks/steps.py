"""`python -m benchmarks.steps --compiled PYTHON`: what each step of a job costs in instructions, for the documentation.

Of the compiled core valgrind (callgrind) tells what each function costs with all that it calls, in plain jobs at 4 x 64: that is
divided among the steps. A function of the interpreted core is none of C, so of that build only two parts are told apart: RUNs and
RESULTs are counted with nothing done about them, then with being decoded (`counted.py`).

Exit code: 0; 1 if something can't be counted.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.counts import ENVIRONMENT, ROOT, TIMEOUT_S, count, valgrind
from benchmarks.errors import BenchError, Missing

FIGURE = ROOT / "docs" / "explanation" / "figures" / "path.json"
PLAIN = "plain, 4 x 64"
ROUNDS, PEERS_JOBS = 300, 256
WARM_UP = 2
"""Rounds before those that are counted; callgrind has them too."""

_COUNTED_IN = ("CPyDef_switchboard___Switchboard___received", "CPyDef_frames___FrameDecoder___feed")
_NAME = re.compile(r"\((\d+)\)(?: (.*))?")


def inclusive(lines: Sequence[str]) -> dict[str, int]:
    """By function: its instructions and those of all that it calls, from a file of callgrind. What a function calls of itself counts
    twice; none of those that are asked for does."""
    names: dict[str, str] = {}
    cost: dict[str, int] = defaultdict(int)
    function = ""
    for line in lines:
        if line.startswith(("fn=", "cfn=")):
            found = _NAME.match(line.partition("=")[2])
            if found is None:
                continue
            if found[2]:
                names[found[1]] = found[2]
            if line.startswith("fn="):
                function = found[1]
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            # A line of a function's own, or the one after `calls=`, which has the cost of the call.
            parts = line.split()
            if len(parts) == 2:
                cost[function] += int(parts[1])
    return {names.get(number, number): value for number, value in cost.items()}


def compiled_steps(python: str) -> list[dict[str, Any]]:
    """The steps of a plain job in the compiled core. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="rcb-bench-") as folder:
        out = Path(folder) / "callgrind.out"
        command = [valgrind(), "--tool=callgrind", f"--callgrind-out-file={out}"]
        command += [f"--toggle-collect={name}" for name in _COUNTED_IN]
        command += [python, "-m", "benchmarks.counted", PLAIN, str(ROUNDS)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=TIMEOUT_S, check=False
        )
        if done.returncode or not out.exists():
            raise BenchError(f"the steps could not be counted: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}")
        cost = inclusive(out.read_text("utf-8", "replace").splitlines())
    jobs = (ROUNDS + WARM_UP) * PEERS_JOBS

    def of(name: str) -> int:
        if f"CPyDef_{name}" not in cost:
            raise BenchError(f"callgrind knows no {name}: is the core of {python} compiled?")
        return round(cost[f"CPyDef_{name}"] / jobs)

    frames = of("frames___FrameDecoder___feed")
    which, records = of("roster___Pool___take"), of("route___Route") + of("assignment___Assignment")
    ack, keep = of("outcomes___Outcomes___acknowledge"), of("outcomes___Outcomes___add")
    run, result = of("plain___PlainPath___runs"), of("plain___PlainPath___results")
    return [
        {"name": "RUN and RESULT: bytes to frames", "instructions": frames},
        {"name": "RUN: its options, is its cookie new, send", "instructions": run - ack - which - records},
        {"name": "RUN: which worker", "instructions": which},
        {"name": "RUN: its records, of job and slot", "instructions": records},
        {"name": "RESULT: whose is it, free the slot, send", "instructions": result - keep},
        {"name": "RESULT: keep it until it is acknowledged", "instructions": keep},
        {"name": "ACK: forget all but the cookie", "instructions": ack},
    ]


_PART = """
import sys
from benchmarks import counted
part, name, rounds = sys.argv[1:]
make, few = counted.WORKLOADS[name]
# What goes before is done as ever, or there would be no RUNs to answer.
run = make()
counted.WORKLOADS[name] = (lambda: run), few
counted.End.say = lambda end, data: end._decoder.feed(data) if part == "decoded" else None
print(counted.main(name, int(rounds)))
"""


def parts(python: str) -> dict[str, int]:
    """Of a plain job: what its load costs, what it costs to decode both its frames, and all the rest. Raises BenchError."""
    found = {}
    for part in ("nothing", "decoded"):
        program = ("-c", _PART, part)
        found[part] = sum(count("instructions", python, name, program) for name in ("its RUN", "its RESULT"))
    whole = count("instructions", python, PLAIN)
    decoded = found["decoded"] - found["nothing"]
    return {"load": round(found["nothing"]), "frames": round(decoded), "rest": round(whole - found["nothing"] - decoded)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--compiled", required=True, metavar="PYTHON", help="a Python with our compiled wheel")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help=f"write the steps there ({FIGURE.relative_to(ROOT)} is drawn)"
    )
    options = parser.parse_args(arguments)
    # Not resolved: a virtual environment's python is a link, and what it is called by decides what it finds.
    compiled = os.path.abspath(shutil.which(options.compiled) or options.compiled)
    try:
        steps, pure = compiled_steps(compiled), parts(sys.executable)
    except (BenchError, Missing, OSError) as error:
        print(f"steps: {error}", file=sys.stderr)
        return 1
    for step in steps:
        print(f"{step['instructions']:8,}  {step['name']}")
    print(f"{sum(step['instructions'] for step in steps):8,}  in all, compiled")
    print(
        f"{pure['frames']:8,}  interpreted: bytes to frames\n{pure['rest']:8,}  interpreted: all the rest, its ACK's load included"
    )
    if options.json:
        what = "instructions of the compiled core for one job at 4 x 64, 100 bytes (python -m benchmarks.steps)"
        options.json.write_text(json.dumps({"what": what, "steps": steps, "interpreted": pure}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
