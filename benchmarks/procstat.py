"""What the kernel knows about a process: its processor time, its memory, and how many files it may open.

Processor time is read from the process's own CPU clock (`clock_getcpuclockid`(3)): the scheduler's count in nanoseconds for all
threads, dead ones included. `/proc/PID/stat` tells the same in ticks of 10 ms and splits it into user and system time;
`/proc/PID/schedstat` is precise too, but counts only the main thread, and NATS has several.
"""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2  # From the kernel's posix-timers: a process's clock that counts the scheduler's nanoseconds.


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Processor time that a process has used since it started."""

    total_ns: int
    """User and system time of all threads, in nanoseconds."""
    user_ticks: int
    """Time in the process's own code, in ticks of 1 / `TICKS_PER_SECOND` s."""
    system_ticks: int
    """Time in the kernel on its behalf, in ticks."""


def read_cpu(pid: int) -> CpuTime:
    """The processor time of process `pid` so far. Raises ProcessLookupError if it is gone."""
    user, system = _ticks(pid)
    try:
        total = time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:  # A kernel or sandbox without these clocks: ticks are all there is.
        total = (user + system) * 1_000_000_000 // TICKS_PER_SECOND
    return CpuTime(total_ns=total, user_ticks=user, system_ticks=system)


def _ticks(pid: int) -> tuple[int, int]:
    """User and system ticks from `/proc/PID/stat`."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    # The second field is the program's name in brackets and may hold anything; what follows the last bracket is numbers.
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[11]), int(fields[12])


def read_memory(pid: int) -> tuple[int, int]:
    """Resident memory of process `pid` now and at its highest, in bytes. Raises ProcessLookupError if it is gone."""
    found = {"VmRSS:": 0, "VmHWM:": 0}
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, rest = line.partition("\t")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    return found["VmRSS:"], found["VmHWM:"]


def raise_file_limit() -> int:
    """Allow this process, and those that it starts, as many open files as the machine permits; returns that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
