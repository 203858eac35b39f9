"""`python -m fuzz`: run every target, or one, or one input again."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from fuzz.engines import Target, has_atheris, run_guided, run_plainly

RUNS = {"binary_decoder": 200_000, "json_decoder": 100_000, "switchboard": 5_000}
"""The targets, and how often each is run if nothing else is asked for: about a minute each."""


def load(name: str) -> tuple[Target, list[bytes]]:
    """A target and its seeds."""
    from fuzz import decoders, seeds, switchboard

    targets = {
        "binary_decoder": (decoders.binary_decoder, seeds.binary_streams),
        "json_decoder": (decoders.json_decoder, seeds.json_streams),
        "switchboard": (switchboard.switchboard, seeds.scripts),
    }
    target, make = targets[name]
    return target, make()


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Feed the decoders and the switchboard random input.")
    parser.add_argument("--target", choices=sorted(RUNS), help="only this one")
    parser.add_argument("--runs", type=int, help="how often each target is run")
    parser.add_argument("--seed", type=int, help="the same seed makes the same input; drawn and printed if it is not given")
    parser.add_argument("--engine", choices=["plain", "atheris"], help="atheris where it is installed, else plain")
    parser.add_argument("--replay", metavar="FILE", type=Path, help="run --target on this input once")
    asked = parser.parse_args(given)
    if asked.replay is not None and asked.target is None:
        parser.error("--replay needs --target")
    if asked.engine == "atheris" and not has_atheris():
        parser.error("atheris is not installed; `make fuzz` does that")
    return asked


def run_one(name: str, engine: str, runs: int, seed: int) -> None:
    """Run one target in this process."""
    print(f"fuzz: {name}, {runs} runs, seed {seed}, {engine}", flush=True)
    began = time.monotonic()
    if engine == "plain":
        target, seeds = load(name)
        run_plainly(name, target, seeds, runs, seed)
        print(f"fuzz: {name} held, {runs / (time.monotonic() - began):.0f} runs a second", flush=True)
        return
    import atheris

    with atheris.instrument_imports(include=["reasonchip_broker", "fuzz"], enable_loader_override=False):
        target, seeds = load(name)
    run_guided(name, target, seeds, runs, seed)


def main(given: Sequence[str]) -> int:
    """Run what was asked for. Returns the exit code."""
    asked = arguments(given)
    if asked.replay is not None:
        load(asked.target)[0](asked.replay.read_bytes())
        print(f"fuzz: {asked.target} held")
        return 0
    engine = asked.engine or ("atheris" if has_atheris() else "plain")
    seed = Random().randrange(1, 2**31) if asked.seed is None else asked.seed
    if asked.target is not None:
        run_one(asked.target, engine, asked.runs or RUNS[asked.target], seed)
        return 0
    # Each in a process of its own, since atheris ends the one that it runs in.
    worst = 0
    for name, runs in RUNS.items():
        command = [sys.executable, "-m", "fuzz", "--target", name, "--engine", engine]
        command += ["--runs", str(asked.runs or runs), "--seed", str(seed)]
        worst = max(worst, abs(subprocess.run(command, check=False).returncode))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
