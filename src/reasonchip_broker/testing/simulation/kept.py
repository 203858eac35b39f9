"""What is known of jobs that are over: their outcomes, as long as those are kept, and their cookies.

Where there is no room for all, the oldest make room, and what the model says of them is PERHAPS. Of outcomes that ended within the
same short time any may be the older one, since they may be kept and forgotten together.
"""

from collections.abc import Iterable, Sequence
from enum import Enum

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.frames import HEADER_BYTES
from reasonchip_broker.testing.simulation.records import End, Job, Kept

EXPIRY_LATE_S = 1.1
"""Outcomes whose retention is over are looked for once a second."""

TICK_LATE_S = 0.02
NEVER = float("inf")
TOGETHER_S = 0.051
"""Outcomes that ended within so short a time have no order."""

UNSEEN_BYTES = 700
"""An outcome that nobody was sent is not larger."""

SEVERAL = 1000
"""There are not so many outcomes, or cookies, in a simulation."""


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
        self._bounds_clients = limits.client_outcomes_max < SEVERAL or limits.client_outcomes_bytes_max < SEVERAL * UNSEEN_BYTES
        self._kept: dict[bytes, Kept] = {}
        self._settled_at = 0.0
        self.changed = False
        """Whether there may be more of them, or a client has more of them to acknowledge, than there may be: `settle` looks."""

    def is_kept(self, kept: Kept, now: float) -> bool:
        """Whether this outcome, and not that of a later job with its cookie, may still be fetched."""
        return self._kept.get(kept.job.cookie) is kept and not kept.is_spent and now < kept.gone_at

    def keep(self, kept: Kept, now: float) -> None:
        """An outcome can be fetched from now on, or at least its cookie is known."""
        keep_ms = kept.job.options.keep
        usual = keep_ms is None
        keep_s = self._limits.retention_s if keep_ms is None else min(keep_ms / 1000, self._limits.retention_s_max)
        kept.ended_at = now
        kept.certain_until = now + (keep_s if keep_s else self._limits.retention_s)
        kept.gone_at = kept.certain_until + (EXPIRY_LATE_S if usual else TICK_LATE_S)
        self.changed = True
        self._kept[kept.job.cookie] = kept
        if not keep_s:
            kept.is_spent = True
            kept.gone_at = NEVER

    def spend(self, kept: Kept) -> None:
        """An outcome is acknowledged, or was not wanted: its cookie is known until its retention ends, perhaps for longer."""
        kept.is_spent = True
        kept.gone_at = NEVER
        self.changed = True

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

    def cookies(self) -> list[bytes]:
        """All cookies of which anything may be known."""
        return list(self._kept)

    def over(self) -> Iterable[Job]:
        """The jobs of which more than a cookie may be known."""
        return (kept.job for kept in self._kept.values() if not kept.is_spent)

    # Making room

    def settle(self, clients: Iterable[End], now: float) -> None:
        """After a change: whatever is more than there may be may have gone, all but its cookie, and of cookies the oldest as well."""
        limits = self._limits
        count = len(self._kept)
        if self._bounds_clients:
            for client in clients:
                self.settle_client(client)
        self.settle_all()
        if count > limits.spent_max:
            self._drop_marks()
        self.changed, self._settled_at = False, now

    def settle_all(self) -> None:
        """Of more outcomes than there may be in all, the oldest make room."""
        count, limits = len(self._kept), self._limits
        if count > limits.outcomes_max or count * UNSEEN_BYTES > limits.outcomes_bytes_max:
            # One whose time ended since may have had to make room before that was noticed, and then its cookie is known yet.
            self._kept = {cookie: kept for cookie, kept in self._kept.items() if kept.gone_at > self._settled_at}
            unspent = [kept for kept in self._kept.values() if not kept.is_spent]
            self._make_room(unspent, limits.outcomes_max, limits.outcomes_bytes_max)

    def settle_client(self, client: End, coming: int = 0) -> None:
        """A client that does not acknowledge keeps its newest outcomes; `coming` more are on their way to it in this step."""
        limits = self._limits
        unread = client.results[client.acknowledged :]
        most = len(unread) + coming + max(len(self._kept), client.unheard)
        if most <= limits.client_outcomes_max and most * UNSEEN_BYTES <= limits.client_outcomes_bytes_max:
            return
        own = {cookie: kept for cookie, kept in self._kept.items() if kept.owner is client and not kept.is_spent}
        unheard = [kept for kept in own.values() if kept.is_unheard]
        size = sum(map(size_of, own.values())) + coming * UNSEEN_BYTES
        # One that somebody else has taken over, or that is gone, may count as well until it comes up.
        first = max(0, len(unread) + coming + client.unheard - limits.client_outcomes_max)
        # Which of those that were told and those that were not go first depends on when they ended: so either.
        for kept in unheard[:first] if size <= limits.client_outcomes_bytes_max else unheard:
            evict(kept)
        for place, kept in enumerate(unread):
            if place >= first and size <= limits.client_outcomes_bytes_max:
                break
            # It may have been sent the same outcome twice, and the time of some may be over.
            if own.get(kept.job.cookie) is kept:
                del own[kept.job.cookie]
                size -= size_of(kept)
                evict(kept)

    @staticmethod
    def _make_room(unspent: Sequence[Kept], count_max: int, bytes_max: int) -> None:
        """Of all outcomes, oldest first, those may be gone that do not fit in together with all that may be younger."""
        count, size, younger = len(unspent), sum(map(size_of, unspent)), 0
        for kept in unspent:
            while unspent[younger].ended_at <= kept.ended_at - TOGETHER_S:
                count -= 1
                size -= size_of(unspent[younger])
                younger += 1
            if count <= count_max and size <= bytes_max:
                return
            evict(kept)

    def _drop_marks(self) -> None:
        """Of all cookies with nothing else to them those go first whose RUN came first, but for such as are kept with outcomes."""
        marks = [kept for kept in self._kept.values() if kept.is_spent or kept.gone_at == NEVER]
        if len(marks) <= self._limits.spent_max:
            return
        outcomes = [kept for kept in self._kept.values() if not kept.is_spent]
        newer, staying = len(marks), 0
        for kept in sorted(marks, key=lambda kept: kept.job.entered):
            newer -= 1
            if newer + staying >= self._limits.spent_max:
                kept.certain_until = 0.0
            staying += any(other.owner is kept.owner and abs(other.ended_at - kept.ended_at) < TOGETHER_S for other in outcomes)


def size_of(kept: Kept) -> int:
    """How many bytes an outcome takes up, at the most."""
    content = kept.content
    return HEADER_BYTES + len(content.meta) + len(content.payload) if content is not None else UNSEEN_BYTES


def evict(kept: Kept) -> None:
    """An outcome may be gone at any moment: then its cookie is known, for a while."""
    kept.certain_until = 0.0
    kept.gone_at = NEVER
