"""A clock for tests: it stands still until it is told to move."""


class VirtualClock:
    """Seconds that pass only on command. Call it, as one calls `time.monotonic`, or read `now`."""

    __slots__ = ("now",)

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        """The present time, in seconds since nothing in particular."""

    def __call__(self) -> float:
        """The present time."""
        return self.now

    def advance(self, seconds: float) -> float:
        """Let time pass; return the new time. Raises ValueError for less than none."""
        return self.advance_to(self.now + seconds)

    def advance_to(self, when: float) -> float:
        """Let time pass until `when`; return it. Raises ValueError if that is past: a monotonic clock does not go back."""
        if when < self.now:
            raise ValueError(f"a monotonic clock does not go back, from {self.now} to {when}")
        self.now = when
        return when
