"""Counting jobs and latencies over the steady window, and stopping everything at the first fault."""

import asyncio
import time
from array import array
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.procstat import TICKS_PER_SECOND, CpuTime, read_cpu, read_memory
from benchmarks.stats import percentile


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one window showed. The broker's figures are of the broker process alone."""

    seconds: float
    """Length of the window by the clock."""
    jobs: int
    """RESULTs that came to their clients within the window."""
    broker_cpu_ns: int
    broker_user_s: float
    broker_system_s: float
    """User and system time are counted in ticks of 10 ms, so they add up to the nanoseconds only roughly."""
    generator_cpu_ns: int
    """Near the length of the window, the generator and not the broker was the limit."""
    rss_bytes: int
    """Resident memory at the end of the window."""
    rss_peak_bytes: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    p999_ns: int
    """Latency to the moment when its RESULT is read: in a closed loop from the moment a RUN is handed to the socket (the how-to says
    what that hides), in an open one from the moment when it is due."""
    max_ns: int
    queued: int
    """Jobs that the broker said it queued: none, if it finds the slot that is free."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Recorder:
    """What all clients of one generator report to. `failed` ends the run with an error."""

    __slots__ = ("_at", "_broker_pid", "_cpu", "_own", "failed", "jobs", "latencies", "queued", "recording")

    def __init__(self, broker_pid: int) -> None:
        """For a window over the broker process `broker_pid`. Needs a running event loop."""
        self._broker_pid = broker_pid
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.jobs = 0
        self.queued = 0
        self.recording = False
        self.latencies: array[int] = array("Q")
        self._at = 0
        self._own = 0
        self._cpu = CpuTime(0, 0, 0)

    def fail(self, why: str) -> None:
        """End the run: the first `why` is what the harness is told."""
        if not self.failed.done():
            self.failed.set_exception(ConnectionError(why))

    def check(self) -> None:
        """Raise the ConnectionError of the first fault, if there was one."""
        if self.failed.done():
            self.failed.result()

    def begin(self) -> None:
        """The window starts now."""
        self.jobs = 0
        self.queued = 0
        self.recording = True
        self._own = time.process_time_ns()
        self._cpu = read_cpu(self._broker_pid)
        self._at = time.perf_counter_ns()

    def end(self) -> LoadResult:
        """The window ends now; what it showed."""
        elapsed = time.perf_counter_ns() - self._at
        cpu = read_cpu(self._broker_pid)
        own = time.process_time_ns() - self._own
        self.recording = False
        rss, peak = read_memory(self._broker_pid)
        ordered = sorted(self.latencies)
        return LoadResult(
            seconds=elapsed / 1e9,
            jobs=self.jobs,
            broker_cpu_ns=cpu.total_ns - self._cpu.total_ns,
            broker_user_s=(cpu.user_ticks - self._cpu.user_ticks) / TICKS_PER_SECOND,
            broker_system_s=(cpu.system_ticks - self._cpu.system_ticks) / TICKS_PER_SECOND,
            generator_cpu_ns=own,
            rss_bytes=rss,
            rss_peak_bytes=peak,
            p50_ns=percentile(ordered, 0.5),
            p90_ns=percentile(ordered, 0.9),
            p99_ns=percentile(ordered, 0.99),
            p999_ns=percentile(ordered, 0.999),
            max_ns=ordered[-1] if ordered else 0,
            queued=self.queued,
        )
