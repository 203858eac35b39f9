"""What `meta` and a failure's payload say, as schemas.

msgspec checks and decodes in one pass. This module stays interpreted in the compiled build (a `msgspec.Struct` defined in a compiled
module loses its field types). Field names are the wire's keys, which are short because they travel; unknown keys are ignored.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from reasonchip_broker.limits import NAME_CHARS_MAX, WORKER_CAPACITY_MAX, WORKER_PATTERNS_MAX

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z")]
"""A name that people read in logs and terminals: no control characters, no line ends."""

Sentence = Annotated[str, Meta(max_length=4096)]
Uuid = Annotated[bytes, Meta(min_length=16, max_length=16)]
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
    """WELCOME: the connection's id, the broker's instance, and the limits in force (`beat` and `dead` in milliseconds)."""

    conn: Uuid
    broker: Uuid
    frame: Unsigned
    jobs: Unsigned
    beat: Unsigned
    dead: Unsigned
    credit: Unsigned
    sw: str = ""
    v: str = ""
    feat: list[str] = []


class GoodbyeMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """GOODBYE: a sentence; after an unknown version, the versions spoken here."""

    msg: Sentence = ""
    versions: list[int] = []


class ReplyMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """REPLY: the type of the request (`to`), a sentence, and when to try again (milliseconds)."""

    to: Unsigned
    msg: Sentence = ""
    retry: Unsigned = 0


class RegisterMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """REGISTER: slots, the pipelines served by name or glob, labels, and on resuming what is held."""

    cap: Annotated[int, Meta(ge=1, le=WORKER_CAPACITY_MAX)]
    serves: Annotated[list[Name], Meta(min_length=1, max_length=WORKER_PATTERNS_MAX)]
    labels: Annotated[dict[Name, Name], Meta(max_length=100)] = {}
    held: list[tuple[Uuid, Unsigned]] = []


class RunOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """RUN: the pipeline, how its variables are encoded, and what the broker is to do with the job."""

    p: Name
    enc: Annotated[str, Meta(max_length=32)] = ""
    nonce: Annotated[bytes, Meta(max_length=32)] = b""
    queue: bool = True
    reply: bool = False
    detach: bool = False


class ResultMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """RESULT: the payload's encoding; for a failure, whether the job may have run."""

    enc: Annotated[str, Meta(max_length=32)] = ""
    ran: bool = True


class CancelMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """CANCEL: politely, or at once; and why."""

    now: bool = False
    why: Sentence = ""


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload of a RESULT that is not OK: what went wrong, the exception's type, and its stack trace line by line."""

    error: str = ""
    type: str = ""
    stack: list[str] | None = None


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
_hello = msgspec.msgpack.Decoder(HelloMeta)
_welcome = msgspec.msgpack.Decoder(WelcomeMeta)
_goodbye = msgspec.msgpack.Decoder(GoodbyeMeta)
_reply = msgspec.msgpack.Decoder(ReplyMeta)
_register = msgspec.msgpack.Decoder(RegisterMeta)
_run = msgspec.msgpack.Decoder(RunOptions)
_result = msgspec.msgpack.Decoder(ResultMeta)
_cancel = msgspec.msgpack.Decoder(CancelMeta)
_failure = msgspec.msgpack.Decoder(Failure)

EMPTY_MAP = b"\x80"


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
    return 0x80 <= meta[0] <= 0x8F or meta[0] in (0xDE, 0xDF)


def encode_meta(meta: msgspec.Struct) -> bytes:
    """A schema's MessagePack map, defaults left out where its schema says so."""
    return _encoder.encode(meta)


def hello_meta(meta: bytes) -> HelloMeta:
    """Decode HELLO's meta. Raises MetaInvalid, MetaUndecodable, as all of these do."""
    value: HelloMeta = _decode(_hello, meta)
    return value


def welcome_meta(meta: bytes) -> WelcomeMeta:
    """Decode WELCOME's meta."""
    value: WelcomeMeta = _decode(_welcome, meta)
    return value


def goodbye_meta(meta: bytes) -> GoodbyeMeta:
    """Decode GOODBYE's meta."""
    value: GoodbyeMeta = _decode(_goodbye, meta)
    return value


def reply_meta(meta: bytes) -> ReplyMeta:
    """Decode REPLY's meta."""
    value: ReplyMeta = _decode(_reply, meta)
    return value


def register_meta(meta: bytes) -> RegisterMeta:
    """Decode REGISTER's meta."""
    value: RegisterMeta = _decode(_register, meta)
    return value


def run_options(meta: bytes) -> RunOptions:
    """Decode RUN's meta."""
    value: RunOptions = _decode(_run, meta)
    return value


def result_meta(meta: bytes) -> ResultMeta:
    """Decode RESULT's meta."""
    value: ResultMeta = _decode(_result, meta)
    return value


def cancel_meta(meta: bytes) -> CancelMeta:
    """Decode CANCEL's meta."""
    value: CancelMeta = _decode(_cancel, meta)
    return value


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
