"""docs/reference/protocol.md says what the code does: its dumps are our frames, its tables our numbers, keys, bounds and defaults."""

import json
import re
from enum import IntEnum
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from reasonchip_broker.limits import (
    ATTEMPTS_MAX,
    BACKOFF_S_MAX,
    FRAME_BYTES_SETTABLE,
    HANDSHAKE_FRAME_BYTES_MAX,
    MIB,
    QUEUE_ROWS_MAX,
    RETRY_NAMES_MAX,
    SESSION_GRACE_S_MAX,
    STATUS_CHILDREN_MAX,
    WORKER_CAPACITY_MAX,
    WORKER_PATTERNS_MAX,
    Limits,
)
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, JobState, PacketType, Role, Waiting
from reasonchip_broker.protocol.frames import HEADER, HEADER_BYTES, PREFACE, BinaryDecoder
from reasonchip_broker.protocol.json_v0 import JsonDecoder, to_json
from tests.golden.table import BUILT, COOKIE, EVERY_OPTION, all_golden
from tests.wire_peers import json_frame

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "protocol.md").read_text("utf-8")
DUMPS = re.findall(r'^```text title="(\w+)\.hex"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
UNSIGNED_MAX = 0xFFFFFFFF

# What the page calls a map or an array that stands within a map.
NESTED: dict[type, str] = {
    schemas.JobStatus: "job status",
    schemas.AttemptRecord: "attempt record",
    schemas.QueueReport: "queue report",
    schemas.PoolStatus: "pool status",
    schemas.KeyStatus: "key status",
    schemas.LineStatus: "line status",
    schemas.LimitStatus: "limit status",
}

# The heading under which a schema's table stands.
SCHEMAS: dict[str, type[msgspec.Struct]] = {
    "### HELLO": schemas.HelloMeta,
    "### WELCOME": schemas.WelcomeMeta,
    "### GOODBYE": schemas.GoodbyeMeta,
    "### REPLY": schemas.ReplyMeta,
    "### REGISTER": schemas.RegisterMeta,
    "### RUN": schemas.RunOptions,
    "### RESULT": schemas.ResultMeta,
    "### CANCEL": schemas.CancelMeta,
    "### The failure": schemas.Failure,
    "### PROGRESS": schemas.ChunkMeta,
    "### INPUT": schemas.ChunkMeta,
    "### ATTACH": schemas.AttachMeta,
    "### STATUS": schemas.StatusMeta,
    "### DRAIN": schemas.DrainMeta,
    "### Where a job is": schemas.JobStatus,
    "### QUEUE": schemas.QueueMeta,
    "### The queue report": schemas.QueueReport,
    "#### Pool status": schemas.PoolStatus,
    "#### Key status": schemas.KeyStatus,
    "#### Line status": schemas.LineStatus,
    "#### Limit status": schemas.LimitStatus,
}


def dumped(text: str) -> bytes:
    """The bytes of a dump: of each line what stands before two spaces."""
    return bytes.fromhex(" ".join(line.split("  ")[0] for line in text.splitlines()))


def section(heading: str) -> str:
    """What stands between a heading and the next."""
    _, _, rest = PAGE.partition(f"\n{heading}\n")
    assert rest, f"the page has no heading {heading!r}"
    return re.split(r"\n#+ ", rest, maxsplit=1)[0]


def rows(text: str) -> list[list[str]]:
    """The rows of all tables in a text, without their heads and rules."""
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [line.split(" | ") for line in lines if not set(line) <= set("|- ")]


def bounds(kind: inspect.StrType | inspect.BytesType | inspect.ListType | inspect.DictType) -> str:
    least, most = kind.min_length or 0, kind.max_length
    if most is None:
        return ""
    return f", {least:,}–{most:,} of them" if least else f", at most {most:,}"


def described(kind: inspect.Type) -> str:
    """A type in the page's own words."""
    match kind:
        case inspect.UnionType(types=types):
            return " or ".join("nil" if isinstance(one, inspect.NoneType) else described(one) for one in types)
        case inspect.BoolType():
            return "bool"
        case inspect.FloatType():
            return "float"
        case inspect.IntType(ge=0, le=None):
            return "uint"
        case inspect.IntType(ge=least, le=most):
            return "uint" if (least or 0, most or UNSIGNED_MAX) == (0, UNSIGNED_MAX) else f"uint, {least:,}–{most:,}"
        case inspect.StrType(pattern=str()):
            return "name"
        case inspect.StrType(max_length=4096):
            return "sentence"
        case inspect.StrType():
            return "str" + bounds(kind)
        case inspect.BytesType(min_length=16, max_length=16):
            return "uuid"
        case inspect.BytesType():
            return "bin" + bounds(kind)
        case inspect.ListType(item_type=item):
            return f"[{described(item)}]{bounds(kind)}"
        case inspect.TupleType(item_types=items):
            return f"[{', '.join(described(item) for item in items)}]"
        case inspect.DictType(key_type=key, value_type=value):
            return f"{{{described(key)}: {described(value)}}}{bounds(kind)}"
        case inspect.StructType(cls=schema):
            return NESTED[schema]
        case _:
            raise AssertionError(f"the page has no word for {kind}")


def default_of(field: inspect.Field) -> str:
    """A default as the page writes it."""
    if field.required:
        return "required"
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if default == b"":
        return "empty"
    return "nil" if default is None else json.dumps(default)


# Dumps


@pytest.mark.parametrize("name", sorted(BUILT))
def test_each_dump_is_the_golden_frame_that_our_code_makes(name: str) -> None:
    dumps = [dumped(text) for title, text in DUMPS if title == name]
    assert dumps == [all_golden()[name]] == [BUILT[name]]


@pytest.mark.parametrize(("name", "text"), DUMPS)
def test_each_dump_is_taken_by_our_decoder_as_one_whole_frame(name: str, text: str) -> None:
    decoder = BinaryDecoder(HANDSHAKE_FRAME_BYTES_MAX, strict=True)
    frames = decoder.feed(dumped(text))
    assert [frame[2] for frame in frames] == [dumped(text)]
    assert (decoder.failure, decoder.incomplete) == (None, False)
    assert f"{frames[0][0]}, {PacketType(frames[0][0]).name}" in text


def test_there_is_a_dump_of_every_packet() -> None:
    assert {dumped(text)[4] for _, text in DUMPS} == set(PacketType)


def test_the_dump_with_every_option_has_every_option() -> None:
    keys = msgspec.msgpack.decode(schemas.encode_meta(EVERY_OPTION))
    assert list(keys) == [row[0].strip("`") for row in rows(section("### RUN"))[1:]]


def test_json_frames_are_those_that_our_code_makes() -> None:
    register, *told = re.findall(r"^\{.*\}$", section("## The JSON protocol of existing peers"), re.MULTILINE)
    options = schemas.encode_meta(schemas.RunOptions(p="echo", enc="json"))
    made = [
        packets.run(COOKIE, options, b'{"x": 1}'),
        packets.result(COOKIE, 1, b"1", "json"),
        packets.reply(PacketType.RUN, Code.NO_CAPACITY, "No capacity available", cookie=COOKIE),
        packets.drain(),
    ]
    assert [to_json(frame) for frame in made] == [json_frame(line.encode()) for line in told]
    (frame,) = JsonDecoder(10_000, Role.WORKER).feed(json_frame(register.encode()))
    assert frame[0] == PacketType.REGISTER
    meta = frame[2][HEADER_BYTES : HEADER_BYTES + frame[6]]
    assert schemas.register_meta(meta) == schemas.RegisterMeta(cap=4, serves=["*"])


# Numbers


@pytest.mark.parametrize("number", [*PacketType, *Code, *CloseReason], ids=lambda number: f"{number.name}")
def test_every_number_stands_on_the_page(number: IntEnum) -> None:
    assert re.search(rf"\| {number.value} \| {number.name} \||\b{number.value} {number.name}\b", PAGE)


def test_no_table_has_a_number_that_does_not_exist() -> None:
    names = {(number.value, number.name) for number in (*PacketType, *Code, *CloseReason)}
    found = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", PAGE, re.MULTILINE)
    assert found
    assert {(int(value), name) for value, name in found} <= names


def test_the_codes_that_existing_peers_do_not_know_are_told_as_the_page_says() -> None:
    mapped = [row for row in rows(section("### JSON and binary peers together")) if row[0] != "our code"]
    told = {name: rc for names, rc in mapped for name in names.split(", ")}
    for code in Code:
        if code >= Code.QUEUED:
            continue
        if code < Code.BAD_PACKET:
            frame = to_json(packets.failed(COOKIE, 1, code, "why")) if code else b""
        else:
            frame = to_json(packets.reply(PacketType.RUN, code, "why", cookie=COOKIE))
        if frame:
            packet = json.loads(frame[4:])
            assert packet["rc"] == told.get(code.name, code.name)
            assert packet["error"] == (f"{code.name}: why" if code.name in told else "why")


def test_the_codes_of_existing_peers_and_their_keys_are_on_the_page() -> None:
    text = section("## The JSON protocol of existing peers")
    packet = json.loads(to_json(packets.drain())[4:])
    assert [row[0].strip("`") for row in rows(text)[1:]] == list(packet)
    known = re.findall(r'`"([A-Z_]+)"`', next(row[1] for row in rows(text) if row[0] == "`rc`"))
    unknown = {name for row in rows(section("### JSON and binary peers together")) for name in row[0].split(", ")}
    assert set(known) == {code.name for code in Code if code < Code.QUEUED} - unknown


def test_every_state_and_every_reason_to_wait_stand_on_the_page() -> None:
    words = [row[0].strip("`") for row in rows(section("### Where a job is")) if len(row) == 2]
    assert words == ["state", *JobState, "why", *Waiting]


# Keys


@pytest.mark.parametrize(("heading", "schema"), SCHEMAS.items())
def test_every_key_stands_on_the_page_with_its_type_and_default(heading: str, schema: type[msgspec.Struct]) -> None:
    table = {row[0].strip("`"): row[1:] for row in rows(section(heading)) if len(row) == 4 and re.fullmatch(r"`\w+`", row[0])}
    info = inspect.type_info(schema)
    assert isinstance(info, inspect.StructType)
    assert list(table) == [field.encode_name for field in info.fields]
    for field in info.fields:
        kind, default = table[field.encode_name][:2]
        said = described(field.type)
        assert re.fullmatch(rf"{re.escape(said)}(, (ms|bytes|seconds))?", kind), (
            f"{heading} {field.name}: {said!r}, not {kind!r}"
        )
        assert default == default_of(field), f"{heading} {field.name}"


def test_an_attempt_record_is_the_array_that_the_page_says() -> None:
    info = inspect.type_info(schemas.AttemptRecord)
    assert isinstance(info, inspect.StructType)
    assert info.array_like
    places = [row for row in rows(section("### The failure")) if row[0].isdigit()]
    assert [int(row[0]) for row in places] == list(range(len(info.fields)))
    assert [row[1].strip("`") for row in places] == [field.encode_name for field in info.fields]
    assert [row[2].removesuffix(", ms") for row in places] == [described(field.type) for field in info.fields]


# Limits


def test_limits_are_those_of_a_broker_that_is_not_configured() -> None:
    limits = Limits()
    text = section("## Limits")
    for number in (
        limits.frame_bytes_max,
        limits.client_jobs_max,
        limits.backlog_jobs_max,
        limits.connections_max,
        limits.connections_unwelcomed_per_address_max,
        FRAME_BYTES_SETTABLE,
        HANDSHAKE_FRAME_BYTES_MAX,
        WORKER_CAPACITY_MAX,
        WORKER_PATTERNS_MAX,
        packets.SENTENCE_CHARS_MAX,
        ATTEMPTS_MAX,
        RETRY_NAMES_MAX,
        STATUS_CHILDREN_MAX,
        QUEUE_ROWS_MAX,
        limits.credit_frames,
        limits.credit_bytes_max,
        limits.ring_chunks_max,
        limits.outcomes_max,
        limits.client_outcomes_max,
        limits.spent_max,
    ):
        assert f"{number:,}" in text
    for mebibytes in (
        limits.ring_bytes_max,
        limits.rings_bytes_max,
        limits.outcomes_bytes_max,
        limits.client_outcomes_bytes_max,
    ):
        assert f"{mebibytes // MIB} MiB" in text
    for seconds in (
        limits.handshake_s,
        limits.tls_handshake_s,
        limits.heartbeat_s,
        limits.lease_s,
        limits.write_deadline_s,
        limits.retention_s,
        limits.retention_s_max,
        BACKOFF_S_MAX,
        SESSION_GRACE_S_MAX,
    ):
        assert f"{seconds:,g} s" in text
    assert f"{limits.delay_s_max // 86_400} days" in text


def test_the_preface_and_the_header_are_as_described() -> None:
    assert f"`{PREFACE.hex(' ')}`" in section("### The first four bytes")
    fields = [(row[0], row[1].strip("`")) for row in rows(section("## Frames"))[1:]]
    places = {name: place for place, name in fields}
    assert list(places) == ["length", "type", "code", "attempt", "cookie", "number", "meta_length", "meta", "payload"]
    marked = bytes(range(HEADER_BYTES))
    for name, value in zip(places, _unpacked(marked), strict=False):
        begin, _, last = places[name].partition("–")
        assert marked[int(begin) : int(last or begin) + 1] == value, name


def _unpacked(header: bytes) -> list[bytes]:
    """The fields of a header as our code cuts them, as bytes again."""
    sizes = (4, 1, 1, 2, 16, 4, 4)
    return [
        value if isinstance(value, bytes) else value.to_bytes(size, "big")
        for value, size in zip(HEADER.unpack(header), sizes, strict=True)
    ]
