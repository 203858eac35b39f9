"""Outcomes that are kept, and following jobs: ACK, ATTACH, STATUS, and a RUN that comes again.

What must be seen: an outcome can be fetched until it is acknowledged or its retention ends, and not for ever after; a cookie that is
known never runs a second job; every follower gets one RESULT; where a job is told truly; and another principal's job looks like one
that does not exist.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code, JobState, PacketType
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.scheduling import Scheduling
from reasonchip_broker.testing.simulation.features.streams import Streams
from reasonchip_broker.testing.simulation.kept import Known
from reasonchip_broker.testing.simulation.records import End, Follow, Job, Kept, Worker, require

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

FIRSTS = (0, 0, 1, 1, 2, 5, 100)
NOT_FOUND, GONE, OK = frozenset({Code.COOKIE_NOT_FOUND}), frozenset({Code.OUTCOME_GONE}), frozenset({Code.OK})
BROKER_WENT_AWAY = frozenset({Code.BROKER_WENT_AWAY})

Operation = tuple[object, ...]


class Outcomes(Feature):
    """Who may know what of a job, while it lives and after."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._streams = world.find(Streams)
        self._scheduling = world.find(Scheduling)

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"ack": self.ack, "attach": self.attach, "status": self.status}

    # ACK

    def ack(self, id: int, back: int = 0) -> None:
        """A client has received all RESULTs that it was sent, or all but the last few; with `back` under 0 it lies."""
        model, end = self.model, self.world.speaker(id)
        if end is None or end.is_json:
            return
        total = len(end.results) - back
        if total < 0:
            return
        if end.acknowledged <= total <= len(end.results):
            # What its own requests led to in this very read may have been at the expense of what it acknowledges only now.
            model.outcomes.settle_all()
            model.outcomes.settle_client(end, sum(number == end.link.number for number, _ in model.step.outcomes))
            for kept in end.results[end.acknowledged : total]:
                # Of one that another connection owns, or owned, only the owner's word counts.
                if kept.owner is end and model.outcomes.is_kept(kept, model.now):
                    model.spend(kept)
            end.acknowledged = total
        self.world.send(end, packets.ack(total))

    # ATTACH

    def attach(self, id: int, cookie: bytes, first: int = 0, take: bool = True) -> None:
        """A connection attaches to a job: to follow it, to take it over, to fetch its outcome."""
        model, end = self.model, self.world.speaker(id)
        known, kept = model.known(cookie)
        if end is None or end.is_json or known is Known.PERHAPS:
            return
        job = model.jobs.get(cookie)
        if job is not None and self.world.may(end, job):
            model.answer(end, PacketType.ATTACH, OK, self._check_job(job))
            self.follow(job, end, first, take=take)
        elif kept is not None and job is None and self._may_know(end, kept):
            if known is Known.KEPT:
                model.answer(end, PacketType.ATTACH, OK, self._check_over(kept))
                if take:
                    kept.owner = end
                self._fetched(kept, end, first)
            else:
                model.answer(end, PacketType.ATTACH, GONE, self._check_over(kept))
        else:
            model.answer(end, PacketType.ATTACH, NOT_FOUND)
        self.world.send(end, packets.attach(cookie, first=first, take=take, number=11))

    def follow(self, job: Job, end: End, first: int, *, take: bool, attaches: bool = True) -> None:
        """A connection follows a live job from now on."""
        model, owner = self.model, job.owner
        job.attached = job.attached or attaches
        end.jobs[job.cookie] = job
        job.followers.pop(end.id, None)
        job.followers[end.id] = Follow(end, first, model.limits.credit_frames)
        if take and owner is not end:
            job.counted.unfinished -= 1
            end.unfinished += 1
            job.counted = job.owner = end
            if owner is not None and owner.id not in job.followers:
                job.followers[owner.id] = Follow(owner, 0, 0)
        orphan = job.alarms.pop("orphan", None)
        if orphan is not None:
            orphan.live = False
        self._streams.followed(job, job.followers[end.id])

    def _fetched(self, kept: Kept, end: End, first: int) -> None:
        """A connection is to be sent an outcome that is kept, after such progress as is kept with it."""
        self.model.step.outcomes[end.link.number, kept.job.cookie] = kept
        self._streams.fetched(kept.job, end, first)

    def _may_know(self, end: End, kept: Kept) -> bool:
        return kept.job.principal == end.principal or (kept.owner is end and not kept.is_spent)

    # A RUN that comes again

    def resubmitted(self, new: Job, end: End) -> bool:
        """Whether a RUN is one that was sent before: then it attaches."""
        model, nonce = self.model, new.options.nonce
        if not nonce:
            return False
        job = model.jobs.get(new.cookie)
        known, kept = model.known(new.cookie)
        if job is not None:
            if job.options.nonce != nonce or not self.world.may(end, job):
                return False
            waits = Code.SCHEDULED if job.cookie in model.scheduled else Code.QUEUED
            code = Code.DISPATCHED if job.hold is not None else waits
            model.answer(end, PacketType.RUN, frozenset({code}), self._check_job(job))
            self.follow(job, end, 1 if job.options.follow else 0, take=True, attaches=not job.options.detach)
            return True
        if kept is None:
            return False
        if known is Known.SPENT:
            if kept.job.principal == end.principal:
                model.answer(end, PacketType.RUN, GONE, self._check_over(kept))
                return True
            return False
        if kept.job.options.nonce != nonce or not self._may_know(end, kept):
            return False
        kept.owner = end
        self._fetched(kept, end, 1 if kept.job.options.follow else 0)
        return True

    def unknown(self, end: End, job: Job) -> None:
        """A RUN was first sent to another broker: nobody knows what became of it."""
        self.model.step.outcomes[end.link.number, job.cookie] = Kept(job, BROKER_WENT_AWAY, None)

    # STATUS

    def status(self, id: int, cookie: bytes, tree: bool = False) -> None:
        """A connection asks where a job is."""
        model, end = self.model, self.world.speaker(id)
        known, kept = model.known(cookie)
        if end is None or end.is_json or known is Known.PERHAPS:
            return
        job = model.jobs.get(cookie)
        if job is not None and self.world.may(end, job):
            model.answer(end, PacketType.STATUS, OK, self._check_job(job, tree=tree))
        elif kept is not None and job is None and self._may_know(end, kept):
            model.answer(end, PacketType.STATUS, OK, self._check_over(kept))
        else:
            model.answer(end, PacketType.STATUS, NOT_FOUND)
        self.world.send(end, packets.status(cookie, tree=tree, number=13))

    def _check_job(self, job: Job, *, tree: bool = False) -> Callable[[Packet], None]:
        """What is told of a live job is so, as it was before the request."""
        said = self._said(job)
        kids = len(job.children)

        def check(packet: Packet) -> None:
            status = schemas.reply_meta(packet.meta).job
            if status is None:
                require(False, "no status of a job")
                return
            told = status.state, status.pipe, status.att, status.of, status.prog, status.inp, status.worker
            if told != said:
                require(False, f"the job's status is told as {told}, and is {said}")
            self._scheduling.check_due(job, status)
            require(status.out is None and (len(status.kids) == kids or not tree), "a status has the wrong outcome or children")

        return check

    def _said(self, job: Job) -> tuple[str, str, int, int, int, int, str]:
        hold, streams = job.hold, job.streams
        if job.admitting:
            state = JobState.ADMITTING
        elif job.cookie in self.model.scheduled:
            state = JobState.SCHEDULED
        elif job.waits:
            state = JobState.QUEUED
        elif hold is None:
            state = JobState.BACKOFF
        elif job.cancelling:
            state = JobState.CANCELLING
        elif hold.worker.away is not None:
            state = JobState.SUSPENDED
        else:
            state = JobState.PARKED if hold.lent else JobState.RUNNING
        progress, inputs = (streams.last, len(streams.inputs)) if streams is not None else (0, 0)
        name = hold.worker.name if hold is not None else ""
        return state, job.kind.pipeline, job.attempt, job.options.att, progress, inputs, name

    @staticmethod
    def _check_over(kept: Kept) -> Callable[[Packet], None]:
        codes = kept.codes

        def check(packet: Packet) -> None:
            status = schemas.reply_meta(packet.meta).job
            require(status is not None and status.state == JobState.OVER and status.out in codes, "an outcome is told wrongly")

        return check

    # The quiet phase

    def work(self) -> None:
        for end in list(self.model.ends.values()):
            if end.acknowledged < len(end.results) and not end.is_json:
                self.ack(end.id)

    # Choices

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        chance, one_of = chooser.chance, chooser.one_of

        def ask(name: str, *arguments: Callable[[], object]) -> Operation | None:
            ends = who()
            end = one_of(ends) if ends else None
            # Whose outcome it was is one thing, and who asks for it another.
            about = chooser.outcome(one_of(ends) if chance(0.3) else end) if end is not None else b""
            return (name, end.id, about, *(argument() for argument in arguments)) if end is not None else None

        def ack() -> Operation | None:
            ends = [end for end in who() if len(end.results) - end.acknowledged > 2 or chance(0.2)]
            end = one_of(ends) if ends else None
            return ("ack", end.id, chooser.back(end)) if end is not None else None

        def who() -> list[End]:
            return chooser.ends(lambda end: not end.is_json and (not isinstance(end, Worker) or chance(0.1)))

        return [
            (3, ack),
            (4, lambda: ask("attach", lambda: one_of(FIRSTS), lambda: chance(0.5))),
            (3, lambda: ask("status", lambda: chance(0.3))),
            (2, lambda: chooser.sent_again(who())),
        ]
