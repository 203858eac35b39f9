"""Back-pressure: how many jobs may wait, in all and of one owner, and when it is worth while to come again.

What waits, for a slot or for its time, is counted by *account*: one for each principal; where nobody is authenticated, one for each
fairness key, which is a connection or what its jobs name. A job that finds no room is refused, with a hint: the time after which there
should be room for it. That is the number of those who were refused and have not had that room yet, this one included, over the rate at
which jobs have left the queue lately; spread by bits of the job's own cookie, so that not all who were refused come back at once.
"""

from math import exp
from typing import Final

from reasonchip_broker.limits import Limits
from reasonchip_broker.routing.clock import Clock
from reasonchip_broker.routing.shares import Account, Share

RETRY_MS_MIN, RETRY_MS_MAX = 50, 30_000
"""Hints are no shorter than what a job costs to refuse a few hundred times over, and no longer than what a person waits for."""

RETRY_MS: Final = 1000
"""The hint where nothing is known: no job has left the queue lately."""

_MEMORY_S: Final = 10.0
"""What left the queue counts for less and less, by half about every seven seconds."""

_SPREAD: Final = 0.25


class Drain:
    """At which rate jobs have left lately, and how many wait outside for the room that they leave."""

    __slots__ = ("_at", "_began_at", "_count", "outside")

    def __init__(self) -> None:
        self._at = self._began_at = 0.0
        self._count = 0.0
        self.outside = 0

    def left(self, now: float) -> None:
        """One job has left."""
        if not self._count:
            self._began_at = self._at = now
        elif now != self._at:
            # Of those that leave in the same step none counts for less.
            self._count *= exp((self._at - now) / _MEMORY_S)
            self._at = now
        self._count += 1.0
        if self.outside:
            self.outside -= 1

    def rate(self, now: float) -> float:
        """Jobs a second; 0 if nothing is known."""
        since_s = now - self._began_at
        if not self._count or since_s <= 0:
            return 0.0
        return self._count * exp((self._at - now) / _MEMORY_S) / (_MEMORY_S * (1.0 - exp(-since_s / _MEMORY_S)))

    def turned_away(self, now: float) -> float | None:
        """One more is refused. Returns in how many seconds there should be room for it; None: nobody knows."""
        self.outside += 1
        rate = self.rate(now)
        return self.outside / rate if rate > 0 else None


class Pressure:
    """Who may wait."""

    __slots__ = ("_bytes_max", "_clock", "_drains", "_jobs_max", "_owner_bytes_max", "_owner_jobs_max", "_total")

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._jobs_max, self._bytes_max = limits.backlog_jobs_max, limits.backlog_bytes_max
        self._owner_jobs_max, self._owner_bytes_max = limits.owner_backlog_jobs_max, limits.owner_backlog_bytes_max
        self._clock = clock
        self._total = Drain()
        self._drains: dict[Account, Drain] = {}
        """Of accounts that have been full, while something of theirs waits."""

    @property
    def rate(self) -> float:
        """How many jobs a second have left the queue lately; 0 if nothing is known."""
        return self._total.rate(self._clock.now)

    def left(self, account: Account) -> None:
        """A job waits no longer."""
        now = self._clock.now
        self._total.left(now)
        drain = self._drains.get(account) if self._drains else None
        if drain is not None:
            drain.left(now)
            if not account.jobs:
                del self._drains[account]

    def has_room(self, account: Account, frame_bytes: int, jobs: int, size: int) -> bool:
        """Whether one more job of so many bytes may wait beside so many jobs and bytes that do in all."""
        return (
            account.jobs < self._owner_jobs_max
            and account.bytes + frame_bytes <= self._owner_bytes_max
            and jobs < self._jobs_max
            and size + frame_bytes <= self._bytes_max
        )

    def objection(self, share: Share, cookie: bytes, frame_bytes: int, jobs: int, size: int) -> tuple[str, int] | None:
        """Why one more job of so many bytes may not wait beside so many jobs and bytes that do in all, and for how many milliseconds.
        None: it may."""
        account = share.account
        if self.has_room(account, frame_bytes, jobs, size):
            return None
        if account.jobs >= self._owner_jobs_max or account.bytes + frame_bytes > self._owner_bytes_max:
            drain = self._drains.get(account)
            if drain is None:
                drain = self._drains[account] = Drain()
            most = f"{self._owner_jobs_max:,} jobs or {self._owner_bytes_max:,} bytes"
            sentence = f"{account.jobs:,} jobs of yours, {account.bytes:,} bytes, wait already, and at most {most} may"
        else:
            drain = self._total
            sentence = f"{jobs:,} jobs of {size:,} bytes wait already"
        return sentence, retry_ms(cookie, drain.turned_away(self._clock.now))

    def unfinished(self, share: Share, cookie: bytes) -> int:
        """For how many milliseconds a connection that has as many jobs as it may is to wait: by then one of those should be over."""
        return retry_ms(cookie, share.turn_s / share.running if share.running and share.is_known else None)


def retry_ms(cookie: bytes, seconds: float | None) -> int:
    """A hint of about so many seconds."""
    spread = 1.0 + _SPREAD * (int.from_bytes(cookie[-2:]) / 32768 - 1.0)
    return max(RETRY_MS_MIN, min(RETRY_MS_MAX, round((RETRY_MS if seconds is None else seconds * 1000) * spread)))
