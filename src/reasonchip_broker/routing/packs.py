"""Outcomes of plain jobs, kept by the pack.

Plain jobs of one client and one class that end well at about the same time differ in nothing but cookie, result, when they were
taken, and perhaps their options. So they are kept together: a *pack* has their RESULTs, and stands in the place of their routes, in the
table of jobs, in the queue of what is kept and among what the client is to acknowledge. To keep one more is to append to a list, and to
acknowledge all of a pack is one step, since from then on it serves as the mark of all its cookies. Whoever asks for a single one of the
jobs finds the pack *opened*: it has a route for each of them then, and they are treated like all others.
"""

from typing import TYPE_CHECKING, Final, final

from reasonchip_broker.protocol.frames import HEADER_BYTES
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.route import Route, RouteState

if TYPE_CHECKING:
    from reasonchip_broker.routing.lines import EligibilityClass

_OVER: Final = RouteState.OVER
_MIXED: Final = RunOptions(p="mixed")

SIZE_MAX: Final = 256
"""No more outcomes are kept in a pack."""

SMALL_BYTES: Final = 16 * 1024
"""Of RESULTs that shrink together, no more than this stays in memory for a while."""

SPAN_S: Final = 0.05
"""Outcomes of the same so many seconds are forgotten at the same time, and so may share a pack."""

"""Where it stands in a frame."""


@final
class Pack:
    """Some outcomes, in the order in which they ended."""

    __slots__ = (
        "bytes",
        "deadline",
        "ends_in",
        "frames",
        "kind",
        "mixed",
        "options",
        "owner",
        "principal",
        "routes",
        "share",
        "size",
        "spent",
        "state",
        "taken",
        "told",
    )

    __deletable__ = ("kind", "options", "owner", "share")
    """Which of them a compiled class can be without."""

    def __init__(self, first: Route, deadline: float) -> None:
        self.owner = first.owner
        """The client that was sent them."""
        self.principal = first.principal
        self.share = first.share
        """The fairness key of all of them, unless their options are `mixed`."""
        self.options = first.options
        """The options of all of them; of no job, if they are `mixed`."""
        self.mixed: list[RunOptions] | None = None
        """The options of each, where they are not the same."""
        self.kind = first.kind
        self.deadline = deadline
        """When they are forgotten."""
        self.frames: list[bytes] = []
        """Their RESULTs, of those that are shrunk perhaps the bare headers; nothing once the pack is open."""
        self.taken: list[float] = []
        """When each job was taken."""
        self.size = 0
        """How many they are, but for those of the present step."""
        self.bytes = 0
        """Bytes of the RESULTs that are kept."""
        self.spent = 0
        """So many, from the first on, are shrunk to their cookies."""
        self.told = 0
        """So many, from the first on, the client has acknowledged, or need not any more."""
        self.state = _OVER
        """FORGOTTEN when none is kept any more, as for a route."""
        self.ends_in = 0
        """The age in which the cookies are forgotten, once it is."""
        self.routes: list[Route] | None = None
        """The jobs, once the pack is open."""

    def goes_on(self, route: Route) -> bool:
        """Whether this job, whose outcome is to be forgotten with these, may be added, and has the same options and fairness key."""
        return (
            self.state is _OVER
            and self.options is route.options
            and (route.own_share is None or route.own_share is self.share)
            and self.routes is None
            and self.size < SIZE_MAX
        )

    def mixes(self, kind: "EligibilityClass") -> bool:
        """Whether jobs of this class, whose outcomes are to be forgotten with these, may be added, whatever their options."""
        return self.state is _OVER and self.kind is kind and self.routes is None and self.size < SIZE_MAX

    def mix(self, options: RunOptions) -> None:
        """The next job has other options than those before, or another fairness key."""
        if self.mixed is None:
            self.mixed = [self.options] * len(self.frames)
            self.options = _MIXED
        self.mixed.append(options)

    def options_of(self, place: int) -> RunOptions:
        """The options of a job, as long as it is not open."""
        return self.options if self.mixed is None else self.mixed[place]

    def cookies(self) -> list[bytes]:
        """The cookies of its jobs, as long as it is not open."""
        return [frame[8:24] for frame in self.frames]

    def shrink(self, upto: int) -> int:
        """Let the first so many RESULTs go, as long as it is not open; returns the bytes of those that were still kept.

        Small ones stay in memory, uncounted, until the last of the pack goes, which is soon: to cut each would cost more.
        """
        first, frames = self.spent, self.frames
        size = sum(map(len, frames[first:upto]))
        if size > SMALL_BYTES:
            for place in range(first, upto):
                frames[place] = frames[place][:HEADER_BYTES]
        self.bytes -= size
        self.spent = upto
        return size
