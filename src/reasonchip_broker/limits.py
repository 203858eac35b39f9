"""Every bound of the broker: its value, its unit (in its name) and its reason (beside it).

A limit that is reached is answered (OVERLOADED, TOO_LARGE, a close reason), never met with silence or with growth.
"""

from dataclasses import dataclass, fields
from typing import Final

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

FRAME_BYTES_SETTABLE = 64 * MIB
"""The largest `frame_bytes_max` that may be set: beyond it one frame would hold up everybody else's for too long."""

HANDSHAKE_FRAME_BYTES_MAX = 4 * KIB
"""The largest binary frame before WELCOME: a stranger may not make the broker hold more than this."""

WORKER_CAPACITY_MAX = 10_000
"""Slots that one worker may declare: more is a mistake in its configuration, or an attack."""

WORKER_HELD_MAX = 100_000
"""Attempts that a worker may say it still holds: those on its slots, those that are parked, results that nobody has acknowledged."""

WORKER_PATTERNS_MAX = 1_000
"""Pipeline names and globs in one REGISTER: each is compiled, and matched once against each pipeline seen."""

NAME_CHARS_MAX = 255
"""Characters in a pipeline, pattern, worker name or label: they are keys of tables and fields of log lines."""

PRIORITIES: Final = 10
"""Levels of priority, 0 to 9; the highest goes first."""

PRIORITY_DEFAULT: Final = 4
"""As in the Java Message Service: 0 to 4 are gradations of normal, 5 to 9 of expedited."""

WEIGHT_MAX = 1_000_000
"""The largest weight of a fairness key: beyond, nothing is left for all others."""

AFFINITY_KEYS_MAX = 100_000
"""Affinity keys of which it is remembered who served them last, at about 200 bytes each; those that came up longest ago go first."""

RULES_MAX = 100
"""Limits that an operator may declare: each new pipeline is held against all of them, once."""

GATES_KNOWN_MAX = 20_000
"""Counts of limits remembered, one for each key or pipeline: idle ones are forgotten beyond."""

SHARES_KNOWN_MAX = 20_000
"""Fairness keys remembered without a job: any client may invent some, so idle ones are forgotten, those that used least first."""

PIPELINES_KNOWN_MAX = 10_000
"""Eligibility classes remembered without a waiting job: any client may invent pipeline names, so idle ones are forgotten."""

OPTIONS_CACHED_MAX = 16_384
"""Decoded RUN options kept for the next RUN with the same bytes: a client sends the same few over and over, and as many as there are
fairness keys that it names."""

OPTIONS_CACHED_BYTES_MAX = 256
"""RUN options longer than this are decoded each time, so that the cache's memory stays below some 10 MiB."""

JSON_SLOT_REST_MS_MIN = 25
JSON_SLOT_REST_MS_PER_SLOT = 5
"""A JSON worker of capacity over 1 answers before it has freed its slot; a RUN that comes sooner than about this kills it."""

ATTEMPTS_MAX = 20
"""Attempts that a job may ask for: what has cost twenty workers their lives will not do better."""

BACKOFF_S_MAX = 60.0
"""The wait between attempts doubles up to this."""

RETRY_NAMES_MAX = 32
"""Types of handler errors that a RUN may name for another attempt."""

SESSION_GRACE_S_MAX = 60.0
"""For how long a worker may ask that its jobs wait for it to come back: its jobs' owners wait as well."""

CHUNK_HEAD_BYTES_MAX = 256
"""Header and meta of a PROGRESS or INPUT that makes sense, which count for nothing in a window; what is beyond that counts."""

STATUS_CHILDREN_MAX = 1_000
"""Jobs of a run tree that one STATUS shows."""

QUEUE_ROWS, QUEUE_ROWS_MAX = 20, 100
"""Rows of each table that the answer to a QUEUE has, if nothing is said, and at most."""

QUEUE_LOOK_MAX = 10_000
"""Lines of waiting jobs, keys, and so on that are looked at for it: so many take some 15 ms, for which all others are held up."""

SPENT_SHARDS: Final = 256
"""Cookies of jobs whose outcome is acknowledged are kept in so many small tables: a large one stops the loop when it grows."""

