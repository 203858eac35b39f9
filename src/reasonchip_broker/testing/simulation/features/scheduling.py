"""Scheduled jobs: those that are not to run before their time.

What must be seen: such a job never runs before its time; in the tick of it it has a free slot, or waits behind all that wait already,
or ends if it is not to wait; of several the one whose time is first goes first; and until then whatever else may end a job ends it, and
it never ran.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.protocol.schemas import JobStatus
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.records import PIPELINES, Alarm, Job, Worker, require

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

ITS_TIME, NOW_OR_NEVER = "its time", "now or never"
SCHEDULED, QUEUE_TIMEOUT = frozenset({Code.SCHEDULED}), frozenset({Code.QUEUE_TIMEOUT})
DELAYS_MS = (1, 1, 20, 21, 130, 131, 900, 2500)

Operation = tuple[object, ...]


class Scheduling(Feature):
    """Keeps jobs until their time."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        model = self.model
        self._due: list[tuple[float, int, Job]] = []
        model.when_early[ITS_TIME] = self._time_has_come
        model.when_due[NOW_OR_NEVER] = self._found_no_slot
        model.on_woken.append(self._begin)
        model.on_settle.append(self._count)

    def restarted(self) -> None:
        self._due = []

    def keep(self, job: Job, taken_at: float) -> frozenset[Code]:
        """A job was taken, or admitted, before its time. Returns what its client is told."""
        self.model.scheduled[job.cookie] = job
        job.alarms[ITS_TIME] = self.model.alarm(ITS_TIME, job, taken_at + job.options.delay / 1000)
        return SCHEDULED

    def _time_has_come(self, alarm: Alarm) -> None:
        job = alarm.subject
        if isinstance(job, Job):
            del job.alarms[ITS_TIME]
            # Of one time the first that came: cookies, once forgotten, may be taken again, but not the number of an entry.
            self._due.append((alarm.due, job.entered, job))

    def _begin(self) -> None:
        """At the end of a wake-up each job whose time has come is what a new arrival of that moment is."""
        model = self.model
        due, self._due = self._due, []
        for _, _, job in sorted(due, key=lambda entry: entry[:2]):
            del model.scheduled[job.cookie]
            if model.time_explains(job):
                continue  # That was first, and ends it in this very step.
            if not job.options.queue:
                model.due.append(Alarm(NOW_OR_NEVER, job, model.now, 0.0))
            model.may_go_on(job.cookie)

    def _found_no_slot(self, alarm: Alarm) -> None:
        job = alarm.subject
        if isinstance(job, Job) and job.hold is None and self.model.jobs.get(job.cookie) is job and not self._is_doomed(job):
            self.model.over(job, QUEUE_TIMEOUT)

    def _is_doomed(self, job: Job) -> bool:
        """Whether it ends in this step with what it is a part of."""
        doomed = self.model.step.doomed
        while job not in doomed:
            if job.parent is None or job.options.loose:
                return False
            job = job.parent
        return True

    def _count(self) -> None:
        told, should = self.driver.switchboard.scheduled, len(self.model.scheduled)
        if told != should:
            require(False, f"{told} jobs are scheduled, and {should} should be")

    def check_due(self, job: Job, status: JobStatus) -> None:
        """A status says when a job may run."""
        alarm = job.alarms.get(ITS_TIME)
        left_ms = max(1, round((alarm.due - self.model.now) * 1000)) if alarm is not None else 0
        require(abs(status.due - left_ms) <= 1, f"a job is told to be due in {status.due} ms, and is in {left_ms} ms")

    # Choices

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        chance, one_of = chooser.chance, chooser.one_of

        def run_later() -> Operation | None:
            ends = [end for end in (chooser.clients() if chance(0.9) else chooser.workers()) if not end.is_json]
            if not ends:
                return None
            end = one_of(ends)
            cookie = chooser.cookie() if chance(0.05) else chooser.new_cookie()
            flags = chance(0.5), chance(0.7), chance(0.2), chance(0.1)
            more: dict[str, Any] = {"delay": one_of(DELAYS_MS)}
            if chance(0.5):
                options = {
                    "nonce": b"one",
                    "att": 2,
                    "follow": True,
                    "orphan": one_of((0, 60)),
                    "qlim": 60,
                    "batch": chooser.batch(),
                }
                more |= {key: options[key] for key in options if chance(0.3)}
            if chance(0.2) or isinstance(end, Worker):
                more |= {"parent": chooser.parent(end), "loose": chance(0.3)}
            options_said = tuple((key, value) for key, value in more.items() if value is not None)
            left_ms = one_of((0, 0, 0, 15, 131, 2000))
            return "run", end.id, cookie, one_of(PIPELINES), *flags, left_ms, b"1", options_said

        return [(5, run_later)]
