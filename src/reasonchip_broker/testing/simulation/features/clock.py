"""Time: it passes, or the broker stands still meanwhile; jobs have deadlines, and limits to how long they wait and run.

What must be seen: a job whose deadline or limit passes ends then and not before, and a worker that has it is asked to stop. An EXTEND
of what is not held is counted.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.cancelling import Cancelling
from reasonchip_broker.testing.simulation.features.connections import Connections
from reasonchip_broker.testing.simulation.records import Alarm, Hold, Job, require

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

PAUSES_S = (0.001, 0.01, 0.03, 0.1, 0.5, 2.0, 4.0)
JUMPS_S = (0.02, 0.9, 3.0, 60.0)
MORE_MS = (1, 70, 900, 5000)
SILENCE_SLICE_S = 2.0
"""PINGs are answered at least so often."""

LATE_S = 1.0
"""A broker that is woken this much too late stood still."""

FORGOTTEN_AFTER = 5
"""After so many retentions nothing is known of what is over."""

RUN_LIMIT = "run limit"
DEADLINE_EXCEEDED, QUEUE_TIMEOUT = frozenset({Code.DEADLINE_EXCEEDED}), frozenset({Code.QUEUE_TIMEOUT})

Operation = tuple[object, ...]


class Clock(Feature):
    """Lets time pass."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.dropped = 0
        """EXTENDs that count for nothing."""
        self._connections = world.find(Connections)
        self._cancelling = world.find(Cancelling)
        when_due = self.model.when_due
        when_due["deadline"] = self._deadline_over
        when_due["queue limit"] = self._queue_limit_over
        when_due[RUN_LIMIT] = self._run_limit_over

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"advance": self.advance, "jump": self.jump, "extend": self.extend}

    def restarted(self) -> None:
        self.dropped = 0

    def advance(self, seconds: float) -> None:
        """Time passes; every peer that is not silent answers PING."""
        while seconds > 0:
            self._pass(min(seconds, SILENCE_SLICE_S), self.driver.advance)
            seconds -= SILENCE_SLICE_S

    def jump(self, seconds: float) -> None:
        """The broker stands still, then goes on."""
        late_s = self.model.now + seconds - self.driver.switchboard.timers.wake_at
        if late_s > LATE_S:
            self.model.late_s = late_s
            self._connections.stood_still(self.model.now + seconds, late_s)
        self._pass(seconds, self.driver.jump)
        self.model.late_s = 0.0

    def _pass(self, seconds: float, how: Callable[[float], None]) -> None:
        self.model.waking = True
        how(seconds)
        self.model.waking = False
        self.world.sync()
        self._connections.answer_pings()

    def extend(self, id: int, cookie: bytes, more_ms: int, attempt: int | None = None) -> None:
        """A worker asks for more time for an attempt, or says that it needs less."""
        model, worker = self.model, self.model.workers.get(id)
        if worker is None or worker.is_json or worker.greeting_until is not None:
            return
        hold = worker.held.get(cookie)
        if attempt is None:
            attempt = hold.attempt if hold is not None else 1
        if hold is None or hold.attempt != attempt or hold.job is None:
            self.dropped += 1
        elif hold.limit is not None and hold.limit.live and more_ms:
            hold.limit.live = False
            hold.limit = model.alarm(RUN_LIMIT, hold, model.now + more_ms / 1000)
        self.world.send(worker, packets.extend(cookie, attempt, more_ms))
        dropped = self.driver.switchboard.counters.extends_dropped
        require(dropped == self.dropped, f"{dropped} EXTENDs were dropped, and {self.dropped} should")

    # What is due

    def _deadline_over(self, alarm: Alarm) -> None:
        if isinstance(alarm.subject, Job):
            self._out_of_time(alarm.subject)

    def _queue_limit_over(self, alarm: Alarm) -> None:
        job = alarm.subject
        if isinstance(job, Job):
            self.model.over(job, QUEUE_TIMEOUT)

    def _run_limit_over(self, alarm: Alarm) -> None:
        hold = alarm.subject
        if isinstance(hold, Hold) and hold.job is not None:
            self._out_of_time(hold.job)

    def _out_of_time(self, job: Job) -> None:
        hold = job.hold
        self.model.over(job, DEADLINE_EXCEEDED)
        if hold is not None and not job.cancelling and self._cancelling.can_be_told(hold.worker):
            self._cancelling.ask_to_stop(hold, False)

    # The quiet phase

    def work(self) -> None:
        self.advance(self.model.limits.handshake_s / 4)

    def check_rest(self) -> None:
        """Retention ends as well, and then nothing has a timer but the leases of connections."""
        self.advance(FORGOTTEN_AFTER * self.model.limits.retention_s)
        timers = len(self.driver.switchboard.timers)
        clocked = sum(not end.is_json for end in self.model.ends.values())
        require(timers == clocked, f"{timers} timers run, and {clocked} connections have one")

    # Choices

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        one_of = chooser.one_of

        def extend() -> Operation | None:
            if chooser.chance(0.1):
                return chooser.about("extend", chooser.workers(), chooser.cookie(), one_of(MORE_MS), one_of((None, 1, 2)))
            found = chooser.held(lambda hold: hold.limit is not None and hold.limit.live, binary=True)
            return ("extend", *found, one_of(MORE_MS)) if found else None

        return [
            (10, lambda: ("advance", one_of(PAUSES_S))),
            (1, lambda: ("jump", one_of(JUMPS_S))),
            (4, extend),
        ]
