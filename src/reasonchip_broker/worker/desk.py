"""The jobs that this worker holds.

Only the connection's thread touches it. A job is here from its RUN to its report, and what is reported of a job that is not
here any more (its connection was lost, it was abandoned) goes nowhere: so no connection ever carries the result of another's
job.
"""

import logging
import time
from collections.abc import Callable, Mapping

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import code_of, decode
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker import outcomes
from reasonchip_broker.worker.executors import Executor
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.pipelines import Pipelines, Runs

logger = logging.getLogger("reasonchip_broker.worker")


class Desk:
    """The table of jobs of one worker with `capacity` slots; `send` takes the RESULTs that the present connection is to
    carry."""

    def __init__(
        self, pipelines: Pipelines, capacity: int, executors: Mapping[Runs, Executor], send: Callable[[bytes], None]
    ) -> None:
        self.capacity = capacity
        self.frame_bytes_max = 0
        """The present broker's limit."""
        self._pipelines = pipelines
        self._executors = executors
        self._send = send
        self._jobs: dict[bytes, Job] = {}
        self._lost: set[Job] = set()

    @property
    def jobs(self) -> int:
        """How many jobs the present connection waits for."""
        return len(self._jobs)

    @property
    def free(self) -> int:
        """How many slots are free: those of lost jobs whose handlers have not ended yet are not."""
        return self.capacity - len(self._jobs) - len(self._lost)

    # From the broker

    def run(self, cookie: bytes, frame: bytes) -> None:
        """Take a RUN. Whatever is wrong with it is answered, as the job's outcome."""
        packet = decode(frame)
        attempt = packet.attempt
        held = self._jobs.get(cookie)
        if held is not None and held.attempt == attempt:
            # An answer would end the attempt that runs.
            logger.warning("RUN of attempt %d of %r, which runs already, is ignored", attempt, held.context)
            return
        try:
            options = schemas.run_options(packet.meta)
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            self._send(outcomes.refused(cookie, attempt, f"the RUN can't be read: {error}", "InvalidRun"))
            return
        pipeline = self._pipelines.find(options.p)
        if pipeline is None:
            sentence = f"this worker does not serve pipeline {options.p!r}"
            self._send(outcomes.refused(cookie, attempt, sentence, "UnknownPipeline"))
        elif held is not None or self.free <= 0:
            sentence = "this worker runs another attempt of the job" if held else f"all {self.capacity} slots are taken"
            self._send(outcomes.refused(cookie, attempt, sentence, "NoSlot"))
        else:
            deadline = time.monotonic() + packet.number / 1000 if packet.number else None
            job = Job(cookie, attempt, pipeline, options.p, options.enc, packet.payload, self.frame_bytes_max, deadline)
            self._jobs[cookie] = job
            self._executors[pipeline.runs].start(job)

    def oversized(self, cookie: bytes, frame: bytes) -> None:
        """Answer a RUN that was over this end's own frame limit, of which only the header came."""
        length = int.from_bytes(frame[:4], "big")
        sentence = f"the RUN of {length} bytes is over the limit of this worker"
        attempt = int.from_bytes(frame[6:8], "big")
        self._send(outcomes.refused(cookie, attempt, sentence, "", Code.TOO_LARGE))

    def cancel(self, cookie: bytes, frame: bytes) -> None:
        """Take a CANCEL. One for a job that is not here has crossed its RESULT."""
        packet = decode(frame)
        job = self._jobs.get(cookie)
        if job is None or packet.attempt not in (0, job.attempt):
            return
        try:
            meta = schemas.cancel_meta(packet.meta)
        except (schemas.MetaInvalid, schemas.MetaUndecodable):
            # It is clear enough what is meant.
            meta = schemas.CancelMeta()
        job.why = meta.why
        contexts.cancel(job.context)
        if job.claim():
            self.ended(job, job.cancelled("cancelled before it ran", may_have_run=False))
        else:
            self._executors[job.pipeline.runs].stop(job, at_once=meta.now)

    # From the executors

    def ended(self, job: Job, frame: bytes) -> None:
        """Take the report of a job."""
        if self._jobs.get(job.cookie) is job:
            del self._jobs[job.cookie]
            if not (job.silenced and code_of(frame) == Code.CANCELLED):
                self._send(frame)
        else:
            self._lost.discard(job)

    # From the worker

    def stop_all(self) -> int:
        """The worker can't wait any longer: stop every job. Returns how many. Those that are done after all are still sent."""
        for job in list(self._jobs.values()):
            job.silenced = True
            self._stop(job, "the worker is stopping")
        return len(self._jobs)

    def lose_all(self) -> int:
        """The connection is gone, and for the broker so are its jobs: stop them, and forget them. Returns how many."""
        lost = list(self._jobs.values())
        self._jobs.clear()
        for job in lost:
            if self._stop(job, "the connection to the broker was lost"):
                self._lost.add(job)
        return len(lost)

    def _stop(self, job: Job, why: str) -> bool:
        """Stop a job. Returns whether it had begun."""
        job.why = why
        contexts.cancel(job.context)
        if job.claim():
            self._jobs.pop(job.cookie, None)
            return False
        self._executors[job.pipeline.runs].stop(job, at_once=True)
        return True
