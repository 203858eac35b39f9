"""What a switchboard owes to whom: a model that knows the promises of the protocol, and none of the code that keeps them.

The model is told what each peer does before the switchboard is, and then looks at every packet that comes of it, in order: is there
a reason for this one, is it what it should be, and, at the end of the step, is anything missing? It holds, of the invariants in the
design, 1 (one outcome), 2 and 3 (slots), 5 (by the driver), 6 (outcomes for the owner alone), 7 (the holder ends a job), 9 (a job
runs at most once, and not after it was cancelled), 11 (no free slot beside a waiting job) and 13 (one cookie, one live job).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from reasonchip_broker.limits import TIMER_TICK_S
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import REFUSALS, CloseReason, Code, Dialect, PacketType
from reasonchip_broker.protocol.json_v0 import to_binary
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver


class BrokenPromise(Exception):
    """The switchboard did what it should not, or did not what it should."""


def require(kept: bool, broken: str) -> None:
    """Say what is wrong if it is."""
    if not kept:
        raise BrokenPromise(broken)


def fires_at(due: float) -> float:
    """When a timer that is due then goes off: at the end of the tick that it is due in, which is always later."""
    tick = int(due / TIMER_TICK_S) + 1
    # Division rounds, and may have put a time at the very end of a tick into that tick, instead of into the next one.
    return (tick + (tick * TIMER_TICK_S <= due)) * TIMER_TICK_S


@dataclass(eq=False)
class End:
    """A live connection. `silent` ones do not answer PING."""

    link: FakeLink
    heard_at: float
    greeting_until: float | None = None
    silent: bool = False
    congested: bool = False

    @property
    def is_json(self) -> bool:
        return self.link.dialect == Dialect.JSON


@dataclass(eq=False)
class Client(End):
    principal: str = ""
    queues: bool = True
    jobs: "dict[bytes, Job]" = field(default_factory=dict)


@dataclass(eq=False)
class Worker(End):
    """`capacity` is 0 until it has registered; `rests` are the times at which resting slots are free again."""

    capacity: int = 0
    serves: tuple[str, ...] = ()
    held: "dict[bytes, Hold]" = field(default_factory=dict)
    rests: list[float] = field(default_factory=list)
    draining: bool = False

    @property
    def free(self) -> int:
        return 0 if self.draining or self.congested else self.capacity - len(self.held) - len(self.rests)

    @property
    def load(self) -> float:
        return (len(self.held) + len(self.rests)) / self.capacity

    def takes(self, pipeline: str, as_json: bool) -> bool:
        return any(fnmatchcase(pipeline, pattern) for pattern in self.serves) and (as_json or not self.is_json)


@dataclass(eq=False)
class Job:
    """A job that is not over. `hold` is its slot; `order` its place among those that wait; its RUN came as `frame` or JSON `body`."""

    cookie: bytes
    pipeline: str
    as_json: bool
    variables: bytes
    owner: Client | None
    principal: str
    order: int = 0
    deadline: float | None = None
    frame: bytes | None = None
    body: bytes = b""
    hold: "Hold | None" = None
    admitting: bool = False
    admission: int = 0
    cancelling: bool = False
    runs: int = 0
    wants_reply: bool = False
    may_wait: bool = True
    requester: Client | None = None

    @property
    def waits(self) -> bool:
        return self.hold is None and not self.admitting


@dataclass(eq=False)
class Hold:
    """A job's slot; `job` is None once the job is over and the slot withheld. `grace` is what runs since a CANCEL, and until when."""

    worker: Worker
    job: Job | None
    grace: tuple[str, float] | None = None


@dataclass
class Step:
    """What is expected of the present step, and not seen yet."""

    answers: list[tuple[FakeLink, int, set[Code]]] = field(default_factory=list)
    outcomes: dict[bytes, tuple[FakeLink, set[Code], Packet | None]] = field(default_factory=dict)
    packets: list[tuple[FakeLink, int]] = field(default_factory=list)
    stops: dict[bytes, bool] = field(default_factory=dict)
    closes: dict[int, CloseReason] = field(default_factory=dict)
    arrived: Job | None = None
    """The job that may go to a free slot at once."""
    doubtful: Job | None = None
    """A job that may be queued or refused, as the answer says."""
    may_be_unanswered: bool = False
    overdue: list[Job] = field(default_factory=list)
    sent_bytes: dict[int, int] = field(default_factory=dict)


