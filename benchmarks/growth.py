"""`python -m benchmarks.growth`: what a job costs the core as there is more of everything: workers, jobs that wait, fairness keys.

The switchboard alone is measured, without sockets, in this process: what is looked for is how a figure grows, and not how large it is.
Each row is measured in turn with its first one, many times over, and their ratio is the median of those. As in `serve`, Python's
cyclic collector is off meanwhile. What a job that waits takes up in memory is what the process has allocated for it (`tracemalloc`),
its own frame not counted."""

import argparse
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from struct import Struct

from rich.console import Console
from rich.table import Table

from benchmarks.stats import middle_half
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, view

LIMITS = Limits(
    backlog_jobs_max=10_000_000,
    backlog_bytes_max=1 << 40,
    owner_backlog_jobs_max=10_000_000,
    owner_backlog_bytes_max=1 << 40,
    client_jobs_max=10_000_000,
    heartbeat_s=1e6,
    lease_s=2e6,
)
JOBS = 500
ROUNDS = 101
"""Short ones, and many: what a processor's time is worth changes all the time, and rounds that are short see the same of it."""
JOBS_OF_KEYS = 20_000
"""So many jobs wait when it is the number of keys that grows."""

WORKERS = (1, 10, 100, 1_000, 10_000)
QUEUED = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
KEYS = (1, 10, 100, 1_000, 10_000)
MEMORY_JOBS = (1_000, 10_000, 100_000, 200_000)
MEMORY_KEYS = (1, 1_000)
_COOKIE = Struct(">QQ").pack
_VARIABLES = bytes(100)

Measure = Callable[[], float]
"""Microseconds a job."""


class Load:
    """A switchboard, a worker, and jobs that come, wait and go."""

    def __init__(self, workers: int = 0, capacity: int = 1) -> None:
        self.driver = SwitchboardDriver(LIMITS, checks=False)
        self.client = self.driver.client()
        self.workers = [self.driver.worker(capacity) for _ in range(workers)]
        self._count = 0

    def run(self, key: str = "") -> tuple[bytes, bytes]:
        """A cookie, and its RUN."""
        self._count += 1
        cookie = _COOKIE(1, self._count)
        meta = schemas.encode_meta(schemas.RunOptions(p="p", enc="bytes", key=key))
        return cookie, packets.run(cookie, meta, _VARIABLES)

    def deliver(self, link: FakeLink, frame: bytes) -> None:
        """A frame arrives, and what comes of it is forgotten."""
        board = self.driver.switchboard
        board.received(link.peer, [view(frame)], self.driver.clock.now)


def dispatched(workers: int) -> Measure:
    """Jobs one after the other, each to a worker with a free slot."""
    load = Load(workers, 8)
    effects = load.driver.switchboard.effects

    def measure() -> float:
        frames = [load.run() for _ in range(JOBS)]
        begin = time.process_time()
        for cookie, frame in frames:
            load.deliver(load.client, frame)
            worker = next(peer for peer in effects.recipients if peer.worker is not None)
            effects.clear_sends()
            load.driver.switchboard.received(worker, [view(packets.result(cookie, 1, b"", "bytes"))], load.driver.clock.now)
            effects.clear_sends()
        return (time.process_time() - begin) / JOBS * 1e6

    return measure


def waiting(jobs: int, keys: int) -> Measure:
    """Jobs that are queued behind so many others of so many keys (0: none is named), and as many that get their slot from the queue."""
    load = Load()
    effects = load.driver.switchboard.effects
    for number in range(jobs + 1):  # one more, which runs
        load.deliver(load.client, load.run(str(number % keys) if keys else "")[1])
        effects.clear_sends()
    worker = load.driver.worker(1)
    held = [packet.cookie for packet in worker.take_kinds(PacketType.RUN)]

    def measure() -> float:
        frames = [load.run(str(number % keys) if keys else "") for number in range(JOBS)]
        begin = time.process_time()
        for _, frame in frames:
            load.deliver(load.client, frame)
            effects.clear_sends()
            load.driver.clock.now += 0.001
            load.deliver(worker, packets.result(held.pop(), 1, b"", "bytes"))
            held.append(worker.peer.sends[-1][8:24])
            effects.clear_sends()
        return (time.process_time() - begin) / JOBS * 1e6

    return measure


