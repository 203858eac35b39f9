"""Fair shares: who has had how much lately.

A *fairness key* stands for those who are to share evenly: a principal, a connection where nobody is authenticated, or whatever a job
names. Its `Share` counts the *slot-time* that it has used: slots, times seconds. Turns go to the key that has used least, so long jobs
count for what they take, and not for one.

Three things make that a few additions for many jobs at once, and O(1) for each. What runs is counted, not listed: a share knows how
many slots it has now and since when, and adds up their time whenever that number changes. What was used loses half of its weight in
every `half_life_s`; instead of making all that is old smaller, all that is new is counted as larger (`Shares.scale`). And a key that
gets several slots in one instant has used nothing by then: so each slot that it has counts for as much more as its jobs take on
average. That is what a turn is charged, at once, and what is corrected at the end by what the job really took, which was counted
meanwhile.

A key that has not waited lately has one turn before all that have used more, and goes on from where those are (`Turns.had`), so that it
is not made to wait, and can't save up what it has not used.

Followed: start-time fair queueing (Goyal, Vin, Cheng 1996) for the latter, and decayed usage as in Slurm's multifactor priority."""

from math import log
from typing import TYPE_CHECKING, Final

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import SHARES_KNOWN_MAX

if TYPE_CHECKING:
    from reasonchip_broker.routing.lines import Line
    from reasonchip_broker.routing.turns import Row
    from reasonchip_broker.scheduling import Scheduling

ANONYMOUS: Final = "anonymous"
"""The one principal of all connections, as long as there is no authentication."""

TURN_S_MIN: Final = 0.001
"""A turn costs so much more than what the job takes: else a key whose jobs take no time at all could have all of them."""

_JOBS_MEAN: Final = 16
_JOBS_KEPT: Final = 1.0 - 1.0 / _JOBS_MEAN
"""The mean length of a key's jobs is that of about so many of the last ones."""

_SCALE_STEPS: Final = 64
"""So often in a half-life the scale rises."""

_HALVES_MAX: Final = 1000.0
"""Of what was used as long ago as this nothing is left in any case."""

_SCALE_MAX: Final = 2.0**400
"""Beyond, all numbers are made smaller, long before they are infinite."""


class Account:
    """What waits of one principal, or, where nobody is authenticated, of one fairness key (`pressure.py`)."""

    __slots__ = ("bytes", "jobs")

    def __init__(self) -> None:
        self.jobs = 0
        self.bytes = 0


class Share:
    """What one fairness key has had. `name` is what it is called for people."""

    __slots__ = (
        "_ended",
        "_shares",
        "_since",
        "_spent_s",
        "account",
        "is_fresh",
        "is_named",
        "lines",
        "name",
        "per_weight",
        "principal",
        "rows",
        "running",
        "usage",
    )

    def __init__(
        self, shares: "Shares", principal: str, name: str, weight: float, is_named: bool, account: Account | None = None
    ) -> None:
        self._shares = shares
        self.account = account or Account()
        """What counts its jobs that wait."""
        self.is_named = is_named
        """Whether it is found by its name, and outlives the connections whose jobs it counts."""
        self.is_fresh = True
        """Whether it has not had a turn since it began to wait."""
        self.principal = principal
        self.name = name
        self.per_weight = 1.0 / weight
        self.usage = 0.0
        """Slot-seconds that it has used, divided by its weight, scaled."""
        self.running = 0
        """Slots that it has now."""
        self.lines: dict[Line, None] = {}
        """Its jobs that wait."""
        self.rows: dict[Row, int] = {}
        """Where they are listed: in which pools, and there in which level."""
        self._since = 0.0
        self._spent_s = shares.turn_s
        self._ended = 1.0

    @property
    def turn_s(self) -> float:
        """How many slot-seconds one of its jobs takes, as far as is known."""
        return TURN_S_MIN + self._spent_s / self._ended

    @property
    def is_known(self) -> bool:
        """Whether a job of its own has ended, so that this is more than a guess."""
        return self._ended > 1.0

    def order(self, now: float) -> float:
        """The least goes first."""
        if self.running:
            if now != self._since:
                self._count(now)
            return self.usage + self.running * self.turn_s * self._shares.scale * self.per_weight
        return self.usage

    def used_s(self, now: float) -> float:
        """Slot-seconds that it has used lately: those of long ago count for less. Who looks changes nothing."""
        running_s = self.running * self._shares.scaled(self._since, now) if self.running else 0.0
        return (self.usage / self.per_weight + running_s) / self._shares.scale

    def place(self, now: float) -> float:
        """The least goes first, as `order` has it; but who looks changes nothing."""
        return (self.used_s(now) + self.running * self.turn_s) * self.per_weight

    def _count(self, now: float) -> None:
        """Add up what it has used until now."""
        elapsed_s = now - self._since
        shares = self._shares
        scaled_s = elapsed_s * shares.scale if elapsed_s <= shares.step_s else shares.scaled(self._since, now)
        self._since = now
        self._spent_s += self.running * elapsed_s
        self.usage += self.running * scaled_s * self.per_weight

    def began(self, slots: int, now: float) -> None:
        """It has so many slots more."""
        if self.running:
            self._count(now)
        else:
            self._since = now
            self._shares.all[self] = None
        self.running += slots
        self.usage += slots * TURN_S_MIN * self._shares.scale * self.per_weight

    def ended(self, slots: int, jobs: int, now: float) -> None:
        """It has given so many slots back, since so many of its jobs are over."""
        if now != self._since:
            self._count(now)
        self.running -= slots
        if jobs:
            kept = _JOBS_KEPT if jobs == 1 else _JOBS_KEPT**jobs
            self._spent_s *= kept
            self._ended = self._ended * kept + (1.0 - kept) * (_JOBS_MEAN - 1)
            self._shares.turn_s = self._spent_s / self._ended

    def lift(self, by: float) -> None:
        """It has used less than others that wait, but only since it was not there: that is no credit."""
        self.usage += by

    def rescaled(self, factor: float) -> None:
        """All shares count in other units from now on."""
        self.usage *= factor


