"""From the raw figures of all rounds to one line for each workload: medians, their spread, and ratios to NATS."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.stats import Spread, ratios, spread
from benchmarks.workloads import IdleWorkload, System, Workload

GENERATOR_LIMIT = 0.95
"""From this share of its core on, the generator and not the broker set the pace."""


@dataclass(frozen=True, slots=True)
class Record:
    """One measurement."""

    round: int
    """From 1."""
    workload: str
    figures: dict[str, Any] | None
    """As `LoadResult` or `IdleResult` has them; None if it failed."""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """One workload over all rounds. None: nothing to tell."""

    workload: str
    failures: int
    cpu_us_per_job: Spread | None
    """Processor time of the broker process per job, in microseconds."""
    cpu_ratio: Spread | None
    """That, divided by NATS's of the same shape in the same round."""
    jobs_per_s: Spread | None
    p50_ms: Spread | None
    p50_ratio: Spread | None
    p99_ms: Spread | None
    p999_ms: Spread | None
    rss_mib: Spread | None
    broker_busy: Spread | None
    """Share of the window in which the broker used its core."""
    generator_busy: Spread | None
    """Share of the window in which the generator used its own."""

    @property
    def generator_was_limit(self) -> bool:
        """Whether the generator set the pace: jobs a second and latency then say little about the broker."""
        return self.generator_busy is not None and self.generator_busy.median >= GENERATOR_LIMIT


@dataclass(frozen=True, slots=True)
class IdleSummary:
    """Idle connections of one system."""

    workload: str
    failures: int
    connections: int
    kib_per_connection: Spread | None
    ratio: Spread | None
    """That, divided by NATS's in the same round."""


Metric = Callable[[dict[str, Any]], float]

_METRICS: dict[str, Metric] = {
    "cpu_us_per_job": lambda f: f["broker_cpu_ns"] / 1e3 / f["jobs"],
    "jobs_per_s": lambda f: f["jobs"] / f["seconds"],
    "p50_ms": lambda f: f["p50_ns"] / 1e6,
    "p99_ms": lambda f: f["p99_ns"] / 1e6,
    "p999_ms": lambda f: f["p999_ns"] / 1e6,
    "rss_mib": lambda f: f["rss_bytes"] / 2**20,
    "broker_busy": lambda f: f["broker_cpu_ns"] / 1e9 / f["seconds"],
    "generator_busy": lambda f: f["generator_cpu_ns"] / 1e9 / f["seconds"],
}


def by_round(records: Sequence[Record], name: str, metric: Metric) -> dict[int, float]:
    """One figure of one workload, by the number of the round."""
    return {
        record.round: metric(record.figures) for record in records if record.workload == name and record.figures is not None
    }


def _failures(records: Sequence[Record], name: str) -> int:
    return sum(record.workload == name and record.figures is None for record in records)


def summarise(workload: Workload, records: Sequence[Record]) -> Summary:
    """One line for `workload`."""
    values = {key: spread(list(by_round(records, workload.name, metric).values())) for key, metric in _METRICS.items()}

    def ratio(key: str) -> Spread | None:
        if workload.system is System.NATS:
            return None
        ours = by_round(records, workload.name, _METRICS[key])
        return spread(ratios(ours, by_round(records, workload.baseline.name, _METRICS[key])))

    return Summary(
        workload=workload.name,
        failures=_failures(records, workload.name),
        cpu_ratio=ratio("cpu_us_per_job"),
        p50_ratio=ratio("p50_ms"),
        **values,
    )


def summarise_idle(workload: IdleWorkload, records: Sequence[Record]) -> IdleSummary:
    """One line for `workload`."""

    def kib(figures: dict[str, Any]) -> float:
        return float(figures["per_connection_bytes"]) / 1024

    ours = by_round(records, workload.name, kib)
    theirs = by_round(records, IdleWorkload(System.NATS).name, kib)
    counts = by_round(records, workload.name, lambda figures: figures["connections"])
    return IdleSummary(
        workload=workload.name,
        failures=_failures(records, workload.name),
        connections=int(next(iter(counts.values()), 0)),
        kib_per_connection=spread(list(ours.values())),
        ratio=None if workload.system is System.NATS else spread(ratios(ours, theirs)),
    )
