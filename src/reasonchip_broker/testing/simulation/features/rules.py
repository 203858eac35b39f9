"""What the operator decides: limits by key, jobs that take several slots, affinity. And labels.

What must be seen: no limit is ever exceeded, no worker has more than its slots, a job with an affinity key goes to no worker that is
more loaded than is allowed, and to the one that it should whenever that one is free when it comes; a job goes only to a worker that has
the labels it needs, and of those that are free when it comes to one that has most of those it likes.

*Special* jobs, those that wait for more than a free slot, are not predicted any further: whether one of them is dispatched or waits is
for the switchboard's own audit to judge, which goes with each step. Where some jobs take several slots, workers may be set aside for
them, and all jobs are special.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.scheduling import Limit, Per, Scheduling, WhenReached
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.sessions import Sessions
from reasonchip_broker.testing.simulation.features.turns import rank
from reasonchip_broker.testing.simulation.records import NEEDS, BrokenPromise, End, Hold, Job, Kind, Worker, require

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

AFFINITY_KEYS = ("home", "away")
IMBALANCE = 0.5
LIMITS = (
    Limit(name="p.a", pipelines=("p.a",), concurrency=2),
    Limit(name="each key", pipelines=("p.*",), per=Per.KEY, concurrency=3),
    Limit(name="q", pipelines=("q",), rate=3, period_s=1.03, burst=2, concurrency=4),
    Limit(name="lonely", pipelines=("lonely",), rate=2, period_s=0.71, per=Per.PIPELINE, when_reached=WhenReached.REFUSE),
)
RULES: dict[str, dict[str, Any]] = {
    "": {},
    "limits": {"limits": LIMITS},
    "slots": {"slots": {"q": 2, "lonely": 3}},
    "affinity": {"affinity_wait_s": 0.53},
    "all": {"limits": LIMITS, "slots": {"q": 2}, "affinity_wait_s": 0.27},
    "stopped": {"limits": (Limit(name="stopped", concurrency=0),)},
}
"""By name. An operator changes from any to any, and in the end back to none."""

PERHAPS = frozenset({Code.QUEUED, Code.NO_CAPACITY, Code.OVERLOADED, Code.NOT_SERVED})
_LATE = 1e-9

Operation = tuple[object, ...]


def scheduling_of(name: str, ageing_s: float) -> Scheduling:
    """The rules of a name."""
    return Scheduling(ageing_s=ageing_s, affinity_imbalance=IMBALANCE, **RULES[name])


class Passed:
    """The jobs that have passed one count of a limit: how many run, and when the bucket of the rate is full."""

    __slots__ = ("full_at", "running")

    def __init__(self) -> None:
        self.running = 0
        self.full_at = -1e9


class Rules(Feature):
    """Keeps to what the operator says."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._passed: dict[tuple[object, ...], Passed] = {}
        self._served: dict[tuple[str, str], tuple[int, tuple[object, ...] | None]] = {}
        """In which step a key was served last, and by whom, if that can be told."""
        self.name = ""
        self.changing = False
        """Whether this step is the operator's word: then several pools are filled at once, each in its own order."""
        self._sessions = world.find(Sessions)
        self.model.on_let_go = self._let_go
        self._say(world.setting.rules)

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"configure": self.configure}

    def restarted(self) -> None:
        self._passed, self._served = {}, {}
        self._say(self.name)

    def configure(self, name: str) -> None:
        """The operator decides otherwise."""
        model = self.model
        before = self._scheduling.limits
        self._say(name)
        limits = self._scheduling.limits
        self._passed = {key: passed for key, passed in self._passed.items() if key[0] in limits and key[0] in before}
        for passed in self._passed.values():
            passed.running = 0
        for worker in (*model.workers.values(), *self._sessions.away.values()):
            for hold in worker.held.values():
                # Of a job that is over the switchboard knows only that a limit has counted it, if one has.
                counts = hold.kind is not None and (hold.job is not None or hold.passed)
                hold.passed = self._passes(hold.kind, hold.key) if counts and hold.kind is not None else ()
                for passed in hold.passed:
                    passed.running += 1
        for worker in model.workers.values():
            worker.mask = sum(kind.bit for kind in model.kinds if kind.is_served_by(worker))
        self.changing = True
        self.driver.configure(self._scheduling)
        self.changing = False

    def _say(self, name: str) -> None:
        self.name = name
        self._scheduling = scheduling_of(name, self.world.setting.ageing_s)
        model = self.model
        model.all_special = bool(self._scheduling.slots)
        for kind in model.kinds:
            kind.slots = self._scheduling.slots_of(kind.pipeline)
            kind.limits = tuple(limit for limit in self._scheduling.limits if limit.is_about(kind.pipeline))
        model.recount()

    # What is seen

    def dispatched(self, job: Job, worker: Worker, hold: Hold) -> None:
        """A job was given to a worker. Raises BrokenPromise if it should not have been."""
        model, kind = self.model, job.kind
        hold.kind, hold.key, hold.slots = kind, job.key, kind.slots
        if worker.taken > worker.capacity:
            raise BrokenPromise(f"{worker.taken} slots of {worker.capacity} are taken")
        if kind.limits:
            hold.passed = self._passes(kind, job.key)
            for limit, passed in zip(kind.limits, hold.passed, strict=True):
                passed.running += 1
                most = limit.concurrency
                require(
                    most is None or passed.running <= most, f"the limit {limit.name!r} is exceeded: {passed.running} jobs run"
                )
                if limit.rate is not None:
                    every_s = limit.period_s / limit.rate
                    passed.full_at = max(passed.full_at, model.now) + every_s
                    spread_s = every_s * (limit.burst or limit.rate)
                    require(passed.full_at - model.now <= spread_s + _LATE, f"the limit {limit.name!r} is exceeded: too often")
        if job.options.aff:
            self._serve(job, worker)

    def _serve(self, job: Job, worker: Worker) -> None:
        """A worker has served a key last. Of two that have in one step nobody can tell which was the last."""
        key, step = (job.principal, job.options.aff), self.world.steps
        before, identity = self._served.get(key, (0, None))
        self._served[key] = step, (worker.identity if before != step or identity == worker.identity else None)

    def _passes(self, kind: Kind, key: object) -> tuple[Passed, ...]:
        found = []
        for limit in kind.limits:
            what = {Per.KEY: key, Per.PIPELINE: kind.pipeline}.get(limit.per, "")
            found.append(self._passed.setdefault((limit, what), Passed()))
        return tuple(found)

    def running(self) -> dict[tuple[str, str], int]:
        """How many jobs count for each limit that is for all, and for each pipeline of those for one."""
        counts = {(limit, what): passed.running for (limit, what), passed in self._passed.items()}
        return {
            (limit.name, what): running
            for (limit, what), running in counts.items()
            if isinstance(limit, Limit) and isinstance(what, str) and limit.per is not Per.KEY
        }

    def _let_go(self, hold: Hold) -> None:
        for passed in hold.passed:
            passed.running -= 1

    def check_choice(self, job: Job, worker: Worker) -> None:
        """A worker was given a job that came in this step: is it one that it may have gone to?"""
        model, like, aff = self.model, job.options.like, job.options.aff
        free = [other for other in model.candidates(job.kind) if other.free >= job.kind.slots]
        if worker not in free or model.all_special:
            return
        if like and not aff:
            most = max(other.likes(like) for other in free)
            require(worker.likes(like) == most, "another free worker has more of the labels that a job likes")
            free = [other for other in free if other.likes(like) == most]
        load = worker.taken / worker.capacity
        least = min(other.taken / other.capacity for other in free)
        if not aff:
            require(load <= least + 1 / 64, f"a worker with load {load} got a job, and one with {least} did not")
            return
        if not like:
            require(load <= least + IMBALANCE + _LATE, f"a worker with load {load} got a job for its key, and one has {least}")
        before = self._served.get((job.principal, aff), (0, None))[1]
        home = next((other for other in free if other.identity == before), None)
        if home is not None and home is not worker and not like:
            require(home.taken / home.capacity > least + IMBALANCE, "a job did not go to the worker that has its key")

    # The quiet phase

    def calm(self) -> None:
        if self.name:
            self.configure("")

    # Choices

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        def configure() -> Operation | None:
            return ("configure", chooser.one_of(list(RULES))) if chooser.world().setting.rules and chooser.chance(0.2) else None

        return [(1, configure)]


