"""A large JSON object, of which only what a packet has is built.

A million lists under another key must cost little time and no memory, so neither Python's parser, which builds whatever there is, nor
a loop of ours over every token will do. msgspec checks the whole object as quickly as it can be read, and builds nothing but ten slices
of it. It leaves two things open, which are done here by a few passes over the bytes in C:

- It takes the last of two equal keys. Which of the object's own keys stand twice is seen where one of a packet's keys is followed by
  a colon, outside of every inner object and list (`repeated_key`).
- It refuses a lone surrogate, wherever it is. Here that is the concern of the field that holds it, as it is for small objects: the
  lone ones are replaced by bytes that UTF-8 does not have, which msgspec does not mind in what it does not build.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from reasonchip_broker.protocol import schemas

_SURROGATE: Final = re.compile(rb"\\u[dD]([89a-fA-F])[0-9a-fA-F]{2}")
_SURROGATES_MAX: Final = 10_000
_ESCAPED_LETTER: Final = re.compile(rb"\\u00(5[fF]|6[1-9a-fA-F]|7[0-9aA])")
_ESCAPED_LETTERS_MAX: Final = 10_000
_KEYS_MAX: Final = 5_000
"""So many of each are looked at one by one, at up to a microsecond each. Who writes more means harm."""

_QUOTES_MAX: Final = 400_000
"""Of strings with brackets in them, in an object that has one of a packet's keys more than once."""

_COLON: Final = re.compile(rb"\s*:")
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'"[]{}'))
_CHUNK_BYTES: Final = 64 * 1024
_LONE: Final = chr(0xD800)
_NO_UTF8 = b"\xff" * 6


def fields(body: bytes) -> dict[str, Any]:
    """The fields of a packet; one of a wrong type is as wrong here, but not of the value that was sent.

    Raises ValueError for what is no JSON object, or has one of a packet's keys twice.
    """
    body.decode()
    has_lone = False
    try:
        raw = schemas.json_fields(body)
    except ValueError:
        escapes = _some(body, rb"\ud", _SURROGATES_MAX) + _some(body, rb"\uD", _SURROGATES_MAX)
        if not escapes:
            raise
        body = _without_lone_surrogates(body, sorted(escapes))
        raw = schemas.json_fields(body)
        has_lone = True
    key = repeated_key(body, raw)
    if key:
        raise ValueError(f"{key} stands twice")
    return {key: _value(key, value, has_lone) for key, value in raw.items()}


def _value(key: str, value: msgspec.Raw, has_lone: bool) -> Any:
    """A field's value, with a lone surrogate for a text or a list of texts that holds any."""
    if has_lone:
        written = bytes(value)
        if b"\xff" in written and written.startswith((b'"', b"[")):
            return _LONE if written.startswith(b'"') else [_LONE]
    return schemas.json_value(key, value)


def _without_lone_surrogates(body: bytes, escapes: list[int]) -> bytes:
    """The same, with 0xFF in the place of each; `escapes` is where it may be that one begins.

    If these are too many, 0xFF takes the place of all that begin with D. Raises ValueError for what is no JSON either way.
    """
    if len(escapes) >= _SURROGATES_MAX:
        schemas.json_fields(body.replace(rb"\ud", rb"\u0").replace(rb"\uD", rb"\u0"))
        return body.replace(rb"\ud", b"\\/\xff").replace(rb"\uD", b"\\/\xff")
    text = bytearray(body)
    high = -1
    for at in escapes:
        match = _SURROGATE.match(body, at)
        if match is None or _backslashes_before(body, at) % 2:
            continue
        is_low = match[1] in b"cdefCDEF"
        is_paired = is_low and 0 <= high == at - 6
        if high >= 0 and not is_paired:
            text[high : high + 6] = _NO_UTF8
        if is_low and not is_paired:
            text[at : at + 6] = _NO_UTF8
        high = -1 if is_low else at
    if high >= 0:
        text[high : high + 6] = _NO_UTF8
    return bytes(text)


def _backslashes_before(body: bytes, at: int) -> int:
    width = 64
    while True:
        before = body[max(0, at - width) : at]
        count = len(before) - len(before.rstrip(b"\\"))
        if count < width:
            return count
        width *= 8


def repeated_key(body: bytes, keys: Iterable[str]) -> str:
    """One of these keys that a valid JSON object has twice, or "".

    Raises ValueError if such keys are so many, or hidden in so many escapes, that it would take long to tell.
    """
    tokens = [b'"%b"' % key.encode() for key in keys]
    if rb"\u00" not in body:
        tokens = [token for token in tokens if body.count(token) > 1]
        if not tokens:
            return ""
    # From here on a backslash begins an escape, and a quote begins or ends a string.
    text = body.replace(rb"\\", b"//").replace(rb"\"", b"''") if b"\\" in body else body
    if rb"\u00" in text and _ESCAPED_LETTER.search(text):
        text, found = _ESCAPED_LETTER.subn(lambda match: bytes((int(match[1], 16),)), text, _ESCAPED_LETTERS_MAX)
        if found == _ESCAPED_LETTERS_MAX:
            raise ValueError("thousands of letters are written as escapes")
    places: list[tuple[int, bytes]] = []
    for token in tokens:
        count = text.count(token)
        if count > _KEYS_MAX:
            raise ValueError(f"{token.decode()} stands there {count} times")
        if count > 1:
            places += [(at, token) for at in _some(text, token, count) if _COLON.match(text, at + len(token))]
    return _repeated_at_the_top(text, sorted(places))


def _some(text: bytes, token: bytes, most: int) -> list[int]:
    """Where a token stands, up to so many times."""
    places: list[int] = []
    at = text.find(token)
    while at >= 0 and len(places) < most:
        places.append(at)
        at = text.find(token, at + len(token))
    return places


def _repeated_at_the_top(text: bytes, places: list[tuple[int, bytes]]) -> str:
    seen = set()
    depth = done = 0
    for at, token in places:
        depth += _opened(text, done, at)
        done = at + len(token)
        if depth == 1:
            if token in seen:
                return token[1:-1].decode()
            seen.add(token)
    return ""


def _opened(text: bytes, start: int, end: int) -> int:
    """How many more objects and lists begin than end in a piece of JSON that begins and ends outside of strings."""
    opened = within = quotes = 0
    for at in range(start, end, _CHUNK_BYTES):
        # Two quotes side by side are an empty string, or what is left between two strings: either way nothing is lost with them.
        quoted = text[at : min(at + _CHUNK_BYTES, end)].translate(None, _NO_STRUCTURE).replace(b'""', b"")
        pieces = quoted.split(b'"')
        outside = b"".join(pieces[within::2])
        opened += outside.count(b"{") + outside.count(b"[") - outside.count(b"}") - outside.count(b"]")
        within ^= ~len(pieces) & 1
        quotes += len(pieces) - 1
        if quotes > _QUOTES_MAX:
            raise ValueError("hundreds of thousands of strings with brackets in them")
    return opened
