"""What `meta` may say: each key's type and bounds, what is refused, and what ends the connection."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.schemas import MetaInvalid, MetaUndecodable
from tests.golden.table import EVERY_OPTION

DECODERS: dict[str, Callable[[bytes], msgspec.Struct]] = {
    "hello": schemas.hello_meta,
    "welcome": schemas.welcome_meta,
    "goodbye": schemas.goodbye_meta,
    "reply": schemas.reply_meta,
    "register": schemas.register_meta,
    "run": schemas.run_options,
    "result": schemas.result_meta,
    "cancel": schemas.cancel_meta,
    "chunk": schemas.chunk_meta,
    "attach": schemas.attach_meta,
    "status": schemas.status_meta,
    "drain": schemas.drain_meta,
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
    "chunk": {},
    "attach": {},
    "status": {},
    "drain": {"worker": "w"},
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
    ("welcome", "window", 0xFFFFFFFF),
    ("welcome", "retain", 0xFFFFFFFF),
    ("goodbye", "msg", LONG),
    ("goodbye", "versions", [1, 200]),
    ("reply", "to", 255),
    ("reply", "msg", LONG),
    ("reply", "retry", 0xFFFFFFFF),
    ("reply", "job", None),
    ("reply", "held", [(ID, 0xFFFFFFFF)]),
    ("reply", "n", 0xFFFFFFFF),
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
    ("run", "follow", True),
    ("run", "att", 1),
    ("run", "att", 20),
    ("run", "back", 0),
    ("run", "back", 0xFFFFFFFF),
    ("run", "again", [NAME] * 32),
    ("run", "orphan", 0),
    ("run", "orphan", 0xFFFFFFFF),
    ("run", "orphan", None),
    ("run", "keep", 0),
    ("run", "keep", 0xFFFFFFFF),
    ("run", "keep", None),
    ("run", "qlim", 0xFFFFFFFF),
    ("run", "rlim", 0xFFFFFFFF),
    ("run", "delay", 0xFFFFFFFF),
    ("run", "parent", ID),
    ("run", "parent", None),
    ("run", "loose", True),
    ("run", "batch", ID),
    ("run", "batch", None),
    ("run", "at", ID),
    ("run", "at", None),
    ("result", "enc", "e" * 32),
    ("result", "ran", False),
    ("cancel", "now", True),
    ("cancel", "why", LONG),
    ("cancel", "batch", ID),
    ("cancel", "batch", None),
    ("chunk", "enc", "e" * 32),
    ("chunk", "first", 0xFFFFFFFF),
    ("attach", "first", 0xFFFFFFFF),
    ("attach", "take", False),
    ("status", "tree", True),
    ("drain", "worker", NAME),
]
NO_NAMES = ["", "n" * 256, 1, None, b"x", "a\nb", "a\n", "\r", "\x1b[31m", "\x00", "\x7f", "\x85", "\x9f", "a\u2028", "\u2029"]
REFUSED: list[tuple[str, str, Any]] = [
    *(("run", "p", name) for name in NO_NAMES),
    *(("register", "serves", [name]) for name in NO_NAMES),
    *(("hello", "name", name) for name in NO_NAMES if name is not None),
    *(("register", "labels", {"k": name}) for name in NO_NAMES),
    *(("drain", "worker", name) for name in NO_NAMES),
    *(("run", "again", [name]) for name in NO_NAMES),
    *(("run", key, value) for key in ("parent", "batch", "at") for value in (b"", bytes(15), bytes(17), "x" * 16, 5)),
    *(
        ("run", key, value)
        for key in ("back", "qlim", "rlim", "delay", "orphan", "keep")
        for value in (-1, 2**32, 0.5, True, "1")
    ),
    *(("run", "att", attempts) for attempts in (0, -1, 21, 2**32, True, None, 1.5)),
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
    ("run", "follow", 1),
    ("run", "again", ["a"] * 33),
    ("run", "again", "*"),
    ("run", "loose", None),
    ("result", "ran", 0),
    ("cancel", "now", "yes"),
    ("cancel", "why", LONG + "x"),
    ("cancel", "batch", bytes(15)),
    ("chunk", "enc", "e" * 33),
    ("chunk", "first", -1),
    ("attach", "first", 2**32),
    ("attach", "take", 1),
    ("status", "tree", "yes"),
    ("reply", "job", {}),
    ("reply", "job", {"state": "over", "out": -1}),
    ("reply", "job", {"state": "over", "kids": [{"why": "no state"}]}),
    ("reply", "held", [(ID,)]),
    ("reply", "n", -1),
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
    for meta in (schemas.ChunkMeta(), schemas.AttachMeta(), schemas.StatusMeta(), schemas.CancelMeta(), schemas.HelloMeta()):
        assert schemas.encode_meta(meta) == schemas.EMPTY_MAP
    full = schemas.RunOptions(p="x", enc="json", nonce=b"n", queue=False, reply=True, detach=True)
    assert schemas.run_options(schemas.encode_meta(full)) == full
    assert schemas.run_options(schemas.encode_meta(EVERY_OPTION)) == EVERY_OPTION


def test_defaults_are_those_that_existing_peers_mean() -> None:
    """A RUN of before these options existed: one attempt, nobody follows, nothing is cancelled for its client's sake."""
    options = schemas.run_options(packed("run"))
    assert (options.follow, options.att, options.back, options.again, options.loose) == (False, 1, 500, [], False)
    assert (options.orphan, options.keep, options.qlim, options.rlim) == (None, None, 0, 0)
    assert (options.parent, options.batch, options.at) == (None, None, None)
    welcome = schemas.welcome_meta(packed("welcome"))
    assert (welcome.window, welcome.retain) == (256 * 1024, 300_000)
    assert schemas.attach_meta(b"") == schemas.AttachMeta(first=0, take=True)


