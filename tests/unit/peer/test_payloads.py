"""Values to payloads and back: what each encoding keeps, refuses, and says about nothing."""

import math
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonchip_broker.errors import TooLarge
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol.binary import encode as encode_frame
from reasonchip_broker.protocol.codes import NO_COOKIE, PacketType

MOMENT = datetime(2026, 11, 23, 20, 3, 43, 830559, tzinfo=UTC)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("value", [0, 0.0, "", [], {}, False, None, [None], {"": None}, 1, "ü\u2028", {"a": [1, {"b": 2.5}]}])
def test_a_value_comes_back_as_it_was(value: object, encoding: str) -> None:
    back = payloads.decode(payloads.encode(value, encoding), encoding)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", [b"", b"\x00\xff", MOMENT, {1: 2}, {b"k": b"v"}, math.inf])
def test_msgpack_keeps_what_json_can_not_say(value: object) -> None:
    assert payloads.decode(payloads.encode(value, "msgpack"), "msgpack") == value


@pytest.mark.parametrize(("value", "encoding"), [(b"", "bytes"), (b"\x00", "bytes"), ("", "text"), ("ü", "text")])
def test_bytes_and_text_are_the_payload_itself_even_when_empty(value: object, encoding: str) -> None:
    payload = payloads.encode(value, encoding)
    assert payloads.decode(payload, encoding) == value
    assert len(payload) == (0 if not value else len(payload))


def test_bytes_takes_whatever_holds_bytes() -> None:
    assert payloads.encode(bytearray(b"ab"), "bytes") == payloads.encode(memoryview(b"ab"), "bytes") == b"ab"


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_none_is_no_payload(encoding: str) -> None:
    assert payloads.encode(None, encoding) == b""
    assert payloads.decode(b"", encoding) is None


def test_without_an_encoding_there_is_no_value() -> None:
    assert payloads.decode(b"", "") is None
    assert payloads.decode(b"anything", "") is None


@pytest.mark.parametrize("encoding", payloads.ENCODINGS)
def test_none_travels_in_every_encoding_when_it_is_tagged(encoding: str) -> None:
    payload, tag = payloads.encode_tagged(None, encoding)
    assert payload == b""
    assert payloads.decode(payload, tag) is None


def test_none_in_json_is_still_a_json_job_for_workers_that_take_no_other() -> None:
    assert payloads.encode_tagged(None, "json") == (b"", "json")
    assert payloads.encode_tagged(None, "text") == (b"", "")


@pytest.mark.parametrize(("value", "encoding"), [("", "text"), (b"", "bytes"), (0, "json"), (False, "msgpack")])
def test_tagged_empty_values_are_not_none(value: object, encoding: str) -> None:
    payload, tag = payloads.encode_tagged(value, encoding)
    assert payloads.decode(payload, tag) == value


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        bytearray(b"x"),
        {1, 2},
        MOMENT,
        uuid.UUID(int=1),
        Decimal("1.5"),
        {1: 2},
        {None: 1},
        {"a": [{"b": b"x"}]},
        object(),
    ],
)
def test_json_refuses_what_it_would_turn_into_something_else(value: object) -> None:
    with pytest.raises(TypeError, match="JSON"):
        payloads.encode(value, "json")


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_json_refuses_numbers_that_it_does_not_have(value: object) -> None:
    with pytest.raises(ValueError, match="JSON has no"):
        payloads.encode(value, "json")


@pytest.mark.parametrize(
    ("value", "encoding"),
    [(object(), "msgpack"), ("text", "bytes"), (5, "bytes"), (b"bytes", "text"), (None, "text"), (None, "bytes")],
)
def test_a_value_of_a_type_without_a_form_is_a_type_error(value: object, encoding: str) -> None:
    with pytest.raises(TypeError):
        payloads.encode(value, encoding)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("value", ["\ud800", nested(100_000)], ids=["surrogate", "deep"])
def test_a_value_out_of_range_is_a_value_error(value: object, encoding: str) -> None:
    with pytest.raises(ValueError, match=encoding):
        payloads.encode(value, encoding)


