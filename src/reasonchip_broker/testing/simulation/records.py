"""What the model of a simulation remembers: connections, jobs, slots, and what is still owed in the present step."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from reasonchip_broker.limits import TIMER_TICK_S
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.scheduling import Limit
from reasonchip_broker.testing.switchboard_driver import FakeLink

PIPELINES = ("p.a", "p.b", "q", "lonely")
"""All that a job of a simulation may ask for."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
NEEDS: tuple[Labels, ...] = ((), (("gpu", "new"),))
"""Labels that a job may need."""

Check: TypeAlias = Callable[[Packet], None]


class BrokenPromise(Exception):
    """The switchboard did what it should not, or did not what it should."""


def require(kept: bool, broken: str) -> None:
    """Say what is wrong if it is. Raises BrokenPromise. (Where the sentence costs much, it is better to ask first.)"""
    if not kept:
        raise BrokenPromise(broken)


def fires_at(due: float) -> float:
    """When a timer that is due then goes off: at the end of the tick that it is due in, which is always later."""
    tick = int(due / TIMER_TICK_S) + 1
    # Division rounds, and may have put a time at the very end of a tick into that tick, instead of into the next one.
    return (tick + (tick * TIMER_TICK_S <= due)) * TIMER_TICK_S


def check_number(number: int) -> Check:
    """A look at a packet's number."""

    def check(packet: Packet) -> None:
        require(packet.number == number, f"the number is {packet.number}, and not {number}")

    return check


class Alarm:
    """Something that must happen by itself at `fires`, and not before. `live` until it has, or until there is no need any more.
    With `grace_s` it gives a peer so long to come back."""

    __slots__ = ("due", "fires", "grace_s", "kind", "live", "subject")

    def __init__(self, kind: str, subject: object, due: float, grace_s: float) -> None:
        self.kind = kind
        self.subject = subject
        self.due = due
        self.grace_s = grace_s
        self.fires = fires_at(due)
        self.live = True


class Key:
    """Whose turns jobs take; so many it has had. `owner`: with whose jobs they count as waiting."""

    __slots__ = ("owner", "turns")

    def __init__(self, principal: str = "") -> None:
        self.turns = 0
        self.owner: object = principal or self


class End:
    """A live connection. `id` is its name in operations; `silent` ones do not answer PING.

    What is said of clients holds for workers as well, whose handlers submit jobs.
    """

    __slots__ = (
        "acknowledged",
        "congested",
        "greeting_until",
        "heard_at",
        "id",
        "is_json",
        "jobs",
        "key",
        "link",
        "principal",
        "queues",
        "results",
        "silent",
        "unfinished",
        "unheard",
    )

    def __init__(self, id: int, link: FakeLink, heard_at: float, principal: str = "", queues: bool = True) -> None:
        self.id = id
        self.link = link
        self.is_json = link.dialect == Dialect.JSON
        self.heard_at = heard_at
        self.principal = principal
        self.key = Key()
        self.queues = queues
        self.greeting_until: float | None = None
        self.silent = False
        self.congested = False
        self.jobs: dict[bytes, Job] = {}
        """Jobs that it owns or follows."""
        self.unfinished = 0
        """Jobs that count against its limit."""
        self.results: list[Kept] = []
        """What it was sent as outcomes, in order."""
        self.acknowledged = 0
        self.unheard = 0
        """How many jobs of its own are over that it was not to be told of."""


class Client(End):
    """A client's connection."""

    __slots__ = ()


