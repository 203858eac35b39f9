"""The strict parser of the JSON protocol: whatever existing peers send in another form than the one they write most.

It refuses what JSON leaves open (duplicate keys, NaN, lone surrogates), and turns a packet into the binary frame that it stands for.
"""

import json
import re
from binascii import unhexlify
from typing import Any, Final

import msgspec

from reasonchip_broker.protocol import json_large, packets
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import ENCODING_JSON, NO_COOKIE, OUTCOMES, Code, PacketType
from reasonchip_broker.protocol.frames import HEADER, MALFORMED, UNKNOWN, Frame

COOKIE_FORM: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
"""A cookie as text, in every usual way to write it."""

_EXACT_BYTES_MAX: Final = 64 * 1024
"""Up to this, every key of every object is looked at; above, only a packet's own."""


class _Malformed(Exception):
    """A JSON object that is no packet; `cookie` is its cookie, where it has one."""

    def __init__(self, message: str, cookie: bytes = NO_COOKIE) -> None:
        super().__init__(message)
        self.cookie = cookie


def read(body: bytes) -> Frame:
    """The frame that a JSON object stands for; MALFORMED, to be answered, if it is no packet.

    Raises ValueError or RecursionError for what is no JSON object, or may mean two things.
    """
    try:
        return _translate(_parse_object(body))
    except _Malformed as error:
        return MALFORMED, error.cookie, str(error).encode("utf-8", "replace"), 0, 0, 0, 0


def _parse_object(body: bytes) -> dict[str, Any]:
    if len(body) > _EXACT_BYTES_MAX:
        return json_large.fields(body)
    value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("a packet is a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _translate(fields: dict[str, Any]) -> Frame:
    cookie = _cookie(fields.get("cookie"))
    kind = fields.get("packet_type")
    if kind == "RUN":
        return _translate_run(fields, cookie)
    if kind == "CANCEL":
        return _fields(packets.cancel(cookie))
    if kind == "REGISTER":
        return _translate_register(fields, cookie)
    if kind == "RESULT":
        try:
            return _translate_result(fields, cookie)
        except _Malformed as error:
            if cookie == NO_COOKIE:
                raise
            # Nobody else will ever say what became of this job.
            sentence = f"the worker's RESULT made no sense: {error}"
            return _fields(packets.failed(cookie, 0, Code.EXCEPTION, sentence))
    if not isinstance(kind, str):
        raise _Malformed("Missing packet_type", cookie)
    return _fields(encode(UNKNOWN, cookie=cookie))


def _fields(frame: bytes) -> Frame:
    _, kind, code, attempt, cookie, number, meta_length = HEADER.unpack_from(frame)
    return kind, cookie, frame, code, attempt, number, meta_length


def _cookie(value: Any) -> bytes:
    if value is None:
        return NO_COOKIE
    if not isinstance(value, str) or not COOKIE_FORM.fullmatch(value):
        raise _Malformed("cookie is a UUID or null")
    return unhexlify(value.replace("-", ""))


def _string(fields: dict[str, Any], key: str, cookie: bytes) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Malformed(f"{key} is a string or null", cookie)
    _encodable(key, value, cookie)
    return value


def _encodable(key: str, value: str, cookie: bytes) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Malformed(f"{key} holds a lone surrogate", cookie) from error


def _translate_run(fields: dict[str, Any], cookie: bytes) -> Frame:
    pipeline = _string(fields, "pipeline", cookie)
    detach = fields.get("detach")
    if detach is not None and not isinstance(detach, bool):
        raise _Malformed("detach is true, false or null", cookie)
    if cookie == NO_COOKIE:
        raise _Malformed("Missing cookie")
    if not pipeline:
        raise _Malformed("Missing pipeline", cookie)
    variables = _string(fields, "variables", cookie).encode()
    return _fields(packets.json_run(cookie, pipeline, variables, detach=bool(detach)))


def _translate_register(fields: dict[str, Any], cookie: bytes) -> Frame:
    try:
        meta = msgspec.msgpack.encode({"cap": fields.get("capacity"), "serves": ["*"]})
    except (OverflowError, UnicodeEncodeError) as error:
        raise _Malformed("capacity is a small whole number", cookie) from error
    return _fields(encode(PacketType.REGISTER, cookie=cookie, meta=meta))


def _translate_result(fields: dict[str, Any], cookie: bytes) -> Frame:
    rc, error, stack = fields.get("rc"), _string(fields, "error", cookie), fields.get("stacktrace")
    if stack is not None and not (isinstance(stack, list) and all(isinstance(line, str) for line in stack)):
        raise _Malformed("stacktrace is a list of strings or null", cookie)
    for line in stack or ():
        _encodable("stacktrace", line, cookie)
    if not isinstance(rc, str) or rc not in Code.__members__:
        raise _Malformed(f"rc is one of the result codes, not {one_line(repr(rc))}", cookie)
    code = Code[rc]
    if code == Code.OK:
        payload = _string(fields, "result", cookie).encode()
        return _fields(packets.result(cookie, 0, payload, ENCODING_JSON))
    if code not in OUTCOMES:
        # A refusal is no outcome, and yet all that this worker will ever say of the job.
        code, error = Code.EXCEPTION, f"{rc}: {error}" if error else rc
    return _fields(packets.failed(cookie, 0, code, error, stack=stack))


def one_line(text: str) -> str:
    """The beginning of a text, fit to stand in a sentence."""
    return " ".join(text.split())[:200]
