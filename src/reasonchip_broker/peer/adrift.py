"""Jobs whose connection has ended before they were over: what is to be asked about them on the next one.

Most are simply sent again: RUN with the same cookie and nonce, and the broker's instance that they were first sent to (`at`). A
broker that has the job attaches this connection to it; the same broker, if it never got it, takes it for a new job; and another
one, which can't know, says that the job may have run. After an outage so long that the broker may have forgotten the job's outcome,
and would run it once more, it is only asked for by ATTACH.

If there is no connection for longer than the patience of whoever waits, nobody knows what became of them, and they fail.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from reasonchip_broker.errors import BrokerWentAway
from reasonchip_broker.peer.job import Job, JobState
from reasonchip_broker.protocol import schemas

METAS_MAX = 1024


class Adrift:
    """Jobs that wait to be asked after. `patience_s`: for how long they wait for a connection; `unknown` makes the error of one
    of which nobody can say what became of it.
    """

    def __init__(self, patience_s: float, unknown: Callable[[], BrokerWentAway]) -> None:
        self.jobs: deque[Job] = deque()
        self.unknown = unknown
        self._patience_s = patience_s
        self._timer: asyncio.TimerHandle | None = None
        self._options: dict[bytes, schemas.RunOptions] = {}
        self._again: dict[tuple[bytes, bytes], bytes] = {}

    def add(self, jobs: Iterable[Job], heard_at: float, retain_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Jobs of a connection that has ended, on which the broker was last heard at a time of the loop's, and which retains
        outcomes for so long.
        """
        for job in jobs:
            if not job._forgotten_at:
                keep = self.options_of(job._meta).keep if job._meta else None
                job._forgotten_at = heard_at + (retain_s if keep is None else min(retain_s, keep / 1000))
            job.state = JobState.ADRIFT
            self.jobs.append(job)
        if self.jobs and self._timer is None:
            if not self._patience_s:
                self.give_up()
            else:
                self._timer = loop.call_later(self._patience_s, self.give_up)

    def next(self) -> Job | None:
        """The next job to ask after."""
        while self.jobs:
            job = self.jobs.popleft()
            if job.state is JobState.ADRIFT:
                return job
        return None

    def connected(self) -> None:
        """There is a connection: nobody's patience is tried."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._again.clear()

    def give_up(self) -> None:
        """There was none for too long, or there will be none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (job := self.next()) is not None:
            job._finish(None, self.unknown())

    def meta_again(self, job: Job) -> bytes:
        """The meta of a job's RUN when it is sent again."""
        key = job._meta, job._at
        meta = self._again.get(key)
        if meta is None:
            meta = schemas.encode_meta(msgspec.structs.replace(self.options_of(job._meta), at=job._at))
            if len(self._again) >= METAS_MAX:
                self._again.clear()
            self._again[key] = meta
        return meta

    def options_of(self, meta: bytes) -> schemas.RunOptions:
        """What a RUN's meta says."""
        options = self._options.get(meta)
        if options is None:
            options = schemas.run_options(meta)
            if len(self._options) >= METAS_MAX:
                self._options.clear()
            self._options[meta] = options
        return options
