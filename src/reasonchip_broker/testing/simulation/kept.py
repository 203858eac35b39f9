"""What is known of jobs that are over: their outcomes, as long as those are kept, and their cookies."""

from enum import Enum

from reasonchip_broker.limits import Limits
from reasonchip_broker.testing.simulation.records import Kept

EXPIRY_LATE_S = 1.1
"""Outcomes whose retention is over are looked for once a second."""

TICK_LATE_S = 0.02
NEVER = float("inf")


class Known(Enum):
    """What is known of a job by its cookie, once it is over."""

    NOT = "nothing, or there was none"
    KEPT = "its outcome"
    SPENT = "its code"
    PERHAPS = "its time is over, or it had to make room, at any moment"


class KeptOutcomes:
    """Jobs that are over and whose cookie is known, by cookie, in the order in which they ended."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: dict[bytes, Kept] = {}

    def is_kept(self, kept: Kept, now: float) -> bool:
        """Whether this outcome, and not that of a later job with its cookie, may still be fetched."""
        return self._kept.get(kept.job.cookie) is kept and not kept.is_spent and now < kept.gone_at

    def keep(self, kept: Kept, now: float) -> None:
        """An outcome can be fetched from now on, or at least its cookie is known."""
        keep_ms = kept.job.options.keep
        usual = keep_ms is None
        keep_s = self._limits.retention_s if keep_ms is None else min(keep_ms / 1000, self._limits.retention_s_max)
        kept.certain_until = now + (keep_s if keep_s else self._limits.retention_s)
        kept.gone_at = kept.certain_until + (EXPIRY_LATE_S if usual else TICK_LATE_S)
        if not keep_s:
            self.spend(kept)
        self._kept[kept.job.cookie] = kept
        if len(self._kept) > self._limits.outcomes_max:
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """The oldest outcomes may be gone by now, all but their cookies."""
        self._kept = {cookie: kept for cookie, kept in self._kept.items() if kept.gone_at > now}
        unspent = [kept for kept in self._kept.values() if not kept.is_spent]
        excess = max(0, len(unspent) - self._limits.outcomes_max)
        for oldest in unspent[:excess]:
            oldest.certain_until = 0.0
            oldest.gone_at = NEVER

    def spend(self, kept: Kept) -> None:
        """An outcome is acknowledged, or was not wanted: its cookie is known until its retention ends, perhaps for longer."""
        kept.is_spent = True
        kept.gone_at = NEVER

    def known(self, cookie: bytes, now: float) -> tuple[Known, Kept | None]:
        """What is known of a job that is over."""
        kept = self._kept.get(cookie)
        if kept is None:
            return Known.NOT, None
        if now >= kept.gone_at:
            del self._kept[cookie]
            return Known.NOT, None
        if now >= kept.certain_until:
            return Known.PERHAPS, kept
        return Known.SPENT if kept.is_spent else Known.KEPT, kept
