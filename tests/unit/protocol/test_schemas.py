"""What `meta` may say: each key's type and bounds, what is refused, and what ends the connection."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.schemas import MetaInvalid, MetaUndecodable

DECODERS: dict[str, Callable[[bytes], msgspec.Struct]] = {
    "hello": schemas.hello_meta,
    "welcome": schemas.welcome_meta,
    "goodbye": schemas.goodbye_meta,
    "reply": schemas.reply_meta,
    "register": schemas.register_meta,
    "run": schemas.run_options,
    "result": schemas.result_meta,
    "cancel": schemas.cancel_meta,
}
LEAST: dict[str, dict[str, Any]] = {
    "hello": {},
    "welcome": {"conn": bytes(16), "broker": bytes(16), "frame": 1, "jobs": 1, "beat": 1, "dead": 1, "credit": 1},
    "goodbye": {},
    "reply": {"to": 1},
    "register": {"cap": 1, "serves": ["*"]},
    "run": {"p": "x"},
    "result": {},
    "cancel": {},
}
ID, LONG, NAME = bytes(16), "x" * 4096, "n" * 255
TAKEN: list[tuple[str, str, Any]] = [
    ("hello", "sw", NAME),
    ("hello", "v", NAME),
    ("hello", "token", None),
    ("hello", "token", "any \x00 thing"),
    ("hello", "feat", ["a", ""]),
    ("hello", "name", NAME),
    ("hello", "name", "Größe 🐍"),
    ("hello", "name", None),
    ("hello", "inst", ID),
    ("hello", "grace", 0xFFFFFFFF),
    ("welcome", "frame", 0xFFFFFFFF),
    ("goodbye", "msg", LONG),
    ("goodbye", "versions", [1, 200]),
    ("reply", "to", 255),
    ("reply", "msg", LONG),
    ("reply", "retry", 0xFFFFFFFF),
    ("register", "cap", 10_000),
    ("register", "serves", ["a"] * 1000),
    ("register", "serves", [NAME]),
    ("register", "labels", {str(n): NAME for n in range(100)}),
    ("register", "held", [(ID, 1)]),
    ("run", "p", NAME),
    ("run", "enc", "e" * 32),
    ("run", "nonce", bytes(32)),
    ("run", "queue", False),
    ("run", "reply", True),
    ("run", "detach", True),
    ("result", "enc", "e" * 32),
    ("result", "ran", False),
    ("cancel", "now", True),
    ("cancel", "why", LONG),
]
NO_NAMES = ["", "n" * 256, 1, None, b"x", "a\nb", "a\n", "\r", "\x1b[31m", "\x00", "\x7f", "\x85", "\x9f", "a\u2028", "\u2029"]
REFUSED: list[tuple[str, str, Any]] = [
    *(("run", "p", name) for name in NO_NAMES),
    *(("register", "serves", [name]) for name in NO_NAMES),
    *(("hello", "name", name) for name in NO_NAMES if name is not None),
    *(("register", "labels", {"k": name}) for name in NO_NAMES),
    *(("register", "labels", {name: "v"}) for name in ("", "n" * 256, "a\n")),
    *(("register", "cap", cap) for cap in (0, -1, 2**31, 10_001, True, 1.5, "4", None)),
    ("hello", "sw", NAME + "x"),
    ("hello", "v", 1),
    ("hello", "token", b"bytes"),
    ("hello", "feat", "f"),
    ("hello", "inst", bytes(15)),
    ("hello", "inst", bytes(17)),
    ("hello", "grace", -1),
    ("hello", "grace", 2**32),
    ("welcome", "conn", bytes(15)),
    ("welcome", "frame", -1),
    ("goodbye", "msg", LONG + "x"),
    ("reply", "retry", 0.5),
    ("register", "serves", []),
    ("register", "serves", ["a"] * 1001),
    ("register", "serves", "a"),
    ("register", "labels", {str(n): "v" for n in range(101)}),
    ("register", "held", [(bytes(3), 1)]),
    ("run", "enc", "e" * 33),
    ("run", "nonce", bytes(33)),
    ("run", "queue", 1),
    ("run", "detach", None),
    ("result", "ran", 0),
    ("cancel", "now", "yes"),
    ("cancel", "why", LONG + "x"),
]


def packed(packet: str, **keys: Any) -> bytes:
    return msgspec.msgpack.encode({**LEAST[packet], **keys})


@pytest.mark.parametrize(("packet", "key", "value"), TAKEN)
def test_a_key_takes_what_its_bounds_allow(packet: str, key: str, value: Any) -> None:
    assert getattr(DECODERS[packet](packed(packet, **{key: value})), key) == value


@pytest.mark.parametrize(("packet", "key", "value"), REFUSED)
def test_row_28_a_key_refuses_what_is_out_of_its_bounds(packet: str, key: str, value: Any) -> None:
    with pytest.raises(MetaInvalid) as caught:
        DECODERS[packet](packed(packet, **{key: value}))
    assert key in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("packet", sorted(LEAST))
def test_keys_that_are_not_known_are_ignored_whatever_they_hold(packet: str) -> None:
    decode = DECODERS[packet]
    extra = {"zz": [{"deep": [1, 2, {"er": None}]}, b"x", 2.5, msgspec.msgpack.Ext(5, b"ext")]}
    assert decode(packed(packet, **extra)) == decode(packed(packet))


@pytest.mark.parametrize(("packet", "key"), [(packet, key) for packet, keys in LEAST.items() for key in keys])
def test_a_key_that_must_be_there_is_missed(packet: str, key: str) -> None:
    with pytest.raises(MetaInvalid, match=key):
        DECODERS[packet](msgspec.msgpack.encode({name: value for name, value in LEAST[packet].items() if name != key}))


@pytest.mark.parametrize("others", [0, 14, 15, 70_000], ids=["fixmap", "largest fixmap", "map 16", "map 32"])
def test_a_map_of_any_size_that_makes_no_sense_is_invalid_and_not_undecodable(others: int) -> None:
    meta = msgspec.msgpack.encode({"p": 5, **{f"x{number}": 0 for number in range(others)}})
    with pytest.raises(MetaInvalid, match=r"\$\.p"):
        schemas.run_options(meta)


@pytest.mark.parametrize("packet", sorted(packet for packet, keys in LEAST.items() if not keys))
def test_no_meta_is_an_empty_map(packet: str) -> None:
    assert DECODERS[packet](b"") == DECODERS[packet](schemas.EMPTY_MAP)


@pytest.mark.parametrize("packet", sorted(LEAST))
@pytest.mark.parametrize(
    "meta",
    [
        b"\xc1",  # never used by MessagePack
        b"\x82\xa1p",  # a map that ends too early
        b"\x90",  # an array
        b"\xc0",
        b"\x05",
        b"\xa1x",
        b"\x91" * 100_000,
        b"\x81\xa1q" * 100_000 + b"\xc0",
        b"\xdf\xff\xff\xff\xff",  # four billion pairs to come
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xa2zz\xdb\xff\xff\xff\xffx",
    ],
)
def test_row_11_what_is_no_map_is_undecodable(packet: str, meta: bytes) -> None:
    with pytest.raises(MetaUndecodable):
        DECODERS[packet](meta)


@pytest.mark.parametrize("packet", sorted(LEAST))
def test_row_11_a_map_with_something_after_it_is_undecodable(packet: str) -> None:
    with pytest.raises(MetaUndecodable):
        DECODERS[packet](packed(packet) + b"\x80")


@pytest.mark.parametrize("text", [b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80"])  # no UTF-8; a lone surrogate
def test_row_11_text_that_is_no_utf_8_is_undecodable(text: bytes) -> None:
    with pytest.raises(MetaUndecodable):
        schemas.run_options(b"\x81\xa1p" + text)


@pytest.mark.parametrize("packet", sorted(LEAST))
def test_row_7_a_map_cut_short_anywhere_is_undecodable(packet: str) -> None:
    whole = packed(packet, zz="last")
    for end in range(1, len(whole)):
        with pytest.raises(MetaUndecodable):
            DECODERS[packet](whole[:end])


def test_what_is_encoded_leaves_defaults_out_and_decodes_to_the_same() -> None:
    assert schemas.encode_meta(schemas.RunOptions(p="x")) == b"\x81\xa1p\xa1x"
    assert schemas.encode_meta(schemas.ResultMeta()) == schemas.EMPTY_MAP
    full = schemas.RunOptions(p="x", enc="json", nonce=b"n", queue=False, reply=True, detach=True)
    assert schemas.run_options(schemas.encode_meta(full)) == full


def test_welcome_leaves_nothing_out() -> None:
    welcome = schemas.WelcomeMeta(conn=ID, broker=ID, frame=1, jobs=1, beat=1, dead=1, credit=1)
    keys = msgspec.msgpack.decode(schemas.encode_meta(welcome))
    assert set(keys) == set(schemas.WelcomeMeta.__struct_fields__)


def test_a_failure_is_read_as_what_it_says() -> None:
    whole = schemas.Failure(error="e", type="T", stack=["a", "b\n"])
    assert schemas.failure(schemas.encode_meta(whole)) == whole
    assert schemas.failure(b"") == schemas.Failure()


@pytest.mark.parametrize(
    ("payload", "error"), [(b"plain words", "plain words"), (b"\xff\xfe", "\ufffd\ufffd"), (b"\x81\xa5error\x05", None)]
)
def test_a_failure_that_is_none_is_shown_as_it_is(payload: bytes, error: str | None) -> None:
    shown = schemas.failure(payload)
    assert shown.error == (payload.decode("utf-8", "replace") if error is None else error)
    assert (shown.type, shown.stack) == ("", None)


def test_row_8_a_failure_that_is_none_is_shown_in_part_when_it_is_long() -> None:
    assert len(schemas.failure(b"\xc1" * 1_000_000).error) == 4096
