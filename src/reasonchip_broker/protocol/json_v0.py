"""The JSON protocol of existing ReasonChip 0.0.x peers, translated at the edge.

Inside the broker a frame is a binary one, or one of the two JSON frames that matter, RUN and RESULT OK, in exactly the form in which
existing peers write them (ten keys, always in the same order, no white space). Those are recognised by comparing bytes, and between two
JSON peers they are passed on as they came; their fifth byte, a brace, tells them from binary frames, whose fifth byte is a packet type.
Everything else that a JSON peer sends goes through a strict parser (`json_strict`) and becomes the binary frame that it stands for.
`to_binary` and `to_json` translate where a frame crosses from one kind of peer to the other, so that no other room knows of two
protocols.

The strings `variables` and `result`, which hold JSON themselves, are payloads: their text is passed on byte for byte, never parsed.
"""

import json
import re
from binascii import hexlify, unhexlify
from functools import lru_cache
from struct import Struct
from typing import Any, Final

import msgspec

from reasonchip_broker.limits import NAME_CHARS_MAX, OPTIONS_CACHED_BYTES_MAX, OPTIONS_CACHED_MAX
from reasonchip_broker.protocol import json_strict, schemas
from reasonchip_broker.protocol.binary import code_of, encode, meta_of, payload_of
from reasonchip_broker.protocol.codes import ENCODING_JSON, ENCODING_MSGPACK, NO_COOKIE, CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import HEADER, LENGTH_BYTES, OVERSIZED, Frame, FrameDecoder
from reasonchip_broker.protocol.json_strict import COOKIE_FORM, one_line

_LENGTH: Final = Struct(">I")
_length_at: Final = _LENGTH.unpack_from
_RUN: Final = int(PacketType.RUN)
_RESULT: Final = int(PacketType.RESULT)
_BRACE: Final = ord("{")
_BRACE_END: Final = ord("}")
_COMMA: Final = ord(",")
_decode_text: Final = msgspec.json.Decoder(str).decode
_QUOTE: Final = msgspec.json.Encoder().encode

_RUN_HEAD: Final = b'{"packet_type":"RUN","cookie":"'
_RUN_HEAD_END: Final = LENGTH_BYTES + len(_RUN_HEAD)
_RUN_COOKIE_END: Final = _RUN_HEAD_END + 36
_RUN_HYPHENS, _RUN_HYPHENS_END = _RUN_HEAD_END + 8, _RUN_HEAD_END + 24
_RUN_MIDDLE: Final = b'","capacity":null,"pipeline":"'
_RUN_PIPELINE: Final = _RUN_COOKIE_END + len(_RUN_MIDDLE)
_RUN_VARIABLES: Final = b'","variables":'
_RUN_TAIL: Final = b',"detach":false,"rc":null,"error":null,"stacktrace":null,"result":null}'
_RUN_TAIL_DETACHED: Final = b',"detach":true,"rc":null,"error":null,"stacktrace":null,"result":null}'
_RUN_TAIL_AT: Final = -len(_RUN_TAIL)
_RUN_TAIL_DETACHED_AT: Final = -len(_RUN_TAIL_DETACHED)

_RESULT_HEAD: Final = b'{"packet_type":"RESULT","cookie":"'
_RESULT_HEAD_END: Final = LENGTH_BYTES + len(_RESULT_HEAD)
_RESULT_COOKIE_END: Final = _RESULT_HEAD_END + 36
_RESULT_HYPHENS, _RESULT_HYPHENS_END = _RESULT_HEAD_END + 8, _RESULT_HEAD_END + 24
_RESULT_OK: Final = (
    b'","capacity":null,"pipeline":null,"variables":null,"detach":null,"rc":"OK","error":null,"stacktrace":null,"result":'
)
_RESULT_VALUE: Final = _RESULT_COOKIE_END + len(_RESULT_OK)
_HEAD_BYTES: Final = max(_RUN_COOKIE_END, _RESULT_COOKIE_END)

