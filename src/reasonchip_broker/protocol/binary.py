"""The binary protocol: a frame's fields read from its bytes, frames built from their fields.

The layout is in `docs/reference/protocol.md`. A frame is passed on as the bytes that came in wherever that is possible; where its
header must say something else (a later attempt, less time left), `readdressed` makes a copy with a new header.
"""

from struct import Struct
from typing import Final

from reasonchip_broker.protocol.codes import NO_COOKIE
from reasonchip_broker.protocol.frames import HEADER, HEADER_BYTES, LENGTH_MIN

_LENGTH: Final = Struct(">I")
_ATTEMPT: Final = Struct(">H")
_NUMBER: Final = Struct(">I")
_META_LENGTH: Final = Struct(">I")

CODE_AT: Final = 5
_ATTEMPT_AT: Final = 6
_NUMBER_AT: Final = 24
_META_LENGTH_AT: Final = 28

ATTEMPT_MAX: Final = 0xFFFF
NUMBER_MAX: Final = 0xFFFFFFFF


class Packet:
    """A whole packet, typed: every field of a frame. For whoever needs them all; the broker's hot path reads single fields instead."""

    __slots__ = ("attempt", "code", "cookie", "kind", "meta", "number", "payload")

    def __init__(self, kind: int, code: int, attempt: int, cookie: bytes, number: int, meta: bytes, payload: bytes) -> None:
        self.kind = kind
        self.code = code
        self.attempt = attempt
        self.cookie = cookie
        self.number = number
        self.meta = meta
        self.payload = payload


def encode(
    kind: int,
    code: int = 0,
    attempt: int = 0,
    cookie: bytes = NO_COOKIE,
    number: int = 0,
    meta: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """The frame of a packet. `meta` is an encoded MessagePack map or empty, `cookie` 16 bytes."""
    length = LENGTH_MIN + len(meta) + len(payload)
    return b"".join((HEADER.pack(length, kind, code, attempt, cookie, number, len(meta)), meta, payload))


def decode(frame: bytes) -> Packet:
    """Every field of a frame that a decoder has found whole."""
    _, kind, code, attempt, cookie, number, meta_length = HEADER.unpack_from(frame)
    body = HEADER_BYTES + meta_length
    return Packet(kind, code, attempt, cookie, number, frame[HEADER_BYTES:body], frame[body:])


def code_of(frame: bytes) -> int:
    """The frame's code."""
    return frame[CODE_AT]


def attempt_of(frame: bytes) -> int:
    """The frame's attempt."""
    return frame[_ATTEMPT_AT] << 8 | frame[_ATTEMPT_AT + 1]


def number_of(frame: bytes) -> int:
    """The frame's number."""
    number: int = _NUMBER.unpack_from(frame, _NUMBER_AT)[0]
    return number


def meta_of(frame: bytes) -> bytes:
    """The frame's meta, encoded."""
    meta_length: int = _META_LENGTH.unpack_from(frame, _META_LENGTH_AT)[0]
    return frame[HEADER_BYTES : HEADER_BYTES + meta_length]


def payload_of(frame: bytes) -> bytes:
    """The frame's payload (a copy of those bytes)."""
    meta_length: int = _META_LENGTH.unpack_from(frame, _META_LENGTH_AT)[0]
    return frame[HEADER_BYTES + meta_length :]


def payload_length(frame: bytes) -> int:
    """How many bytes its payload has, as its header says: of a frame that was skipped nothing else is there, and nobody has looked
    at what that says of its meta."""
    length: int = _LENGTH.unpack_from(frame)[0]
    meta_length: int = _META_LENGTH.unpack_from(frame, _META_LENGTH_AT)[0]
    return max(0, length - LENGTH_MIN - meta_length)


def readdressed(frame: bytes, attempt: int, number: int) -> bytes:
    """The frame with another attempt and number in its header."""
    head = frame[:_ATTEMPT_AT] + _ATTEMPT.pack(attempt) + frame[_ATTEMPT_AT + 2 : _NUMBER_AT] + _NUMBER.pack(number)
    return head + frame[_META_LENGTH_AT:]
