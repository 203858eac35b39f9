"""A failing episode made as short as it gets: operations are left out as long as it still fails in the same way.

Delta debugging after Zeller and Hildebrandt ("Simplifying and isolating failure-inducing input", 2002), without its tests of subsets,
which hardly ever fail here: pieces are left out, large ones first, until no single operation can be. An operation names what it is
about, and does nothing if that is not there, so that any part of a record is a record.
"""

from collections.abc import Sequence

from reasonchip_broker.testing.simulation.trace import Tracer
from reasonchip_broker.testing.simulation.walk import Failure, kind_of, take_again
from reasonchip_broker.testing.simulation.world import Operation

TRIES_MAX = 3000


def shrink(failure: Failure, tries_max: int = TRIES_MAX) -> list[Operation]:
    """The operations of a failure that it takes, found in so many tries at most."""
    kind, tries = failure.kind, 0

    def fails(operations: Sequence[Operation]) -> bool:
        nonlocal tries
        tries += 1
        error = take_again(failure.setting, operations, failure.audit_every)
        return error is not None and kind_of(error) == kind

    operations = failure.operations
    size = len(operations) // 2
    while size and tries < tries_max:
        start = 0
        left_out = False
        while start < len(operations) and tries < tries_max:
            rest = operations[:start] + operations[start + size :]
            if fails(rest):
                operations, left_out = rest, True
            else:
                start += size
        if size > 1 or not left_out:
            size //= 2
    return operations


def explain(failure: Failure, operations: Sequence[Operation]) -> list[str]:
    """The trace of a failure's operations, or of a part of them, and at its end what is wrong."""
    tracer = Tracer()
    error = take_again(failure.setting, operations, failure.audit_every, tracer)
    return [*tracer.lines, f"{type(error).__name__}: {error}" if error is not None else "nothing is wrong"]