_RESULT_META: Final = schemas.encode_meta(schemas.ResultMeta(enc=ENCODING_JSON))
_NOT_FINITE: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]")
"""How a NaN or an infinity begins in MessagePack, in 64 or in 32 bits."""


_RC_BY_CODE: Final = {
    Code.CANCELLED: Code.EXCEPTION,
    Code.DEADLINE_EXCEEDED: Code.EXCEPTION,
    Code.DEAD_LETTERED: Code.EXCEPTION,
    Code.TOO_LARGE: Code.EXCEPTION,
    Code.QUEUE_TIMEOUT: Code.NO_CAPACITY,
    Code.OVERLOADED: Code.NO_CAPACITY,
    Code.DRAINING: Code.NO_CAPACITY,
    Code.NOT_SERVED: Code.NO_CAPACITY,
    Code.NOT_ALLOWED: Code.BAD_PACKET,
    Code.OUTCOME_GONE: Code.COOKIE_COLLISION,
    Code.WORKER_NOT_FOUND: Code.BAD_PACKET,
}
"""Our codes that existing peers don't know, and what they are told instead; our name then stands in `error`."""

_OFFENCES: Final = frozenset({CloseReason.PROTOCOL_ERROR, CloseReason.FRAME_TOO_LARGE, CloseReason.HANDSHAKE_TIMEOUT})
"""Reasons for a goodbye that an existing peer is told, as BAD_PACKET: it did something wrong, and should hear what."""


class JsonDecoder(FrameDecoder):
    """JSON frames in, binary frames out. What is JSON but no packet comes out as MALFORMED, to be answered; what is not JSON ends the
    stream, and so does a frame over the limit whose cookie is not where existing peers write it."""

    __slots__ = ("_fast",)

    def __init__(self, frame_bytes_max: int, role: Role = Role.CLIENT) -> None:
        super().__init__(frame_bytes_max)
        self._fast = _fast_run if role == Role.CLIENT else _fast_result

    def _parse(self, data: bytes, begin: int, frames: list[Frame]) -> int:
        offset = begin
        end = len(data)
        fast, limit = self._fast, self.frame_bytes_max
        while end - offset >= LENGTH_BYTES:
            length: int = _length_at(data, offset)[0]
            if length > limit:
                offset = self._oversized(data, offset, length, frames)
                if self._need or offset == end:
                    return offset
                continue
            after = offset + LENGTH_BYTES + length
            if after > end:
                self._need = after - offset
                return offset
            raw = data[offset:after]
            frame = fast(raw) or self._strict(raw[LENGTH_BYTES:])
            if frame is None:
                return end
            frames.append(frame)
            offset = after
        self._need = LENGTH_BYTES
        return offset

    def _oversized(self, data: bytes, offset: int, length: int, frames: list[Frame]) -> int:
        """A frame over the limit: where it begins as existing peers write it, its cookie is known, and it costs only its own job."""
        end = len(data)
        self._need = min(LENGTH_BYTES + length, _HEAD_BYTES)
        if end - offset < self._need:
            return offset
        self._need = 0
        head = data[offset : offset + _HEAD_BYTES]
        for start, kind in ((_RUN_HEAD, _RUN), (_RESULT_HEAD, _RESULT)):
            text = head[LENGTH_BYTES + len(start) :][:36]
            if head.startswith(start, LENGTH_BYTES) and COOKIE_FORM.fullmatch(text.decode("ascii", "replace")):
                cookie = unhexlify(text.replace(b"-", b""))
                frames.append((kind + OVERSIZED, cookie, HEADER.pack(length, kind, 0, 0, cookie, 0, 0), 0, 0, 0, 0))
                after = offset + LENGTH_BYTES + length
                self._skip = max(0, after - end)
                return min(after, end)
        self._fail(f"a frame of {length} bytes is over the limit of {self.frame_bytes_max}", CloseReason.FRAME_TOO_LARGE)
        return end

    def _strict(self, body: bytes) -> Frame | None:
        try:
            return json_strict.read(body)
        except (ValueError, RecursionError) as error:
            self._fail(f"not JSON: {one_line(str(error))}", CloseReason.PROTOCOL_ERROR)
            return None


