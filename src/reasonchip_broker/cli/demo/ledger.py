"""What became of every job. Each is written down when it is sent, under its cookie, and once more when it is over; in the end the
numbers must add up, among themselves and with those that the broker counted.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

LOST = "WORKER_WENT_AWAY"
OK = "OK"


@dataclass
class Entry:
    """One job: its kind (what it was for), the cookie of the job that it repeats, and its outcome once it has one."""

    kind: str
    repeats: UUID | None = None
    outcome: str = ""


@dataclass(frozen=True)
class Check:
    """A sum that must come out: what should equal what."""

    sentence: str
    left: int
    right: int

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.left == self.right


@dataclass
class Ledger:
    """All jobs of a demo."""

    entries: dict[UUID, Entry] = field(default_factory=dict)
    collisions: int = 0
    """Cookies that were used twice, and outcomes that came twice: there should be none."""
    given_up: int = 0
    """Jobs that were lost so often that they were not sent again."""

    def sent(self, cookie: UUID, kind: str, repeats: UUID | None = None) -> None:
        """A job was sent."""
        if cookie in self.entries:
            self.collisions += 1
        self.entries[cookie] = Entry(kind, repeats)

    def over(self, cookie: UUID, outcome: str) -> None:
        """A job has its outcome."""
        entry = self.entries[cookie]
        if entry.outcome:
            self.collisions += 1
        entry.outcome = outcome

    def outcomes(self, kind: str | None = None) -> Counter[str]:
        """How many jobs (of a kind) had which outcome; those without one are under the empty string."""
        return Counter(entry.outcome for entry in self.entries.values() if kind is None or entry.kind == kind)

    @property
    def kinds(self) -> list[str]:
        """The kinds of jobs, in the order in which they first occurred."""
        return list(dict.fromkeys(entry.kind for entry in self.entries.values()))

    @property
    def repeated(self) -> int:
        """Jobs that were sent because another was lost."""
        return sum(entry.repeats is not None for entry in self.entries.values())

    def checks(self, wanted: dict[str, int], counted_by_broker: int | None) -> Iterator[Check]:
        """Every sum that must come out. `wanted` says how many jobs of each kind should be OK in the end."""
        outcomes = self.outcomes()
        yield Check("jobs sent = outcomes heard", len(self.entries), outcomes.total() - outcomes[""])
        yield Check("cookies or outcomes that came twice = 0", self.collisions, 0)
        yield Check("jobs lost with a worker = jobs sent again, or given up", outcomes[LOST], self.repeated + self.given_up)
        for kind, number in wanted.items():
            yield Check(f"{kind}: jobs OK = jobs wanted", self.outcomes(kind)[OK], number)
        if counted_by_broker is not None:
            yield Check("jobs sent = jobs that the broker counted", len(self.entries), counted_by_broker)
