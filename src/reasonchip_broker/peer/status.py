"""Where a job is, as the broker tells whoever asks."""

import uuid
from dataclasses import dataclass

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """Where a job is. Times are seconds.

    `state` is one of admitting, scheduled, queued, running, parked, cancelling, suspended (its worker's connection is gone, and may
    come back), backoff (between two attempts), over. If it does not run, `why` is the reason as a word for programs (not_admitted,
    not_due, not_served, no_free_slot, limit_reached, preferred_worker_busy, workers_draining, worker_disconnected,
    between_attempts, stale_attempt, slot_lent_out; "" otherwise), and `sentence` the same for people. A newer broker may have
    further words.

    `attempt` counts from 1 (0: none yet) up to at most `attempts`; `age_s` is the time since the broker took the job, `left_s` that
    until its deadline (None: it has none), `due_s` that until it may run (None: it is not scheduled); `progress` and `inputs` are the
    numbers of the last chunk and the last input; `worker` is the name of the worker that holds it, "" if none does; `outcome` the code
    that it ended with, if it is over; `parent` the job that it is a part of; `children` are those that are a part of it, if they were
    asked for.
    """

    cookie: uuid.UUID
    state: str
    why: str = ""
    sentence: str = ""
    pipeline: str = ""
    attempt: int = 0
    attempts: int = 1
    age_s: float = 0.0
    left_s: float | None = None
    due_s: float | None = None
    progress: int = 0
    inputs: int = 0
    worker: str = ""
    outcome: Code | int | None = None
    parent: uuid.UUID | None = None
    children: tuple["JobStatus", ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether the job has its outcome."""
        return self.state == "over"


def job_status(told: schemas.JobStatus, cookie: bytes, sentence: str = "") -> JobStatus:
    """What the broker told. `cookie` is what it was asked about."""
    return JobStatus(
        cookie=uuid.UUID(bytes=told.cookie if len(told.cookie) == 16 else cookie),
        state=told.state,
        why=told.why,
        sentence=sentence,
        pipeline=told.pipe,
        attempt=told.att,
        attempts=told.of,
        age_s=told.age / 1000,
        left_s=told.left / 1000 if told.left else None,
        due_s=told.due / 1000 if told.due else None,
        progress=told.prog,
        inputs=told.inp,
        worker=told.worker,
        outcome=_outcome(told.out),
        parent=uuid.UUID(bytes=told.parent) if len(told.parent) == 16 else None,
        children=tuple(job_status(child, cookie) for child in told.kids),
    )


def _outcome(code: int | None) -> Code | int | None:
    try:
        return None if code is None else Code(code)
    except ValueError:
        return code