def bytes_of_a_job(jobs: int, keys: int) -> float:
    """What one job that waits takes up beside its frame."""
    load = Load()
    effects = load.driver.switchboard.effects
    load.deliver(load.client, load.run()[1])
    frames = [load.run(str(number % keys) if keys else "")[1] for number in range(jobs)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for frame in frames:
        load.deliver(load.client, frame)
        effects.clear_sends()
    load.client.unread.clear()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / jobs


@dataclass(frozen=True, slots=True)
class Series:
    """What a job costs as there is more of one thing."""

    title: str
    grows: str
    """What there is more of."""
    counts: list[int]
    us: list[list[float]]
    """Microseconds a job: a list for each round, in the order of the counts."""

    def ratios(self, place: int) -> list[float]:
        """How many times what the first row costs this one does, in each round."""
        return [figures[place] / figures[0] for figures in self.us]


@dataclass(frozen=True, slots=True)
class Memory:
    """What a job that waits takes up beside its frame."""

    jobs: int
    keys: int
    bytes: float


@contextmanager
def collector_off() -> Iterator[None]:
    """What an earlier series has left is collected, and then nothing is."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def grown(title: str, grows: str, counts: Sequence[int], make: Callable[[int], Measure]) -> Series:
    """Measure all counts in turn, round after round."""
    with collector_off():
        measures = [make(count) for count in counts]
        for measure in measures:
            measure()  # what is done for the first time takes longer
        us = []
        for number in range(ROUNDS):
            # Another one goes first each time: who follows the largest finds none of its own in the processor's caches.
            turns = sorted(range(len(measures)), key=lambda place: (place + number) % len(measures))
            figures = {place: round(measures[place](), 3) for place in turns}
            us.append([figures[place] for place in range(len(measures))])
    return Series(title, grows, list(counts), us)


def tables(series: Sequence[Series], memory: Sequence[Memory]) -> list[Table]:
    """What was found, for people."""
    cost = Table("what", "how many", "µs a job", "× the first", "middle half")
    for one in series:
        for place, count in enumerate(one.counts):
            ratios = one.ratios(place)
            low, high = middle_half(ratios)
            cost.add_row(
                one.title if not place else "",
                f"{count:,}",
                f"{median(figures[place] for figures in one.us):.2f}",
                f"{median(ratios):.2f}",
                f"{low:.2f}–{high:.2f}",
            )
    size = Table("a job that waits", "bytes beside its frame")
    for row in memory:
        size.add_row(f"{row.jobs:,} of {row.keys:,} keys", f"{row.bytes:.0f}")
    return [cost, size]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print both tables. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first rows of each series")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw figures there")
    options = parser.parse_args(arguments)
    few = options.quick
    series = [
        grown("a plain job, by workers", "workers", WORKERS[:3] if few else WORKERS, dispatched),
        grown("a job that waits, by jobs before it", "jobs that wait", QUEUED[:4] if few else QUEUED, lambda n: waiting(n, 0)),
        grown("a job that waits, by keys", "fairness keys", KEYS[:3] if few else KEYS, lambda n: waiting(JOBS_OF_KEYS, n)),
    ]
    sizes = MEMORY_JOBS[:2] if few else MEMORY_JOBS
    memory = [Memory(jobs, keys, round(bytes_of_a_job(jobs, keys), 1)) for keys in MEMORY_KEYS for jobs in sizes]
    Console().print(*tables(series, memory))
    if options.json:
        raw = {"series": [asdict(one) for one in series], "memory": [asdict(row) for row in memory]}
        options.json.write_text(json.dumps(raw) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
