"""Whose turn it is: no slot stays free beside a job that could have it; priorities and their ageing, fairness keys, the order of
arrival.

Who has used how much is the broker's own arithmetic, and tested where that is. What everybody may rely on is checked here: no job
goes before one of a higher priority; none of a key that has had a turn before one of a key that has not; and jobs of one key, kind and
priority go in the order in which they came."""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from reasonchip_broker.limits import PRIORITIES
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.model import Seeing
from reasonchip_broker.testing.simulation.records import BrokenPromise, Job, Key, Worker

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

KEYS = ("one", "other")


class Turns(Feature):
    """Whose turn it is."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._ageing_s = world.setting.ageing_s
        self.model.in_order = self.in_order

    def key_of(self, job: Job) -> Key:
        """Whose turns a new job takes."""
        if job.options.key:
            return self.model.keys.setdefault((job.principal, job.options.key), Key(job.principal))
        if job.parent is not None:
            return job.parent.key
        end = job.requester
        return self.model.keys.setdefault((end.principal, ""), Key(end.principal)) if end.principal else end.key

    def is_full(self, job: Job) -> bool:
        """Whether no more jobs like this may wait, for a slot or for their time."""
        model, limits, owner = self.model, self.model.limits, self.key_of(job).owner
        if model.waiting + len(model.scheduled) < limits.owner_backlog_jobs_max:
            return False
        waiting = [*model.scheduled.values(), *(other for kind in model.kinds for other in kind.queue.values())]
        own = sum(other.key.owner == owner for other in waiting)
        return len(waiting) >= limits.backlog_jobs_max or own >= limits.owner_backlog_jobs_max

    def check_work_conserving(self) -> None:
        """At the end of a step no slot is free that a job waits for."""
        model = self.model
        for worker in model.workers.values() if model.waiting_mask else ():
            if worker.mask & model.waiting_mask and worker.free > 0:
                for job in model.oldest_for(worker):
                    if not model.is_special(job):
                        raise BrokenPromise(f"{job.cookie!r} waits beside {worker.free} free slots")

    def in_order(self, runs: list[Seeing]) -> Iterator[Seeing]:
        """What went to two connections in one step has no order: the next one is always one whose turn it may have been, the oldest
        first."""
        jobs, by_link = self.model.jobs, self.model.by_link
        queues: dict[int, deque[Seeing]] = {}
        for run in runs:
            queues.setdefault(run[0].number, deque()).append(run)

        def order(number: int) -> int:
            job = jobs.get(queues[number][0][1].cookie)
            return job.order if job is not None else 0

        while queues:
            numbers = sorted(queues, key=order)
            chosen = numbers[0]
            for number in numbers if len(numbers) > 1 else ():
                job, worker = jobs.get(queues[number][0][1].cookie), by_link.get(number)
                if job is None or not isinstance(worker, Worker) or self._overtaken(job, worker) is None:
                    chosen = number
                    break
            yield queues[chosen].popleft()
            if not queues[chosen]:
                del queues[chosen]

    def check(self, job: Job, worker: Worker) -> None:
        """A worker is given a job that waited, while others wait."""
        other = self._overtaken(job, worker)
        if other is not None:
            raise BrokenPromise(f"{job.cookie!r} overtook {other.cookie!r}")

    def _overtaken(self, job: Job, worker: Worker) -> Job | None:
        """A job that should have gone first, if there is one."""
        level, key = self._level(job), job.key
        seen: set[tuple[Key, int, int]] = set()
        for other in self.model.oldest_for(worker):
            line = other.key, other.kind.bit, other.options.prio
            if line in seen or self.may_end_now(other) or self.model.is_special(other):
                continue
            seen.add(line)
            if other is job:
                continue
            if line == (key, job.kind.bit, job.options.prio):
                if other.order < job.order:
                    return other
                continue
            if other.order > max(job.order, self.model.orders_before):
                # It came in this very step, when the other had been given its slot perhaps.
                continue
            if self._level(other) > level:
                return other
            if self._level(other) == level and not other.key.turns and (key.turns or other.order < job.order):
                return other
        return None

    def may_end_now(self, job: Job) -> bool:
        """Whether time may end a job in this very step, or what it is a part of."""
        model = self.model
        if model.time_explains(job):
            return True
        parent = None if job.options.loose else job.parent
        return parent is not None and (any(alarm.subject is parent for alarm in model.due) or self.may_end_now(parent))

    def _level(self, job: Job) -> int:
        """The priority that a job counts for, with its age, as the first of those that wait like it."""
        level = job.options.prio
        if self._ageing_s:
            due, waited = job.waits_since, 1
            while level < PRIORITIES - 1 and due + waited * self._ageing_s <= self.model.now:
                level, waited = level + 1, waited + 1
        return level


def rank(chooser: Chooser) -> dict[str, Any]:
    """Options that say whose turn a job takes, and before whom."""
    if not chooser.chance(0.25):
        return {}
    more: dict[str, Any] = {"prio": chooser.one_of((0, 3, 4, 5, 9))}
    if chooser.chance(0.5):
        more["key"] = chooser.one_of(KEYS)
    return more
