"""An assignment: one attempt's hold on a worker's slot.

    HELD ─▶ GONE
    HELD ⇄ PARKED                      the job waits for something and lends its slot out
    PARKED ─▶ ABANDONED ─▶ GONE        the job is over while its slot was lent out, and the worker has not let go
    HELD ─▶ WITHHELD ─▶ GONE           the job is over, but the worker has not let go
    HELD ─▶ RESTING ─▶ GONE            an existing (JSON) worker answers before it has freed its slot

A slot that is held, withheld or resting is not free. Which step may follow which is data, as for routes.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import FunctionType
from typing import TYPE_CHECKING, Final

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.records import with_constructor_in_c
from reasonchip_broker.routing.timers import Timer

if TYPE_CHECKING:
    from reasonchip_broker.routing.roster import Worker
    from reasonchip_broker.routing.shares import Share


class AssignmentState(IntEnum):
    """What becomes of a slot."""

    HELD = 1
    PARKED = 2
    WITHHELD = 3
    RESTING = 4
    ABANDONED = 5
    GONE = 6


TRANSITIONS: Final[Mapping[AssignmentState, frozenset[AssignmentState]]] = {
    AssignmentState.HELD: frozenset(
        {AssignmentState.PARKED, AssignmentState.WITHHELD, AssignmentState.RESTING, AssignmentState.GONE}
    ),
    AssignmentState.PARKED: frozenset({AssignmentState.HELD, AssignmentState.ABANDONED, AssignmentState.GONE}),
    AssignmentState.ABANDONED: frozenset({AssignmentState.GONE}),
    AssignmentState.WITHHELD: frozenset({AssignmentState.RESTING, AssignmentState.GONE}),
    AssignmentState.RESTING: frozenset({AssignmentState.GONE}),
    AssignmentState.GONE: frozenset(),
}

LEGAL: Final = frozenset((before << 4) | after for before, afters in TRANSITIONS.items() for after in afters)


class Assignment:
    """One attempt of one job on one worker. While it is HELD its job is the route with this cookie; after that it has none."""

    __slots__ = ("attempt", "cookie", "share", "slots", "state", "timer", "worker")

    def __init__(
        self,
        worker: "Worker",
        cookie: bytes,
        attempt: int,
        share: "Share | None" = None,
        state: AssignmentState = AssignmentState.HELD,
        timer: Timer | None = None,
        slots: int = 1,
    ) -> None:
        self.worker = worker
        self.cookie = cookie
        self.attempt = attempt
        self.share = share
        """Whose the slot is: the fairness key of the job. None: nobody's, since the job is none of ours."""
        self.state = state
        self.timer = timer
        """The grace that runs after a CANCEL, or the rest."""
        self.slots = slots
        """How many it takes."""

    def move(self, state: AssignmentState) -> None:
        """Take a step. Raises InternalError for one that `TRANSITIONS` does not have."""
        if (self.state << 4) | state not in LEGAL:
            raise InternalError(f"assignment of {self.cookie.hex()} can't go from {self.state.name} to {state.name}")
        self.state = state


if isinstance(Assignment.move, FunctionType):
    globals()["Assignment"] = with_constructor_in_c(Assignment)
