"""Many short lives of a broker, each from a seed of its own. `make simulate SEEDS=100000` takes more of them."""

import os

import pytest

from reasonchip_broker.testing.simulation.run import run_seeds
from reasonchip_broker.testing.simulation.shrink import explain, shrink
from reasonchip_broker.testing.simulation.walk import Failure, Walk

FIRST = int(os.environ.get("SIMULATION_SEED", "0"))
SEEDS, PARTS = 200, 4


def fail_with(failure: Failure) -> None:
    """Fail, with the story of the failure."""
    pytest.fail("\n".join([f"seed {failure.seed}, {failure.setting}", *explain(failure, shrink(failure))]), pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_promise_is_kept_from_every_seed(part: int) -> None:
    report = run_seeds(FIRST + part * SEEDS // PARTS, SEEDS // PARTS)
    for failure in report.failures:
        fail_with(failure)
    # Who does nothing keeps every promise, too.
    assert report.steps > 300 * report.seeds
    assert report.jobs > 20 * report.seeds


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, FIRST + 10))
def test_the_path_of_plain_jobs_leaves_the_trace_that_any_path_does(seed: int) -> None:
    """With `records` each episode is replayed, once as it was and once with each frame going to its handler."""
    try:
        Walk(seed, records=True).go(400)
    except Failure as failure:
        fail_with(failure)
