"""When cookies of jobs that nobody will ask for again are forgotten.

The dicts of the table of jobs are looked through one after the other, each once in a period, in steps that are bounded: for as long as
one takes, everybody else waits.
"""

from typing import Final

from reasonchip_broker.limits import SPENT_SHARDS
from reasonchip_broker.routing.table import RouteTable

LOOKED_AT_ONCE: Final = 500
"""About so many entries of the table are looked at in one step."""


class Ageing:
    """Watches over the age of marks. To be told every `every_s` seconds that time passes, or sooner as long as something is left."""

    __slots__ = ("_aged_at", "_each_s", "_every_s", "_routes", "_waiting", "period_s")

    def __init__(self, routes: RouteTable, retention_s: float, every_s: float) -> None:
        self._routes = routes
        self._every_s = every_s
        self.period_s = retention_s + every_s
        """A dict may age late by the one, and must not before a whole retention has passed."""
        self._each_s = self.period_s / SPENT_SHARDS
        self._aged_at = 0.0
        self._waiting = 0
        """So many dicts whose time has come are yet to be looked through."""

    def begin(self, now: float) -> None:
        """There are marks, and were none for a while."""
        self._aged_at = now

    def go_on(self, now: float) -> bool:
        """Time has passed: look through such dicts as are due, so far as that may be done in one step. Returns whether all are."""
        # What was not aged in time is not made up for: between two ageings of a dict there is a whole retention, or more.
        elapsed_s = min(now - self._aged_at, self._every_s + self._each_s)
        due = int(elapsed_s / self._each_s)
        self._aged_at = now - (elapsed_s - due * self._each_s)
        self._waiting = min(self._waiting + due, SPENT_SHARDS)
        left = LOOKED_AT_ONCE
        while self._waiting and left > 0:
            if not self._routes.age(left):
                return False
            self._waiting -= 1
            left -= self._routes.looked_at
        return not self._waiting