def wishes(chooser: Chooser) -> dict[str, Any]:
    """Options that say where a job may run, and where it better does."""
    one_of, chance = chooser.one_of, chooser.chance
    more: dict[str, Any] = {}
    if chance(0.15):
        more["need"] = dict(one_of(NEEDS[1:]))
        more["served"] = chance(0.3)
    if chance(0.1):
        more["like"] = {"gpu": one_of(("old", "new")), "site": "here"}
    if chance(0.15 if not chooser.world().setting.rules else 0.4):
        more["aff"] = one_of(AFFINITY_KEYS)
    return more


def more_options(chooser: Chooser, end: End) -> tuple[tuple[str, Any], ...]:
    """Options that make a job more than a plain one; half of all have none."""
    if end.is_json or chooser.chance(0.5):
        return ()
    one_of, chance = chooser.one_of, chooser.chance
    more: dict[str, Any] = {"nonce": one_of((b"", b"one", b"other")), **rank(chooser), **wishes(chooser)}
    if chance(0.4):
        more |= {"att": one_of((1, 2, 3, 4)), "back": one_of((0, 0, 30, 700)), "again": one_of(((), ("Bad",), ("*",)))}
    if chance(0.4):
        more["follow"] = True
    if chance(0.2):
        more["orphan"] = one_of((0, 0, 150, 1100))
    if chance(0.2):
        more["keep"] = one_of((0, 40, 1300, 9_000))
    if chance(0.2):
        more |= {"qlim": one_of((0, 60, 800)), "rlim": one_of((0, 90, 1700))}
    if chance(0.2):
        more["batch"] = chooser.batch()
    if chance(0.3) or isinstance(end, Worker):
        more |= {"parent": chooser.parent(end), "loose": chance(0.3)}
    return tuple((key, value) for key, value in more.items() if value is not None)
