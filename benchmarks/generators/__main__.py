"""`python -m benchmarks.generators`: reads a spec (a line of JSON) on stdin, prints what was measured (JSON) on stdout."""

import gc
import json
import sys
from typing import Any

from benchmarks.generators.chunks import run_chunks
from benchmarks.generators.idle import run_idle
from benchmarks.generators.load import run_load
from benchmarks.generators.spec import Spec


def main() -> int:
    """Returns the exit code: 0, or 1 after a line on stderr that says what went wrong."""
    spec = Spec.from_json(sys.stdin.buffer.readline())
    try:
        import uvloop
    except ImportError:
        print("the load generator needs uvloop: `pip install -r requirements/bench.txt`", file=sys.stderr)
        return 1
    gc.freeze()
    gc.disable()  # Nothing here makes cycles, and a collection would show as latency of the broker.
    try:
        result = uvloop.run(measured(spec))
    except (ConnectionError, OSError, ProcessLookupError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


async def measured(spec: Spec) -> dict[str, Any]:
    """What the spec asks for."""
    if spec.idle_connections:
        return (await run_idle(spec)).to_dict()
    return (await run_chunks(spec) if spec.chunks else await run_load(spec)).to_dict()


if __name__ == "__main__":
    sys.exit(main())
