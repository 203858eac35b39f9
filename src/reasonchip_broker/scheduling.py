"""How the broker schedules: what an operator decides about who goes next, and where. (`[scheduling]` in the configuration.)"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from reasonchip_broker.limits import RULES_MAX, WEIGHT_MAX, WORKER_CAPACITY_MAX


class Per(StrEnum):
    """For whom a rule counts."""

    ALL = "all"
    """All its jobs together."""
    PIPELINE = "pipeline"
    """Those of each pipeline."""
    PRINCIPAL = "principal"
    """Those of each principal; where nobody is authenticated, as `KEY`."""
    KEY = "key"
    """Those of each fairness key."""


class WhenReached(StrEnum):
    """What becomes of a job that comes when a rule leaves no room for it."""

    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A rule of how many jobs may run, or start, in some time. Raises ValueError for one that makes no sense.

    Of both numbers, what is None has no limit.
    """

    name: str
    """What jobs that wait for it are told."""

    pipelines: tuple[str, ...] = ("*",)
    """Whose jobs it is about, by names or globs."""

    per: Per = Per.ALL

    concurrency: int | None = None
    """So many may run at the same time; 0: none for now. A job runs until its worker has let go of it."""

    rate: int | None = None
    """So many may start in `period_s`, on the average."""

    period_s: float = 1.0

    burst: int | None = None
    """So many of them at once, where few have started lately; None: all of `rate`."""

    when_reached: WhenReached = WhenReached.WAIT

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a limit needs a name")
        about = f"the limit {self.name!r}"
        if self.concurrency is None and self.rate is None:
            raise ValueError(f"{about} limits nothing: it needs a concurrency or a rate")
        if not self.pipelines:
            raise ValueError(f"{about} is about no pipeline")
        if self.concurrency is not None and self.concurrency < 0:
            raise ValueError(f"{about} has a concurrency below 0")
        if self.rate is None and self.burst is not None:
            raise ValueError(f"{about} has a burst, but no rate")
        if self.rate is not None and (self.rate < 1 or self.period_s <= 0):
            raise ValueError(f"{about} needs a rate of at least 1, in a period over 0 s")
        if self.burst is not None and self.burst < 1:
            raise ValueError(f"{about} needs a burst of at least 1")

    def is_about(self, pipeline: str) -> bool:
        """Whether it holds for jobs of this pipeline."""
        return any(fnmatchcase(pipeline, pattern) for pattern in self.pipelines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """Decisions about scheduling. Raises ValueError for one that makes no sense."""

    half_life_s: float = 60.0
    """Of what a fairness key has used, half counts after this time."""

    ageing_s: float = 0.0
    """A job that has waited so long counts for one priority level more, and so on; 0: levels are strict for ever."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Of fairness keys, by what they are called: a principal, or the key that jobs name. 1 where nothing is said."""

    slots: Mapping[str, int] = field(default_factory=dict)
    """How many slots of a worker a job takes, by the name of its pipeline, or a glob (the first that fits). 1 where nothing is said."""

    affinity_wait_s: float = 1.0
    """So long a job waits for the worker that served its affinity key last, before it waits for any; 0: not at all."""

    affinity_imbalance: float = 0.5
    """A worker is not given a job for the sake of its affinity key if the share of its slots that is taken is larger by more than this
    than that of the least loaded one."""

    limits: tuple[Limit, ...] = ()
    """All that are about a job hold for it."""

    def slots_of(self, pipeline: str) -> int:
        """How many slots a job of this pipeline takes."""
        slots = self.slots.get(pipeline)
        if slots is None:
            slots = next((slots for pattern, slots in self.slots.items() if fnmatchcase(pipeline, pattern)), 1)
        return slots

    def as_dict(self) -> dict[str, Any]:
        """All of them, by name."""
        return asdict(self)

    def __post_init__(self) -> None:
        if self.half_life_s <= 0:
            raise ValueError(f"half_life_s must be over 0, not {self.half_life_s}")
        if self.ageing_s < 0:
            raise ValueError(f"ageing_s must not be below 0, not {self.ageing_s}")
        if self.affinity_wait_s < 0:
            raise ValueError(f"affinity_wait_s must not be below 0, not {self.affinity_wait_s}")
        if not 0 <= self.affinity_imbalance <= 1:
            raise ValueError(f"affinity_imbalance must be from 0 to 1, not {self.affinity_imbalance}")
        for name, weight in self.weights.items():
            if not 0 < weight <= WEIGHT_MAX:
                raise ValueError(f"the weight of {name!r} must be over 0 and at most {WEIGHT_MAX:,}, not {weight}")
        for pattern, slots in self.slots.items():
            if not 1 <= slots <= WORKER_CAPACITY_MAX:
                raise ValueError(
                    f"jobs of {pattern!r} must take at least 1 slot and at most {WORKER_CAPACITY_MAX:,}, not {slots}"
                )
        if len(self.slots) > RULES_MAX:
            raise ValueError(
                f"{len(self.slots)} kinds of jobs with slots of their own are too many, at most {RULES_MAX} are allowed"
            )
        if len(self.limits) > RULES_MAX:
            raise ValueError(f"{len(self.limits)} limits are too many, at most {RULES_MAX} are allowed")
        names = [limit.name for limit in self.limits]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two limits are called {name!r}")
