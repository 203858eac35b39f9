"""Jobs that can't be sent yet, first in first out, each for as long as it may wait for a connection."""

import asyncio
from collections import deque
from collections.abc import Callable

from reasonchip_broker.errors import ReasonChipError
from reasonchip_broker.peer.job import Job, JobState


class Held:
    """The jobs, and the timer of those that wait for a connection: `timeout_s` from when they came, or the last one ended.
    `refusal` makes the error of one that waited for too long.
    """

    def __init__(self, timeout_s: float, refusal: Callable[[], ReasonChipError]) -> None:
        self.jobs: deque[Job] = deque()
        self._timeout_s = timeout_s
        self._refusal = refusal
        self._expiry: asyncio.TimerHandle | None = None

    def add(self, job: Job, loop: asyncio.AbstractEventLoop, *, connected: bool) -> None:
        """One more."""
        self.jobs.append(job)
        if not connected:
            job._held_until = loop.time() + self._timeout_s
            if self._expiry is None:
                self._expiry = loop.call_at(job._held_until, self._expire, loop)

    def next(self) -> Job | None:
        """The next job to send."""
        while self.jobs:
            job = self.jobs.popleft()
            if job.state is JobState.HELD:
                return job
        return None

    def connected(self) -> None:
        """There is a connection: they wait for as long as it takes."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def disconnected(self, loop: asyncio.AbstractEventLoop) -> None:
        """There is none any more (or still none): they wait for the next one for as long as one that comes now."""
        if self._expiry is None and self.jobs:
            until = loop.time() + self._timeout_s
            for job in self.jobs:
                job._held_until = until
            self._expiry = loop.call_at(until, self._expire, loop)

    def give_up(self) -> None:
        """There will be none."""
        self.connected()
        while (job := self.next()) is not None:
            job._finish(None, self._refusal())

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._expiry = None
        jobs, now = self.jobs, loop.time()
        while jobs and (jobs[0].state is not JobState.HELD or jobs[0]._held_until <= now):
            job = jobs.popleft()
            if job.state is JobState.HELD:
                job._finish(None, self._refusal())
        if jobs:
            self._expiry = loop.call_at(jobs[0]._held_until, self._expire, loop)