SIMPLE = [
    {},
    {"enc": "json"},
    {"nonce": b"n"},
    {"queue": False},
    {"detach": True},
    {"back": 9},
    {"again": ["E"]},
    {"loose": True},
    {"att": 1},
]


@pytest.mark.parametrize("keys", SIMPLE)
def test_a_run_is_simple_if_the_broker_has_only_to_run_it(keys: dict[str, Any]) -> None:
    assert schemas.run_options(packed("run", **keys)).is_simple


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reply", True),
        ("follow", True),
        ("att", 2),
        ("orphan", 0),
        ("keep", 0),
        ("qlim", 1),
        ("rlim", 1),
        ("delay", 1),
        ("parent", ID),
        ("batch", ID),
        ("at", ID),
    ],
)
def test_a_run_is_not_simple_if_it_asks_for_anything_more(key: str, value: Any) -> None:
    assert not schemas.run_options(packed("run", **{key: value})).is_simple


def test_a_map_is_written_in_the_shortest_form_however_many_keys_its_schema_has() -> None:
    names = [name for name in schemas.RunOptions.__struct_fields__ if name != "p"]
    assert len(names) > 15
    every = msgspec.structs.asdict(EVERY_OPTION)
    for keys in range(len(names) + 1):
        options = schemas.RunOptions(p="x", **{name: every[name] for name in names[:keys]})
        encoded = schemas.encode_meta(options)
        assert encoded[0] == (0x81 + keys if keys < 15 else 0xDE)
        assert msgspec.msgpack.decode(encoded) == {"p": "x", **{name: every[name] for name in names[:keys]}}


def test_a_job_status_holds_those_of_its_children() -> None:
    leaf = schemas.JobStatus(state="queued", why="no_free_slot", cookie=ID)
    tree = schemas.JobStatus(state="running", kids=[leaf, schemas.JobStatus(state="over", out=0, kids=[leaf])])
    reply = schemas.ReplyMeta(to=25, job=tree)
    assert schemas.reply_meta(schemas.encode_meta(reply)) == reply
    assert schemas.encode_meta(schemas.JobStatus(state="over")) == b"\x81\xa5state\xa4over"


def test_a_job_status_of_a_later_version_is_read_with_what_is_known_of_it() -> None:
    status = {"state": "dreaming", "why": "tired", "zz": [1], "kids": [{"state": "awake", "zz": {}}]}
    job = schemas.reply_meta(msgspec.msgpack.encode({"to": 25, "job": status})).job
    assert job == schemas.JobStatus(state="dreaming", why="tired", kids=[schemas.JobStatus(state="awake")])


def test_welcome_leaves_nothing_out() -> None:
    welcome = schemas.WelcomeMeta(conn=ID, broker=ID, frame=1, jobs=1, beat=1, dead=1, credit=1)
    keys = msgspec.msgpack.decode(schemas.encode_meta(welcome))
    assert set(keys) == set(schemas.WelcomeMeta.__struct_fields__)


def test_a_failure_is_read_as_what_it_says() -> None:
    whole = schemas.Failure(error="e", type="T", stack=["a", "b\n"], hist=[schemas.AttemptRecord(1, "w", "EXCEPTION", 5)])
    assert schemas.failure(schemas.encode_meta(whole)) == whole
    assert schemas.failure(b"") == schemas.Failure()


@pytest.mark.parametrize(
    ("payload", "error"), [(b"plain words", "plain words"), (b"\xff\xfe", "\ufffd\ufffd"), (b"\x81\xa5error\x05", None)]
)
def test_a_failure_that_is_none_is_shown_as_it_is(payload: bytes, error: str | None) -> None:
    shown = schemas.failure(payload)
    assert shown.error == (payload.decode("utf-8", "replace") if error is None else error)
    assert (shown.type, shown.stack) == ("", None)


def test_an_attempt_record_is_an_array_that_may_grow() -> None:
    record = schemas.AttemptRecord(2, "gpu-7", "WORKER_WENT_AWAY", 700)
    assert msgspec.msgpack.decode(schemas.encode_meta(record)) == [2, "gpu-7", "WORKER_WENT_AWAY", 700]
    longer = {"error": "e", "hist": [[2, "gpu-7", "WORKER_WENT_AWAY", 700, "later"]]}
    assert schemas.failure(msgspec.msgpack.encode(longer)).hist == [record]


def test_row_8_a_failure_that_is_none_is_shown_in_part_when_it_is_long() -> None:
    assert len(schemas.failure(b"\xc1" * 1_000_000).error) == 4096