class Worker(End):
    """A worker's connection. `capacity` is 0 until it has registered; `rests` counts the slots that rest; `mask` is what it serves."""

    __slots__ = (
        "away",
        "capacity",
        "draining",
        "grace_s",
        "held",
        "inst",
        "labels",
        "lent",
        "mask",
        "name",
        "reports",
        "rests",
        "resuming",
        "serves",
    )

    def __init__(self, id: int, link: FakeLink, heard_at: float) -> None:
        super().__init__(id, link, heard_at)
        self.capacity = 0
        self.serves: tuple[str, ...] = ()
        self.labels: Labels = ()
        self.mask = 0
        self.held: dict[bytes, Hold] = {}
        self.lent = 0
        """How many of those have lent their slot out, or have none for another reason."""
        self.rests = 0
        self.draining = False
        self.resuming: list[Hold] = []
        """Those that want a slot again, in their order."""
        self.name = ""
        self.inst = b""
        self.grace_s = 0
        self.reports = 0
        """RESULTs that it has sent on this connection."""
        self.away: Alarm | None = None
        """While its session outlives its connection: when that ends."""

    @property
    def taken(self) -> int:
        """Slots that are not free: held, withheld or resting."""
        return sum([hold.slots for hold in self.held.values() if not hold.lent]) + self.rests

    @property
    def free(self) -> int:
        """Slots that a job may be given now."""
        return 0 if self.draining or self.congested or self.resuming else self.capacity - self.taken

    @property
    def identity(self) -> tuple[object, ...]:
        """By which it is known again."""
        return ("name", self.name) if self.name else ("link", self.link.number)

    def likes(self, labels: dict[str, str]) -> int:
        """How many of some labels it has."""
        own = dict(self.labels)
        return sum(own.get(name) == value for name, value in labels.items())


class Kind:
    """The jobs of one pipeline and form of variables, with the same needs, and in `queue` those that wait, oldest first. `bit` is its
    place in masks. What the operator says of them: how many `slots` each takes, and which `limits` they have to keep to."""

    __slots__ = ("as_json", "bit", "limits", "need", "pipeline", "queue", "slots")

    def __init__(self, pipeline: str, as_json: bool, need: Labels, bit: int) -> None:
        self.pipeline = pipeline
        self.as_json = as_json
        self.need = need
        self.slots = 1
        self.limits: tuple[Limit, ...] = ()
        self.bit = bit
        self.queue: dict[bytes, Job] = {}

    def is_served_by(self, worker: Worker) -> bool:
        """Whether a worker's offer includes it."""
        has = (self.as_json or not worker.is_json) and worker.capacity >= self.slots and set(self.need) <= set(worker.labels)
        return has and any(fnmatchcase(self.pipeline, pattern) for pattern in worker.serves)


def kinds() -> list[Kind]:
    """One of each."""
    forms = [(pipeline, as_json, need) for need in NEEDS for pipeline in PIPELINES for as_json in (False, True)]
    return [Kind(*form, 1 << place) for place, form in enumerate(forms)]


class Follow:
    """A connection that follows a job: which chunk it is to be sent next (0: it wants none), and how many more it may be sent."""

    __slots__ = ("credit", "end", "next")

    def __init__(self, end: End, first: int, credit: int) -> None:
        self.end = end
        self.next = first
        self.credit = credit


class Job:
    """A job that is not over. `hold` is its slot; `order` its place among those that wait; its RUN came as `frame` or JSON `body`."""

    __slots__ = (
        "admission",
        "admitting",
        "alarms",
        "attached",
        "attempt",
        "body",
        "cancelling",
        "children",
        "cookie",
        "counted",
        "deadline",
        "entered",
        "followers",
        "frame",
        "history",
        "hold",
        "key",
        "kind",
        "may_wait",
        "options",
        "order",
        "owner",
        "parent",
        "principal",
        "requester",
        "streams",
        "taken_at",
        "variables",
        "waits",
        "waits_since",
    )

    def __init__(self, cookie: bytes, kind: Kind, variables: bytes, requester: End, options: RunOptions) -> None:
        self.cookie = cookie
        self.kind = kind
        self.key: Key
        """Whose turns it takes."""
        self.variables = variables
        self.options = options
        self.requester = requester
        """Who sent it; may have gone since."""
        self.owner: End | None = requester
        """Who is to be told of its outcome; None if that connection has gone."""
        self.counted = requester
        """Against whose limit it counts."""
        self.attached = False
        """Whether somebody attached, so that even a detached job's outcome is waited for."""
        self.followers: dict[int, Follow] = {}
        """Who follows it, by id; the owner only if it wants progress."""
        self.principal = requester.principal
        self.order = 0
        self.entered = 0
        """Its place among all jobs that ever came."""
        self.taken_at = 0.0
        self.deadline: Alarm | None = None
        self.alarms: dict[str, Alarm] = {}
        """Whatever else is due for it, by kind."""
        self.frame: bytes | None = None
        self.body = b""
        self.hold: Hold | None = None
        self.admitting = False
        self.admission = 0
        """The number under which its admission was asked for."""
        self.waits = False
        self.waits_since = 0.0
        self.cancelling = False
        self.attempt = 0
        """How often it was dispatched."""
        self.history: list[str] = []
        """How its attempts ended, by the name of a code."""
        self.may_wait = True
        self.parent: Job | None = None
        self.children: dict[bytes, Job] = {}
        self.streams: Any = None
        """Its progress and input (`features/streams.py`); None as long as there was none."""

    def listeners(self) -> list[End]:
        """Who is to be sent its outcome."""
        listeners = [follow.end for follow in self.followers.values() if follow.end is not self.owner]
        if self.owner is not None and (self.attached or not self.options.detach):
            listeners.append(self.owner)
        return listeners


