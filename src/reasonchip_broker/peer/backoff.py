"""How long to wait before the next attempt to connect.

Exponential with full jitter: the bound doubles with each attempt, and the wait is drawn from all of it, so that thousands of peers that
lost the same broker at the same moment don't come back at the same moment (M. Brooker, "Exponential Backoff And Jitter", 2015).
"""

from random import Random

_DOUBLINGS_MAX = 30
"""More than enough to reach any bound, and far from overflowing a float."""


class Backoff:
    """The waits between attempts that fail. `first_s` bounds the first wait, `most_s` every wait, in seconds.

    `random` is the source of chance; a seeded one makes the waits repeatable. Raises ValueError for bounds that make no sense.
    """

    __slots__ = ("_attempts", "_first_s", "_most_s", "_random")

    def __init__(self, first_s: float = 0.05, most_s: float = 5.0, random: Random | None = None) -> None:
        if not 0 < first_s <= most_s:
            raise ValueError(f"a backoff needs 0 < first_s <= most_s, not {first_s} and {most_s}")
        self._first_s = first_s
        self._most_s = most_s
        self._random = random if random is not None else Random()
        self._attempts = 0

    def next_s(self) -> float:
        """How long to wait now, in seconds: from 0 to a bound that doubles each time."""
        bound_s = min(self._most_s, self._first_s * 2 ** min(self._attempts, _DOUBLINGS_MAX))
        self._attempts += 1
        return self._random.uniform(0.0, bound_s)

    def reset(self) -> None:
        """An attempt has succeeded: the next wait is a first one again."""
        self._attempts = 0