class Model:
    """Looks at every step of a driver. `json_cancel` and the limits are the switchboard's settings."""

    def __init__(self, driver: SwitchboardDriver, *, json_cancel: bool) -> None:
        self.driver = driver
        self.limits = driver.limits
        self.json_cancel = json_cancel
        self.clients: list[Client] = []
        self.workers: list[Worker] = []
        self.jobs: dict[bytes, Job] = {}
        self.step = Step()
        self.draining = False
        self.waking = False
        self.lease_floor = 0.0
        self.pings: list[FakeLink] = []
        self.ended = 0
        self.dropped = 0
        driver.on_step = self.observe

    # What is so

    @property
    def now(self) -> float:
        return self.driver.clock.now

    @property
    def ends(self) -> list[End]:
        return [*self.clients, *self.workers]

    def end_of(self, link: FakeLink) -> End | None:
        return next((end for end in self.ends if end.link is link), None)

    def waiting(self) -> list[Job]:
        """The jobs that wait, oldest first."""
        return sorted((job for job in self.jobs.values() if job.waits), key=lambda job: job.order)

    def candidates(self, job: Job) -> list[Worker]:
        """The workers that serve a job."""
        return [worker for worker in self.workers if worker.takes(job.pipeline, job.as_json)]

    def is_reserved(self, cookie: bytes) -> bool:
        return any(cookie in worker.held for worker in self.workers)

    # What comes to an end

    def over(self, job: Job, codes: set[Code], content: Packet | None = None) -> None:
        """A job reaches its outcome in this step; its owner is to hear of it."""
        del self.jobs[job.cookie]
        self.ended += 1
        if job.owner is not None:
            del job.owner.jobs[job.cookie]
            self.step.outcomes[job.cookie] = job.owner.link, codes, content
        if job.hold is not None:
            job.hold.job = None

    def forget(self, job: Job) -> None:
        """A job was refused: there never was one."""
        del self.jobs[job.cookie]
        if job.owner is not None:
            del job.owner.jobs[job.cookie]

    def lost(self, link: FakeLink) -> None:
        """A connection is gone."""
        end = self.end_of(link)
        if isinstance(end, Client):
            self.clients.remove(end)
            for job in end.jobs.values():
                job.owner = None
        elif isinstance(end, Worker):
            self.workers.remove(end)
            for hold in end.held.values():
                if hold.job is not None:
                    job = hold.job
                    codes = {Code.CANCELLED if job.cancelling else Code.WORKER_WENT_AWAY}
                    # A job whose time is up at the very moment of the loss may end for either reason.
                    codes |= {Code.DEADLINE_EXCEEDED} if job in self.step.overdue else set()
                    codes |= {Code.CANCELLED} if self._grace_over(hold) else set()
                    self.over(job, codes)

    def _grace_over(self, hold: Hold) -> bool:
        return self.waking and hold.grace is not None and fires_at(hold.grace[1]) <= self.now

    def let_go(self, worker: Worker, cookie: bytes, rest_s: float) -> None:
        """A worker reported a job: its slot is free, or rests."""
        del worker.held[cookie]
        if worker.is_json and worker.capacity > 1 and rest_s > 0:
            worker.rests.append(self.now + rest_s)

    # What is seen

    def observe(self, sends: list[tuple[FakeLink, bytes]], closes: list[Close]) -> None:
        """Account for everything that a step did."""
        if self.waking:
            self.step.overdue = [job for job in self.jobs.values() if job.deadline and fires_at(job.deadline) <= self.now]
        for close in closes:
            self._saw_close(close)
        for link, frame in self._merged(sends):
            self._saw(link, frame)
        self._settle()
        self.step = Step()

    def _merged(self, sends: list[tuple[FakeLink, bytes]]) -> Iterator[tuple[FakeLink, bytes]]:
        """Each connection's frames in their order. What went to two of them in one step has none, so it is read in one that makes
        sense: outcomes last (a job may be dispatched and be over in one step), of the rest that of older jobs first."""
        queues: dict[int, deque[tuple[FakeLink, bytes]]] = {}
        for link, frame in sends:
            queues.setdefault(link.number, deque()).append((link, frame))

        def turn(queue: deque[tuple[FakeLink, bytes]]) -> tuple[bool, int]:
            packet = decode(to_binary(queue[0][1], 1))
            job = self.jobs.get(packet.cookie) if packet.kind == PacketType.RUN else None
            return packet.kind == PacketType.RESULT, job.order if job is not None else -1

        while waiting := [queue for queue in queues.values() if queue]:
            yield min(waiting, key=turn).popleft()

    def _saw_close(self, close: Close) -> None:
        link = close.link
        if close.reason == CloseReason.HEARTBEAT_TIMEOUT:
            end = self.end_of(link)
            require(end is not None and not end.congested, "a congested peer was expired")
            if end is not None:
                silent_s = self.now - max(end.heard_at, self.lease_floor)
                require(silent_s >= self.limits.lease_s, f"a peer was expired after {silent_s} s of silence")
        elif close.reason == CloseReason.HANDSHAKE_TIMEOUT:
            end = self.end_of(link)
            due = end.greeting_until if end is not None else None
            require(due is not None and fires_at(due) <= self.now, "a handshake was cut short")
        else:
            expected = self.step.closes.pop(link.number, None)
            require(close.reason == expected, f"link {link.number} was closed: {close.reason.name}, {close.sentence}")
        self.lost(link)

    def _saw(self, link: FakeLink, frame: bytes) -> None:
        packet = decode(to_binary(frame, 1))
        kind = packet.kind
        if kind == PacketType.RESULT:
            self._saw_result(link, packet)
        elif kind == PacketType.RUN:
            self._saw_run(link, packet, frame)
        elif kind == PacketType.REPLY:
            self._saw_reply(link, packet)
        elif kind == PacketType.CANCEL:
            self._saw_cancel(link, packet)
        elif kind == PacketType.PING and self.waking:
            end = self.end_of(link)
            require(end is None or self.now - end.heard_at >= self.limits.heartbeat_s, "a PING without need")
            self.pings.append(link)
        else:
            require((link, kind) in self.step.packets, f"link {link.number} was sent packet {kind} for no reason")
            self.step.packets.remove((link, kind))

    def _saw_reply(self, link: FakeLink, packet: Packet) -> None:
        to = schemas.reply_meta(packet.meta).to
        for answer in self.step.answers:
            if answer[0] is link and answer[1] == to:
                require(packet.code in answer[2], f"answered {Code(packet.code).name}, and not {answer[2]}")
                self.step.answers.remove(answer)
                if self.step.doubtful is not None and packet.code in REFUSALS:
                    self.forget(self.step.doubtful)
                return
        raise BrokenPromise(f"link {link.number} got a REPLY {Code(packet.code).name} to a request {to} that it did not send")

    def _saw_result(self, link: FakeLink, packet: Packet) -> None:
        cookie = packet.cookie
        job = self.jobs.get(cookie)
        if cookie not in self.step.outcomes and job is not None and self.waking:
            self._time_is_up(job, Code(packet.code))
        require(cookie in self.step.outcomes, f"a RESULT {Code(packet.code).name} of {cookie!r} for no reason, or a second one")
        owner, codes, content = self.step.outcomes.pop(cookie)
        require(link is owner, f"the outcome of {cookie!r} went to link {link.number}, which is not its owner's")
        require(packet.code in codes, f"the outcome of {cookie!r} is {Code(packet.code).name}, and not {codes}")
        if content is not None:
            require((packet.meta, packet.payload) == (content.meta, content.payload), "a RESULT changed on its way")
            require(packet.attempt == 1 or link.dialect == Dialect.JSON, "an outcome without its attempt")

    def _time_is_up(self, job: Job, code: Code) -> None:
        """An outcome that nothing but time explains."""
        hold = job.hold
        if code == Code.DEADLINE_EXCEEDED and job in self.step.overdue:
            self._deadline_over(job)
        elif code == Code.CANCELLED and hold is not None and hold.grace is not None and hold.grace[0] == "kill":
            require(self._grace_over(hold), "a job was given up before the kill grace was over")
            hold.grace = None
            self.over(job, {code})

    def _deadline_over(self, job: Job) -> None:
        self.step.overdue.remove(job)
        hold = job.hold
        self.over(job, {Code.DEADLINE_EXCEEDED})
        if hold is not None and not job.cancelling and (not hold.worker.is_json or self.json_cancel):
            self.step.stops[job.cookie] = False
            hold.grace = "cancel", self.now + self.limits.cancel_grace_s

    def _saw_cancel(self, link: FakeLink, packet: Packet) -> None:
        cookie = packet.cookie
        worker = self.end_of(link)
        if worker is None and self.waking:
            return  # its lease ended in this very step
        require(isinstance(worker, Worker) and cookie in worker.held, f"CANCEL of {cookie!r} to one who does not hold it")
        require(packet.attempt == 1, "CANCEL without the attempt")
        if isinstance(worker, Worker):
            require(not worker.is_json or self.json_cancel, "CANCEL to a JSON worker")
            hold = worker.held[cookie]
            if cookie not in self.step.stops and hold.job in self.step.overdue and hold.job is not None:
                self._deadline_over(hold.job)
            if cookie not in self.step.stops:
                require(hold.grace is not None and hold.grace[0] == "cancel" and self._grace_over(hold), "CANCEL for no reason")
                self.step.stops[cookie] = True
                hold.grace = "kill", self.now + self.limits.kill_grace_s
        at_once = self.step.stops.pop(cookie)
        require(schemas.cancel_meta(packet.meta).now == at_once, f"CANCEL at once: {not at_once}")

    def _saw_run(self, link: FakeLink, packet: Packet, frame: bytes) -> None:
        job = self.jobs.get(packet.cookie)
        worker = self.end_of(link)
        if not isinstance(worker, Worker) or job is None:
            raise BrokenPromise(f"{packet.cookie!r}, which is no live job, was sent to link {link.number}")
        require(job.hold is None and job.runs == 0 and not job.admitting, f"{job.cookie!r} was dispatched a second time")
        require(packet.attempt == 1, f"the first attempt says that it is the {packet.attempt}th")
        require(worker.takes(job.pipeline, job.as_json), f"{job.pipeline!r} was sent to a worker that does not serve it")
        self._wake_rested(worker)
        require(worker.free > 0, f"a worker with {worker.capacity} slots has none free, and got one more job")
        if job is self.step.arrived:
            least = min(other.load for other in self.candidates(job) if other.free > 0)
            require(worker.load <= least + 1 / 64, f"a worker with load {worker.load} got a job, and one with {least} did not")
        else:
            jobs = (other for other in self.waiting() if worker.takes(other.pipeline, other.as_json))
            oldest = next(other for other in jobs if other is job or other not in self.step.overdue)
            require(job is oldest, f"{job.cookie!r} overtook {oldest.cookie!r}")
        self._check_content(job, packet, frame)
        job.runs += 1
        job.hold = worker.held[job.cookie] = Hold(worker, job)
        size = len(job.frame) if job.frame is not None else 4 + len(job.body)
        self.step.sent_bytes[link.number] = self.step.sent_bytes.get(link.number, 0) + size

    def _wake_rested(self, worker: Worker) -> None:
        for due in worker.rests[:]:
            if self.waking and fires_at(due) <= self.now:
                worker.rests.remove(due)

    def _check_content(self, job: Job, packet: Packet, frame: bytes) -> None:
        require(packet.payload == job.variables, "the variables changed on their way")
        require(schemas.run_options(packet.meta).p == job.pipeline, "the pipeline changed on its way")
        if job.deadline is not None:
            left_ms = (job.deadline - self.now) * 1000
            require(max(0, left_ms - 1) <= packet.number <= max(1, left_ms), f"{packet.number} ms told, {left_ms} ms left")
        elif job.frame is not None:
            require(frame == job.frame, "a frame that could go on unchanged was changed")

    # What is missing

    def _settle(self) -> None:
        """At the end of a step nothing that was due is missing."""
        for worker in self.workers:
            self._wake_rested(worker)
            asked = worker.link.wants_writable and not worker.congested
            if asked and self.step.sent_bytes.get(worker.link.number, 0) >= self.limits.outbox_bytes_mark:
                worker.congested = True
            for hold in worker.held.values():
                self._settle_grace(hold)
        for job in [job for job in self.step.overdue if job.cookie in self.jobs]:
            require(job.owner is None, f"the deadline of {job.cookie!r} passed without an outcome")
            self._deadline_over(job)
        step = self.step
        missing = [(link.number, to, codes) for link, to, codes in step.answers]
        require(step.may_be_unanswered or not missing, f"no answer to {missing}")
        require(not step.outcomes, f"no outcome for {step.outcomes.keys()}")
        require(not step.stops, f"no CANCEL of {step.stops.keys()}")
        require(not step.packets and not step.closes, f"missing: {[kind for _, kind in step.packets]}, {step.closes}")
        self._check_totals()

    def _settle_grace(self, hold: Hold) -> None:
        if self._grace_over(hold) and hold.grace is not None:
            require(hold.grace[0] == "kill", "the cancel grace passed without a second CANCEL")
            hold.grace = None
            if hold.job is not None:
                require(hold.job.owner is None, "the kill grace passed without an outcome")
                self.over(hold.job, set())

    def _check_totals(self) -> None:
        board = self.driver.switchboard
        waiting = self.waiting()
        for job in waiting:
            for worker in self.candidates(job):
                require(worker.free <= 0, f"{job.cookie!r} waits beside {worker.free} free slots")
        require(board.jobs == len(self.jobs), f"{board.jobs} jobs live, and {len(self.jobs)} should")
        require(board.waiting == len(waiting), f"{board.waiting} jobs wait, and {len(waiting)} should")
        require(board.counters.finished == self.ended, f"{board.counters.finished} jobs ended, and {self.ended} should")
        require(board.counters.results_dropped == self.dropped, "a RESULT was dropped that counted, or the other way round")
        for worker in self.workers:
            require(len(worker.held) + len(worker.rests) <= worker.capacity, "more slots taken than there are")
        if self.driver.steps is None or len(self.driver.steps) % 16 == 0:
            for as_json in (False, True):
                free = sum(worker.free for worker in self.workers if worker.takes("p.a", as_json))
                require(board.free_slots("p.a", as_json=as_json) == free, "free slots are miscounted")
