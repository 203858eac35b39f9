"""A JSON packet means the same in whatever form it is written: key order, white space, escapes, nulls left out, keys that nobody knows.

The form that existing peers write is recognised by comparing bytes, every other goes through a strict parser. The two must agree; a
space before the brace is enough to get from one to the other."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import decode, readdressed
from reasonchip_broker.protocol.codes import PacketType, Role
from reasonchip_broker.protocol.frames import MALFORMED, Frame
from reasonchip_broker.protocol.json_v0 import JsonDecoder, is_json, to_binary
from tests.captures.recorded import all_recorded
from tests.wire_peers import json_frame

KEYS = ("packet_type", "cookie", "capacity", "pipeline", "variables", "detach", "rc", "error", "stacktrace", "result")
texts = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.sampled_from(['{"x": "\\"\\u00e9"}', "null", ""])
)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), min_size=1, max_size=20)
cookies = st.uuids(version=4).map(str)
runs = st.fixed_dictionaries(
    {"packet_type": st.just("RUN"), "cookie": cookies, "pipeline": names, "variables": texts, "detach": st.booleans()}
)
results = st.fixed_dictionaries({"packet_type": st.just("RESULT"), "cookie": cookies, "rc": st.just("OK"), "result": texts})
failed = st.fixed_dictionaries(
    {
        "packet_type": st.just("RESULT"),
        "cookie": cookies,
        "rc": st.sampled_from(["PROCESSOR_EXCEPTION", "EXCEPTION", "NO_CAPACITY"]),
        "error": texts,
        "stacktrace": st.none() | st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=3),
    }
)
others = st.fixed_dictionaries(
    {"packet_type": st.sampled_from(["CANCEL", "REGISTER", "SHUTDOWN"]), "cookie": cookies, "capacity": st.integers(1, 9)}
)
unknown = st.dictionaries(
    st.text(st.characters(codec="ascii"), max_size=5).map(lambda key: "x" + key),
    st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2), max_leaves=4),
    max_size=3,
)
WRITTEN = [raw[4:] for name, frames in all_recorded().items() if "-to-broker" in name for raw in frames]

TOO_SHORT = {"cookie": "0f8fad5b-d9cb-469f-a165-7086772895--"}


def canonical(fields: dict[str, Any]) -> bytes:
    """As existing peers write it."""
    return json.dumps({key: fields.get(key) for key in KEYS}, separators=(",", ":")).encode()


def taken(body: bytes, role: Role) -> Frame | str:
    """What the broker takes a frame for: its binary form, or why there is none."""
    decoder = JsonDecoder(1_000_000, role)
    frames = decoder.feed(json_frame(body))
    if decoder.failure is not None:
        return "no JSON"
    ((kind, cookie, raw, *_),) = frames
    if kind == MALFORMED:
        return kind, cookie, b"", 0, 0, 0, 0
    # A JSON worker names no attempt; the dispatcher enters that of the job.
    return kind, cookie, readdressed(to_binary(raw, 1), 1, 0), 0, 0, 0, 0


@given(data=st.data(), fields=runs | results | failed | others, extra=unknown, ascii_only=st.booleans())
def test_every_form_of_a_packet_means_the_same(
    data: st.DataObject, fields: dict[str, Any], extra: dict[str, Any], ascii_only: bool
) -> None:
    role = Role.WORKER if fields["packet_type"] in ("RESULT", "REGISTER") else Role.CLIENT
    expected = taken(canonical(fields), role)
    assert isinstance(expected, tuple)
    kept = {key: value for key, value in fields.items() if value is not None or data.draw(st.booleans())}
    order = data.draw(st.permutations([*kept.items(), *extra.items()]))
    separators = data.draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", "\r\n: ")]))
    edges = data.draw(st.tuples(*[st.sampled_from(["", " ", "\n\t "])] * 2))
    text = json.dumps(dict(order), separators=separators, ensure_ascii=ascii_only)
    assert taken((edges[0] + text + edges[1]).encode("utf-8", "replace"), role) == expected


@given(fields=runs | results)
def test_the_written_form_is_taken_without_the_strict_parser_and_means_the_same(fields: dict[str, Any]) -> None:
    role = Role.WORKER if fields["packet_type"] == "RESULT" else Role.CLIENT
    body = canonical(fields)
    (frame,) = JsonDecoder(10_000, role).feed(json_frame(body))
    plain = set(fields.get("pipeline", "")).isdisjoint('"\\') and fields.get("pipeline", "").isascii()
    assert is_json(frame[2]) == plain
    assert taken(body, role) == taken(b" " + body, role)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A recorded frame with a few bytes changed, put in or taken out."""
    body = bytearray(draw(st.sampled_from(WRITTEN)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        if draw(st.booleans()):
            # Of a text of 36 characters there are many that are no UUID, and look like one.
            hyphens = draw(st.integers(1, 6))
            body[at : at + hyphens] = b"-" * hyphens
            continue
        new = draw(st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b"-", b"null", b",", b"\\ud800", b"\x0a", b"\xff"]))
        body[at : at + draw(st.integers(0, 2))] = new
    return bytes(body)


@given(body=damaged(), role=st.sampled_from(Role))
@example(body=WRITTEN[0].replace(b"null", b'"\\ud800"'), role=Role.CLIENT)
@example(body=canonical(TOO_SHORT | {"packet_type": "RUN", "pipeline": "a"}), role=Role.CLIENT)
@example(body=canonical(TOO_SHORT | {"packet_type": "RESULT", "rc": "OK"}), role=Role.WORKER)
def test_row_11_the_quick_way_takes_nothing_that_the_strict_parser_would_not(body: bytes, role: Role) -> None:
    quick, strict = taken(body, role), taken(b" " + body, role)
    if quick != strict:
        # A control character in a name is no JSON to the one, and a name that the switchboard refuses to the other.
        assert strict == "no JSON"
        assert isinstance(quick, tuple)
        assert quick[0] == PacketType.RUN
        try:
            schemas.run_options(decode(quick[2]).meta)
        except schemas.MetaInvalid:
            return
        raise AssertionError(f"{body!r} is taken for {quick}")


@given(body=st.binary(max_size=60) | st.text(max_size=40).map(str.encode), role=st.sampled_from(Role))
def test_row_10_any_body_is_taken_answered_or_ends_the_stream(body: bytes, role: Role) -> None:
    decoder = JsonDecoder(1000, role)
    frames = decoder.feed(json_frame(body))
    assert len(frames) == (decoder.failure is None)
