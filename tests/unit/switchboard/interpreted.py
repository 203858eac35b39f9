"""Tests that reach into classes of the core need it interpreted: mypyc's classes can't be patched.

Where the compiled core is installed such a test runs itself in a process of its own, on the sources.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import reasonchip_broker.switchboard as core

ROOT = Path(__file__).parents[3]
IS_COMPILED = not (core.__file__ or "").endswith(".py")


def on_sources(nodeid: str) -> None:
    """Run one test on the sources, in a process of its own. Raises AssertionError if it fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", nodeid]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def needs_interpreted_core(test: Callable[..., None]) -> Callable[..., None]:
    """Run the test here if the core is interpreted, else where it is. The test must take `request` among its fixtures."""

    @wraps(test)
    def run(**fixtures: object) -> None:
        if IS_COMPILED:
            on_sources(fixtures["request"].node.nodeid)  # type: ignore[attr-defined]
        else:
            test(**fixtures)

    return run
