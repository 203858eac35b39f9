"""Everything that peers, time and the broker can do to a switchboard, each told to the model first.

An operation takes plain values, so that both hypothesis and a random walk can play: whoever plays chooses, and the world answers
for what must come of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from reasonchip_broker.limits import JSON_SLOT_REST_MS_MIN, JSON_SLOT_REST_MS_PER_SLOT, Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode, encode
from reasonchip_broker.protocol.codes import ENCODING_JSON, NO_COOKIE, OUTCOMES, CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import UNKNOWN
from reasonchip_broker.testing.switchboard_driver import SwitchboardDriver, json_packet
from tests.property.switchboard_model import Client, End, Hold, Job, Model, Worker, require

T = TypeVar("T")

LIMITS = Limits(
    client_jobs_max=8,
    backlog_jobs_max=10,
    cancel_grace_s=2.0,
    kill_grace_s=3.0,
    heartbeat_s=4.0,
    lease_s=9.0,
    handshake_s=5.0,
    outbox_bytes_mark=250,
)
"""Small, so that each of them is reached."""

PIPELINES = ("p.a", "p.b", "q", "lonely")
OFFERS = (("*",), ("p.*",), ("p.a",), ("p.b", "q"))
BAD_META = b"\x81\xa1p\xc1"
SILENCE_SLICE_S = 2.0
WALK_FAILURES = (Code.PROCESSOR_EXCEPTION, Code.EXCEPTION, Code.CANCELLED, 200)


@dataclass(frozen=True)
class Setting:
    """How the switchboard of a world is configured."""

    json_slot_rest_ms: int | None = None
    json_cancel: bool = False
    admits: bool = False


class World:
    """A driven switchboard, and the model that watches it."""

    def __init__(self, setting: Setting, *, records: bool = False, checks: bool = True) -> None:
        self.setting = setting
        self.driver = SwitchboardDriver(
            LIMITS,
            json_slot_rest_ms=setting.json_slot_rest_ms,
            json_cancel=setting.json_cancel,
            admits=setting.admits,
            records=records,
            checks=checks,
        )
        self.model = Model(self.driver, json_cancel=setting.json_cancel)
        self.spent: list[bytes] = []
        """Cookies that were used once."""
        self._orders = 0

    # Who is there

    def _join(self, end: End) -> None:
        model = self.model
        if isinstance(end, Client):
            model.clients.append(end)
        elif isinstance(end, Worker):
            model.workers.append(end)

    def _hello(self, end: End) -> None:
        if not end.is_json:
            end.greeting_until = None
            self.model.step.packets.append((end.link, PacketType.WELCOME))
            self._send(end, packets.hello(schemas.HelloMeta()))

    def connect_client(self, dialect: Dialect, *, principal: str = "", queues: bool = True) -> Client:
        """A client connects, and says HELLO if that is its custom."""
        queues = queues or dialect == Dialect.BINARY
        link = self.driver.connect(Role.CLIENT, dialect, principal=principal, queues=queues)
        client = Client(link, self.model.now, principal=principal, queues=queues)
        self._join(client)
        self._hello(client)
        return client

    def connect_worker(self, dialect: Dialect, capacity: int, serves: tuple[str, ...]) -> Worker:
        """A worker connects and registers."""
        worker = Worker(self.driver.connect(Role.WORKER, dialect), self.model.now)
        self._join(worker)
        self._hello(worker)
        self.register(worker, capacity, ("*",) if dialect == Dialect.JSON else serves)
        return worker

    def connect_stranger(self, role: Role) -> End:
        """A binary connection that says nothing at all."""
        link = self.driver.connect(role)
        end = Client(link, self.model.now) if role == Role.CLIENT else Worker(link, self.model.now)
        end.greeting_until = self.model.now + LIMITS.handshake_s
        end.silent = True
        self._join(end)
        return end

    def register(self, worker: Worker, capacity: int, serves: tuple[str, ...]) -> None:
        """A worker says what it takes, for the first time or again."""
        step = self.model.step
        if worker.capacity:
            step.answers.append((worker.link, PacketType.REGISTER, {Code.NOT_ALLOWED}))
        else:
            step.answers.append((worker.link, PacketType.REGISTER, {Code.OK}))
            if self.model.draining:
                step.packets.append((worker.link, PacketType.DRAIN))
            else:
                worker.capacity, worker.serves = capacity, serves
        worker.heard_at = self.model.now
        self.driver.register(worker.link, capacity, serves)

    def disconnect(self, end: End) -> None:
        """A connection breaks."""
        self.model.lost(end.link)
        self.driver.disconnect(end.link)

    def congest(self, end: End) -> None:
        """A connection's outbox passes its mark."""
        end.congested = True
        self.driver.congest(end.link)

    def unblock(self, end: End) -> None:
        """It has room again."""
        end.congested = False
        end.heard_at = self.model.now
        self.driver.unblock(end.link)

    def _send(self, end: End, frame: bytes) -> None:
        end.heard_at = self.model.now
        self.driver.send(end.link, frame)

    # Jobs

    def run(
        self,
        client: Client,
        pipeline: str,
        cookie: bytes,
        *,
        as_json: bool = True,
        queue: bool = True,
        reply: bool = False,
        detach: bool = False,
        left_ms: int = 0,
        variables: bytes = b"1",
    ) -> None:
        """A client sends RUN."""
        if client.is_json:
            as_json, queue, reply, left_ms = True, True, False, 0
        job = Job(cookie, pipeline, as_json, variables, None if detach else client, client.principal)
        job.deadline = self.model.now + left_ms / 1000 if left_ms else None
        job.wants_reply, job.requester, job.may_wait = reply, client, queue and client.queues
        encoding = ENCODING_JSON if as_json else "msgpack"
        if not client.is_json:
            options = schemas.RunOptions(p=pipeline, enc=encoding, queue=queue, reply=reply, detach=detach)
            job.frame = packets.run(cookie, schemas.encode_meta(options), variables, left_ms=left_ms)
        job.body = json_packet("RUN", cookie, pipeline=pipeline, variables=variables.decode(), detach=detach)
        codes = self._verdict(job, client, queue)
        if codes:
            self.model.step.answers.append((client.link, PacketType.RUN, codes))
        client.heard_at = self.model.now
        if cookie not in self.spent:
            self.spent.append(cookie)
        if job.frame is not None:
            self.driver.send(client.link, job.frame)
        else:
            self.driver.send_json(client.link, job.body)
        if job.admitting and self.driver.admissions:
            asked, number = self.driver.admissions[-1]
            job.admission = number if asked == cookie else 0

    def _verdict(self, job: Job, client: Client, queue: bool) -> set[Code]:
        """What a RUN is to be answered, in the order in which a RUN is checked; a job that is taken enters the model."""
        model = self.model
        if job.cookie in model.jobs or model.is_reserved(job.cookie):
            return {Code.COOKIE_COLLISION}
        if model.draining:
            return {Code.DRAINING}
        if sum(job.requester is client for job in model.jobs.values()) >= LIMITS.client_jobs_max:
            return {Code.OVERLOADED}
        waiting, candidates = model.waiting(), model.candidates(job)
        answer: set[Code] = set()
        if not any(worker.free > 0 for worker in candidates):
            if not (queue and client.queues):
                answer = self._rest_verdict(job, client, waiting, candidates)
                if Code.QUEUED not in answer:
                    return answer
            elif len(waiting) >= LIMITS.backlog_jobs_max:
                return {Code.OVERLOADED}
            else:
                answer = {Code.QUEUED}
            if len(answer) > 1:
                model.step.doubtful = job
        elif job.wants_reply:
            answer = {Code.DISPATCHED}
        self._take(job)
        if self.setting.admits:
            # No answer yet, unless it is a refusal.
            job.admitting, model.step.may_be_unanswered = True, True
            return answer - {Code.QUEUED, Code.DISPATCHED}
        model.step.arrived = job
        return answer

    def _take(self, job: Job) -> None:
        self._orders += 1
        job.order = self._orders
        self.model.jobs[job.cookie] = job
        if job.owner is not None:
            job.owner.jobs[job.cookie] = job

    def _rest_verdict(self, job: Job, client: Client, waiting: list[Job], candidates: list[Worker]) -> set[Code]:
        """A job that may not wait does so for a slot that only rests, if that is not spoken for."""
        if client.queues:
            return {Code.NO_CAPACITY} if candidates else {Code.NOT_SERVED}
        sure = sum(len(worker.rests) for worker in candidates if not worker.congested)
        rivals = [other for other in waiting if any(worker.takes(other.pipeline, other.as_json) for worker in candidates)]
        if len(rivals) < sure:
            return {Code.QUEUED}
        if len(rivals) >= sum(len(worker.rests) for worker in candidates):
            return {Code.NO_CAPACITY}
        return {Code.QUEUED, Code.NO_CAPACITY, Code.NOT_SERVED}

    def admit(self, cookie: bytes, number: int) -> None:
        """A job that waits for admission gets it."""
        job = self._decide(cookie, number)
        if job is not None:
            self._orders += 1
            job.admitting, job.order = False, self._orders
            self.model.step.arrived = job
            candidates = self.model.candidates(job)
            if not any(worker.free > 0 for worker in candidates):
                self._admit_to_wait(job, candidates)
            elif job.wants_reply:
                self._answer_later(job, {Code.DISPATCHED})
        self.driver.admit(cookie, number)

    def _admit_to_wait(self, job: Job, candidates: list[Worker]) -> None:
        """No slot is free when a job is admitted: it waits, or is refused if it is not to."""
        client = job.requester
        if client is not None and client in self.model.clients:
            waiting = [other for other in self.model.waiting() if other is not job]
            codes = {Code.QUEUED} if job.may_wait else self._rest_verdict(job, client, waiting, candidates)
            if codes != {Code.QUEUED}:
                self.model.step.doubtful = job
            self._answer_later(job, codes)

    def reject(self, cookie: bytes, number: int) -> None:
        """A job that waits for admission is refused."""
        job = self._decide(cookie, number)
        if job is not None:
            self.model.forget(job)
            self._answer_later(job, {Code.NOT_ALLOWED})
        self.driver.reject(cookie, number=number)

    def _decide(self, cookie: bytes, number: int) -> Job | None:
        """The job that a verdict is about, unless it is over: then its cookie may be another job's by now."""
        self.driver.admissions.remove((cookie, number))
        job = self.model.jobs.get(cookie)
        return job if job is not None and job.admitting and job.admission == number else None

    def _answer_later(self, job: Job, codes: set[Code]) -> None:
        """The answer to a RUN, after its admission, to whoever sent it and is still there."""
        if job.requester is not None and job.requester in self.model.clients:
            self.model.step.answers.append((job.requester.link, PacketType.RUN, codes))

    def cancel(self, client: Client, cookie: bytes, *, at_once: bool = False) -> None:
        """A client sends CANCEL."""
        at_once = at_once and not client.is_json
        job = self.model.jobs.get(cookie)
        if job is None or job.principal != client.principal:
            code = Code.COOKIE_NOT_FOUND
        elif job.hold is None or (job.hold.worker.is_json and not self.setting.json_cancel):
            code = Code.OK
            self.model.over(job, {Code.CANCELLED})
        else:
            code = Code.CANCELLING
            # To be told at once a second time changes nothing, or starts the kill grace anew: that is not for the model to say.
            at_once = at_once and (job.hold.grace is None or job.hold.grace[0] != "kill")
            self._ask_to_stop(job, job.hold, at_once)
        self.model.step.answers.append((client.link, PacketType.CANCEL, {code}))
        client.heard_at = self.model.now
        self.driver.cancel(client.link, cookie, at_once=at_once)

    def _ask_to_stop(self, job: Job, hold: Hold, at_once: bool) -> None:
        now = self.model.now
        if at_once:
            hold.grace = "kill", now + LIMITS.kill_grace_s
        elif not job.cancelling:
            hold.grace = "cancel", now + LIMITS.cancel_grace_s
        if at_once or not job.cancelling:
            self.model.step.stops[job.cookie] = at_once
        job.cancelling = True

    def _rest_s(self, worker: Worker) -> float:
        rest_ms = self.setting.json_slot_rest_ms
        if rest_ms is None:
            rest_ms = max(JSON_SLOT_REST_MS_MIN, JSON_SLOT_REST_MS_PER_SLOT * worker.capacity)
        return rest_ms / 1000

    def result(self, worker: Worker, cookie: bytes, code: int = Code.OK, *, attempt: int = 1, payload: bytes = b"2") -> None:
        """A worker sends RESULT: the right one, or not."""
        hold = worker.held.get(cookie)
        frame = packets.result(cookie, attempt, payload, ENCODING_JSON)
        if code != Code.OK:
            frame = encode(PacketType.RESULT, code=code, attempt=attempt, cookie=cookie, meta=packets.FAILED_META)
        if worker.is_json and code not in OUTCOMES:
            code = Code.EXCEPTION
        if hold is None or (attempt != 1 and not worker.is_json):
            self.model.dropped += 1
        else:
            self.model.let_go(worker, cookie, self._rest_s(worker))
            if hold.job is not None:
                self.model.over(hold.job, {Code(code) if code in OUTCOMES else Code.EXCEPTION}, self._content(frame, code))
        worker.heard_at = self.model.now
        if not worker.is_json:
            self.driver.send(worker.link, frame)
        elif code == Code.OK:
            self.driver.result(worker.link, cookie, payload)
        else:
            self.driver.fail(worker.link, cookie, Code(code), "failed")

    def _content(self, frame: bytes, code: int) -> Packet | None:
        """What the owner is to get: what the worker sent, where that was no failure in an existing worker's words."""
        return decode(frame) if code == Code.OK else None

    def drain_worker(self, worker: Worker) -> None:
        """A worker wants no more jobs."""
        if not worker.is_json:
            self.model.step.answers.append((worker.link, PacketType.DRAIN, {Code.OK}))
            worker.draining = worker.draining or worker.capacity > 0
            self._send(worker, packets.drain(3))

    # What makes no sense

    def garbage(self, end: End, choice: int) -> None:
        """A peer says what it should not; it is answered, or let go."""
        is_client = isinstance(end, Client)
        replies: list[tuple[bytes, int, Code]] = [
            (encode(99), 99, Code.UNSUPPORTED_PACKET_TYPE),
            (encode(PacketType.RESULT), PacketType.RESULT, Code.UNSUPPORTED_PACKET_TYPE),
            (packets.cancel(NO_COOKIE), PacketType.CANCEL, Code.BAD_PACKET),
            (encode(PacketType.RUN, cookie=b"k" * 16), PacketType.RUN, Code.BAD_PACKET),
        ]
        if not is_client:
            replies[1:] = [
                (encode(PacketType.RUN, cookie=b"k" * 16), PacketType.RUN, Code.UNSUPPORTED_PACKET_TYPE),
                (encode(PacketType.REGISTER, meta=b"\x80"), PacketType.REGISTER, Code.BAD_PACKET),
            ]
        closes = [
            (packets.hello(schemas.HelloMeta()), CloseReason.PROTOCOL_ERROR),
            (encode(PacketType.RUN if is_client else PacketType.REGISTER, meta=BAD_META), CloseReason.PROTOCOL_ERROR),
            (packets.goodbye(CloseReason.NORMAL, "bye"), CloseReason.NORMAL),
        ]
        if end.is_json:
            self._json_garbage(end, choice)
        elif choice % 3:
            frame, to, code = replies[choice % len(replies)]
            self.model.step.answers.append((end.link, to, {code}))
            self._send(end, frame)
        else:
            frame, reason = closes[choice // 3 % len(closes)]
            self.model.step.closes[end.link.number] = reason
            self._send(end, frame)

    def _json_garbage(self, end: End, choice: int) -> None:
        bodies = [
            (json_packet("SHUTDOWN"), UNKNOWN, Code.UNSUPPORTED_PACKET_TYPE),
            (b"{}", PacketType.RUN, Code.BAD_PACKET),
            (b'{"packet_type":"RUN","cookie":null}', PacketType.RUN, Code.BAD_PACKET),
        ]
        body, to, code = bodies[choice % len(bodies)]
        if isinstance(end, Client):
            self.model.step.answers.append((end.link, to, {code}))
        self.driver.send_json(end.link, body)

    def ping(self, end: End) -> None:
        """A peer asks whether anybody is there."""
        if not end.is_json:
            self.model.step.packets.append((end.link, PacketType.PONG))
            self._send(end, packets.ping(7))

    # Time and the broker

    def advance(self, seconds: float) -> None:
        """Time passes; every peer that is not silent answers PING."""
        while seconds > 0:
            self.model.waking = True
            self.driver.advance(min(seconds, SILENCE_SLICE_S))
            self._after_time()
            seconds -= SILENCE_SLICE_S

    def jump(self, seconds: float) -> None:
        """The broker stands still, then goes on."""
        board = self.driver.switchboard
        if board.timers.wake_at + 1.0 < self.model.now + seconds:
            self.model.lease_floor = self.model.now + seconds
        self.model.waking = True
        self.driver.jump(seconds)
        self._after_time()

    def _after_time(self) -> None:
        model = self.model
        model.waking = False
        pinged, model.pings = model.pings, []
        for link in pinged:
            end = model.end_of(link)
            if end is not None and not end.silent:
                self._send(end, packets.pong(0))
        for end in model.ends:
            if not (end.is_json or end.congested or end.greeting_until):
                silent_s = model.now - max(end.heard_at, model.lease_floor)
                require(silent_s < LIMITS.lease_s + 0.02, f"a peer lives on after {silent_s} s of silence")
            if end.greeting_until:
                require(end.greeting_until > model.now - 0.02, "a stranger lives on without HELLO")

    def drain(self) -> None:
        """The broker drains: jobs that wait are given back, workers finish."""
        model = self.model
        model.draining = True
        for job in [job for job in model.jobs.values() if job.hold is None]:
            model.over(job, {Code.BROKER_WENT_AWAY})
        for worker in model.workers:
            if worker.greeting_until is None:
                worker.draining = worker.capacity > 0
                model.step.packets.append((worker.link, PacketType.DRAIN))
        self.driver.drain()

    def finish(self) -> None:
        """Faults stop: every job reaches its outcome within a bound, and nothing is left behind."""
        model = self.model
        for end in model.ends:
            end.silent = False
            if end.congested:
                self.unblock(end)
        self._while(lambda: self.driver.admissions[:1], lambda admission: self.admit(*admission))
        for _ in range(LIMITS.backlog_jobs_max + 2 * LIMITS.client_jobs_max):
            if any(all(worker.draining for worker in model.candidates(job)) for job in model.waiting()):
                self.connect_worker(Dialect.BINARY, 4, ("*",))
            for worker in model.workers[:]:
                if worker.congested:
                    self.unblock(worker)
                for cookie in list(worker.held):
                    self.result(worker, cookie)
            self.advance(LIMITS.handshake_s / 4)
        board = self.driver.switchboard
        require(not model.jobs and board.jobs == 0 and board.waiting == 0, f"{board.jobs} jobs never ended")
        require(not any(worker.held or worker.rests for worker in model.workers), "a slot was never given back")
        clocked = sum(not end.is_json for end in model.ends)
        require(len(board.timers) == clocked, f"{len(board.timers)} timers run, and {clocked} connections have one")

    def _while(self, take: Callable[[], list[T]], work: Callable[[T], None]) -> None:
        while found := take():
            work(found[0])