class Shares:
    """All shares."""

    __slots__ = (
        "_accounts",
        "_began_at",
        "_half_life_s",
        "_named",
        "_sweep_at",
        "_weights",
        "advances_at",
        "all",
        "scale",
        "step_s",
        "turn_s",
    )

    def __init__(self, scheduling: "Scheduling") -> None:
        self.all: dict[Share, None] = {}
        """Those of connections that are there, those that somebody has named, and those of others that still have jobs."""
        self._named: dict[tuple[str, str], Share] = {}
        self._accounts: dict[str, Account] = {}
        """Of principals; there are no more than somebody has set up."""
        self._sweep_at = SHARES_KNOWN_MAX
        self.scale = 1.0
        """What a slot-second of now counts."""
        self.turn_s = 0.0
        """What a job of the key takes that had one last: as good a guess as any for those of a new key."""
        self.advances_at = 0.0
        """From then on `advance` is to be called."""
        self._began_at: float | None = None
        self._half_life_s = scheduling.half_life_s
        self.step_s = scheduling.half_life_s / _SCALE_STEPS
        """For so long the scale is taken to be the same."""
        self._weights = scheduling.weights

    def of_connection(self, principal: str, name: str) -> Share:
        """The share of a connection without a principal of its own."""
        return Share(self, principal, name, 1.0, False)

    def of_key(self, principal: str, key: str) -> Share:
        """The share of a key that a job names (of a principal's jobs, if `key` is empty)."""
        share = self._named.get((principal, key))
        if share is None:
            name = key or principal
            account = None if principal in ("", ANONYMOUS) else self._accounts.setdefault(principal, Account())
            weight = self._weights.get(name, 1.0)
            share = self._named[principal, key] = Share(self, principal, name, weight, True, account)
            self._enter(share)
        return share

    def left(self, share: Share) -> None:
        """A connection is gone: its share goes with it, or with its last job."""
        if not share.is_named and not share.running and not share.lines:
            self.all.pop(share, None)

    def _enter(self, share: Share) -> None:
        if len(self.all) >= self._sweep_at:
            self._forget_idle()
        self.all[share] = None

    def _forget_idle(self) -> None:
        """Any client may invent keys: those without a job are forgotten once there are too many, those that have used most last."""
        idle = [share for share in self.all if not share.running and not share.lines]
        idle.sort(key=lambda share: share.usage)
        for share in idle[: max(0, len(idle) - SHARES_KNOWN_MAX // 4)]:
            del self.all[share]
            share.usage = 0.0
        self._named = {key: share for key, share in self._named.items() if share in self.all}
        # Doubled, so that the work stays O(1) a key even where none of them is idle.
        self._sweep_at = max(SHARES_KNOWN_MAX, 2 * len(self.all))

    def scaled(self, since: float, now: float) -> float:
        """What a slot that was taken from then until now counts: the earlier of it less than the later."""
        began_at = now if self._began_at is None else self._began_at
        before: float = 2.0 ** max(-_HALVES_MAX, (since - began_at) / self._half_life_s)
        after: float = 2.0 ** ((now - began_at) / self._half_life_s)
        return (after - before) * self._half_life_s / log(2.0)

    def advance(self, now: float) -> float:
        """Time goes on, and what was used before counts for less. Returns by what everything that was counted was multiplied."""
        if self._began_at is None:
            self._began_at = now
        self.scale = 2.0 ** min(_HALVES_MAX, (now - self._began_at) / self._half_life_s)
        self.advances_at = now + self.step_s
        if self.scale < _SCALE_MAX:
            return 1.0
        factor = 1.0 / self.scale
        self._began_at, self.scale = now, 1.0
        for share in self.all:
            share.rescaled(factor)
        return factor

    def configure(self, scheduling: "Scheduling", now: float) -> None:
        """Other weights hold from now on, and another half-life."""
        if self._half_life_s != scheduling.half_life_s:
            # The scale goes on from where it is.
            if self._began_at is not None:
                self._began_at = now - scheduling.half_life_s * ((now - self._began_at) / self._half_life_s)
            self._half_life_s = scheduling.half_life_s
            self.step_s = scheduling.half_life_s / _SCALE_STEPS
        self._weights = scheduling.weights
        for share in self.all:
            weight = self._weights.get(share.name, 1.0) if share.is_named else 1.0
            share.usage *= 1.0 / weight / share.per_weight
            share.per_weight = 1.0 / weight

    def invariants(self, running: "dict[Share | None, int]") -> None:
        """Raise InternalError if a share counts other slots than it has, which are these (None: those that are nobody's)."""
        for share, slots in running.items():
            if share is not None and share.running != slots:
                raise InternalError(f"the share of {share.name!r} counts {share.running} slots, and has {slots}")
        for share in self.all:
            if share.running and share not in running:
                raise InternalError(f"the share of {share.name!r} counts {share.running} slots, and has none")
