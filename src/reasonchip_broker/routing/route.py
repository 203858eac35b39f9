"""A route: the switchboard's record of one job, from its RUN to its one outcome, and on until that is forgotten.

    RUN ─▶ ADMITTING ─▶ QUEUED ──▶ DISPATCHED ──▶ OVER
            │ │            ▲  │         │  ▲ │
            │ │            │  │         ▼  │ └─▶ CANCELLING ─▶ OVER ─▶ FORGOTTEN
            │ │            │  └─▶ OVER  SUSPENDED ──────▲
            │ ▼            │                │
            │OVER       BACKOFF ◀───────────┘ worker lost, attempts left
            ▼
         SCHEDULED ─▶ at its time QUEUED or DISPATCHED; BACKOFF, if a worker says that it holds its cookie

The route is the job as its owner sees it; the slot that it takes on a worker is another thing with a life of its own
(`assignment.py`), since an owner may have an answer long before the worker has let go. Which step may follow which is data, in
`TRANSITIONS`; anything else is a bug of ours.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import FunctionType
from typing import TYPE_CHECKING, Final

from reasonchip_broker.errors import InternalError
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.records import with_constructor_in_c
from reasonchip_broker.routing.timers import Timer

if TYPE_CHECKING:
    from reasonchip_broker.routing.assignment import Assignment
    from reasonchip_broker.routing.extras import Extras
    from reasonchip_broker.routing.lines import EligibilityClass
    from reasonchip_broker.routing.shares import Share


class RouteState(IntEnum):
    """Where a job is."""

    ADMITTING = 1
    SCHEDULED = 2
    QUEUED = 3
    DISPATCHED = 4
    CANCELLING = 5
    SUSPENDED = 6
    BACKOFF = 7
    OVER = 8
    FORGOTTEN = 9


TRANSITIONS: Final[Mapping[RouteState, frozenset[RouteState]]] = {
    RouteState.ADMITTING: frozenset({RouteState.SCHEDULED, RouteState.QUEUED, RouteState.DISPATCHED, RouteState.OVER}),
    RouteState.SCHEDULED: frozenset({RouteState.QUEUED, RouteState.DISPATCHED, RouteState.BACKOFF, RouteState.OVER}),
    RouteState.QUEUED: frozenset({RouteState.DISPATCHED, RouteState.BACKOFF, RouteState.OVER}),
    RouteState.DISPATCHED: frozenset({RouteState.CANCELLING, RouteState.SUSPENDED, RouteState.BACKOFF, RouteState.OVER}),
    RouteState.CANCELLING: frozenset({RouteState.OVER}),
    RouteState.SUSPENDED: frozenset({RouteState.DISPATCHED, RouteState.CANCELLING, RouteState.BACKOFF, RouteState.OVER}),
    RouteState.BACKOFF: frozenset({RouteState.QUEUED, RouteState.DISPATCHED, RouteState.OVER}),
    RouteState.OVER: frozenset({RouteState.FORGOTTEN}),
    RouteState.FORGOTTEN: frozenset(),
}

LEGAL: Final = frozenset((before << 4) | after for before, afters in TRANSITIONS.items() for after in afters)


class Route:
    """One job."""

    __slots__ = (
        "assignment",
        "attempt",
        "cookie",
        "deadline",
        "extras",
        "frame",
        "kind",
        "options",
        "own_share",
        "owner",
        "principal",
        "queued_at",
        "sequence",
        "state",
        "taken_at",
        "timer",
    )

    def __init__(
        self,
        cookie: bytes,
        owner: Peer,
        principal: str,
        options: RunOptions,
        kind: "EligibilityClass",
        state: RouteState,
        attempt: int = 0,
        assignment: "Assignment | None" = None,
        taken_at: float = 0.0,
        extras: "Extras | None" = None,
        sequence: int = 0,
        frame: bytes = b"",
        deadline: float = 0.0,
        timer: Timer | None = None,
        queued_at: float = 0.0,
        own_share: "Share | None" = None,
    ) -> None:
        self.cookie = cookie
        """The job's id, on the wire and here."""
        self.owner = owner
        """The connection that sent it or took it over, and gets the outcome unless it has gone or the job is detached."""
        self.principal = principal
        self.options = options
        self.kind = kind
        """Which workers may take it."""
        self.state = state
        self.attempt = attempt
        self.assignment = assignment
        """The slot that it is running on."""
        self.taken_at = taken_at
        """When it was taken, on the switchboard's clock."""
        self.extras = extras
        """What only a job that asks for more than to be run has."""
        self.sequence = sequence
        """Its place in the order of arrival; before that, the number of its admission."""
        self.frame = frame
        """Its RUN, as received, while it waits or may have to run again; its RESULT once it is over."""
        self.deadline = deadline
        """When it is to be over, on the switchboard's clock, 0 for never; once it is, when its outcome is forgotten."""
        self.timer = timer
        self.queued_at = queued_at
        """When it began to wait for a slot, on the switchboard's clock."""
        self.own_share = own_share
        """Its fairness key, where that is another one than its owner's."""

    @property
    def share(self) -> "Share":
        """Its fairness key."""
        return self.own_share or self.owner.share

    def move(self, state: RouteState) -> None:
        """Take a step. Raises InternalError for one that `TRANSITIONS` does not have."""
        if (self.state << 4) | state not in LEGAL:
            raise InternalError(f"route {self.cookie.hex()} can't go from {self.state.name} to {state.name}")
        self.state = state


if isinstance(Route.move, FunctionType):
    globals()["Route"] = with_constructor_in_c(Route)
