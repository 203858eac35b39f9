"""What a switchboard owes to whom: a model that knows the promises of the protocol, and none of the code that keeps them.

The model is told what each peer does before the switchboard is, and then looks at every packet that comes of it, in order: is there
a reason for this one, is it what it should be, and, at the end of the step, is anything missing? This file has what all promises
have in common; what a single feature promises is in `features/`, which add themselves here. All tables are kept up to date as things
happen, so that a step costs no more for there being many jobs.
"""

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import TypeAlias

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import REFUSALS, CloseReason, Code, Dialect, PacketType
from reasonchip_broker.protocol.json_v0 import to_binary
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.testing.simulation.kept import KeptOutcomes, Known
from reasonchip_broker.testing.simulation.records import (
    Alarm,
    BrokenPromise,
    Check,
    Client,
    End,
    Hold,
    Job,
    Kept,
    Key,
    Kind,
    Step,
    Worker,
    fires_at,
    kinds,
    require,
)
from reasonchip_broker.testing.switchboard_driver import FakeLink

Seeing: TypeAlias = tuple[FakeLink, Packet, bytes]
Seen: TypeAlias = Callable[[FakeLink, Packet, bytes], None]
Sends: TypeAlias = list[tuple[FakeLink, bytes]]
ONLY_OK = frozenset({Code.OK})
_RUN, _RESUME = PacketType.RUN, PacketType.RESUME

ENDS_BY_TIME = {"queue limit": Code.QUEUE_TIMEOUT}