class _Form:
    """What stands between the cookie and the variables of RUNs of one pipeline, as existing clients write it."""

    __slots__ = ("between", "detached", "end", "meta")

    def __init__(self, between: bytes, end: int, meta: bytes, detached: bytes) -> None:
        self.between = between
        self.end = end
        """Where in a frame it ends, and the variables begin."""
        self.meta = meta
        """Of the binary RUN that such a frame stands for."""
        self.detached = detached
        """The same, if nobody is to wait for the job."""


_forms: dict[bytes, _Form] = {}
_latest = _Form(b"none yet", _RUN_COOKIE_END, b"", b"")


def _form_of(frame: bytes) -> _Form | None:
    """The form of a RUN, if existing clients write such: looked at once, and kept."""
    global _latest
    quote = frame.find(b'"', _RUN_PIPELINE)
    if not 0 < quote - _RUN_PIPELINE <= NAME_CHARS_MAX:
        return None
    end = quote + len(_RUN_VARIABLES)
    between = frame[_RUN_COOKIE_END:end]
    form = _forms.get(between)
    if form is None:
        pipeline = frame[_RUN_PIPELINE:quote]
        if between != b"".join((_RUN_MIDDLE, pipeline, _RUN_VARIABLES)) or pipeline.find(b"\\") >= 0 or not pipeline.isascii():
            return None
        if len(_forms) >= OPTIONS_CACHED_MAX:
            _forms.clear()
        options = schemas.RunOptions(p=pipeline.decode(), enc=ENCODING_JSON)
        detached = schemas.RunOptions(p=options.p, enc=ENCODING_JSON, detach=True)
        form = _forms[between] = _Form(between, end, schemas.encode_meta(options), schemas.encode_meta(detached))
    _latest = form
    return form


def _fast_run(frame: bytes) -> Frame | None:
    """RUN in the form that existing clients write, or None.

    This is done for every job: a slice and a comparison are cheaper than `startswith` and `in`, and most jobs have the pipeline of
    the one before.
    """
    if frame[LENGTH_BYTES:_RUN_HEAD_END] != _RUN_HEAD:
        return None
    form = _latest
    if frame[_RUN_COOKIE_END : form.end] != form.between:
        another = _form_of(frame)
        if another is None:
            return None
        form = another
    if frame[_RUN_TAIL_AT:] == _RUN_TAIL:
        variables = frame[form.end : _RUN_TAIL_AT]
    elif frame[_RUN_TAIL_DETACHED_AT:] == _RUN_TAIL_DETACHED:
        variables = frame[form.end : _RUN_TAIL_DETACHED_AT]
    else:
        return None
    try:
        cookie = unhexlify(frame[_RUN_HEAD_END:_RUN_COOKIE_END].replace(b"-", b""))
        if variables != b"null":
            _decode_text(variables)
    except ValueError:
        return None
    # Where there are more hyphens, there are fewer bytes.
    if frame[_RUN_HYPHENS:_RUN_HYPHENS_END:5] != b"----" or len(cookie) != 16 or cookie == NO_COOKIE:
        return None
    return _RUN, cookie, frame, 0, 1, 0, 0


