"""What `meta` and a failure's payload say, as schemas.

msgspec checks and decodes in one pass. This module stays interpreted in the compiled build (a `msgspec.Struct` defined in a compiled
module loses its field types). Field names are the wire's keys, which are short because they travel; unknown keys are ignored.
"""

from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from reasonchip_broker.limits import (
    ATTEMPTS_MAX,
    NAME_CHARS_MAX,
    PRIORITIES,
    PRIORITY_DEFAULT,
    QUEUE_ROWS,
    QUEUE_ROWS_MAX,
    RETRY_NAMES_MAX,
    WORKER_CAPACITY_MAX,
    WORKER_HELD_MAX,
    WORKER_PATTERNS_MAX,
)

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z")]
"""A name that people read in logs and terminals: no control characters, no line ends."""

Key = Annotated[str, Meta(max_length=NAME_CHARS_MAX, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]
"""The same, or nothing."""

Sentence = Annotated[str, Meta(max_length=4096)]
Uuid = Annotated[bytes, Meta(min_length=16, max_length=16)]
Map = TypeVar("Map", bound=msgspec.Struct)
Unsigned = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]


class HelloMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """HELLO: who is calling. `name`, `inst` (this process) and `grace` (seconds) are a worker's."""

    sw: Annotated[str, Meta(max_length=NAME_CHARS_MAX)] = ""
    v: Annotated[str, Meta(max_length=NAME_CHARS_MAX)] = ""
    token: str | None = None
    feat: list[str] = []
    name: Name | None = None
    inst: Uuid | None = None
    grace: Unsigned = 0


class WelcomeMeta(msgspec.Struct, frozen=True):
    """WELCOME: the connection's id, the broker's instance, and the limits in force.

    `beat`, `dead` and `retain` (how long outcomes are kept) are milliseconds; `credit` frames and `window` bytes of a job's PROGRESS or
    INPUT may be sent before there is credit for more.
    """

    conn: Uuid
    broker: Uuid
    frame: Unsigned
    jobs: Unsigned
    beat: Unsigned
    dead: Unsigned
    credit: Unsigned
    window: Unsigned = 256 * 1024
    retain: Unsigned = 300_000
    sw: str = ""
    v: str = ""
    feat: list[str] = []


class GoodbyeMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """GOODBYE: a sentence; after an unknown version, the versions spoken here."""

    msg: Sentence = ""
    versions: list[int] = []


class JobStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a job is (`state`, a name of `JobState`) and, if it waits, why: `why` is a name of `Waiting`, for programs.

    `pipe` is its pipeline; `att` and `of` its attempt and how many it may have; `age`, `left` and `due` milliseconds since it was
    taken, until its deadline and until it may run (0: none); `prog` and `inp` the highest numbers of its PROGRESS and INPUT; `worker`
    the name of the worker that holds it; `out` the code of its outcome, if it is over; `kids` its children, if they were asked for.
    """

    state: str
    why: str = ""
    pipe: str = ""
    att: Unsigned = 0
    of: Unsigned = 1
    age: Unsigned = 0
    left: Unsigned = 0
    due: Unsigned = 0
    prog: Unsigned = 0
    inp: Unsigned = 0
    worker: str = ""
    out: Unsigned | None = None
    cookie: Annotated[bytes, Meta(max_length=16)] = b""
    parent: Annotated[bytes, Meta(max_length=16)] = b""
    kids: list["JobStatus"] = []


class PoolStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Workers that offer the same, which is to say: of each, the same patterns (`serves`), labels, capacity (`cap`) and protocol.

    There are `n` of them, of which some drain (`drain`), are too slow (`slow`), or are set aside for a job that takes several slots
    (`aside`). On `run` of their `slots` jobs run; so many are `free` for the next job, withheld until their worker reports (`held`), or
    resting (`rest`). `wait` jobs wait that they serve. `more` patterns and labels are left out.
    """

    serves: list[str]
    cap: Unsigned
    labels: dict[str, str] = {}
    more: Unsigned = 0
    json: bool = False
    n: Unsigned = 0
    drain: Unsigned = 0
    slow: Unsigned = 0
    aside: Unsigned = 0
    slots: Unsigned = 0
    run: Unsigned = 0
    free: Unsigned = 0
    held: Unsigned = 0
    rest: Unsigned = 0
    wait: Unsigned = 0


class KeyStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """A fairness key: its name, or, if it is not `named`, the connection that it stands for; its `weight`; the slots that it has now
    (`run`), and its jobs that wait (`wait`). `used`: milliseconds of slot-time lately; `turn`: of one of its jobs, as far as is known.
    """

    key: str
    named: bool = False
    weight: float = 1.0
    run: Unsigned = 0
    wait: Unsigned = 0
    used: Unsigned = 0
    turn: Unsigned = 0


class LineStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Jobs that wait for the same: of one pipeline, of the same wishes (`need`, `like`), priority (`prio`; with its age it counts as
    `level`) and fairness key. `n` of them, the oldest for `age` milliseconds; `why` and `msg` are said of that one, as STATUS does."""

    pipe: str
    prio: Unsigned
    level: Unsigned
    key: str
    n: Unsigned
    json: bool = False
    need: dict[str, str] = {}
    like: dict[str, str] = {}
    age: Unsigned = 0
    why: str = ""
    msg: Sentence = ""


class LimitStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """A count of one of the operator's limits: its name and whose count it is (`of`: a pipeline, a principal, a fairness key; "" for
    all jobs). `run` jobs run, of at most `most` (nil: any number); `wait` jobs wait that it is about. If it holds them back now, it is
    `shut`; `opens`: then for so many milliseconds yet, if it is time that opens it.
    """

    name: str
    of: str = ""
    run: Unsigned = 0
    most: Unsigned | None = None
    wait: Unsigned = 0
    shut: bool = False
    opens: Unsigned = 0


class QueueReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who waits for what. `wait` jobs wait for a slot, of `size` bytes; `sched` for their time; `left` jobs an hour have left the queue
    lately. `others` of those that wait are other principals', and shown nowhere else.

    Then as many rows of each table as were asked for, those that matter most; `of` says how many there would be of each, in that order.
    """

    wait: Unsigned = 0
    size: Annotated[int, Meta(ge=0)] = 0
    sched: Unsigned = 0
    left: Unsigned = 0
    others: Unsigned = 0
    pools: list[PoolStatus] = []
    keys: list[KeyStatus] = []
    lines: list[LineStatus] = []
    limits: list[LimitStatus] = []
    of: Annotated[list[Unsigned], Meta(max_length=4)] = []


class ReplyMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """REPLY: the type of the request (`to`), a sentence, and when to try again (milliseconds).

    `job` answers STATUS and ATTACH, and a RUN that was sent again; `held` answers a REGISTER that resumes: the (cookie, attempt) pairs
    that the worker keeps; `n` is to how many jobs a CANCEL of a batch went; `queue` answers QUEUE.
    """

    to: Unsigned
    msg: Sentence = ""
    retry: Unsigned = 0
    job: JobStatus | None = None
    held: list[tuple[Uuid, Unsigned]] = []
    n: Unsigned = 0
    queue: QueueReport | None = None


class RegisterMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """REGISTER: slots, the pipelines served by name or glob, labels, and on resuming what is held."""

    cap: Annotated[int, Meta(ge=1, le=WORKER_CAPACITY_MAX)]
    serves: Annotated[list[Name], Meta(min_length=1, max_length=WORKER_PATTERNS_MAX)]
    labels: Annotated[dict[Name, Name], Meta(max_length=100)] = {}
    held: Annotated[list[tuple[Uuid, Unsigned]], Meta(max_length=WORKER_HELD_MAX)] = []


class RunOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """RUN: the pipeline, how its variables are encoded, and what the broker is to do with the job. Times are milliseconds.

    `follow`: send PROGRESS to this connection. `att`: attempts; `back`: wait before the second, doubled for each further one;
    `again`: types of handler errors that use up an attempt instead of ending the job ("*": any). `orphan`: cancel the job so long
    after its client is gone (absent: never). `keep`: how long its outcome is kept. `qlim`, `rlim`: how long it may wait for a slot,
    and how long an attempt may run. `delay`: not before so long after it was taken. `parent`: the job whose handler sent this one;
    `aff`: jobs of the same key go to the same worker, if it can be had.
    `loose`: it outlives that one. `at`: the broker's instance that it was first sent to.
    """

    p: Name
    enc: Annotated[str, Meta(max_length=32)] = ""
    nonce: Annotated[bytes, Meta(max_length=32)] = b""
    queue: bool = True
    reply: bool = False
    detach: bool = False
    follow: bool = False
    att: Annotated[int, Meta(ge=1, le=ATTEMPTS_MAX)] = 1
    back: Unsigned = 500
    again: Annotated[list[Name], Meta(max_length=RETRY_NAMES_MAX)] = []
    orphan: Unsigned | None = None
    keep: Unsigned | None = None
    qlim: Unsigned = 0
    rlim: Unsigned = 0
    delay: Unsigned = 0
    prio: Annotated[int, Meta(ge=0, le=PRIORITIES - 1)] = PRIORITY_DEFAULT
    key: Key = ""
    need: Annotated[dict[Name, Name], Meta(max_length=100)] = {}
    like: Annotated[dict[Name, Name], Meta(max_length=100)] = {}
    served: bool = False
    aff: Key = ""
    parent: Uuid | None = None
    loose: bool = False
    batch: Uuid | None = None
    at: Uuid | None = None

    @property
    def is_simple(self) -> bool:
        """Whether the broker has nothing to do for such a job but run it."""
        return not (
            self.reply
            or self.follow
            or self.att > 1
            or self.orphan is not None
            or self.keep is not None
            or self.qlim
            or self.rlim
            or self.delay
            or self.parent
            or self.batch
            or self.at
        )


class ResultMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """RESULT: the payload's encoding; for a failure, whether the job may have run."""

    enc: Annotated[str, Meta(max_length=32)] = ""
    ran: bool = True


class CancelMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """CANCEL: politely, or at once; and why. `batch`: every job of a batch, instead of the one of the cookie."""

    now: bool = False
    why: Sentence = ""
    batch: Uuid | None = None


class ChunkMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """PROGRESS and INPUT: the chunk's encoding; of a GAP (`code` 67) `first`, the number of the first chunk that is missing."""

    enc: Annotated[str, Meta(max_length=32)] = ""
    first: Unsigned = 0


class AttachMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """ATTACH: from which number on PROGRESS is wanted (0: none), and whether this connection becomes the primary follower."""

    first: Unsigned = 0
    take: bool = True


class StatusMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """STATUS: whether the job's children are asked for too."""

    tree: bool = False


class QueueMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """QUEUE: how many rows of each table are wanted at most."""

    rows: Annotated[int, Meta(ge=0, le=QUEUE_ROWS_MAX)] = QUEUE_ROWS


class DrainMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """DRAIN from a client, for an operator: the name of the worker that gets no more jobs."""

    worker: Name


class AttemptRecord(msgspec.Struct, frozen=True, array_like=True):
    """What became of an attempt: its number, the worker's name, how it ended, and after how many milliseconds."""

    attempt: Unsigned
    worker: str
    end: str
    ran_ms: Unsigned


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload of a RESULT that is not OK: what went wrong, the exception's type, its stack trace line by line, and, of a job with
    several attempts, what became of each (`hist`)."""

    error: str = ""
    type: str = ""
    stack: list[str] | None = None
    hist: list[AttemptRecord] = []


class JsonPacket(msgspec.Struct):
    """A packet of the JSON protocol, its values as they are written. `capacity` is judged later, as that of a binary REGISTER is."""

    packet_type: msgspec.Raw = msgspec.Raw()
    cookie: msgspec.Raw = msgspec.Raw()
    capacity: msgspec.Raw = msgspec.Raw()
    pipeline: msgspec.Raw = msgspec.Raw()
    variables: msgspec.Raw = msgspec.Raw()
    detach: msgspec.Raw = msgspec.Raw()
    rc: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    stacktrace: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()


JSON_KEYS = JsonPacket.__struct_fields__
"""The keys of a JSON packet, in the order in which existing peers write them."""

_json_packet = msgspec.json.Decoder(JsonPacket)
_json_text = msgspec.json.Decoder(str | None)
_json_values: "dict[str, msgspec.json.Decoder[Any]]" = {
    "capacity": msgspec.json.Decoder(bool | int | float | str | None),
    "detach": msgspec.json.Decoder(bool | None),
    "stacktrace": msgspec.json.Decoder(list[str] | None),
}
_encoder = msgspec.msgpack.Encoder()
_failure = msgspec.msgpack.Decoder(Failure)

EMPTY_MAP = b"\x80"
_FIXMAP = 0x80
_FIXMAP_PAIRS_MAX = 15
_MAP_16 = 0xDE


class MetaInvalid(Exception):
    """A map that decodes, but does not say what it must: the packet is refused, the connection lives on."""


class MetaUndecodable(Exception):
    """No MessagePack map at all: the stream can't be trusted any more."""


