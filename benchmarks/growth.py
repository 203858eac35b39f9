"""`python -m benchmarks.growth`: what a job costs the core as there is more of everything: workers, jobs that wait, fairness keys.

The switchboard alone is measured, without sockets, in this process: what is looked for is how a figure grows, and not how large it is.
Each row is measured in turn with its first one, several times over, and their ratio is the median of those. What a job that waits takes
up in memory is what the process has allocated for it (`tracemalloc`), its own frame not counted."""

import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from struct import Struct

from rich.console import Console
from rich.table import Table

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
JOBS = 2000
ROUNDS = 7
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
    """Jobs that are queued behind so many others of so many keys, and as many that get their slot from the queue."""
    load = Load()
    effects = load.driver.switchboard.effects
    for number in range(jobs):
        load.deliver(load.client, load.run(str(number % keys) if keys > 1 else "")[1])
        effects.clear_sends()
    worker = load.driver.worker(1)
    held = [packet.cookie for packet in worker.take_kinds(PacketType.RUN)]

    def measure() -> float:
        frames = [load.run(str(number % keys) if keys > 1 else "") for number in range(JOBS)]
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
    frames = [load.run(str(number % keys) if keys > 1 else "")[1] for number in range(jobs)]
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


def main(few: bool = False) -> int:
    """Print both tables, or with `few` their beginnings. Returns the exit code."""
    series: list[tuple[str, list[tuple[str, Measure]]]] = [
        ("a plain job, by workers", [(f"{n:,}", dispatched(n)) for n in ((1, 100) if few else (1, 100, 10_000))]),
        (
            "a job that waits, by jobs before it",
            [(f"{n:,}", waiting(n, 1)) for n in ((2, 1000) if few else (2, 1000, 1_000_000))],
        ),
        ("a job that waits, by keys", [(f"{n:,}", waiting(20_000, n)) for n in ((2, 100) if few else (2, 100, 10_000))]),
    ]
    table = Table("what", "how many", "µs a job", "× the first")
    for title, rows in series:
        figures = [[measure() for _, measure in rows] for _ in range(ROUNDS)]
        for place, (name, _) in enumerate(rows):
            ratio = median(figure[place] / figure[0] for figure in figures)
            table.add_row(
                title if not place else "", name, f"{median(figure[place] for figure in figures):.2f}", f"{ratio:.2f}"
            )
    jobs = 20_000 if few else 200_000
    memory = Table("a job that waits", "bytes beside its frame")
    for keys in (1, 1000):
        memory.add_row(f"{jobs:,} of {keys:,} keys", f"{bytes_of_a_job(jobs, keys):.0f}")
    Console().print(table, memory)
    return 0


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))