def _fast_result(frame: bytes) -> Frame | None:
    """RESULT OK in the form that existing workers write, or None. Once for every job, as `_fast_run` is."""
    if frame[LENGTH_BYTES:_RESULT_HEAD_END] != _RESULT_HEAD or frame[_RESULT_COOKIE_END:_RESULT_VALUE] != _RESULT_OK:
        return None
    if frame[-1] != _BRACE_END:
        # And so no slice below ends before it begins, which a compiled module does not bear.
        return None
    try:
        cookie = unhexlify(frame[_RESULT_HEAD_END:_RESULT_COOKIE_END].replace(b"-", b""))
        result = frame[_RESULT_VALUE:-1]
        if result != b"null":
            _decode_text(result)
    except ValueError:
        return None
    # Where there are more hyphens, there are fewer bytes.
    if frame[_RESULT_HYPHENS:_RESULT_HYPHENS_END:5] != b"----" or len(cookie) != 16 or cookie == NO_COOKIE:
        return None
    return _RESULT, cookie, frame, 0, 0, 0, 0


def is_json(frame: bytes) -> bool:
    """Whether a frame is one of the two that stay JSON."""
    return frame[LENGTH_BYTES] == _BRACE


def run_meta(frame: bytes) -> bytes:
    """The meta of the binary RUN that a JSON RUN stands for; empty for a binary frame."""
    if frame[LENGTH_BYTES] != _BRACE:
        return b""
    form = _latest
    if frame[_RUN_COOKIE_END : form.end] != form.between:
        another = _form_of(frame)
        if another is None:
            raise ValueError("no RUN in the form that existing clients write")
        form = another
    # The tails differ by a letter, so that one has its first comma where the other has the quote after it.
    return form.detached if frame[_RUN_TAIL_DETACHED_AT] == _COMMA else form.meta


def to_binary(frame: bytes, attempt: int) -> bytes:
    """The binary frame that a JSON one stands for; a binary frame as it is."""
    if frame[LENGTH_BYTES] != _BRACE:
        return frame
    if frame.startswith(_RUN_HEAD, LENGTH_BYTES):
        meta = run_meta(frame)
        tail = _RUN_TAIL_DETACHED if frame.endswith(_RUN_TAIL_DETACHED) else _RUN_TAIL
        value = frame[frame.find(b'"', _RUN_PIPELINE) + len(_RUN_VARIABLES) : -len(tail)]
        cookie = unhexlify(frame[_RUN_HEAD_END:_RUN_COOKIE_END].replace(b"-", b""))
        return encode(_RUN, attempt=attempt, cookie=cookie, meta=meta, payload=_text(value))
    cookie = unhexlify(frame[_RESULT_HEAD_END:_RESULT_COOKIE_END].replace(b"-", b""))
    return encode(_RESULT, attempt=attempt, cookie=cookie, meta=_RESULT_META, payload=_text(frame[_RESULT_VALUE:-1]))


def _text(value: bytes) -> bytes:
    """The text of one JSON string, or nothing for null. Raises ValueError for anything else (msgspec's errors are ValueErrors)."""
    return b"" if value == b"null" else _decode_text(value).encode()


def to_json(frame: bytes) -> bytes:
    """The JSON frame that a binary frame becomes for an existing peer; empty where such peers know of no such thing."""
    kind = frame[LENGTH_BYTES]
    if kind == _BRACE:
        return frame
    if kind == PacketType.RESULT:
        return _encode_result(frame)
    if kind == PacketType.RUN:
        return _encode_run(frame)
    if kind == PacketType.REPLY:
        return _encode_reply(frame)
    if kind == PacketType.CANCEL:
        return _framed(_packet("CANCEL", frame[8:24]))
    if kind == PacketType.DRAIN:
        return _framed(_packet("SHUTDOWN", NO_COOKIE))
    if kind == PacketType.GOODBYE and code_of(frame) in _OFFENCES:
        return _encode_failure(NO_COOKIE, Code.BAD_PACKET, schemas.Failure(error=schemas.goodbye_meta(meta_of(frame)).msg))
    return b""


