"""Attempts: a job whose worker is lost, or whose handler fails in a way that may be tried again.

What must be seen: the next attempt begins after its wait and not before, never beside an earlier one, attempts strictly increase and
never pass the limit, and a job that cost its worker's connection each time is DEAD_LETTERED, with its history.
"""

from typing import TYPE_CHECKING

from reasonchip_broker.limits import BACKOFF_S_MAX
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.routing.route import RouteState
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.records import Alarm, Job, Kept, require
from reasonchip_broker.testing.switchboard_driver import FakeLink

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

BACKOFF = "backoff"
LOST = Code.WORKER_WENT_AWAY.name
RETRIED = (Code.EXCEPTION, Code.PROCESSOR_EXCEPTION)


class Attempts(Feature):
    """What comes after an attempt."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.model.when_early[BACKOFF] = self._backoff_over
        self.model.on_result.append(self._check_history)

    def lost(self, job: Job, graced: bool, limited: bool) -> None:
        """The worker that ran a job is lost. `graced`: its kill grace was over in this very step; `limited`: the attempt's time was."""
        model = self.model
        codes = model.time_explains(job)
        if graced:
            codes.add(Code.CANCELLED)
        if limited:
            codes.add(Code.DEADLINE_EXCEEDED)
        if job.cancelling:
            model.over(job, frozenset(codes | {Code.CANCELLED}))
            return
        history = [*job.history, LOST]
        if not codes:
            # Otherwise its time was up in this very step, which may have been first, and ended this attempt.
            job.history = history
        if limited and not self._lives(job):
            # Which of the two was first is nobody's business, and need not show in anything that is sent.
            model.over(job, frozenset(codes))
        elif job.attempt < job.options.att:
            self._again(job)
        elif job.options.att > 1 and set(history) == {LOST}:
            model.over(job, frozenset(codes | {Code.DEAD_LETTERED}))
        else:
            model.over(job, frozenset(codes | {Code.WORKER_WENT_AWAY}))

    def _lives(self, job: Job) -> bool:
        """What the broker has made of a job of which two things may have become."""
        route = self.driver.switchboard._dispatcher.routes.peek(job.cookie)
        return route is not None and route.state < RouteState.OVER

    def retries(self, job: Job, code: int, kind: str) -> bool:
        """A worker reported a job. Returns whether it is tried again."""
        options = job.options
        again = code in RETRIED and not job.cancelling and job.attempt < options.att
        if not again or not ("*" in options.again or kind in options.again):
            return False
        job.history.append(Code(code).name)
        self._again(job)
        return True

    def _again(self, job: Job) -> None:
        model = self.model
        model.disown(job)
        if model.draining:
            model.over(job, frozenset({Code.BROKER_WENT_AWAY}))
            return
        wait_s = min(BACKOFF_S_MAX, job.options.back / 1000 * 2 ** (job.attempt - 1))
        job.alarms[BACKOFF] = model.alarm(BACKOFF, job, model.now + wait_s)

    def _backoff_over(self, alarm: Alarm) -> None:
        job = alarm.subject
        if isinstance(job, Job):
            del job.alarms[BACKOFF]
            self.model.may_go_on(job.cookie)

    def _check_history(self, link: FakeLink, kept: Kept, packet: Packet) -> None:
        """A failure of a job with several attempts says what became of each that began."""
        job = kept.job
        if packet.code == Code.OK or job.options.att == 1 or kept.owner is None or kept.owner.is_json:
            return
        ends = [record.end for record in schemas.failure(packet.payload).hist]
        if ends[: len(job.history)] != job.history or not len(job.history) <= len(ends) <= job.attempt:
            require(False, f"the history of {job.cookie!r} is {ends}, of {job.attempt} attempts, and not {job.history}")
        require(len(job.history) < job.attempt or packet.attempt == job.attempt, "an outcome of another attempt than the last")
