"""What the harness asks of the generator, and how it travels: as JSON on the generator's stdin."""

import json
from dataclasses import asdict, dataclass
from typing import Self

from benchmarks.workloads import System

PIPELINE = "bench"


@dataclass(frozen=True, slots=True)
class Spec:
    """One run of the generator."""

    system: System
    clients_url: str
    workers_url: str
    broker_pid: int
    """Whose processor time and memory are read at the ends of the window."""
    clients: int
    in_flight: int
    workers: int
    capacity: int
    payload_bytes: int
    warmup_s: float
    window_s: float
    rate: float = 0
    """Not 0: an open loop of so many jobs a second, instead of `in_flight` jobs of each client."""
    chunks: bool = False
    """Instead of jobs that end there are `in_flight` jobs of each client that send progress."""
    acks: bool = True
    """Clients of the binary protocol acknowledge RESULTs, as the client library does."""
    pipeline: str = PIPELINE
    """What all jobs are for: two generators at one broker have one each."""
    first: int = 0
    """The number of the first client and of the first worker: those of two generators at one broker differ."""
    until_told: bool = False
    """A line is printed when the window begins, and it ends when stdin does, instead of after `window_s`."""
    idle_connections: int = 0
    """Not 0: open that many client connections, and do nothing; the load is ignored."""

    def to_json(self) -> bytes:
        """As the generator reads it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """The spec that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "system": System(fields["system"])})