def _framed(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


def _cookie_text(cookie: bytes) -> bytes:
    digits = hexlify(cookie)
    return b"-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _packet(kind: str, cookie: bytes, **fields: Any) -> bytes:
    packet = dict.fromkeys(schemas.JSON_KEYS)
    packet["packet_type"] = kind
    packet["cookie"] = None if cookie == NO_COOKIE else _cookie_text(cookie).decode()
    packet.update(fields)
    return msgspec.json.encode(packet)


def _encode_run(frame: bytes) -> bytes:
    meta = meta_of(frame)
    between, tail = _run_fixed(meta) if len(meta) <= OPTIONS_CACHED_BYTES_MAX else _run_fixed.__wrapped__(meta)
    payload = payload_of(frame)
    variables = _QUOTE(payload.decode("utf-8", "replace")) if payload else b"null"
    return _framed(b"".join((_RUN_HEAD, _cookie_text(frame[8:24]), between, variables, tail)))


@lru_cache(OPTIONS_CACHED_MAX)
def _run_fixed(meta: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the variables in the JSON of a RUN with this meta."""
    options = schemas.run_options(meta)
    between = b'","capacity":null,"pipeline":' + _QUOTE(options.p) + b',"variables":'
    return between, _RUN_TAIL_DETACHED if options.detach else _RUN_TAIL


def _encode_result(frame: bytes) -> bytes:
    code, cookie, payload = code_of(frame), frame[8:24], payload_of(frame)
    if code != Code.OK:
        return _encode_failure(cookie, Code(code), schemas.failure(payload))
    if meta_of(frame) != _RESULT_META and payload:
        try:
            payload = _as_json(payload, schemas.result_meta(meta_of(frame)).enc)
        except (ValueError, TypeError, RecursionError, schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            sentence = f"the job succeeded, but its result can't be told in JSON: {one_line(str(error))}"
            return _encode_failure(cookie, Code.EXCEPTION, schemas.Failure(error=sentence))
    value = _QUOTE(payload.decode("utf-8", "replace")) if payload else b"null"
    return _framed(b"".join((_RESULT_HEAD, _cookie_text(cookie), _RESULT_OK, value, b"}")))


def _as_json(payload: bytes, encoding: str) -> bytes:
    """The payload as JSON text. Raises ValueError where it has none."""
    if encoding == ENCODING_JSON:
        return payload
    if encoding == ENCODING_MSGPACK:
        value = msgspec.msgpack.decode(payload)
        text = msgspec.json.encode(value)
        if text.find(b"null") >= 0 and _NOT_FINITE.search(payload):
            # To msgspec it is a null. What looks like one may be a piece of text: Python's encoder knows, and is slower.
            json.dumps(value, allow_nan=False, check_circular=False, skipkeys=True, default=_nothing)
        return text
    raise ValueError(f"it is encoded as {encoding or 'nothing known'}")


def _nothing(value: object) -> None:
    """What stands for a value that is no float, while floats are looked at."""


def _encode_failure(cookie: bytes, code: Code, failure: schemas.Failure) -> bytes:
    rc = _RC_BY_CODE.get(code, code)
    error = failure.error
    if failure.type:
        error = f"{failure.type}: {error}" if error else failure.type
    if rc != code:
        error = f"{code.name}: {error}" if error else code.name
    return _framed(_packet("RESULT", cookie, rc=rc.name, error=error, stacktrace=failure.stack))


def _encode_reply(frame: bytes) -> bytes:
    """A refusal as the RESULT that existing peers know. Good news is not told: they go by what happens next."""
    code = Code(code_of(frame))
    if (code < Code.BAD_PACKET and code != Code.TOO_LARGE) or code >= Code.QUEUED:
        return b""
    reply = schemas.reply_meta(meta_of(frame))
    cookie = frame[8:24]
    if reply.to == PacketType.CANCEL and code != Code.COOKIE_NOT_FOUND:
        # An existing client takes any RESULT with its cookie for the job's outcome, and this job may go on running.
        cookie = NO_COOKIE
    return _encode_failure(cookie, code, schemas.Failure(error=reply.msg))


def for_json_peer(frame: bytes) -> bytes:
    """What a JSON peer is sent for a frame of either protocol; empty for what has no place in its own."""
    return frame if is_json(frame) else to_json(frame)
