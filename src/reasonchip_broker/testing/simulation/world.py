"""A driven switchboard, the model that watches it, and the features that know what may happen and what must come of it.

An operation is a tuple of plain values, its name first: what somebody does. It names connections and jobs by numbers and cookies that
whoever chose it made up, so that operations can be left out of a record and the rest still means the same; one whose connection or
job is not there does nothing.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.routing.counters import Counters
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features import FEATURES
from reasonchip_broker.testing.simulation.features.rules import scheduling_of
from reasonchip_broker.testing.simulation.model import Model
from reasonchip_broker.testing.simulation.records import End, Job, require
from reasonchip_broker.testing.simulation.settings import TIGHTER
from reasonchip_broker.testing.simulation.settings import Setting as Setting
from reasonchip_broker.testing.switchboard_driver import INSTANCE, FakeLink, SwitchboardDriver, view

Operation: TypeAlias = tuple[Any, ...]
OnSeen: TypeAlias = Callable[[Any, list[tuple[FakeLink, bytes]], list[Close]], None]
Take: TypeAlias = Callable[[End, Frame], None]
Catch: TypeAlias = Callable[[list[tuple[FakeLink, bytes]], list[Close]], None]
F = TypeVar("F", bound=Feature)

ROUNDS_MAX = 80
ROUNDS_PER_JOB = 3
"""Within so many rounds without faults every job must be over: there may be one slot for all of them, which rests after each."""

SPENT_KEPT = 20
COUNTED = (0, 3)
"""Of which kinds of jobs free slots are counted: whatever a worker offers, in either dialect, serves at least one of these."""


class World:
    """One switchboard from its start to its end.

    After each step the model checks all that it knows, and the switchboard compares all its tables; `audit_every` makes the latter
    rarer (0: never), for whoever wants to know what the model finds alone. With `records` the driver can replay what happened.
    `on_seen` is told what each step did.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        audit_every: int = 1,
        records: bool = False,
        on_seen: OnSeen | None = None,
    ) -> None:
        self.setting = setting
        limits = TIGHTER[setting.limits]
        self.driver = SwitchboardDriver(
            limits,
            json_slot_rest_ms=setting.json_slot_rest_ms,
            json_cancel=setting.json_cancel,
            admits=setting.admits,
            scheduling=scheduling_of(setting.rules, setting.ageing_s),
            records=records,
            checks=False,
        )
        self._counters: Counters | None = None
        self.driver.on_step = self._observe
        self.model = Model(limits)
        self.model.now = self.driver.clock.now
        self.steps = 0
        """Calls of the switchboard."""
        self.operation: Operation = ("begin",)
        """What is going on."""
        self.spent: dict[bytes, None] = {}
        """Cookies that were used once."""
        self.instance = INSTANCE
        """The broker's present run."""
        self.submissions: list[tuple[bytes, Operation]] = []
        """RUNs that can be sent again, and to which run of the broker they were sent first."""
        self.take: Take | None = None
        """What takes the frames that a peer sends, as long as a read of several is put together (`features/reads.py`)."""
        self.catch: Catch | None = None
        """What takes all that a step did, instead of the model."""
        self._on_seen = on_seen
        self._audit_every = audit_every
        self.operations: dict[str, Callable[..., None]] = {}
        """All that may happen, by name."""
        self.features: dict[type[Feature], Feature] = {}
        for make in FEATURES:
            feature = self.features[make] = make(self)
            self.operations |= feature.operations()

    def apply(self, operation: Operation) -> None:
        """Do something. Raises BrokenPromise or InternalError if what comes of it is not as it should be."""
        self.operation = operation
        self.operations[operation[0]](*operation[1:])

    def find(self, kind: type[F]) -> F:
        """The feature of a class."""
        found = self.features[kind]
        if not isinstance(found, kind):
            raise TypeError(kind)
        return found

    def speaker(self, id: int) -> End | None:
        """A connection that may say something."""
        end = self.model.ends.get(id)
        return end if end is not None and end.greeting_until is None else None

    @staticmethod
    def may(end: End, job: Job) -> bool:
        """Whether a connection may know of a job: it is its principal's, or its own."""
        return job.principal == end.principal or job.owner is end

    def spend(self, cookie: bytes) -> None:
        """A cookie was used."""
        self.spent[cookie] = None
        if len(self.spent) > SPENT_KEPT:
            del self.spent[next(iter(self.spent))]

    def send(self, end: End, frame: bytes) -> None:
        """A peer sends a frame."""
        self.deliver(end, view(frame))

    def deliver(self, end: End, frame: Frame) -> None:
        """A peer sends what a decoder makes this of."""
        end.heard_at = self.model.now
        if self.take is None:
            self.driver.deliver(end.link, [frame])
        else:
            self.take(end, frame)

    def restart(self, instance: bytes) -> None:
        """The broker dies, and another one begins."""
        model = self.model
        model.over_before += model.ended
        model.begin()
        for feature in self.features.values():
            feature.restarted()
        self.instance = instance
        self._counters = None
        self.driver.restart(instance)

    def sync(self) -> None:
        """Tell the model the time: to be called whenever the clock was moved."""
        self.model.now = self.driver.clock.now

    # One step

    def _observe(self, sends: list[tuple[FakeLink, bytes]], closes: list[Close]) -> None:
        if self._on_seen is not None:
            self._on_seen(self, sends, closes)
        if self.catch is None:
            self.account(sends, closes)
        else:
            self.catch(sends, closes)

    def account(self, sends: list[tuple[FakeLink, bytes]], closes: list[Close]) -> None:
        """A step did this: the model looks at it, and at what the switchboard counts. Raises BrokenPromise, InternalError."""
        steps = self.steps = self.steps + 1
        model = self.model
        model.now = self.driver.clock.now
        model.observe(sends, closes)
        board = self.driver.switchboard
        if board.jobs != len(model.jobs) or board.waiting != model.waiting:
            require(False, f"{board.jobs} jobs live and {board.waiting} wait; {len(model.jobs)} and {model.waiting} should")
        counters = self._counters
        if counters is None:
            counters = self._counters = board.counters
        if counters.finished != model.ended or counters.results_dropped != model.dropped:
            require(counters.finished == model.ended, f"{counters.finished} jobs ended, and {model.ended} should")
            require(False, "a RESULT was dropped that counted, or the other way round")
        self._count()
        if self._audit_every and not steps % self._audit_every:
            board.invariants()

    def _count(self) -> None:
        """Free, held, withheld and resting slots are as many as there are."""
        model, free_slots = self.model, self.driver.switchboard.free_slots
        slots: list[tuple[int, int]] = []
        for worker in model.workers.values():
            capacity = worker.capacity
            taken = worker.taken
            if taken > capacity and capacity:
                require(False, f"{taken} slots taken, and there are {capacity}")
            inner = worker.link.peer.worker
            if not (worker.draining or worker.congested or (inner is not None and (inner.set_aside or inner.resuming))):
                slots.append((worker.mask, capacity - taken))
        for place in COUNTED:
            kind = model.kinds[place]
            bit, should = kind.bit, 0
            for mask, free in slots:
                if mask & bit:
                    should += free
            free = free_slots(kind.pipeline, as_json=kind.as_json)
            if free != should:
                require(False, f"{free} slots are free, and {should} should be")

    # The quiet phase

    def finish(self) -> None:
        """Faults stop: every job reaches its outcome within a bound, and nothing is left behind. Raises BrokenPromise."""
        self.operation = ("finish",)
        for feature in self.features.values():
            feature.calm()
        for _ in range(ROUNDS_MAX + ROUNDS_PER_JOB * len(self.model.jobs)):
            for feature in self.features.values():
                feature.work()
            if self.model.is_quiet:
                break
        for feature in self.features.values():
            feature.check_rest()
        if self._audit_every:
            self.driver.switchboard.invariants()
