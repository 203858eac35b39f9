"""Values of handlers to payloads: results and chunks of progress alike."""

from typing import Any

import msgspec

from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol.codes import ENCODING_BYTES, ENCODING_JSON, ENCODING_MSGPACK, ENCODING_TEXT

_BINARY = (bytes, bytearray, memoryview)
_TAGS: dict[type, str] = {
    str: ENCODING_TEXT,
    bytes: ENCODING_BYTES,
    **dict.fromkeys((type(None), bool, int, float, list, dict), ENCODING_MSGPACK),
}
"""Exact types first: they are nearly all there is, and to ask what something is an instance of costs more."""


def encoded(value: Any, encoding: str) -> tuple[bytes, str]:
    """The payload of a value, and the name of its encoding. `encoding` is that of the job's variables: who sent JSON gets JSON;
    others get bytes and text as they are, and MessagePack for the rest.

    Raises TypeError and ValueError for what has no such form, and whatever a value's own class raises.
    """
    if encoding == ENCODING_JSON:
        return _as_json(value)
    tag = _TAGS.get(type(value))
    if tag is None:
        tag = ENCODING_BYTES if isinstance(value, _BINARY) else ENCODING_TEXT if isinstance(value, str) else ENCODING_MSGPACK
    return payloads.encode(value, tag), tag


def _as_json(value: Any) -> tuple[bytes, str]:
    try:
        return payloads.encode_tagged(value, ENCODING_JSON)
    except TypeError:
        # Structs, dataclasses, times and the like have a form that JSON can say; bytes have none, and are refused again.
        plain = msgspec.to_builtins(value, builtin_types=_BINARY)
        return payloads.encode_tagged(plain, ENCODING_JSON)
