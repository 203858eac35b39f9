"""The time of the present step, for all parts of the switchboard."""


class Clock:
    """Whoever calls the switchboard says what time it is; nothing in here looks at a clock."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds on the caller's monotonic clock."""
