"""The seams: what later rooms (durability, clustering, security) implement, and the broker calls.

Each is optional. Without them jobs are admitted at once, outcomes are nobody's business but the owner's, and every connection is
one and the same principal.
"""

from collections.abc import Callable
from typing import Protocol

from reasonchip_broker.protocol.codes import Code, Role

Verdict = Callable[[Code | None, str], None]
"""Called with None if a job is admitted, or with the refusal's code and sentence. It belongs to the one job that it came with."""


class Admission(Protocol):
    """Decides when a job becomes the broker's own: a journal says so once the job is on disk."""

    def admit(self, cookie: bytes, verdict: Verdict) -> None:
        """Look at a job, and call `verdict` in the broker's event loop, now or later, exactly once.

        The job may be over before its verdict comes (cancelled, past its deadline), and its cookie be used again: then `admit` is
        called with that cookie a second time, with a verdict of its own, and the first one changes nothing any more.
        """


class OutcomeObserver(Protocol):
    """Wants to know each job's one outcome."""

    def outcome(self, cookie: bytes, frame: bytes) -> None:
        """A job is over; `frame` is its RESULT. May not block."""


class CapacityObserver(Protocol):
    """Offers jobs of its own when there is room for them."""

    def capacity(self, offer: tuple[str, ...]) -> None:
        """The free slots of workers that serve `offer` turned from none to some. May not block."""


class Principals(Protocol):
    """Says whose a connection is."""

    def principal(self, role: Role, address: str) -> str:
        """The principal of a new connection. May not block."""