def _decode(decoder: "msgspec.msgpack.Decoder[Any]", meta: bytes) -> Any:
    try:
        return decoder.decode(meta or EMPTY_MAP)
    except msgspec.ValidationError as error:
        # msgspec also reports "not a map" as a validation error, though nothing of it can be understood.
        if meta and not _is_map(meta):
            raise MetaUndecodable("meta is not a MessagePack map") from error
        raise MetaInvalid(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise MetaUndecodable(f"meta does not decode: {error}") from error


def _is_map(meta: bytes) -> bool:
    return _FIXMAP <= meta[0] <= _FIXMAP | _FIXMAP_PAIRS_MAX or meta[0] in (_MAP_16, 0xDF)


def encode_meta(meta: msgspec.Struct) -> bytes:
    """A schema's MessagePack map, defaults left out where its schema says so."""
    encoded = _encoder.encode(meta)
    if encoded[0] == _MAP_16 and encoded[1] == 0 and encoded[2] <= _FIXMAP_PAIRS_MAX:
        # msgspec chooses the form of a map by the fields of its schema, though defaults were left out; RUN travels most and is small.
        return bytes((_FIXMAP | encoded[2],)) + encoded[3:]
    return encoded


class Decoder(Generic[Map]):
    """Decodes the meta of one type of packet. Raises MetaInvalid, MetaUndecodable."""

    __slots__ = ("_decoder",)

    def __init__(self, schema: type[Map]) -> None:
        self._decoder = msgspec.msgpack.Decoder(schema)

    def __call__(self, meta: bytes) -> Map:
        value: Map = _decode(self._decoder, meta)
        return value


hello_meta = Decoder(HelloMeta)
welcome_meta = Decoder(WelcomeMeta)
goodbye_meta = Decoder(GoodbyeMeta)
reply_meta = Decoder(ReplyMeta)
register_meta = Decoder(RegisterMeta)
run_options = Decoder(RunOptions)
result_meta = Decoder(ResultMeta)
cancel_meta = Decoder(CancelMeta)
chunk_meta = Decoder(ChunkMeta)
attach_meta = Decoder(AttachMeta)
status_meta = Decoder(StatusMeta)
queue_meta = Decoder(QueueMeta)
drain_meta = Decoder(DrainMeta)


def failure(payload: bytes) -> Failure:
    """Decode a failure's payload; what is not a failure map is shown as it is, since a person must still see something."""
    try:
        value: Failure = _decode(_failure, payload)
    except (MetaInvalid, MetaUndecodable):
        return Failure(error=payload[:4096].decode("utf-8", "replace"))
    return value


def json_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields that a JSON packet has, as they are written: slices of it. Raises ValueError for what is no JSON object."""
    try:
        packet = _json_packet.decode(body)
    except msgspec.ValidationError as error:
        raise ValueError("a packet is a JSON object") from error
    return {key: value for key, value in msgspec.structs.asdict(packet).items() if len(value)}


def json_value(key: str, value: msgspec.Raw) -> Any:
    """The value of a field of a JSON packet; bytes, which no field can be, if it is of a wrong type."""
    try:
        return _json_values.get(key, _json_text).decode(value)
    except msgspec.ValidationError:
        return bytes(memoryview(value)[:100])
