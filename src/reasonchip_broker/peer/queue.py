"""Who waits for what at a broker, as it tells an operator."""

from collections.abc import Mapping
from dataclasses import dataclass

from reasonchip_broker.protocol import schemas


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """The connected workers that offer the same: each the same patterns, labels and capacity, over the same protocol.

    `serves` and `labels` are the first ten of each, `more` is how many are left out; `capacity` is that of each of the `workers`,
    of which some are `draining`, `slow` (they do not read what they are sent) or `set_aside` (for a job that takes several
    slots). Of all their `slots` jobs run on `running`, `free` are for the next job, `withheld` have a job that is over and that
    its worker has not let go of, and `resting` will be free soon (of workers of the JSON protocol: `is_json`). `waiting` jobs
    wait that they serve.
    """

    serves: tuple[str, ...]
    labels: Mapping[str, str]
    more: int
    capacity: int
    is_json: bool
    workers: int
    draining: int
    slow: int
    set_aside: int
    slots: int
    running: int
    free: int
    withheld: int
    resting: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus:
    """A fairness key. `name` is what jobs have named, or the principal, or (`is_connection`) the id of a connection; `running` the
    slots that it has, `waiting` its jobs that wait; `used_s` the slot-time that it has had lately, in seconds, `turn_s` that of
    one of its jobs, as far as is known."""

    name: str
    is_connection: bool
    weight: float
    running: int
    waiting: int
    used_s: float
    turn_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStatus:
    """`jobs` that wait for the same: of one pipeline, with the same labels that they need or like (`need`, `like`), priority and
    fairness key (`key`). `level` is the priority that they count for with their age, `age_s` for how long the oldest has waited,
    in seconds; `why` and `sentence` say what that one waits for, as `JobStatus` does (of a free slot `pools` tells)."""

    pipeline: str
    is_json: bool
    need: Mapping[str, str]
    like: Mapping[str, str]
    priority: int
    level: int
    key: str
    jobs: int
    age_s: float
    why: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitStatus:
    """A count of one of the operator's limits. `of` is whose: a pipeline, a principal, a fairness key; "" if it is for all jobs.
    `running` jobs count, of at most `most` (None: any number); `waiting` jobs wait that it is about. Whether it holds them back
    now (`is_shut`), and in how many seconds time opens it (`opens_s`; None: it does not)."""

    name: str
    of: str
    running: int
    most: int | None
    waiting: int
    is_shut: bool
    opens_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """Who waits for what.

    `waiting` jobs wait for a slot, of `waiting_bytes` in all, and `scheduled` for their time; `left_per_hour` have left the queue
    lately. `others` of those that wait belong to other principals: of those nothing else is told.

    `pools` are the workers, those first that most jobs wait for; `keys` the fairness keys that have slots or wait for them, that
    first whose turn it is; `lines` the jobs that wait, those first that get the next slots; `limits` the counts of the operator's
    limits, those first that most jobs wait at. Of each there are no more than were asked for; `pools_there`, `keys_there`,
    `lines_there` and `limits_there` say how many there would be.
    """

    waiting: int
    waiting_bytes: int
    scheduled: int
    left_per_hour: int
    others: int
    pools: tuple[PoolStatus, ...]
    keys: tuple[KeyStatus, ...]
    lines: tuple[LineStatus, ...]
    limits: tuple[LimitStatus, ...]
    pools_there: int
    keys_there: int
    lines_there: int
    limits_there: int


def queue_report(told: schemas.QueueReport) -> QueueReport:
    """What the broker told."""
    there = [*told.of, 0, 0, 0, 0]
    return QueueReport(
        waiting=told.wait,
        waiting_bytes=told.size,
        scheduled=told.sched,
        left_per_hour=told.left,
        others=told.others,
        pools=tuple(map(_pool, told.pools)),
        keys=tuple(map(_key, told.keys)),
        lines=tuple(map(_line, told.lines)),
        limits=tuple(map(_limit, told.limits)),
        pools_there=there[0],
        keys_there=there[1],
        lines_there=there[2],
        limits_there=there[3],
    )


def _pool(told: schemas.PoolStatus) -> PoolStatus:
    return PoolStatus(
        serves=tuple(told.serves),
        labels=told.labels,
        more=told.more,
        capacity=told.cap,
        is_json=told.json,
        workers=told.n,
        draining=told.drain,
        slow=told.slow,
        set_aside=told.aside,
        slots=told.slots,
        running=told.run,
        free=told.free,
        withheld=told.held,
        resting=told.rest,
        waiting=told.wait,
    )


def _key(told: schemas.KeyStatus) -> KeyStatus:
    return KeyStatus(
        name=told.key,
        is_connection=not told.named,
        weight=told.weight,
        running=told.run,
        waiting=told.wait,
        used_s=told.used / 1000,
        turn_s=told.turn / 1000,
    )


def _line(told: schemas.LineStatus) -> LineStatus:
    return LineStatus(
        pipeline=told.pipe,
        is_json=told.json,
        need=told.need,
        like=told.like,
        priority=told.prio,
        level=told.level,
        key=told.key,
        jobs=told.n,
        age_s=told.age / 1000,
        why=told.why,
        sentence=told.msg,
    )


def _limit(told: schemas.LimitStatus) -> LimitStatus:
    return LimitStatus(
        name=told.name,
        of=told.of,
        running=told.run,
        most=told.most,
        waiting=told.wait,
        is_shut=told.shut,
        opens_s=told.opens / 1000 if told.opens else None,
    )
