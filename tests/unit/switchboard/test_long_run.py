"""A long random run, the model judging every step. `SWITCHBOARD_SEED=7 make test ARGS="-k long_run"` goes another way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasonchip_broker.testing.simulation.walk import Walk

SEED = int(os.environ.get("SWITCHBOARD_SEED", "20261123"))
STEPS = 100_000
PARTS = 4
ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_hundred_thousand_random_steps_keep_every_promise(part: int) -> None:
    seed = SEED + part
    sys.stdout.write(f"seed {seed}\n")
    walk = Walk(seed)
    walk.go(STEPS // PARTS)
    # A walk that does nothing keeps every promise, too.
    assert walk.jobs > STEPS // PARTS // 20


def test_a_walk_is_the_same_from_the_same_seed_and_leaves_the_same_trace() -> None:
    first, second = Walk(SEED, records=True), Walk(SEED, records=True)
    for walk in (first, second):
        walk.go(2000)
    assert first.trace == second.trace


@pytest.mark.process
def test_the_trace_does_not_depend_on_how_python_hashes() -> None:
    """What iterates over a set goes another way in another process."""
    program = f"from reasonchip_broker.testing.simulation.walk import Walk; w = Walk({SEED}, records=True); w.go(2000); print(w.trace)"
    traces = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(traces) == 1
