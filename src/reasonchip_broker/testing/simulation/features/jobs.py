"""Jobs: RUN, the slot that a job gets, and its RESULT.

What must be seen: each RUN is answered as the order of checks says, a free slot never stays beside a job that could have it, the oldest
job goes first and to a worker that is among the least loaded, a job runs once, its frames are not changed on their way, and only the
RESULT of who holds it ends it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reasonchip_broker.limits import JSON_SLOT_REST_MS_MIN, JSON_SLOT_REST_MS_PER_SLOT
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode, encode
from reasonchip_broker.protocol.codes import ENCODING_JSON, OUTCOMES, Code, PacketType
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.attempts import Attempts
from reasonchip_broker.testing.simulation.features.outcomes import Outcomes
from reasonchip_broker.testing.simulation.features.rules import PERHAPS, Rules, more_options
from reasonchip_broker.testing.simulation.features.scheduling import Scheduling
from reasonchip_broker.testing.simulation.features.streams import Streams
from reasonchip_broker.testing.simulation.features.turns import Turns
from reasonchip_broker.testing.simulation.kept import Known
from reasonchip_broker.testing.simulation.records import (
    PIPELINES,
    Alarm,
    BrokenPromise,
    End,
    Follow,
    Hold,
    Job,
    Worker,
    check_number,
    require,
)
from reasonchip_broker.testing.switchboard_driver import FakeLink, json_packet, oversized

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

FAILURES = (Code.PROCESSOR_EXCEPTION, Code.EXCEPTION, Code.CANCELLED, 200, Code.TOO_LARGE)
FAILURE_TYPES = ("", "Bad", "Worse")
VARIABLES = (b"1", b"[1,2]", b"7" * 90)
LEFT_MS = (0, 0, 0, 0, 0, 1, 20, 500, 3111)
NOTHING: frozenset[Code] = frozenset()

Operation = tuple[object, ...]


def only(*codes: Code) -> frozenset[Code]:
    """Just these."""
    return frozenset(codes)


COLLISION, DRAINING, OVERLOADED = only(Code.COOKIE_COLLISION), only(Code.DRAINING), only(Code.OVERLOADED)
QUEUED, DISPATCHED = only(Code.QUEUED), only(Code.DISPATCHED)
NOT_FOUND = only(Code.COOKIE_NOT_FOUND)
NO_CAPACITY, NOT_SERVED = only(Code.NO_CAPACITY), only(Code.NOT_SERVED)
PERHAPS_QUEUED = only(Code.QUEUED, Code.NO_CAPACITY, Code.NOT_SERVED)
ENDS = {code: only(Code(code) if code in OUTCOMES else Code.EXCEPTION) for code in range(256)}


class Jobs(Feature):
    """What becomes of a job from its RUN to its RESULT."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        model = self.model
        self._attempts = world.find(Attempts)
        self._outcomes = world.find(Outcomes)
        self._scheduling = world.find(Scheduling)
        self._streams = world.find(Streams)
        self._turns = world.find(Turns)
        self._rules = world.find(Rules)
        model.seen[PacketType.RUN] = self._saw_run
        model.seen[PacketType.RESULT] = model.saw_result
        model.seen[PacketType.REPLY] = model.saw_reply
        model.when_early["rest"] = self._rest_over
        model.on_settle += [self._settle_congestion, self._turns.check_work_conserving]

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"run": self.run, "result": self.result}

    # RUN

    def run(
        self,
        id: int,
        cookie: bytes,
        pipeline: str,
        as_json: bool = True,
        queue: bool = True,
        reply: bool = False,
        detach: bool = False,
        left_ms: int = 0,
        variables: bytes = b"1",
        more: tuple[tuple[str, Any], ...] = (),
    ) -> None:
        """A client sends RUN, or a worker for a handler; `more` are further options."""
        end = self.world.speaker(id)
        if end is None or (end.is_json and isinstance(end, Worker)) or self.model.known(cookie)[0] is Known.PERHAPS:
            return
        if end.is_json:
            as_json, queue, reply, left_ms, more = True, True, False, 0, ()
        options = self._options(pipeline, as_json, queue, reply, detach, more)
        need = tuple(sorted(options.need.items()))
        job = Job(cookie, self.model.kind_of[pipeline, as_json, need], variables, end, options)
        job.may_wait = queue and end.queues
        job.key = end.key
        codes = self._verdict(job, end, left_ms)
        if codes:
            self.model.answer(end, PacketType.RUN, codes)
        self.world.spend(cookie)
        if options.nonce and options.at is None:
            flags = as_json, queue, reply, detach, left_ms
            sent = self.world.instance, ("run", id, cookie, pipeline, *flags, variables, more)
            self.world.submissions = [*self.world.submissions[-8:], sent]
        if end.is_json:
            end.heard_at = self.model.now
            job.body = json_packet("RUN", cookie, pipeline=pipeline, variables=variables.decode(), detach=detach)
            self.driver.send_json(end.link, job.body)
        else:
            job.frame = packets.run(cookie, schemas.encode_meta(options), variables, left_ms=left_ms)
            self.world.send(end, job.frame)
        if job.admitting:
            numbers = [number for asked, number in self.driver.admissions if asked == cookie]
            job.admission = numbers[-1] if numbers else 0

    @staticmethod
    def _options(
        pipeline: str, as_json: bool, queue: bool, reply: bool, detach: bool, more: tuple[tuple[str, Any], ...]
    ) -> schemas.RunOptions:
        encoding = ENCODING_JSON if as_json else "msgpack"
        return schemas.RunOptions(p=pipeline, enc=encoding, queue=queue, reply=reply, detach=detach, **dict(more))

    def frame_of(
        self,
        cookie: bytes,
        pipeline: str,
        as_json: bool = True,
        queue: bool = True,
        reply: bool = False,
        detach: bool = False,
        left_ms: int = 0,
        variables: bytes = b"1",
        more: tuple[tuple[str, Any], ...] = (),
    ) -> bytes:
        """What `run` sends with the same arguments, on a binary connection."""
        options = self._options(pipeline, as_json, queue, reply, detach, more)
        return packets.run(cookie, schemas.encode_meta(options), variables, left_ms=left_ms)

    def _verdict(self, job: Job, end: End, left_ms: int) -> frozenset[Code]:
        """What a RUN is to be answered, in the order in which a RUN is checked; a job that is taken enters the model."""
        model, options = self.model, job.options
        if self._outcomes.resubmitted(job, end):
            return NOTHING
        if options.parent is not None or isinstance(end, Worker):
            refusal = self._adopt(job, end)
            if refusal:
                return refusal
        if job.cookie in model.jobs or job.cookie in model.reserved or model.known(job.cookie)[0] is not Known.NOT:
            return COLLISION
        if options.at is not None and options.at != self.world.instance:
            self._outcomes.unknown(end, job)
            return NOTHING
        if model.draining:
            return DRAINING
        if end.unfinished >= model.limits.client_jobs_max:
            return OVERLOADED
        if options.delay:
            return self._later(job, left_ms)
        candidates, answer = model.candidates(job.kind), NOTHING
        if model.is_special(job):
            answer = PERHAPS | (DISPATCHED if options.reply else NOTHING)
            model.step.doubtful, model.step.may_be_unanswered = job, True
        elif not any(worker.free > 0 for worker in candidates):
            if not job.may_wait:
                answer = self._rest_verdict(end, candidates)
                if Code.QUEUED not in answer:
                    return answer
                if self._turns.is_full(job):
                    return answer - QUEUED | OVERLOADED
            elif not candidates and options.served:
                return NOT_SERVED
            elif self._turns.is_full(job):
                return OVERLOADED
            else:
                answer = QUEUED
            if len(answer) > 1:
                model.step.doubtful = job
        elif options.reply:
            answer = DISPATCHED
        self._take(job, left_ms)
        if self.world.setting.admits:
            # No answer yet, unless it is a refusal.
            job.admitting, model.step.may_be_unanswered = True, True
            return answer - {Code.QUEUED, Code.DISPATCHED}
        self._arrive(job)
        return answer

    def _later(self, job: Job, left_ms: int) -> frozenset[Code]:
        """What a RUN is to be answered that is not to run yet."""
        model = self.model
        if self._turns.is_full(job):
            return OVERLOADED
        self._take(job, left_ms)
        if self.world.setting.admits:
            job.admitting = model.step.may_be_unanswered = True
            return NOTHING
        return self._scheduling.keep(job, model.now)

    def _adopt(self, job: Job, end: End) -> frozenset[Code]:
        """A job names its parent. Returns what is wrong with that, if anything."""
        parent = self.model.jobs.get(job.options.parent or b"")
        if isinstance(end, Worker):
            if parent is None or parent.hold is None or parent.hold.worker is not end:
                return only(Code.NOT_ALLOWED)
        elif parent is None or parent.principal != end.principal:
            return NOT_FOUND
        job.parent = parent
        job.principal = parent.principal
        return NOTHING

    def _take(self, job: Job, left_ms: int) -> None:
        model, parent = self.model, job.parent
        model.enter(job)
        job.key = self._turns.key_of(job)
        if job.requester.is_json:
            left_ms = 0
        if parent is not None:
            parent.children[job.cookie] = job
            if parent.deadline is not None:
                # What is cut to its parent's deadline is cut in whole milliseconds.
                parent_ms = max(1, int((parent.deadline.due - model.now) * 1000))
                left_ms = min(left_ms, parent_ms) if left_ms else parent_ms
        if left_ms:
            job.deadline = model.alarm("deadline", job, model.now + left_ms / 1000)
        if job.options.follow:
            job.followers[job.requester.id] = Follow(job.requester, 1, model.limits.credit_frames)

    def _arrive(self, job: Job) -> None:
        """A job is there to be dispatched; it waits until it is seen to be."""
        self.model.wait(job)
        self.model.step.arrived = job

    def _rest_verdict(self, end: End, candidates: list[Worker]) -> frozenset[Code]:
        """A job that may not wait does so for a slot that only rests, if that is not spoken for."""
        if end.queues:
            return NO_CAPACITY if candidates else NOT_SERVED
        kinds = [kind for kind in self.model.kinds if kind.queue and any(worker.mask & kind.bit for worker in candidates)]
        waiting = [job for kind in kinds for job in kind.queue.values()]
        rivals = len(waiting)
        if rivals < sum(worker.rests for worker in candidates if not worker.congested):
            return QUEUED
        # Some may wait for a worker of their own, or for a limit.
        rivals = sum(not self.model.is_special(job) for job in waiting)
        if rivals >= sum(worker.rests for worker in candidates):
            return NO_CAPACITY
        return PERHAPS_QUEUED

    # Admission, for brokers that ask somebody

    def decide(self, cookie: bytes, taken: bool, newest: bool = False) -> None:
        """Of the admissions asked for with a cookie, the oldest or the newest is granted or refused: its job may be over by now."""
        asked = [number for other, number in self.driver.admissions if other == cookie]
        if not asked:
            return
        number = asked[-1 if newest else 0]
        self.driver.admissions.remove((cookie, number))
        job = self.model.jobs.get(cookie)
        if job is not None and job.admitting and job.admission == number:
            if taken:
                self._admitted(job)
            else:
                self._answer_later(job, only(Code.NOT_ALLOWED))
                self.model.turn_away(job, only(Code.NOT_ALLOWED))
        if taken:
            self.driver.admit(cookie, number)
        else:
            self.driver.reject(cookie, number=number)

    def _admitted(self, job: Job) -> None:
        # Whoever took the job over meanwhile is told, and asked whether it may wait.
        model, client = self.model, job.counted
        job.admitting = False
        if job.taken_at + job.options.delay / 1000 > model.now:
            self._answer_later(job, self._scheduling.keep(job, job.taken_at))
            return
        candidates = model.candidates(job.kind)
        if model.is_special(job):
            if client.id in model.ends:
                model.step.doubtful, model.step.may_be_unanswered = job, True
                self._answer_later(job, PERHAPS | (DISPATCHED if job.options.reply else NOTHING))
        elif any(worker.free > 0 for worker in candidates):
            if job.options.reply:
                self._answer_later(job, DISPATCHED)
        elif client.id in model.ends:
            may_wait = job.options.queue and client.queues
            codes = QUEUED if may_wait else self._rest_verdict(client, candidates)
            if may_wait and job.options.served and not candidates:
                codes = NOT_SERVED
            if codes != QUEUED:
                model.step.doubtful = job
            self._answer_later(job, codes)
        self._arrive(job)

    def _answer_later(self, job: Job, codes: frozenset[Code]) -> None:
        """The answer to a RUN, after its admission, to its owner, if that is still there."""
        if job.counted.id in self.model.ends:
            self.model.answer(job.counted, PacketType.RUN, codes)

    # RESULT

    def result(
        self, id: int, cookie: bytes, code: int = Code.OK, attempt: int | None = None, payload: bytes = b"2", kind: str = ""
    ) -> None:
        """A worker sends RESULT: the right one, or not. No attempt stands for the one that it holds; `kind` is a failure's type.
        With the code TOO_LARGE it is over the frame limit."""
        model, worker = self.model, self.model.workers.get(id)
        if worker is None or worker.greeting_until is not None:
            return
        hold = worker.held.get(cookie)
        if attempt is None:
            attempt = hold.attempt if hold is not None else 1
        frame = packets.result(cookie, attempt, payload, ENCODING_JSON)
        if code != Code.OK:
            failure = schemas.encode_meta(schemas.Failure(error="failed", type=kind))
            frame = encode(PacketType.RESULT, code, attempt, cookie, meta=packets.FAILED_META, payload=failure)
        if worker.is_json and code not in OUTCOMES:
            code = Code.EXCEPTION
        if hold is None or (attempt != hold.attempt and not worker.is_json):
            model.dropped += 1
        else:
            self._reported(hold, frame, code, kind)
        if worker.grace_s:
            worker.reports += 1
            if self.world.take is None:
                # Those of one read are acknowledged together.
                self.model.expect(worker, PacketType.ACK, check_number(worker.reports))
        worker.heard_at = model.now
        if code == Code.TOO_LARGE:
            self.world.deliver(worker, oversized(PacketType.RESULT, cookie, 0 if worker.is_json else attempt))
        elif not worker.is_json:
            self.world.send(worker, frame)
        elif code == Code.OK:
            self.driver.result(worker.link, cookie, payload)
        else:
            self.driver.fail(worker.link, cookie, Code(code), "failed")

    def _reported(self, hold: Hold, frame: bytes, code: int, kind: str) -> None:
        """The holder reports an attempt: that ends it, and the job unless it is tried again."""
        model, job = self.model, hold.job
        if code not in OUTCOMES:
            code, kind = Code.EXCEPTION, ""
        slots = 0 if hold.lent else hold.slots
        model.let_go(hold)
        if slots:
            self._rest(hold.worker, slots)
        if job is not None and not self._attempts.retries(job, code, "" if hold.worker.is_json else kind):
            # What the owner is to get is what the worker sent, where that was no failure in an existing worker's words.
            model.over(job, ENDS[code], decode(frame) if code == Code.OK else None)

    def _rest(self, worker: Worker, slots: int) -> None:
        if worker.is_json and worker.capacity > 1:
            rest_ms = self.world.setting.json_slot_rest_ms
            if rest_ms is None:
                rest_ms = max(JSON_SLOT_REST_MS_MIN, JSON_SLOT_REST_MS_PER_SLOT * worker.capacity)
            if rest_ms:
                worker.rests += slots
                self.model.alarm("rest", (worker, slots), self.model.now + rest_ms / 1000)

    def _rest_over(self, alarm: Alarm) -> None:
        if isinstance(alarm.subject, tuple) and alarm.subject[0].rests:
            alarm.subject[0].rests -= alarm.subject[1]

    # What is seen

    def _saw_run(self, link: FakeLink, packet: Packet, frame: bytes) -> None:
        model, job = self.model, self.model.jobs.get(packet.cookie)
        worker = model.by_link.get(link.number)
        if not isinstance(worker, Worker) or job is None:
            raise BrokenPromise(f"{packet.cookie!r}, which is no live job, was sent to link {link.number}")
        if job.hold is not None or not job.waits or job.attempt >= job.options.att:
            raise BrokenPromise(f"{job.cookie!r} was dispatched a second time, or before its time")
        if packet.attempt != job.attempt + 1:
            raise BrokenPromise(f"attempt {job.attempt + 1} says that it is the {packet.attempt}th")
        if not worker.mask & job.kind.bit:
            raise BrokenPromise(f"{job.kind.pipeline!r} was sent to a worker that does not serve it")
        # Who wants a slot back is in the way until it ends, in this very step perhaps.
        in_the_way = any(hold.job is None or not self._turns.may_end_now(hold.job) for hold in worker.resuming)
        is_off = worker.draining or worker.congested or in_the_way
        if is_off or worker.capacity - worker.taken < job.kind.slots:
            raise BrokenPromise(f"a worker with {worker.capacity} slots has none free, and got one more job")
        if job.cookie in model.reserved:
            raise BrokenPromise(f"{job.cookie!r} was dispatched while a worker holds an earlier attempt")
        self._check_turn(job, worker)
        self._check_content(job, packet, frame)
        model.wait_no_more(job)
        job.attempt += 1
        hold = model.hold(worker, job)
        self._rules.dispatched(job, worker, hold)
        if job.options.rlim:
            hold.limit = model.alarm("run limit", hold, model.now + job.options.rlim / 1000)
        if job.streams is not None:
            self._streams.attempt_began(job)
        size = len(job.frame) if job.frame is not None else 4 + len(job.body)
        model.step.sent_bytes[link.number] = model.step.sent_bytes.get(link.number, 0) + size

    def _check_turn(self, job: Job, worker: Worker) -> None:
        """It is this job's turn, and this worker's."""
        model = self.model
        if job is model.step.arrived:
            self._rules.check_choice(job, worker)
        elif model.waiting > 1 and not (self._rules.changing or model.is_special(job)):
            self._turns.check(job, worker)
        job.key.turns += 1

    def _check_content(self, job: Job, packet: Packet, frame: bytes) -> None:
        if job.deadline is not None:
            left_ms = (job.deadline.due - self.model.now) * 1000
            in_time = max(0, left_ms - 1.001) <= packet.number <= max(1, left_ms + 0.001)
            require(in_time, f"{packet.number} ms told, {left_ms} ms left")
        elif frame == job.frame:
            return
        elif job.frame is not None and not job.attempt:
            raise BrokenPromise("a frame that could go on unchanged was changed")
        require(packet.payload == job.variables, "the variables changed on their way")
        require(schemas.run_options(packet.meta).p == job.kind.pipeline, "the pipeline changed on its way")

    def _settle_congestion(self) -> None:
        """A worker that was given more than its outbox takes is not given more."""
        sent_bytes = self.model.step.sent_bytes
        for number, size in sent_bytes.items():
            if size >= self.model.limits.outbox_bytes_mark:
                worker = self.model.by_link.get(number)
                if worker is not None and worker.link.wants_writable:
                    worker.congested = True

    # The quiet phase

    def work(self) -> None:
        for worker in list(self.model.workers.values()):
            for cookie in list(worker.held):
                self.result(worker.id, cookie)

    def check_rest(self) -> None:
        board, model = self.driver.switchboard, self.model
        require(not model.jobs and board.jobs == 0 and board.waiting == 0, f"{board.jobs} jobs never ended")
        require(not any(worker.held or worker.rests for worker in model.workers.values()), "a slot was never given back")

    # Choices

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        chance, one_of = chooser.chance, chooser.one_of

        def run() -> Operation | None:
            ends: Sequence[End] = chooser.clients() if chance(0.93) else chooser.workers()
            if not ends:
                return None
            end = one_of(ends)
            cookie = chooser.cookie() if chance(0.1) else chooser.new_cookie()
            flags = chance(0.5), chance(0.8), chance(0.2), chance(0.1)
            pipeline, left_ms, variables = one_of(PIPELINES), one_of(LEFT_MS), one_of(VARIABLES)
            return "run", end.id, cookie, pipeline, *flags, left_ms, variables, more_options(chooser, end)

        def result() -> Operation | None:
            found = chooser.held()
            if not found:
                return None
            job = chooser.world().model.jobs.get(found[1])
            if chance(0.4 if job is not None and job.options.again else 0.8):
                return "result", *found
            return "result", *found, one_of(FAILURES), None, b"2", one_of(FAILURE_TYPES)

        def wrong_result() -> Operation | None:
            workers = chooser.workers()
            if not workers:
                return None
            worker = one_of(workers)
            if worker.held and chance(0.5):
                cookie = one_of(list(worker.held))
                held = worker.held[cookie].attempt
                wrong = one_of((65535, held + 1, held - 1))
                return None if worker.is_json else ("result", worker.id, cookie, Code.OK, wrong)
            return "result", worker.id, chooser.cookie()

        return [(24, run), (22, result), (3, wrong_result)]
