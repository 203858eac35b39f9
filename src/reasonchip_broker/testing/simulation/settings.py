"""How the switchboard of a world is configured: small limits, so that whatever they bound is reached."""

from dataclasses import dataclass, replace

from reasonchip_broker.limits import Limits

LIMITS = Limits(
    client_jobs_max=8,
    backlog_jobs_max=10,
    owner_backlog_jobs_max=7,
    cancel_grace_s=2.01,
    kill_grace_s=3.02,
    heartbeat_s=4.03,
    lease_s=9.04,
    handshake_s=5.05,
    outbox_bytes_mark=400,
    credit_frames=4,
    credit_bytes_max=100,
    ring_chunks_max=6,
    retention_s=7.0,
    outcomes_max=30,
)
"""Small, so that each of them is reached, and odd, so that hardly ever two things are due in the same moment."""

AGEING_S = 3.07
"""Odd, so that no job comes of age in the very moment in which it is looked at."""

FEW_MARKS = "few marks"
ROOMY = "roomy"
TIGHTER: dict[str, Limits] = {
    "": LIMITS,
    "few outcomes": replace(
        LIMITS, client_jobs_max=20, backlog_jobs_max=30, owner_backlog_jobs_max=30, outcomes_max=20, client_outcomes_max=9
    ),
    "few bytes": replace(LIMITS, client_jobs_max=12, outcomes_bytes_max=1500, client_outcomes_bytes_max=700),
    "small rings": replace(LIMITS, ring_bytes_max=180, rings_bytes_max=900),
    ROOMY: replace(LIMITS, outcomes_max=10_000),
    FEW_MARKS: replace(LIMITS, client_jobs_max=20, backlog_jobs_max=30, owner_backlog_jobs_max=19, spent_max=15),
}
"""By name, the limits of a world: some more of them are within reach in each, and in some there is room for large packs."""


@dataclass(frozen=True)
class Setting:
    """How the switchboard of a world is configured."""

    json_slot_rest_ms: int | None = None
    json_cancel: bool = False
    admits: bool = False
    limits: str = ""
    """Which of `TIGHTER` are its limits."""
    ageing_s: float = 0.0
    """After which time a job counts for one priority level more; 0: never."""
    rules: str = ""
    """What the operator says in the beginning, by name (`features/rules.py`)."""
