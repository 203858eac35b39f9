"""Cancelling: before a job runs, while it runs, a worker that does not stop; by request, or because its client or parent is gone.

What must be seen: CANCEL is answered with the truth, the owner is told if it was somebody else, the worker is asked politely and then
told, each after its grace and not before, a job whose worker does not stop is given up and its slot stays withheld, what belongs to a
job ends with it, and nobody cancels another principal's job.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.records import Alarm, BrokenPromise, End, Hold, Job, Worker, require
from reasonchip_broker.testing.switchboard_driver import FakeLink

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

NOT_FOUND, CANCELLING, ENDED = frozenset({Code.COOKIE_NOT_FOUND}), frozenset({Code.CANCELLING}), frozenset({Code.OK})
CANCELLED = frozenset({Code.CANCELLED})
CANCEL, KILL, ORPHAN = "cancel grace", "kill grace", "orphan"

Operation = tuple[object, ...]


class Cancelling(Feature):
    """CANCEL, and what comes of it."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        model = self.model
        model.seen[PacketType.CANCEL] = self._saw_cancel
        model.when_due[CANCEL] = self._cancel_grace_over
        model.when_due[KILL] = self._kill_grace_over
        model.when_due[ORPHAN] = self._orphan_due
        model.on_left.append(self._left)
        model.on_doom = self._doom

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"cancel": self.cancel, "cancel batch": self.cancel_batch}

    def cancel(self, id: int, cookie: bytes, at_once: bool = False) -> None:
        """A client, or a worker for what its handlers submitted, sends CANCEL."""
        end = self.world.speaker(id)
        if end is None or (end.is_json and isinstance(end, Worker)):
            return
        at_once = at_once and not end.is_json
        job = self.model.jobs.get(cookie)
        codes = NOT_FOUND if job is None or not self.world.may(end, job) else self.stop(job, at_once, end)
        self.model.answer(end, PacketType.CANCEL, codes)
        if end.is_json:
            end.heard_at = self.model.now
            self.driver.cancel(end.link, cookie)
        else:
            self.world.send(end, packets.cancel(cookie, at_once=at_once, number=7))

    def cancel_batch(self, id: int, batch: bytes) -> None:
        """A client cancels all jobs of a batch."""
        end = self.world.speaker(id)
        if end is None or end.is_json:
            return
        jobs = [job for job in self.model.jobs.values() if job.options.batch == batch and job.principal == end.principal]
        for job in jobs:
            self.stop(job, False, end)

        def check(packet: Packet) -> None:
            require(schemas.reply_meta(packet.meta).n == len(jobs), f"a batch of {len(jobs)} jobs is miscounted")

        self.model.answer(end, PacketType.CANCEL, ENDED if jobs else NOT_FOUND, check if jobs else None)
        self.world.send(end, packets.cancel_batch(batch, number=5))

    def stop(self, job: Job, at_once: bool, asker: End | None) -> frozenset[Code]:
        """A job is to stop. Returns what to tell who asked."""
        model, hold = self.model, job.hold
        if hold is None or not self.can_be_told(hold.worker):
            model.over(job, CANCELLED)
            return ENDED
        if not job.cancelling:
            job.cancelling = True
            self.ask_to_stop(hold, at_once)
            # Its children are asked as well, and stay its children until it is over.
            model.step.doomed += [child for child in job.children.values() if not child.options.loose]
            owner = job.owner
            if owner is not None and owner is not asker and not owner.is_json and owner.id in model.ends:
                model.answer(owner, PacketType.CANCEL, CANCELLING)
        elif at_once and (hold.grace is None or hold.grace.kind != KILL):
            self.ask_to_stop(hold, True)
        return CANCELLING

    def can_be_told(self, worker: Worker) -> bool:
        """Whether CANCEL is passed on to a worker."""
        return not worker.is_json or self.world.setting.json_cancel

    def ask_to_stop(self, hold: Hold, at_once: bool) -> None:
        """The worker is to get a CANCEL in this step, unless it is away."""
        model = self.model
        for alarm in (hold.grace, hold.limit):
            if alarm is not None:
                alarm.live = False
        grace_s = model.limits.kill_grace_s if at_once else model.limits.cancel_grace_s
        hold.grace = model.alarm(KILL if at_once else CANCEL, hold, model.now + grace_s)
        if hold.worker.id in model.workers:
            model.step.stops.setdefault((hold.worker.link.number, hold.cookie), []).append(at_once)

    # Because of others

    def _doom(self) -> None:
        doomed = self.model.step.doomed
        while doomed:
            job = doomed.pop(0)
            if self.model.jobs.get(job.cookie) is job and not job.cancelling:
                self.stop(job, False, None)

    def _left(self, end: End) -> None:
        """A connection follows nothing any more, and the jobs that it owned do as their policy says."""
        model = self.model
        for job in list(end.jobs.values()):
            if job.owner is end:
                job.owner = None
            job.followers.pop(end.id, None)
            policy = job.options.orphan
            if job.owner is None and not job.followers and policy is not None and model.jobs.get(job.cookie) is job:
                if policy == 0:
                    self.stop(job, False, None)
                elif ORPHAN not in job.alarms:
                    job.alarms[ORPHAN] = model.grace(ORPHAN, job, policy / 1000)
        end.jobs = {}

    def _orphan_due(self, alarm: Alarm) -> None:
        job = alarm.subject
        if isinstance(job, Job):
            del job.alarms[ORPHAN]
            self.stop(job, False, None)

    # Time

    def _cancel_grace_over(self, alarm: Alarm) -> None:
        if isinstance(alarm.subject, Hold):
            self.ask_to_stop(alarm.subject, True)

    def _kill_grace_over(self, alarm: Alarm) -> None:
        hold = alarm.subject
        if isinstance(hold, Hold) and hold.job is not None:
            self.model.over(hold.job, CANCELLED)

    # What is seen

    def _saw_cancel(self, link: FakeLink, packet: Packet, _: bytes) -> None:
        model, cookie = self.model, packet.cookie
        worker = model.by_link.get(link.number)
        if worker is None and model.waking:
            return  # its lease ended in this very step
        hold = worker.held.get(cookie) if isinstance(worker, Worker) else None
        if hold is None:
            raise BrokenPromise(f"CANCEL of {cookie!r} to one who does not hold it")
        require(packet.attempt == hold.attempt, "CANCEL without the attempt")
        require(self.can_be_told(hold.worker), "CANCEL to a JSON worker")
        asked = model.step.stops.get((link.number, cookie))
        if not asked:
            raise BrokenPromise("CANCEL for no reason")
        at_once = asked.pop(0)
        require(schemas.cancel_meta(packet.meta).now == at_once, f"CANCEL at once: {not at_once}")
        if not asked:
            del model.step.stops[link.number, cookie]

    # Choices

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        def cancel() -> Operation | None:
            ends = chooser.clients() if chooser.chance(0.9) else chooser.ends()
            return chooser.about("cancel", ends, chooser.cookie(), chooser.chance(0.3))

        return [
            (7, cancel),
            (1, lambda: chooser.about("cancel batch", chooser.clients(), chooser.batch())),
        ]
