"""The jobs that this worker holds.

Only the connection's thread touches it. A job is here from its RUN to its report, and what is reported of a job that is not
here any more (its connection was lost, it was abandoned) goes nowhere: so no connection ever carries the result of another's
job.

Without a session a lost connection loses its jobs. With one (`ledger`) they are *suspended*: they go on, their RESULTs are kept,
and the next connection's REGISTER lists them; those that the broker confirms go on as if nothing had been, the others are
stopped, and report that.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Set

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import attempt_of, code_of, decode, meta_of, number_of, payload_of
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker import outcomes
from reasonchip_broker.worker.channel import Send, Slot, Terms
from reasonchip_broker.worker.executors import Executor
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.kindred import Kin
from reasonchip_broker.worker.ledger import Key, Ledger
from reasonchip_broker.worker.pipelines import Pipeline, Pipelines, Runs

CREDIT_FRAMES = 64
WINDOW_BYTES = 256 * 1024
"""What may be sent of a job at first, until a broker has said something else."""

KNOWN_MAX = 1024
KNOWN_BYTES_MAX = 512
"""How many metas of RUNs are kept, read, and up to what size: a client says the same few over and over."""

_HELD = Slot.HELD
_PROCESS = Runs.PROCESS

logger = logging.getLogger("reasonchip_broker.worker")


class Desk:
    """The table of jobs of one worker with `capacity` slots.

    `send` takes what the present connection is to carry, `say` what jobs say, from any thread, and hands it to `said`; `kin` is
    whom they speak to about jobs of their own. `session`: jobs outlive their connection.
    """

    def __init__(
        self,
        pipelines: Pipelines,
        capacity: int,
        executors: Mapping[Runs, Executor],
        send: Callable[[bytes], None],
        say: Send,
        kin: Kin | None = None,
        *,
        session: bool = False,
    ) -> None:
        self.capacity = capacity
        self.frame_bytes_max = 0
        """The present broker's limit."""
        self.allowance = (CREDIT_FRAMES, WINDOW_BYTES)
        """How many frames and bytes of a job's progress it takes at first."""
        self.ledger = Ledger() if session else None
        self._pipelines = pipelines
        self._executors = executors
        self._send = send
        self._say = say
        self._kin = kin
        self._jobs: dict[bytes, Job] = {}
        self._lent = 0
        self._lost: set[Job] = set()
        self._known: dict[bytes, tuple[schemas.RunOptions, Pipeline]] = {}
        """What RUNs ask for, by their encoded meta."""
        self._terms = Terms(say, self.allowance, 0)
        self._online = True
        self._listed: Set[Key] = frozenset()

    @property
    def jobs(self) -> int:
        """How many jobs the broker waits for."""
        return len(self._jobs)

    @property
    def owed(self) -> int:
        """How many jobs and unacknowledged RESULTs the broker waits for."""
        return len(self._jobs) + (len(self.ledger) if self.ledger is not None else 0)

    @property
    def free(self) -> int:
        """How many slots are free: those that are lent out are, those of lost jobs whose handlers have not ended yet are not."""
        return max(0, self.capacity - len(self._jobs) + self._lent - len(self._lost))

    def holds(self, cookie: bytes) -> bool:
        """Whether a job of this name is here."""
        return cookie in self._jobs

    # From the broker

    def run(self, cookie: bytes, frame: bytes) -> None:
        """Take a RUN. Whatever is wrong with it is answered, as the job's outcome."""
        attempt = attempt_of(frame)
        held = self._jobs.get(cookie)
        if held is not None and held.attempt == attempt:
            # An answer would end the attempt that runs.
            logger.warning("RUN of attempt %d of %r, which runs already, is ignored", attempt, held.context)
            return
        meta = meta_of(frame)
        known = self._known.get(meta) or self._learn(cookie, attempt, meta)
        if known is None:
            return
        if held is not None or self.free <= 0:
            sentence = "this worker runs another attempt of the job" if held else f"all {self.capacity} slots are taken"
            self._answer(outcomes.refused(cookie, attempt, sentence, "NoSlot"))
        else:
            options, pipeline = known
            job = self._jobs[cookie] = self._taken(cookie, attempt, pipeline, options, frame)
            self._executors[pipeline.runs].start(job)

    def _learn(self, cookie: bytes, attempt: int, meta: bytes) -> tuple[schemas.RunOptions, Pipeline] | None:
        """What a RUN asks for, read and kept; None if that was answered, as the job's outcome."""
        try:
            options = schemas.run_options(meta)
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            self._answer(outcomes.refused(cookie, attempt, f"the RUN can't be read: {error}", "InvalidRun"))
            return None
        pipeline = self._pipelines.find(options.p)
        if pipeline is None:
            sentence = f"this worker does not serve pipeline {options.p!r}"
            self._answer(outcomes.refused(cookie, attempt, sentence, "UnknownPipeline"))
            return None
        if len(meta) <= KNOWN_BYTES_MAX:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[meta] = options, pipeline
        return options, pipeline

    def _taken(self, cookie: bytes, attempt: int, pipeline: Pipeline, options: schemas.RunOptions, frame: bytes) -> Job:
        terms = self._terms
        if terms.allowance is not self.allowance or terms.frame_bytes_max != self.frame_bytes_max:
            terms = self._terms = Terms(self._say, self.allowance, self.frame_bytes_max)
        left_ms = number_of(frame)
        now = time.monotonic() if left_ms or options.rlim else 0.0
        return Job(
            cookie,
            attempt,
            pipeline,
            options.p,
            options.enc,
            payload_of(frame),
            self.frame_bytes_max,
            now + left_ms / 1000 if left_ms else None,
            attempts=options.att,
            run_until=now + options.rlim / 1000 if options.rlim else None,
            allowance=self.allowance,
            terms=None if pipeline.runs is _PROCESS else terms,
            kin=self._kin,
        )

    def oversized(self, cookie: bytes, frame: bytes) -> None:
        """Answer a RUN that was over this end's own frame limit, of which only the header came."""
        length = int.from_bytes(frame[:4], "big")
        sentence = f"the RUN of {length} bytes is over the limit of this worker"
        attempt = int.from_bytes(frame[6:8], "big")
        self._answer(outcomes.refused(cookie, attempt, sentence, "", Code.TOO_LARGE))

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

    def deliver(self, cookie: bytes, frame: bytes) -> None:
        """Take an INPUT, a CREDIT or a RESUME for a job that is here. One for another attempt, or none, is late."""
        job = self._jobs.get(cookie)
        if job is None or attempt_of(frame) != job.attempt:
            return
        if frame[4] == PacketType.RESUME and job.slot is Slot.ASKED:
            self._slot(job, Slot.HELD)
        self._executors[job.pipeline.runs].deliver(job, frame)

    # From the executors, and from jobs

    def ended(self, job: Job, frame: bytes) -> None:
        """Take the report of a job."""
        if self._jobs.get(job.cookie) is job:
            if job.slot is not _HELD:
                self._slot(job, _HELD)
            del self._jobs[job.cookie]
            if not (job.silenced and code_of(frame) == Code.CANCELLED):
                self._answer(frame)
        else:
            self._lost.discard(job)

    def said(self, frame: bytes) -> None:
        """Take what a job says besides its RESULT, and send it if the broker hears this job at present."""
        job = self._jobs.get(frame[8:24])
        if job is None or attempt_of(frame) != job.attempt:
            return
        kind = frame[4]
        if kind == PacketType.PARK:
            self._slot(job, Slot.LENT)
        elif kind == PacketType.RESUME and job.slot is Slot.LENT:
            self._slot(job, Slot.ASKED)
        if not job.suspended:
            self._send(frame)
        elif kind == PacketType.EXTEND:
            job.extended_until = time.monotonic() + number_of(frame) / 1000

    def _slot(self, job: Job, slot: Slot) -> None:
        # A slot that is asked for is still the broker's to give.
        self._lent += (slot is not Slot.HELD) - (job.slot is not Slot.HELD)
        job.slot = slot

    def _answer(self, frame: bytes) -> None:
        """Send a RESULT, or keep it until there is a connection that hears of this job."""
        ledger = self.ledger
        if ledger is not None:
            key = (frame[8:24], attempt_of(frame))
            ledger.keep(key, frame)
            if not self._online:
                return
            ledger.sent(key)
        self._send(frame)

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
        self._lent = 0
        for job in lost:
            if self._stop(job, "the connection to the broker was lost"):
                self._lost.add(job)
        if self.ledger is not None:
            self.ledger.clear()
        return len(lost)

    def _stop(self, job: Job, why: str) -> bool:
        """Stop a job. Returns whether it had begun."""
        job.why = why
        contexts.cancel(job.context)
        if job.claim():
            self._slot(job, Slot.HELD)
            self._jobs.pop(job.cookie, None)
            return False
        self._executors[job.pipeline.runs].stop(job, at_once=True)
        return True

    # A session

    def suspend_all(self) -> int:
        """The connection is gone, and the session may come back on another: let jobs go on, unheard. Returns how many."""
        self._online = False
        for job in self._jobs.values():
            if not job.suspended:
                job.suspended = True
                self._executors[job.pipeline.runs].suspend(job)
        return len(self._jobs)

    def forsake(self) -> int:
        """The broker can't have waited for so long: stop every suspended job. Their RESULTs stay owed. Returns how many."""
        forsaken = [job for job in self._jobs.values() if job.suspended]
        for job in forsaken:
            self._give_up(job, "the connection to the broker was lost for too long")
        return len(forsaken)

    def held(self) -> list[Key]:
        """What a REGISTER on a new connection lists. From here on RESULTs are sent on that."""
        self._online = True
        if self.ledger is None:
            return []
        self.ledger.connected()
        keys = [*((job.cookie, job.attempt) for job in self._jobs.values()), *self.ledger.keys]
        self._listed = frozenset(keys)
        return keys

    def resumed(self, confirmed: Set[Key]) -> int:
        """The broker's answer to that: go on with what it confirms, stop the rest. Returns how many are stopped."""
        if self.ledger is None:
            return 0
        listed, self._listed = self._listed, frozenset()
        # Those that have ended since were sent then.
        kept = [key for key in self.ledger.keys if key in listed and not self.ledger.was_sent(key)]
        for key in kept:
            self._send_again(key, key in confirmed)
        stopped = 0
        for job in list(self._jobs.values()):
            if (job.cookie, job.attempt) in listed:
                if (job.cookie, job.attempt) in confirmed:
                    self._go_on(job)
                else:
                    stopped += 1
                    self._give_up(job, "the broker does not wait for it any more")
        return stopped

    def acknowledged(self, results: int) -> None:
        """The broker has so many RESULTs of this connection."""
        if self.ledger is not None:
            self.ledger.acknowledged(results)

    def _send_again(self, key: Key, confirmed: bool) -> None:
        """Send a RESULT that an earlier connection may not have carried. One that nobody waits for is said shortly: the broker
        drops it, and frees the slot."""
        assert self.ledger is not None
        frame = self.ledger.frame(key)
        if frame is None:
            return
        if not confirmed:
            frame = outcomes.cancelled(*key, "the broker did not wait for it any more")
            self.ledger.keep(key, frame)
        self.ledger.sent(key)
        self._send(frame)

    def _go_on(self, job: Job) -> None:
        job.suspended = False
        job.allowance = self.allowance
        # What it did with its slot and its time meanwhile was said to nobody.
        if job.slot is not Slot.HELD:
            self._send((packets.park if job.slot is Slot.LENT else packets.resume)(job.cookie, job.attempt))
        more_ms = math.ceil((job.extended_until - time.monotonic()) * 1000)
        if more_ms > 0:
            self._send(packets.extend(job.cookie, job.attempt, more_ms))
        job.extended_until = 0.0
        self._executors[job.pipeline.runs].restart(job, *self.allowance)

    def _give_up(self, job: Job, why: str) -> None:
        """Stop a job whose RESULT nobody will hear, and which is nevertheless to be sent: it is what frees the slot."""
        job.why = why
        contexts.cancel(job.context)
        if job.claim():
            self.ended(job, job.cancelled("cancelled before it ran", may_have_run=False))
        else:
            self._executors[job.pipeline.runs].stop(job, at_once=True)
