"""`python -m reasonchip_broker.testing.simulation`: many seeds; what one of them finds is minimised and told."""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from reasonchip_broker.errors import InternalError
from reasonchip_broker.testing.simulation.keep import written
from reasonchip_broker.testing.simulation.records import BrokenPromise
from reasonchip_broker.testing.simulation.run import Report, run_all
from reasonchip_broker.testing.simulation.shrink import explain, shrink
from reasonchip_broker.testing.simulation.walk import EPISODE_STEPS, Failure

TELL_EVERY_S = 30.0
FAILURES_MAX = 10


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m reasonchip_broker.testing.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="SEED", help="the first of them (default: 0)")
    parser.add_argument("--steps", type=int, default=EPISODE_STEPS, help="operations from each seed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--audit",
        type=int,
        default=1,
        metavar="N",
        help="audit the switchboard's tables after each Nth step (default: 1; 0: never)",
    )
    parser.add_argument("--keep-going", action="store_true", help="take all seeds, whatever fails")
    return parser.parse_args(given)


def tell_failure(failure: Failure, say: Callable[[str], object]) -> None:
    """Minimise a failure and tell what happened."""
    say(f"\nseed {failure.seed}, {failure.setting}: {failure.error}\n")
    if not isinstance(failure.error, BrokenPromise | InternalError):
        say("".join(traceback.format_exception(failure.error)))
    operations = shrink(failure)
    say(f"minimised from {len(failure.operations)} operations to {len(operations)}:\n")
    for line in explain(failure, operations):
        say(line + "\n")
    say(f"to keep it, add this to the file of failures that the tests take again:\n{written(failure, operations)}\n")


def main(given: Sequence[str], say: Callable[[str], object] = sys.stdout.write) -> int:
    """Run what was asked for. Returns the exit code."""
    asked = arguments(given)
    total, began = Report(), time.monotonic()
    told_at, kinds = began, set[str]()
    for report in run_all(asked.first, asked.seeds, asked.steps, processes=asked.jobs, audit_every=asked.audit):
        total.add(report)
        for failure in report.failures:
            if failure.kind not in kinds and len(kinds) < FAILURES_MAX:
                kinds.add(failure.kind)
                tell_failure(failure, say)
        if total.failures and not asked.keep_going:
            break
        if time.monotonic() - told_at > TELL_EVERY_S:
            told_at = time.monotonic()
            say(f"{total}\n")
    say(f"{total}; {time.monotonic() - began:.1f} s in all\n")
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
