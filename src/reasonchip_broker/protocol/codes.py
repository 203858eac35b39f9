"""The numbers on the wire: packet types, outcomes, refusals, answers and close reasons.

One byte names each, and the four families of codes share one numbering, so that a code read from a header means one thing whatever
packet carries it. The numbers never change and are never used again; `docs/reference/protocol.md` is their public list.
"""

from enum import IntEnum, StrEnum
from typing import Final


class Role(IntEnum):
    """Which listener a connection came in on."""

    CLIENT = 1
    WORKER = 2


class Dialect(IntEnum):
    """Which of the two protocols a connection speaks."""

    BINARY = 1
    JSON = 2


class PacketType(IntEnum):
    """The `type` byte of a binary frame."""

    HELLO = 1
    WELCOME = 2
    PING = 3
    PONG = 4
    GOODBYE = 5
    REPLY = 6
    REGISTER = 16
    RUN = 17
    RESULT = 18
    CANCEL = 19
    ACK = 20
    PROGRESS = 21
    INPUT = 22
    CREDIT = 23
    ATTACH = 24
    STATUS = 25
    PARK = 26
    RESUME = 27
    EXTEND = 28
    DRAIN = 29
    QUEUE = 30


class Code(IntEnum):
    """The `code` byte of a RESULT (an outcome) or a REPLY (a refusal or an answer)."""

    # Outcomes: the cookie is spent.
    OK = 0
    PROCESSOR_EXCEPTION = 1
    EXCEPTION = 2
    CANCELLED = 3
    DEADLINE_EXCEEDED = 4
    QUEUE_TIMEOUT = 5
    WORKER_WENT_AWAY = 6
    BROKER_WENT_AWAY = 7
    DEAD_LETTERED = 8
    TOO_LARGE = 9
    # Refusals: no job exists, and the same cookie may be used again.
    BAD_PACKET = 32
    UNSUPPORTED_PACKET_TYPE = 33
    NO_CAPACITY = 34
    COOKIE_NOT_FOUND = 35
    COOKIE_COLLISION = 36
    OVERLOADED = 37
    NOT_ALLOWED = 38
    DRAINING = 39
    NOT_SERVED = 40
    OUTCOME_GONE = 41
    WORKER_NOT_FOUND = 42
    # Answers: the request was taken, and this is where the job stands.
    QUEUED = 64
    DISPATCHED = 65
    CANCELLING = 66
    GAP = 67
    SCHEDULED = 68


OUTCOMES: Final = frozenset(code for code in Code if code < 32)
REFUSALS: Final = frozenset(code for code in Code if 32 <= code < 64)


class CloseReason(IntEnum):
    """Why a connection ended: the `code` byte of a GOODBYE, or, from 192 on, what one end saw for itself and never sends."""

    NORMAL = 128
    PROTOCOL_ERROR = 129
    UNSUPPORTED_VERSION = 130
    HANDSHAKE_TIMEOUT = 131
    HEARTBEAT_TIMEOUT = 132
    SLOW_CONSUMER = 133
    REPLACED = 134
    LIMIT = 135
    SHUTTING_DOWN = 136
    FRAME_TOO_LARGE = 137
    NOT_AUTHENTICATED = 138
    INTERNAL_ERROR = 139
    PEER_CLOSED = 192
    CONNECTION_LOST = 193
    TLS_FAILED = 194


class JobState(StrEnum):
    """Where a job is, as STATUS tells it."""

    ADMITTING = "admitting"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    PARKED = "parked"
    CANCELLING = "cancelling"
    SUSPENDED = "suspended"
    BACKOFF = "backoff"
    OVER = "over"


class Waiting(StrEnum):
    """Why a job is not running, as STATUS tells it."""

    NOT_ADMITTED = "not_admitted"
    NOT_DUE = "not_due"
    NOT_SERVED = "not_served"
    NO_FREE_SLOT = "no_free_slot"
    LIMIT_REACHED = "limit_reached"
    PREFERRED_WORKER_BUSY = "preferred_worker_busy"
    WORKERS_DRAINING = "workers_draining"
    WORKER_DISCONNECTED = "worker_disconnected"
    BETWEEN_ATTEMPTS = "between_attempts"
    STALE_ATTEMPT = "stale_attempt"
    SLOT_LENT_OUT = "slot_lent_out"


NO_COOKIE: Final = bytes(16)
"""The cookie of a packet that names no job."""

ENCODING_JSON: Final = "json"
ENCODING_MSGPACK: Final = "msgpack"
ENCODING_BYTES: Final = "bytes"
ENCODING_TEXT: Final = "text"