def test_a_value_that_contains_itself_is_a_value_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for encoding in ("json", "msgpack"):
        with pytest.raises(ValueError, match="contains itself"):
            payloads.encode(loop, encoding)


def test_an_integer_over_64_bits_is_a_value_error_in_msgpack_and_travels_in_json() -> None:
    with pytest.raises(ValueError, match="64"):
        payloads.encode(2**64, "msgpack")
    assert payloads.decode(payloads.encode(2**100, "json"), "json") == 2**100


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [
        (b"\xc1", "msgpack"),
        (b"\xa1\xff", "msgpack"),
        (b"\x91" * 100_000 + b"\x90", "msgpack"),
        (b"\x81\x81\x01\x01\x01", "msgpack"),
        (b"\xd7\xff" + b"\xff" * 8, "msgpack"),
        (b"\x01\x01", "msgpack"),
        (b"{", "json"),
        (b"NaN", "json"),
        (b"1 1", "json"),
        (b'"\xff"', "json"),
        (b"[" * 100_000, "json"),
        (b"\xff", "text"),
    ],
)
def test_a_payload_that_is_not_what_it_says_is_a_value_error(payload: bytes, encoding: str) -> None:
    with pytest.raises(ValueError, match=encoding):
        payloads.decode(payload, encoding)


def test_an_unknown_encoding_is_a_value_error_that_names_the_known_ones() -> None:
    for call in (lambda: payloads.encode(1, "pickle"), lambda: payloads.decode(b"x", "pickle")):
        with pytest.raises(ValueError, match=r"'pickle' is no encoding.*msgpack"):
            call()


def test_structs_travel_as_maps_in_msgpack() -> None:
    class Point(msgspec.Struct):
        x: int

    assert payloads.decode(payloads.encode(Point(1), "msgpack"), "msgpack") == {"x": 1}


def test_the_frame_limit_is_judged_before_sending_and_exactly() -> None:
    meta, payload = b"m" * 10, b"p" * 1000
    length = len(encode_frame(PacketType.RUN, cookie=NO_COOKIE, meta=meta, payload=payload)) - 4
    payloads.check_size(len(meta), len(payload), length)
    with pytest.raises(TooLarge, match=f"{length} bytes is over the broker's limit of {length - 1}") as caught:
        payloads.check_size(len(meta), len(payload), length - 1)
    assert not caught.value.may_have_run


# For any value

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON_VALUES = st.recursive(
    JSON_LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=20
)
MOMENTS = st.datetimes(timezones=st.just(UTC))
MSGPACK_KEYS = TEXT | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=8)
MSGPACK_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=20)
    | MOMENTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(MSGPACK_KEYS, inner, max_size=4),
    max_leaves=20,
)


def alike(one: object, other: object) -> bool:
    """Equal, and of equal types all the way down: True is not 1, and 1 is not 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return one == other


@given(JSON_VALUES)
def test_whatever_json_takes_comes_back_as_it_was(value: object) -> None:
    assert alike(payloads.decode(payloads.encode(value, "json"), "json"), value)


@given(MSGPACK_VALUES)
def test_whatever_msgpack_takes_comes_back_as_it_was(value: object) -> None:
    assert alike(payloads.decode(payloads.encode(value, "msgpack"), "msgpack"), value)


@given(MSGPACK_VALUES)
def test_json_delivers_a_value_as_it_was_or_refuses_it(value: object) -> None:
    try:
        payload = payloads.encode(value, "json")
    except (TypeError, ValueError):
        return
    assert alike(payloads.decode(payload, "json"), value)


@given(st.binary(max_size=64), st.sampled_from([*payloads.ENCODINGS, "", "pickle"]))
def test_any_bytes_are_a_value_or_a_value_error(payload: bytes, encoding: str) -> None:
    try:
        payloads.decode(payload, encoding)
    except ValueError:
        pass


@given(MSGPACK_VALUES, st.sampled_from(payloads.ENCODINGS))
def test_a_tagged_value_comes_back_or_is_refused_and_only_none_is_none(value: object, encoding: str) -> None:
    try:
        payload, tag = payloads.encode_tagged(value, encoding)
    except (TypeError, ValueError):
        return
    assert alike(payloads.decode(payload, tag), value)