TIMER_TICK_S: Final = 0.005
"""The grain of the timing wheel: timers fire at the end of their tick, never early and at most this late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds that an operator may set, with their defaults. Raises ValueError for a value that makes no sense."""

    frame_bytes_max: int = 16 * MIB
    """What a frame's `length` may say. A larger one costs only its own job."""

    tls_handshake_s: float = 5.0
    handshake_s: float = 10.0
    """Until WELCOME, or until a JSON frame that was begun is complete: a slow dripper holds a descriptor no longer than this."""

    heartbeat_s: float = 10.0
    """A binary peer that was silent for this long is sent a PING."""

    lease_s: float = 30.0
    """A binary peer that was silent for this long is gone: one heartbeat, and 20 s in which it did not answer."""

    write_deadline_s: float = 10.0
    """A peer that takes not one byte for this long while some wait for it is a slow consumer."""

    outbox_bytes_mark: int = 1 * MIB
    """Above this a connection is not read from and, being a worker, is given no job."""

    outbox_bytes_max: int = 32 * MIB
    """At this a connection is a slow consumer; one frame is always admitted, whatever its size."""

    connections_max: int = 10_000
    connections_unwelcomed_per_address_max: int = 256
    """Connections of one address that have not finished a handshake. Loopback is exempt: everyone local shares it."""

    client_jobs_max: int = 100_000
    """Unfinished jobs of one client connection, so that one client can't fill the backlog of all."""

    backlog_jobs_max: int = 1_000_000
    backlog_bytes_max: int = 1 * GIB
    """Jobs that wait for a slot or for their time, and the bytes of their frames, in all."""

    owner_backlog_jobs_max: int = 250_000
    owner_backlog_bytes_max: int = 256 * MIB
    """The same of one principal (of one fairness key, where nobody is authenticated): a quarter, so that nobody fills it for all."""

    delay_s_max: int = 30 * 86_400
    """How far ahead a job may be scheduled: a broker that is started anew remembers nothing, so what is further off than a month is for
    a database."""

    cancel_grace_s: float = 10.0
    """How long a worker may take over a polite CANCEL before it is told to stop at once."""

    kill_grace_s: float = 10.0
    """How long it may take over that before the job is given up as CANCELLED, its slot withheld."""

    drain_s: float = 120.0
    """How long a stopping broker waits for running jobs."""

    credit_frames: int = 64
    credit_bytes_max: int = 256 * KIB
    """PROGRESS or INPUT of a job that may be sent before there is CREDIT for it: so many frames, and no more than so many bytes (one
    frame is always allowed)."""

    ring_chunks_max: int = 256
    ring_bytes_max: int = 1 * MIB
    """What is kept of a job's PROGRESS, and as much of its INPUT, for a follower that comes later."""

    rings_bytes_max: int = 128 * MIB
    """What is kept of all jobs' PROGRESS and INPUT."""

    retention_s: float = 300.0
    """How long an outcome can be fetched, unless the job says otherwise."""

    retention_s_max: float = 3600.0
    """The longest that a job may ask for."""

    outcomes_max: int = 100_000
    outcomes_bytes_max: int = 128 * MIB
    """Outcomes that are kept until they are acknowledged, in all; beyond, the oldest go first."""

    client_outcomes_max: int = 50_000
    client_outcomes_bytes_max: int = 64 * MIB
    """Those of one client connection, so that one that never acknowledges can't drive out everybody else's."""

    spent_max: int = 1_000_000
    """Cookies of acknowledged jobs that are recognised, within the retention, and never run again."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value <= 0:
                raise ValueError(f"{field.name} must be over 0, not {value}")
        if self.frame_bytes_max > FRAME_BYTES_SETTABLE:
            raise ValueError(f"frame_bytes_max may be at most {FRAME_BYTES_SETTABLE}, not {self.frame_bytes_max}")
        if self.frame_bytes_max < HANDSHAKE_FRAME_BYTES_MAX:
            raise ValueError(f"frame_bytes_max must be at least {HANDSHAKE_FRAME_BYTES_MAX}, not {self.frame_bytes_max}")
        if self.lease_s <= self.heartbeat_s:
            raise ValueError(f"lease_s ({self.lease_s}) must be longer than heartbeat_s ({self.heartbeat_s})")
        if self.outbox_bytes_max < self.outbox_bytes_mark:
            raise ValueError(
                f"outbox_bytes_max ({self.outbox_bytes_max}) must not be below outbox_bytes_mark ({self.outbox_bytes_mark})"
            )
