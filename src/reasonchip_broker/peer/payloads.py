"""Values to payloads and back. The broker never looks into a payload; both ends agree on its encoding by a name in `meta`.

- `msgpack` takes whatever MessagePack knows, and so keeps bytes and times with a time zone. As usual there, tuples and sets arrive
  as lists, dataclasses and structs as maps, and UUIDs, decimals and dates as text.
- `json` takes only what JSON can say: it refuses bytes, NaN and keys that are not text, rather than deliver something else. Tuples
  arrive as lists.
- `bytes` and `text` are the payload as it stands.

None is no payload at all. In `msgpack` and `json` an empty payload therefore means None; in `bytes` and `text` it is the empty value,
since an empty result must not turn into None, and None is sent there without naming an encoding (`encode_tagged`).
"""

from collections.abc import Callable
from math import isfinite
from typing import Any

import msgspec

from reasonchip_broker.errors import TooLarge
from reasonchip_broker.protocol.codes import ENCODING_BYTES, ENCODING_JSON, ENCODING_MSGPACK, ENCODING_TEXT
from reasonchip_broker.protocol.frames import LENGTH_MIN

ENCODINGS = (ENCODING_MSGPACK, ENCODING_JSON, ENCODING_BYTES, ENCODING_TEXT)
_LITERAL = (ENCODING_BYTES, ENCODING_TEXT)

_msgpack_encode = msgspec.msgpack.Encoder().encode
_msgpack_decode = msgspec.msgpack.Decoder().decode
_json_encode = msgspec.json.Encoder().encode
_json_decode = msgspec.json.Decoder().decode


def encode(value: object, encoding: str) -> bytes:
    """The payload of a value.

    Raises TypeError for a value that the encoding has no form for, ValueError for one that is out of its range (NaN in JSON, an integer
    over 64 bits, nested too deeply) and for an encoding that is not known.
    """
    encoder = _ENCODERS.get(encoding)
    if encoder is None:
        raise ValueError(_unknown(encoding))
    try:
        return encoder(value)
    except RecursionError as error:
        raise ValueError(f"the value is nested too deeply for {encoding}, or contains itself") from error
    except (msgspec.MsgspecError, UnicodeError, OverflowError) as error:
        raise ValueError(f"the value has no form in {encoding}: {error}") from error


def encode_tagged(value: object, encoding: str) -> tuple[bytes, str]:
    """The payload of a value, and the encoding to name beside it: the one given, or "" for None where that has no other form.

    Raises TypeError and ValueError as `encode` does.
    """
    if value is None and encoding in _LITERAL:
        return b"", ""
    return encode(value, encoding), encoding


def decode(payload: bytes, encoding: str) -> Any:
    """The value of a payload. Without an encoding (the empty string) it is None.

    Raises ValueError for a payload that is not what the encoding says, and for an encoding that is not known.
    """
    if not payload and encoding not in _LITERAL:
        return None
    decoder = _DECODERS.get(encoding)
    if decoder is None:
        raise ValueError(_unknown(encoding))
    try:
        return decoder(payload)
    except RecursionError as error:
        raise ValueError(f"the payload is nested too deeply for {encoding}") from error
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"the payload is not {encoding}: {error}") from error


def check_size(meta_bytes: int, payload_bytes: int, frame_bytes_max: int) -> None:
    """Refuse a frame before it is sent, by the broker's own limit (`WelcomeMeta.frame`). Raises TooLarge, the job never having run."""
    length = LENGTH_MIN + meta_bytes + payload_bytes
    if length > frame_bytes_max:
        raise TooLarge(f"a frame of {length} bytes is over the broker's limit of {frame_bytes_max}", may_have_run=False)


def _unknown(encoding: str) -> str:
    return f"{encoding[:32]!r} is no encoding that is known here; known are {', '.join(ENCODINGS)}"


def _to_msgpack(value: object) -> bytes:
    return b"" if value is None else _msgpack_encode(value)


def _to_json(value: object) -> bytes:
    if value is None:
        return b""
    _require_json(value)
    return _json_encode(value)


def _to_bytes(value: object) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"the encoding bytes takes bytes, not {type(value).__name__}")


def _to_text(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"the encoding text takes str, not {type(value).__name__}")


def _from_text(payload: bytes) -> str:
    return payload.decode()


def _as_it_is(payload: bytes) -> bytes:
    return payload


def _require_json(value: object) -> None:
    """Refuse what JSON would turn into something else. Exact types first: they are nearly all there is, and isinstance is slower."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return
    if kind is float or isinstance(value, float):
        if not isfinite(value):  # type: ignore[arg-type]  # mypy does not see that `kind is float` narrows
            raise ValueError(f"JSON has no {value}; use msgpack")
    elif isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"JSON takes only str for a key, not {type(key).__name__}; use msgpack")
            _require_json(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_json(item)
    else:
        raise TypeError(f"JSON has no form for {kind.__name__} that comes back as it was; use msgpack")


_ENCODERS: dict[str, Callable[[object], bytes]] = {
    ENCODING_MSGPACK: _to_msgpack,
    ENCODING_JSON: _to_json,
    ENCODING_BYTES: _to_bytes,
    ENCODING_TEXT: _to_text,
}

_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "": lambda payload: None,
    ENCODING_MSGPACK: _msgpack_decode,
    ENCODING_JSON: _json_decode,
    ENCODING_BYTES: _as_it_is,
    ENCODING_TEXT: _from_text,
}