class Kept:
    """A job that is over, as long as its outcome can be fetched, or its cookie is known (`is_spent`)."""

    __slots__ = ("certain_until", "codes", "content", "ended_at", "gone_at", "is_spent", "is_unheard", "job", "owner")

    def __init__(self, job: Job, codes: frozenset[Code], content: Packet | None) -> None:
        self.job = job
        self.codes = codes
        self.content = content
        self.owner = job.owner
        self.is_spent = False
        self.is_unheard = False
        """Whether its owner was there, and was not to be told of it."""
        self.ended_at = 0.0
        self.certain_until = 0.0
        """Until then it must be known."""
        self.gone_at = 0.0
        """From then on it must not be."""


class Hold:
    """A job's slot; `job` is None once that is over, or has gone on without this worker. `grace` runs since a CANCEL."""

    __slots__ = ("attempt", "cookie", "grace", "job", "key", "kind", "lent", "limit", "passed", "slots", "worker")

    def __init__(self, worker: Worker, job: Job | None, cookie: bytes, attempt: int) -> None:
        self.worker = worker
        self.job = job
        self.cookie = cookie
        self.attempt = attempt
        self.grace: Alarm | None = None
        self.limit: Alarm | None = None
        """When this attempt has run for as long as it may."""
        self.lent = False
        """Whether it takes up no slot."""
        self.slots = 1
        self.kind: Kind | None = None
        self.key: object = None
        self.passed: tuple[Any, ...] = ()
        """The counts of limits that it is in (`features/rules.py`)."""


class Step:
    """What is expected of the present step, and not seen yet."""

    __slots__ = (
        "answers",
        "arrived",
        "closes",
        "doomed",
        "doubtful",
        "ended",
        "may_be_unanswered",
        "outcomes",
        "packets",
        "sent_bytes",
        "stops",
    )

    def __init__(self) -> None:
        self.answers: list[tuple[FakeLink, int, frozenset[Code], Check | None]] = []
        """To whom, to which type of request, one of which codes, and what to look at in it."""
        self.outcomes: dict[tuple[int, bytes], Kept] = {}
        """By link and cookie: RESULTs."""
        self.packets: list[tuple[FakeLink, int, Check | None]] = []
        """Any other packet: to whom, which, and what to look at in it."""
        self.stops: dict[tuple[int, bytes], list[bool]] = {}
        """CANCELs to workers, by link and cookie: of each, in order, whether it says at once."""
        self.closes: dict[int, CloseReason] = {}
        self.ended: dict[bytes, Job] = {}
        """Jobs that are over since this step."""
        self.arrived: Job | None = None
        """The job that may go to a free slot at once."""
        self.doomed: list[Job] = []
        """Jobs to be cancelled at the end of the step, with what they were part of."""
        self.doubtful: Job | None = None
        """A job that may be queued or refused, as the answer says."""
        self.may_be_unanswered = False
        self.sent_bytes: dict[int, int] = {}

    def clear(self) -> None:
        """Nothing is owed any more: a new step begins."""
        # At the end of nearly every step nearly all of them are empty: to look costs less than to empty them.
        if self.stops:
            self.stops = {}
        if self.closes:
            self.closes = {}
        if self.outcomes:
            self.outcomes = {}
        if self.sent_bytes:
            self.sent_bytes = {}
        if self.ended:
            self.ended = {}
        if self.answers:
            self.answers = []
        if self.packets:
            self.packets = []
        if self.doomed:
            self.doomed = []
        self.arrived = self.doubtful = None
        self.may_be_unanswered = False
