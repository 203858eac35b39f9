"""Many seeds, in several processes, and what they found."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from reasonchip_broker.testing.simulation.walk import EPISODE_STEPS, Failure, Walk

CHUNK_SEEDS = 50


@dataclass
class Report:
    """What some seeds did: calls of switchboards, jobs that reached their outcome, processor time, failures."""

    seeds: int = 0
    steps: int = 0
    jobs: int = 0
    cpu_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Count another one's too."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.jobs += other.jobs
        self.cpu_s += other.cpu_s
        self.failures += other.failures

    def __str__(self) -> str:
        rate = self.steps / self.cpu_s if self.cpu_s else 0
        return (
            f"{self.seeds} seeds, {self.steps} steps, {self.jobs} jobs, {len(self.failures)} failures; "
            f"{self.cpu_s:.1f} s of processor time, {rate:.0f} steps a second of it"
        )


def run_seeds(first: int, count: int, operations: int = EPISODE_STEPS, audit_every: int = 1) -> Report:
    """Walk from so many seeds, in this process."""
    report = Report()
    began = time.process_time()
    for seed in range(first, first + count):
        walk = Walk(seed, audit_every=audit_every)
        try:
            walk.go(operations)
        except Failure as failure:
            report.failures.append(failure)
        report.seeds += 1
        report.steps += walk.steps
        report.jobs += walk.jobs
    report.cpu_s = time.process_time() - began
    return report


def run_all(
    first: int, count: int, operations: int = EPISODE_STEPS, *, processes: int = 1, audit_every: int = 1
) -> Iterator[Report]:
    """Walk from so many seeds, in so many processes; yields a report now and then, in the order of the seeds."""
    last = first + count
    chunks = [(start, min(CHUNK_SEEDS, last - start)) for start in range(first, last, CHUNK_SEEDS)]
    if processes == 1:
        for start, size in chunks:
            yield run_seeds(start, size, operations, audit_every)
        return
    with ProcessPoolExecutor(processes) as pool:
        runs = [pool.submit(run_seeds, start, size, operations, audit_every) for start, size in chunks]
        try:
            for run in runs:
                yield run.result()
        finally:
            pool.shutdown(cancel_futures=True)