class Model:
    """The tables, the present step, and what looks at each kind of packet."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.now = 0.0
        self.step = Step()
        self.waking = False
        """Whether this step is the switchboard's being woken: only then what is due may happen."""
        self.late_s = 0.0
        """For how long the broker stood still before this step."""
        self.orders = self.entries = 0
        self.orders_before = 0
        """How many jobs had begun to wait before this step."""
        self.over_before = 0
        """Jobs that reached their outcome in earlier runs of the broker."""
        self._alarm_count = 0
        # What features add.
        self.seen: dict[int, Seen] = {}
        self.when_early: dict[str, Callable[[Alarm], None]] = {}
        self.when_due: dict[str, Callable[[Alarm], None]] = {}
        self.on_left: list[Callable[[End], None]] = []
        self.on_worker_lost: list[Callable[[Worker, CloseReason], None]] = []
        self.on_closed: dict[int, Callable[[Close], None]] = {}
        self.on_result: list[Callable[[FakeLink, Kept, Packet], None]] = []
        self.in_order: Callable[[list[Seeing]], Iterable[Seeing]] = lambda runs: runs
        self.on_doom: Callable[[], None] = lambda: None
        self.on_woken: list[Callable[[], None]] = []
        self.on_settle: list[Callable[[], None]] = []
        self.on_let_go: Callable[[Hold], None] = lambda hold: None
        self.begin()

    def begin(self) -> None:
        """A run of the broker begins: nobody is there, and nothing is known."""
        self.draining = False
        self.ends: dict[int, End] = {}
        """Every live connection, by its name in operations."""
        self.by_link: dict[int, End] = {}
        self.clients: dict[int, Client] = {}
        self.workers: dict[int, Worker] = {}
        self.jobs: dict[bytes, Job] = {}
        self.reserved: dict[bytes, int] = {}
        """How many workers hold a job of a cookie that is over, or an attempt that is."""
        self.outcomes = KeptOutcomes(self.limits)
        self.kinds = kinds()
        self.kind_of = {(kind.pipeline, kind.as_json, kind.need): kind for kind in self.kinds}
        self.all_special = False
        """Whether no job is predicted to have, or not to have, a free slot."""
        self.keys: dict[tuple[str, str], Key] = {}
        """Fairness keys with a name, by principal and name."""
        self.scheduled: dict[bytes, Job] = {}
        """Jobs whose time has not come."""
        self.waiting = 0
        self.waiting_mask = 0
        """The bits of all kinds that have a job waiting."""
        self.ended = 0
        self.dropped = 0
        self.due: list[Alarm] = []
        """What must happen in this wake-up."""
        self._alarms: list[tuple[float, int, Alarm]] = []

    # Who is there

    def join(self, end: End) -> None:
        """A connection is there."""
        self.ends[end.id] = self.by_link[end.link.number] = end
        if isinstance(end, Client):
            self.clients[end.id] = end
        elif isinstance(end, Worker):
            self.workers[end.id] = end

    def lost(self, link: FakeLink, reason: CloseReason) -> None:
        """A connection is gone, and with it whatever depends on it."""
        end = self.by_link.pop(link.number, None)
        if end is None:
            return
        del self.ends[end.id]
        if isinstance(end, Client):
            del self.clients[end.id]
        elif isinstance(end, Worker):
            del self.workers[end.id]
        for left in self.on_left:
            left(end)
        if isinstance(end, Worker):
            for worker_lost in self.on_worker_lost:
                worker_lost(end, reason)

    @property
    def is_quiet(self) -> bool:
        """Whether every job is over, and every slot free."""
        return not (self.jobs or self.reserved or any(worker.held or worker.rests for worker in self.workers.values()))

    def candidates(self, kind: Kind) -> list[Worker]:
        """The workers that serve a kind of job."""
        return [worker for worker in self.workers.values() if worker.mask & kind.bit]

    # Jobs

    def enter(self, job: Job) -> None:
        """A RUN became a job."""
        self.entries += 1
        job.entered = self.entries
        job.taken_at = self.now
        self.jobs[job.cookie] = job
        job.counted.unfinished += 1
        job.counted.jobs[job.cookie] = job

    def wait(self, job: Job) -> None:
        """A job waits for a slot, behind all that wait already."""
        self.orders += 1
        job.order = self.orders
        job.waits = True
        job.waits_since = self.now
        job.kind.queue[job.cookie] = job
        self.waiting += 1
        if not self.is_special(job):
            self.waiting_mask |= job.kind.bit
        if job.options.qlim:
            job.alarms["queue limit"] = self.alarm("queue limit", job, self.now + job.options.qlim / 1000)

    def wait_no_more(self, job: Job) -> None:
        """A job waits no longer, whatever the reason."""
        if job.waits:
            job.waits = False
            kind = job.kind
            del kind.queue[job.cookie]
            self.waiting -= 1
            if not kind.queue:
                self.waiting_mask &= ~kind.bit
            if job.options.qlim:
                job.alarms.pop("queue limit").live = False

    def is_special(self, job: Job) -> bool:
        """Whether a job may have more to wait for than a free slot."""
        return self.all_special or bool(job.kind.limits or job.options.aff)

    def recount(self) -> None:
        """What is special is other jobs than before."""
        kinds = self.kinds
        self.waiting_mask = sum(kind.bit for kind in kinds if any(not self.is_special(job) for job in kind.queue.values()))

    def oldest_for(self, worker: Worker) -> list[Job]:
        """The jobs that wait and that a worker serves, oldest first."""
        jobs = [job for kind in self.kinds if worker.mask & kind.bit for job in kind.queue.values()]
        return sorted(jobs, key=lambda job: job.order)

    def forget(self, job: Job) -> None:
        """There is no such job (any more)."""
        del self.jobs[job.cookie]
        self.scheduled.pop(job.cookie, None)
        self.wait_no_more(job)
        job.counted.unfinished -= 1
        if job.owner is not None:
            job.owner.jobs.pop(job.cookie, None)
        for follow in job.followers.values():
            follow.end.jobs.pop(job.cookie, None)
        if job.deadline is not None:
            job.deadline.live = False
        for alarm in job.alarms.values():
            alarm.live = False
        if job.parent is not None:
            job.parent.children.pop(job.cookie, None)

    def over(self, job: Job, codes: frozenset[Code], content: Packet | None = None) -> None:
        """A job reaches its outcome in this step; all who wait are to hear of it. A slot that it still has is withheld."""
        self.forget(job)
        self.ended += 1
        self.step.ended[job.cookie] = job
        listeners = [end for end in job.listeners() if end.id in self.ends]
        kept = Kept(job, codes, content)
        for end in listeners:
            self.step.outcomes[end.link.number, job.cookie] = kept
        if job.owner is None or not job.owner.is_json or job.owner not in listeners:
            if job.owner is not None and job.owner not in listeners:
                kept.is_unheard = True
                job.owner.unheard += 1
            self.keep(kept)
        hold = job.hold
        if hold is not None:
            self.abandon(hold)
        if codes != ONLY_OK:
            self.disown(job)
        else:
            for child in job.children.values():
                child.parent = None

    def disown(self, job: Job) -> None:
        """A job is over without success, or its attempt is: its children go with it."""
        for child in job.children.values():
            child.parent = None
            if not child.options.loose:
                self.step.doomed.append(child)
        job.children = {}

    # Slots

    def hold(self, worker: Worker, job: Job) -> Hold:
        """A worker was given a job."""
        hold = job.hold = worker.held[job.cookie] = Hold(worker, job, job.cookie, job.attempt)
        return hold

    def abandon(self, hold: Hold) -> None:
        """A worker holds an attempt that counts for nothing any more; its slot is taken until it reports."""
        if hold.job is not None:
            hold.job.hold = None
            hold.job = None
            if hold.limit is not None:
                hold.limit.live = False
            if hold in hold.worker.resuming:
                hold.worker.resuming.remove(hold)
            self.reserved[hold.cookie] = self.reserved.get(hold.cookie, 0) + 1

    def let_go(self, hold: Hold) -> None:
        """A worker has no more to do with a job."""
        worker = hold.worker
        self.on_let_go(hold)
        del worker.held[hold.cookie]
        worker.lent -= hold.lent
        if hold in worker.resuming:
            worker.resuming.remove(hold)
        for alarm in (hold.grace, hold.limit):
            if alarm is not None:
                alarm.live = False
        if hold.job is not None:
            hold.job.hold = None
            return
        left = self.reserved.pop(hold.cookie) - 1
        if left:
            self.reserved[hold.cookie] = left
        else:
            self.may_go_on(hold.cookie)

    def may_go_on(self, cookie: bytes) -> None:
        """A job between two attempts, or whose time has come, goes on, unless it is not time yet or somebody has not let go of an
        earlier one."""
        job = self.jobs.get(cookie)
        if job is None or job.hold is not None or job.waits or cookie in self.reserved:
            return
        if not job.admitting and "backoff" not in job.alarms and cookie not in self.scheduled:
            self.wait(job)

    # Outcomes that are kept

    def keep(self, kept: Kept) -> None:
        """An outcome can be fetched from now on, or at least its cookie is known."""
        self.outcomes.keep(kept, self.now)

    def spend(self, kept: Kept) -> None:
        """An outcome is acknowledged: its cookie is known until its retention ends, and perhaps for a while after that."""
        self.outcomes.spend(kept)

    def known(self, cookie: bytes) -> tuple[Known, Kept | None]:
        """What is known of a job that is over."""
        return self.outcomes.known(cookie, self.now)

    # Time

    def alarm(self, kind: str, subject: object, due: float) -> Alarm:
        """Something must happen by itself at a time."""
        return self._set(Alarm(kind, subject, due, 0.0))

    def grace(self, kind: str, subject: object, grace_s: float) -> Alarm:
        """The same, after a time in which a peer may come back."""
        return self._set(Alarm(kind, subject, self.now + grace_s, grace_s))

    def _set(self, alarm: Alarm) -> Alarm:
        self._alarm_count += 1
        heappush(self._alarms, (alarm.fires, self._alarm_count, alarm))
        return alarm

    def _take_due(self) -> None:
        """What makes jobs wait or slots free happens first, the rest once it was seen what came of that."""
        alarms = self._alarms
        while alarms and alarms[0][0] <= self.now:
            alarm = heappop(alarms)[2]
            if alarm.live and self.late_s and alarm.grace_s:
                # While the broker stood still nobody could come back: they have that time yet, but no more than from the beginning.
                alarm.fires = fires_at(self.now + min(self.late_s, alarm.grace_s))
                self._set(alarm)
            elif alarm.live:
                early = self.when_early.get(alarm.kind)
                if early is None:
                    self.due.append(alarm)
                else:
                    alarm.live = False
                    early(alarm)
        for woken in self.on_woken:
            woken()

    def is_due(self, alarm: Alarm | None) -> bool:
        """Whether it happens in this step."""
        return alarm is not None and self.waking and alarm.live and alarm.fires <= self.now

    def time_explains(self, job: Job) -> set[Code]:
        """With which codes time may end a job in this step."""
        codes: set[Code] = set()
        if self.waking:
            if self.is_due(job.deadline):
                codes.add(Code.DEADLINE_EXCEEDED)
            for alarm in job.alarms.values():
                if self.is_due(alarm):
                    codes.add(ENDS_BY_TIME.get(alarm.kind, Code.CANCELLED))
            hold = job.hold
            if hold is not None and self.is_due(hold.limit):
                codes.add(Code.DEADLINE_EXCEEDED)
            if hold is not None and self.is_due(hold.grace):
                codes.add(Code.CANCELLED)
        return codes

    # What is seen

    def observe(self, sends: Sends, closes: list[Close]) -> None:
        """Account for everything that a step did. Raises BrokenPromise."""
        if self.waking:
            self._take_due()
        for close in closes:
            self._saw_close(close)
        later: list[Seeing] = []
        runs: list[Seeing] = []
        for link, frame in sends:
            packet = decode(to_binary(frame, 1))
            if packet.kind == _RESUME:
                self.seen[_RESUME](link, packet, frame)
            else:
                (runs if packet.kind == _RUN else later).append((link, packet, frame))
        if runs:
            saw_run = self.seen[_RUN]
            for link, packet, frame in runs if len(runs) == 1 else self.in_order(runs):
                saw_run(link, packet, frame)
        for alarm in self.due:
            if alarm.live:
                alarm.live = False
                self.when_due[alarm.kind](alarm)
        self.due.clear()
        if self.step.doomed:
            self.on_doom()
        for link, packet, frame in later:
            seen = self.seen.get(packet.kind)
            if seen is None:
                self._saw_other(link, packet)
            else:
                seen(link, packet, frame)
        self._settle()

    def _saw_close(self, close: Close) -> None:
        seen = self.on_closed.get(close.reason)
        if seen is not None:
            seen(close)
        else:
            expected = self.step.closes.pop(close.link.number, None)
            if close.reason != expected:
                raise BrokenPromise(f"link {close.link.number} was closed: {close.reason.name}, {close.sentence}")
        self.lost(close.link, close.reason)

    def _saw_other(self, link: FakeLink, packet: Packet) -> None:
        for owed in self.step.packets:
            if owed[0] is link and owed[1] == packet.kind:
                self.step.packets.remove(owed)
                if owed[2] is not None:
                    owed[2](packet)
                return
        raise BrokenPromise(f"link {link.number} was sent packet {packet.kind} for no reason")

    def expect(self, end: End, kind: int, check: Check | None = None) -> None:
        """A packet is to be sent in this step."""
        self.step.packets.append((end.link, kind, check))

    def answer(self, end: End, to: int, codes: frozenset[Code], check: Check | None = None) -> None:
        """A request is to be answered in this step, with one of some codes."""
        self.step.answers.append((end.link, to, codes, check))

    def turn_away(self, job: Job, codes: frozenset[Code]) -> None:
        """A job is none after all: whoever follows it is to be told in this step, as its owner is."""
        self.forget(job)
        self.disown(job)
        for follow in job.followers.values():
            if follow.end is not job.counted and follow.end.id in self.ends:
                self.answer(follow.end, PacketType.RUN, codes)

    def saw_reply(self, link: FakeLink, packet: Packet, _: bytes) -> None:
        """A REPLY answers a request of its connection."""
        to = schemas.reply_meta(packet.meta).to
        wrong: frozenset[Code] | None = None
        for answer in self.step.answers:
            if answer[0] is link and answer[1] == to:
                if packet.code not in answer[2]:
                    wrong = answer[2]
                    continue
                self.step.answers.remove(answer)
                if answer[3] is not None:
                    answer[3](packet)
                doubtful = self.step.doubtful
                if doubtful is not None and packet.code in REFUSALS:
                    self.step.doubtful = None
                    self.turn_away(doubtful, frozenset({Code(packet.code)}))
                    self.on_doom()
                return
        if self.waking and link.number not in self.by_link:
            return  # its lease ended in this very step
        if wrong is not None:
            raise BrokenPromise(f"answered {Code(packet.code).name}, and not {names(wrong)}")
        raise BrokenPromise(f"link {link.number} got a REPLY {Code(packet.code).name} to a request {to} that it did not send")

    def saw_result(self, link: FakeLink, packet: Packet, _: bytes) -> None:
        """A RESULT is the one outcome of a job, and goes to whom it belongs."""
        cookie = packet.cookie
        kept = self.step.outcomes.pop((link.number, cookie), None)
        if kept is None:
            if self.waking and link.number not in self.by_link and cookie in self.step.ended:
                return  # its lease ended in this very step, after the job
            raise BrokenPromise(
                f"a RESULT {Code(packet.code).name} of {cookie!r} to link {link.number}: not its owner's, for no reason, or again"
            )
        if packet.code not in kept.codes:
            raise BrokenPromise(f"the outcome of {cookie!r} is {Code(packet.code).name}, and not {names(kept.codes)}")
        content = kept.content
        if content is None:
            if link.dialect == Dialect.BINARY:
                kept.content, kept.codes = packet, frozenset({Code(packet.code)})
        else:
            require((packet.meta, packet.payload) == (content.meta, content.payload), "a RESULT changed on its way")
            require(packet.attempt == content.attempt or link.dialect == Dialect.JSON, "an outcome without its attempt")
        end = self.by_link.get(link.number)
        if end is not None and not end.is_json:
            end.results.append(kept)
            self.outcomes.changed = True
        for saw_outcome in self.on_result:
            saw_outcome(link, kept, packet)

    # What is missing

    def _settle(self) -> None:
        """At the end of a step nothing that was due is missing."""
        for settle in self.on_settle:
            settle()
        step = self.step
        if step.answers and not step.may_be_unanswered:
            raise BrokenPromise(f"no answer to {[(link.number, to, names(codes)) for link, to, codes, _ in step.answers]}")
        if step.outcomes or step.stops or step.packets or step.closes:
            missing = [f"the outcome {names(kept.codes)} of {key[1]!r}" for key, kept in step.outcomes.items()]
            missing += [f"the CANCEL of {cookie!r}" for _, cookie in step.stops]
            missing += [f"{PacketType(kind).name} to link {link.number}" for link, kind, _ in step.packets]
            missing += [f"the close of link {number}: {reason.name}" for number, reason in step.closes.items()]
            raise BrokenPromise("missing: " + ", ".join(missing))
        if self.outcomes.changed:
            self.outcomes.settle(self.ends.values(), self.now)
        self.orders_before = self.orders
        step.clear()


def names(codes: frozenset[Code]) -> str:
    """Codes for people, always in the same order."""
    return "/".join(code.name for code in sorted(codes))
