"""`python -m benchmarks.generators`: reads a spec (JSON) on stdin, prints what was measured (JSON) on stdout."""

import gc
import json
import sys

from benchmarks.generators.idle import run_idle
from benchmarks.generators.load import run_load
from benchmarks.generators.spec import Spec


def main() -> int:
    """Returns the exit code: 0, or 1 after a line on stderr that says what went wrong."""
    spec = Spec.from_json(sys.stdin.buffer.read())
    try:
        import uvloop
    except ImportError:
        print("the load generator needs uvloop: `pip install -r requirements/bench.txt`", file=sys.stderr)
        return 1
    gc.freeze()
    gc.disable()  # Nothing here makes cycles, and a collection would show as latency of the broker.
    try:
        result = uvloop.run(run_idle(spec)) if spec.idle_connections else uvloop.run(run_load(spec))
    except (ConnectionError, OSError, ProcessLookupError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
