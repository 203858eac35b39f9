"""Jobs that the broker had no room for, and that are sent again when it said that there should be.

Each waits for as long as its refusal said, and all of them have one timer. One that has been refused for longer than the patience of
whoever waits, or could not be taken in time any more, fails with its refusal."""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from reasonchip_broker.peer.job import Job, JobState

OVERLOAD_PATIENCE_S = 60.0
"""For how long a job is sent again and again to a broker that is full, unless it is said."""

RETRY_S = 1.0
"""When a refusal does not say when to come again."""


class TurnedAway:
    """The jobs, the next to be sent first. `send_again` is given those whose time has come."""

    def __init__(self, patience_s: float, send_again: Callable[[list[Job]], None]) -> None:
        self._patience_s = patience_s
        self._send_again = send_again
        self._jobs: list[tuple[float, int, Job]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> list[Job]:
        """All of them, also some that are over meanwhile."""
        return [job for _, _, job in self._jobs]

    def takes(self, job: Job, retry_s: float | None, waits_s: float, loop: asyncio.AbstractEventLoop) -> bool:
        """A job was refused, and the broker said when to send it again. Returns whether it waits for that: not if that would be too
        late for its deadline, for the `waits_s` seconds that it may wait for a slot (0: any), or for anybody's patience."""
        now, retry_s = loop.time(), RETRY_S if retry_s is None else retry_s
        first_at = job._refused_at or now
        at = now + retry_s
        patience_s = min(self._patience_s, waits_s) if waits_s else self._patience_s
        if at - first_at > patience_s or (job._deadline_at and at >= job._deadline_at):
            return False
        job._refused_at = first_at
        job.state = JobState.HELD
        heappush(self._jobs, (at, next(self._numbers), job))
        if self._timer is None or at < self._timer.when():
            self._arm(loop)
        return True

    def take_all(self) -> list[Job]:
        """Those that still wait, in order: there is no connection any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        jobs, self._jobs = sorted(self._jobs, key=lambda entry: entry[:2]), []
        return [job for _, _, job in jobs if job.state is JobState.HELD]

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._jobs[0][0], self._due, loop) if self._jobs else None

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        jobs, now = self._jobs, loop.time()
        due: list[Job] = []
        while jobs and jobs[0][0] <= now:
            job = heappop(jobs)[2]
            if job.state is JobState.HELD:
                due.append(job)
        self._arm(loop)
        self._send_again(due)
