"""Clients that keep a fixed number of jobs in flight, and workers that answer at once: what all protocols share.

A client numbers its jobs in flight: each has a *place*, a byte that is part of the job's id, so that an answer tells which job it ends
without a lookup. A job's id is new each time: the place and a count.
"""

import asyncio
import struct
from collections.abc import Iterable
from time import perf_counter_ns

from benchmarks.generators.connection import Connection
from benchmarks.generators.framing import FrameLength
from benchmarks.generators.recorder import Recorder

LARGE_BYTES = 16_384
ID_BYTES = 9
"""Of an id, unless a protocol has it otherwise."""

_ID = struct.Struct(">BQ").pack
PLACES_MAX = 64
"""Places of one client: what fits into one character of a NATS subject."""


class Batch:
    """Many frames that differ only in their id, ready to be written in one go."""

    __slots__ = ("_between", "_head", "_large", "_tail")

    def __init__(self, head: bytes, tail: bytes) -> None:
        """A frame is `head`, the id, `tail`."""
        self._head = head
        self._tail = tail
        self._between = tail + head
        self._large = len(tail) > LARGE_BYTES

    def write(self, transport: asyncio.Transport, ids: list[bytes]) -> None:
        """Write one frame for each of `ids`; a large tail is not copied for it."""
        if self._large:
            transport.writelines([part for name in ids for part in (self._head + name, self._tail)])
        else:
            transport.write(self._head + self._between.join(ids) + self._tail)


class Client(Connection):
    """Keeps `in_flight` jobs in flight. Protocols say what an id looks like (`fresh`) and find the places that an answer ends."""

    def __init__(
        self, name: str, recorder: Recorder, opening: bytes, frame_length: FrameLength, *, in_flight: int, batch: Batch
    ) -> None:
        """`batch` makes this client's RUN frames."""
        super().__init__(name, recorder, opening, frame_length)
        assert in_flight <= PLACES_MAX, f"{in_flight} jobs in flight of one client; there are {PLACES_MAX} places"
        self.batch = batch
        self.in_flight = in_flight
        self.count = 0
        self.outgoing: asyncio.Transport | None = None
        """Another connection that its jobs go to, if it has one."""
        self._started = [0] * PLACES_MAX

    def companions(self) -> list[Connection]:
        """Further connections that it needs; they are made first."""
        return []

    def fresh(self, places: Iterable[int], count: int) -> list[bytes]:
        """New ids for jobs at `places`; the jobs so far are `count`. These are the place in a byte and the count in eight."""
        return [_ID(place, number) for number, place in enumerate(places, count)]

    def start(self) -> None:
        """Send the first jobs, one for each place."""
        self._submit(range(self.in_flight), self.in_flight)

    def finished(self, places: bytes, now: int) -> None:
        """The jobs at `places` were answered in a read at `now` (ns); send the next ones."""
        recorder = self.recorder
        recorder.jobs += len(places)
        if recorder.recording:
            started = self._started
            recorder.latencies.extend([now - started[place] for place in places])
        if places:
            self._submit(places, len(places))

    def _submit(self, places: Iterable[int], number: int) -> None:
        ids = self.fresh(places, self.count)
        self.count += number
        started = self._started
        now = perf_counter_ns()
        for place in places:
            started[place] = now
        self.batch.write(self.outgoing or self.transport, ids)


class Worker(Connection):
    """Answers every job at once. `batch` makes its RESULT frames."""

    def __init__(self, name: str, recorder: Recorder, opening: bytes, frame_length: FrameLength, *, batch: Batch) -> None:
        """A worker that will be taken once the broker has answered its registration."""
        super().__init__(name, recorder, opening, frame_length)
        self.batch = batch
