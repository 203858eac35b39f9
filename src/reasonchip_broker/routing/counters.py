"""What a broker counts: plain integers, added to on the hot path and read by whoever wants them."""

from typing import Final

NAMES: Final = (
    "cancelled",
    "extends_dropped",
    "finished",
    "parking_dropped",
    "progress",
    "progress_dropped",
    "queued",
    "refused",
    "results_dropped",
    "results_unheard",
    "retried",
)


class Counters:
    """Totals since the start. What can be derived from others is not counted: jobs submitted are those finished and those that live."""

    __slots__ = NAMES

    def __init__(self) -> None:
        self.queued = 0
        """Jobs that had to wait."""
        self.finished = 0
        """Jobs that reached their outcome, whichever it was."""
        self.cancelled = 0
        """CANCELs that found their job."""
        self.refused = 0
        """RUNs that did not become a job."""
        self.progress = 0
        """PROGRESS that counted."""
        self.progress_dropped = 0
        """PROGRESS that counted for nothing: of another's job, a stale attempt, or out of order."""
        self.parking_dropped = 0
        """PARKs and RESUMEs that counted for nothing: of a job that is over, unknown or another's, or of another attempt."""
        self.extends_dropped = 0
        """EXTENDs that counted for nothing, for the same reasons."""
        self.retried = 0
        """Attempts that ended without ending their job."""
        self.results_dropped = 0
        """RESULTs that counted for nothing: of a job that is over, unknown, or another's."""
        self.results_unheard = 0
        """Outcomes that nobody was there to hear."""

    def as_dict(self) -> dict[str, int]:
        """All of them by name."""
        return {name: getattr(self, name) for name in NAMES}
