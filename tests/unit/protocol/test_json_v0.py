"""The JSON protocol of existing peers: what becomes of what they send, and of what they are sent."""

import json
from typing import Any

import msgspec
import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode, encode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import MALFORMED, OVERSIZED, UNKNOWN, Frame
from reasonchip_broker.protocol.json_v0 import JsonDecoder, for_json_peer, is_json, run_meta, to_binary, to_json
from tests.captures.recorded import all_recorded, recorded
from tests.feeding import every_way, feed_all
from tests.golden.table import COOKIE, all_golden
from tests.wire_peers import json_frame

LIMIT = 10_000
TEXT = "0f8fad5b-d9cb-469f-a165-70867728950e"
KEYS = ("packet_type", "cookie", "capacity", "pipeline", "variables", "detach", "rc", "error", "stacktrace", "result")
RECORDED = all_recorded()


def written(**fields: Any) -> bytes:
    """A frame as existing peers write it."""
    return json_frame(json.dumps({key: fields.get(key) for key in KEYS}, separators=(",", ":")).encode())


def received(raw: bytes, role: Role = Role.CLIENT) -> Frame:
    """What the broker takes one frame for."""
    decoder = JsonDecoder(LIMIT, role)
    frames = decoder.feed(raw)
    assert decoder.failure is None
    assert len(frames) == 1
    return frames[0]


def translated(raw: bytes, role: Role = Role.CLIENT, attempt: int = 1) -> Packet:
    """The binary packet that a JSON frame stands for."""
    return decode(to_binary(received(raw, role)[2], attempt))


def told(frame: bytes) -> dict[str, Any] | None:
    """What an existing peer is told of a frame: its keys in order, nulls left out."""
    raw = to_json(frame)
    if not raw:
        return None
    assert len(raw) == 4 + int.from_bytes(raw[:4], "big")
    packet = json.loads(raw[4:])
    assert tuple(packet) == KEYS
    return {key: value for key, value in packet.items() if value is not None}


RUN = written(packet_type="RUN", cookie=TEXT, pipeline="echo", variables='{"x": 1}', detach=False)
RESULT = written(packet_type="RESULT", cookie=TEXT, rc="OK", result="[1, 2]")


# What existing peers send


@pytest.mark.parametrize("name", [name for name in RECORDED if name.endswith("-to-broker")])
def test_recorded_frames_are_taken_and_would_be_written_as_they_were(name: str) -> None:
    role = Role.WORKER if ".worker" in name else Role.CLIENT
    for raw in RECORDED[name]:
        kind, cookie, taken, *_ = received(raw, role)
        fields = json.loads(raw[4:])
        if kind in (PacketType.RUN, PacketType.RESULT, PacketType.CANCEL):
            assert PacketType(kind).name == fields["packet_type"]
            assert cookie.hex() == fields["cookie"].replace("-", "") if fields["cookie"] else cookie == NO_COOKIE
            assert to_json(to_binary(taken, 1)) == raw
        else:
            assert kind in (PacketType.REGISTER, UNKNOWN, MALFORMED)


@pytest.mark.parametrize("name", [name for name in RECORDED if ".broker-to-worker" in name])
def test_recorded_runs_are_sent_to_workers_as_the_existing_broker_sent_them(name: str) -> None:
    for raw in RECORDED[name]:
        assert to_json(to_binary(received(raw)[2], 1)) == raw


@pytest.mark.parametrize("name", [name for name in RECORDED if ".broker-to-client" in name])
def test_recorded_outcomes_are_told_to_clients_as_the_existing_broker_told_them(name: str) -> None:
    for raw in RECORDED[name]:
        fields = json.loads(raw[4:])
        if fields["rc"] in ("OK", "PROCESSOR_EXCEPTION"):
            assert to_json(to_binary(received(raw, Role.WORKER)[2], 1)) == raw
        else:
            cookie = bytes.fromhex(fields["cookie"].replace("-", "")) if fields["cookie"] else NO_COOKIE
            assert to_json(packets.reply(PacketType.RUN, Code[fields["rc"]], fields["error"], cookie=cookie)) == raw


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(
    ("variables", "payload"), [(None, b""), ("", b""), ('{"é":"☃"}', '{"é":"☃"}'.encode()), ("null", b"null")]
)
def test_a_run_is_a_run_with_json_text(variables: str | None, payload: bytes, detach: bool) -> None:
    packet = translated(written(packet_type="RUN", cookie=TEXT, pipeline="p.q", variables=variables, detach=detach), attempt=3)
    assert (packet.kind, packet.code, packet.cookie, packet.number) == (PacketType.RUN, 0, COOKIE, 0)
    assert schemas.run_options(packet.meta) == schemas.RunOptions(p="p.q", enc="json", detach=detach)
    assert packet.payload == payload


def test_a_run_in_the_written_form_stays_json_and_knows_its_meta() -> None:
    frame = received(RUN)
    assert is_json(frame[2])
    assert frame[2] == RUN
    assert (frame[0], frame[1], frame[3], frame[4], frame[5], frame[6]) == (PacketType.RUN, COOKIE, 0, 1, 0, 0)
    assert schemas.run_options(run_meta(RUN)) == schemas.RunOptions(p="echo", enc="json")
    assert to_json(RUN) == RUN
    assert decode(to_binary(RUN, 7)).attempt == 7


def test_what_was_seen_of_one_pipeline_is_not_held_of_another() -> None:
    """One form is compared with at once; the others are looked up, or looked at."""
    names = ["echo", "echo2", "ech", "echo", "e" * 255, "echo", *(f"p{n}" for n in range(1100)), "echo"]
    for name in names:
        for detach in (False, True):
            raw = written(packet_type="RUN", cookie=TEXT, pipeline=name, variables="1", detach=detach)
            frame = received(raw)
            assert frame[2] == raw
            assert schemas.run_options(run_meta(raw)) == schemas.RunOptions(p=name, enc="json", detach=detach)
    first, second = (written(packet_type="RUN", cookie=TEXT, pipeline=name, detach=False) for name in ("one", "two"))
    frames = JsonDecoder(LIMIT, Role.CLIENT).feed(first + second)
    assert [schemas.run_options(run_meta(frame[2])).p for frame in frames] == ["one", "two"]


@pytest.mark.parametrize("name", ["", "e" * 256, "é", "a\\b", 'a"b'])
def test_a_pipeline_that_is_not_in_the_written_form_goes_through_the_strict_parser(name: str) -> None:
    frame = received(written(packet_type="RUN", cookie=TEXT, pipeline=name, variables="1", detach=False))
    assert not is_json(frame[2])
    assert frame[0] == (PacketType.RUN if name else MALFORMED)


def test_a_name_that_ends_like_the_written_form_is_no_such_form() -> None:
    raw = json_frame(RUN[4:].replace(b'"capacity":null', b'"capacity":1234'))
    assert not is_json(received(raw)[2])
    with pytest.raises(ValueError, match="form"):
        run_meta(raw)


def test_binary_frames_are_no_json_and_stay_what_they_are() -> None:
    for raw in all_golden().values():
        assert not is_json(raw)
        assert to_binary(raw, 9) == raw
        assert run_meta(raw) == b""


@pytest.mark.parametrize(("result", "payload"), [(None, b""), ("", b""), ("0", b"0"), ('"ü\\u2028"', '"ü\\u2028"'.encode())])
def test_a_result_is_a_result_with_json_text(result: str | None, payload: bytes) -> None:
    packet = translated(written(packet_type="RESULT", cookie=TEXT, rc="OK", result=result), Role.WORKER, attempt=2)
    assert (packet.kind, packet.code, packet.cookie) == (PacketType.RESULT, Code.OK, COOKIE)
    assert schemas.result_meta(packet.meta) == schemas.ResultMeta(enc="json")
    assert packet.payload == payload


@pytest.mark.parametrize("rc", ["PROCESSOR_EXCEPTION", "EXCEPTION", "WORKER_WENT_AWAY", "BROKER_WENT_AWAY", "CANCELLED"])
@pytest.mark.parametrize("stack", [None, [], ["a", "b\n", "☃"]])
def test_a_result_that_is_a_failure_keeps_its_words(rc: str, stack: list[str] | None) -> None:
    raw = written(packet_type="RESULT", cookie=TEXT, rc=rc, error="why", stacktrace=stack)
    packet = translated(raw, Role.WORKER)
    assert packet.code == Code[rc]
    assert schemas.failure(packet.payload) == schemas.Failure(error="why", stack=stack)


@pytest.mark.parametrize("rc", ["NO_CAPACITY", "BAD_PACKET", "COOKIE_COLLISION", "QUEUED"])
def test_a_refusal_from_a_worker_ends_the_job_as_an_exception_that_names_it(rc: str) -> None:
    packet = translated(written(packet_type="RESULT", cookie=TEXT, rc=rc, error="full"), Role.WORKER)
    assert packet.code == Code.EXCEPTION
    assert schemas.failure(packet.payload).error == f"{rc}: full"


@pytest.mark.parametrize(
    "fields",
    [{"rc": None}, {"rc": "FINE"}, {"rc": 0}, {"rc": "OK", "result": 1}, {"rc": "EXCEPTION", "stacktrace": [1]}, {"rc": []}],
)
def test_a_result_that_makes_no_sense_still_ends_its_job(fields: dict[str, Any]) -> None:
    packet = translated(written(packet_type="RESULT", cookie=TEXT, **fields), Role.WORKER)
    assert (packet.kind, packet.code, packet.cookie) == (PacketType.RESULT, Code.EXCEPTION, COOKIE)
    assert "made no sense" in schemas.failure(packet.payload).error


@pytest.mark.parametrize("capacity", [4, 0, -1, 2**31, 2**63, True, 1.5, "four", None, [4], {"n": 4}])
def test_row_15_a_register_says_what_it_says_for_the_switchboard_to_judge(capacity: Any) -> None:
    packet = decode(received(written(packet_type="REGISTER", capacity=capacity), Role.WORKER)[2])
    assert packet.kind == PacketType.REGISTER
    assert msgspec.msgpack.decode(packet.meta) == {"cap": capacity, "serves": ["*"]}


@pytest.mark.parametrize("capacity", [2**64, "\ud800"])
def test_row_15_a_capacity_that_can_t_be_passed_on_is_refused_where_it_is_read(capacity: Any) -> None:
    assert received(written(packet_type="REGISTER", capacity=capacity), Role.WORKER)[0] == MALFORMED


@pytest.mark.parametrize(
    "extra", [{}, {"variables": 5}, {"pipeline": []}, {"detach": "x"}, {"rc": 1}, {"stacktrace": "\ud800"}]
)
def test_a_cancel_is_a_cancel_whatever_else_it_says(extra: dict[str, Any]) -> None:
    packet = translated(written(packet_type="CANCEL", cookie=TEXT, **extra))
    assert (packet.kind, packet.cookie) == (PacketType.CANCEL, COOKIE)
    assert schemas.cancel_meta(packet.meta) == schemas.CancelMeta()


@pytest.mark.parametrize("kind", ["SHUTDOWN", "HELLO", "run", "", "\x00"])
def test_a_packet_type_that_is_not_known_keeps_its_cookie(kind: str) -> None:
    assert received(written(packet_type=kind, cookie=TEXT))[:2] == (UNKNOWN, COOKIE)


@pytest.mark.parametrize("text", [TEXT, TEXT.upper(), TEXT.replace("-", "")])
def test_a_cookie_may_be_written_in_every_usual_way(text: str) -> None:
    for raw in (written(packet_type="RUN", cookie=text, pipeline="p", detach=False), json_frame(b" " + RUN[4:])):
        assert translated(raw).cookie == COOKIE


COOKIES = ["x", TEXT[:-1], TEXT + "0", TEXT[:-1] + "g", f"{{{TEXT}}}", f"urn:uuid:{TEXT}", 5, [], True, "٠" * 32]


@pytest.mark.parametrize("cookie", [*COOKIES, "0f8fad5b-d9cb-469f-a165-70867728950e\n", "0f8fad5-bd9cb-469f-a165-70867728950e"])
@pytest.mark.parametrize("kind", ["RUN", "CANCEL", "RESULT"])
def test_what_is_no_cookie_is_told_without_one(kind: str, cookie: Any) -> None:
    fields = {"packet_type": kind, "cookie": cookie, "pipeline": "p", "detach": False}
    fields |= {"pipeline": None, "detach": None, "rc": "OK", "result": "1"} if kind == "RESULT" else {}
    frame = received(written(**fields), Role.WORKER if kind == "RESULT" else Role.CLIENT)
    assert (frame[0], frame[1], frame[2]) == (MALFORMED, NO_COOKIE, b"cookie is a UUID or null")


@pytest.mark.parametrize(
    ("fields", "cookie", "sentence"),
    [
        ({"pipeline": "p"}, None, "Missing cookie"),
        ({"pipeline": "p"}, str(NO_COOKIE.hex()), "Missing cookie"),
        ({}, TEXT, "Missing pipeline"),
        ({"pipeline": ""}, TEXT, "Missing pipeline"),
        ({"pipeline": 5}, TEXT, "pipeline is a string or null"),
        ({"pipeline": "p", "variables": {"x": 1}}, TEXT, "variables is a string or null"),
        ({"pipeline": "p", "detach": 1}, TEXT, "detach is true, false or null"),
        ({"pipeline": "p", "variables": "\ud800"}, TEXT, "variables holds a lone surrogate"),
        ({"pipeline": "\udfff"}, TEXT, "pipeline holds a lone surrogate"),
    ],
)
def test_row_11_a_run_that_is_no_run_is_told_what_it_lacks(fields: dict[str, Any], cookie: str | None, sentence: str) -> None:
    frame = received(written(packet_type="RUN", cookie=cookie, **fields))
    assert (frame[0], frame[2].decode()) == (MALFORMED, sentence)
    assert frame[1] == (COOKIE if cookie == TEXT else NO_COOKIE)


@pytest.mark.parametrize("kind", [None, 5, [], {"RUN": 1}])
def test_a_packet_without_a_type_is_told_so(kind: Any) -> None:
    assert received(written(packet_type=kind, cookie=TEXT))[:3] == (MALFORMED, COOKIE, b"Missing packet_type")


def test_a_result_in_the_written_form_is_not_taken_if_it_ends_otherwise() -> None:
    decoder = JsonDecoder(LIMIT, Role.WORKER)
    assert decoder.feed(RESULT[:-1] + b"]") == []
    assert decoder.failure is not None


@pytest.mark.parametrize(("raw", "role"), [(RUN, Role.CLIENT), (RESULT, Role.WORKER)])
def test_sixteen_zeros_are_no_cookie_in_the_written_form_either(raw: bytes, role: Role) -> None:
    zeros = raw.replace(TEXT.encode(), b"00000000-0000-0000-0000-000000000000")
    kind, cookie, taken, *_ = received(zeros, role)
    assert (kind, cookie) == (MALFORMED if role == Role.CLIENT else PacketType.RESULT, NO_COOKIE)
    assert role == Role.CLIENT or not is_json(taken)


@pytest.mark.parametrize("text", ["0f8fad5b-d9cb-469f-a165-7086772895--", "---------d9cb-469f-a165-70867728950e"])
@pytest.mark.parametrize(("raw", "role"), [(RUN, Role.CLIENT), (RESULT, Role.WORKER)])
def test_a_cookie_with_more_hyphens_than_four_is_none_in_the_written_form_either(raw: bytes, role: Role, text: str) -> None:
    frame = received(raw.replace(TEXT.encode(), text.encode()), role)
    assert (frame[0], frame[1], frame[2]) == (MALFORMED, NO_COOKIE, b"cookie is a UUID or null")


# Streams


@pytest.mark.parametrize("role", Role)
def test_row_7_json_frames_come_out_the_same_however_they_are_cut(role: Role) -> None:
    side = "worker1" if role == Role.WORKER else "client1"
    frames = [*recorded("run_ok_unicode", f"{side}-to-broker"), *recorded("detach", f"{side}-to-broker"), json_frame(b"{}")]
    stream = b"".join(frames)
    whole = JsonDecoder(LIMIT, role).feed(stream)
    assert len(whole) == len(frames)
    for pieces in every_way(stream):
        decoder = JsonDecoder(LIMIT, role)
        assert feed_all(decoder, pieces) == whole
        assert (decoder.failure, decoder.incomplete, decoder.buffered_bytes) == (None, False, 0)


def test_row_7_a_truncated_json_stream_gives_what_was_complete_and_ends_clean() -> None:
    for end in range(len(RUN), 2 * len(RUN)):
        decoder = JsonDecoder(LIMIT)
        assert [frame[2] for frame in decoder.feed((RUN + RUN)[:end])] == [RUN]
        kept = end - len(RUN)
        assert (decoder.failure, decoder.incomplete, decoder.buffered_bytes) == (None, kept > 0, kept)


@pytest.mark.parametrize(("raw", "role"), [(RUN, Role.CLIENT), (RESULT, Role.WORKER)])
def test_row_8_a_frame_over_the_limit_costs_only_its_own_job_however_it_is_cut(raw: bytes, role: Role) -> None:
    small = json_frame(f'{{"packet_type":"CANCEL","cookie":"{TEXT}"}}'.encode())
    stream = small + raw + small
    kind = PacketType.RUN if role == Role.CLIENT else PacketType.RESULT
    limit = min(len(RUN), len(RESULT)) - 5
    for pieces in every_way(stream):
        decoder = JsonDecoder(limit, role)
        frames = feed_all(decoder, pieces)
        assert [frame[0] for frame in frames] == [PacketType.CANCEL, kind + OVERSIZED, PacketType.CANCEL]
        assert frames[1][1] == COOKIE
        assert int.from_bytes(frames[1][2][:4], "big") == len(raw) - 4
        assert (decoder.failure, decoder.incomplete, decoder.buffered_bytes) == (None, False, 0)


@pytest.mark.parametrize(
    "body", [b'{"cookie":"' + b"x" * 200, b"x" * 200, RUN[4:].replace(b"-", b"+"), b'{"packet_type":"RUN"' * 9]
)
def test_row_8_a_frame_over_the_limit_whose_cookie_can_not_be_seen_ends_the_stream(body: bytes) -> None:
    for pieces in every_way(RUN + (LIMIT + 1).to_bytes(4, "big") + body):
        decoder = JsonDecoder(LIMIT)
        assert [frame[2] for frame in feed_all(decoder, pieces)] == [RUN]
        assert decoder.failure is not None
        assert decoder.failure.reason == CloseReason.FRAME_TOO_LARGE
        assert (decoder.buffered_bytes, decoder.feed(RUN)) == (0, [])


def test_row_8_a_frame_at_the_limit_is_taken() -> None:
    decoder = JsonDecoder(len(RUN) - 4)
    assert [frame[2] for frame in decoder.feed(RUN)] == [RUN]


# What existing peers are sent


def test_a_run_goes_to_an_existing_worker_as_an_existing_client_writes_it() -> None:
    options = schemas.RunOptions(p='we"ird☃', enc="json", nonce=b"n", queue=False, reply=True)
    raw = to_json(packets.run(COOKIE, schemas.encode_meta(options), b'{"x": 1}', left_ms=5, attempt=2))
    assert json.loads(raw[4:]) == json.loads(
        written(packet_type="RUN", cookie=TEXT, pipeline='we"ird☃', variables='{"x": 1}', detach=False)[4:]
    )
    assert told(packets.json_run(COOKIE, "p", b"", detach=True)) == {
        "packet_type": "RUN",
        "cookie": TEXT,
        "pipeline": "p",
        "detach": True,
    }


def test_shutdown_and_cancel_are_what_existing_workers_know() -> None:
    assert told(packets.drain()) == {"packet_type": "SHUTDOWN"}
    assert told(packets.cancel(COOKIE, at_once=True, why="x")) == {"packet_type": "CANCEL", "cookie": TEXT}


@pytest.mark.parametrize(
    ("payload", "encoding", "result"),
    [
        (b"", "", None),
        (b"", "json", None),
        (b'{"a": 1}', "json", '{"a": 1}'),
        (b"", "msgpack", None),
        (msgspec.msgpack.encode({"a": [1, None, "ü"]}), "msgpack", '{"a":[1,null,"ü"]}'),
        (msgspec.msgpack.encode([1e308, -0.5]), "msgpack", "[1e308,-0.5]"),
        (msgspec.msgpack.encode([b"\xcb\x7f\xf0", {b"k": 2**63}]), "msgpack", '["y3/w",{"aw==":9223372036854775808}]'),
    ],
)
def test_an_ok_result_is_told_as_json(payload: bytes, encoding: str, result: str | None) -> None:
    expected = {"packet_type": "RESULT", "cookie": TEXT, "rc": "OK"} | ({} if result is None else {"result": result})
    assert told(packets.result(COOKIE, 3, payload, encoding)) == expected


@pytest.mark.parametrize(
    "frame",
    [
        packets.result(COOKIE, 1, b"\xff", "bytes"),
        packets.result(COOKIE, 1, b"x", "pickle"),
        packets.result(COOKIE, 1, b"x", ""),
        packets.result(COOKIE, 1, b"\xc1", "msgpack"),
        packets.result(COOKIE, 1, b"\xd4\x01\x00", "msgpack"),  # an extension
        packets.result(COOKIE, 1, b"\x81\x91\x01\x01", "msgpack"),  # a list for a key
        packets.result(COOKIE, 1, b"\x91" * 5000 + b"\xc0", "msgpack"),
        packets.result(COOKIE, 1, msgspec.msgpack.encode({"a": [1.5, float("nan")]}), "msgpack"),
        packets.result(COOKIE, 1, msgspec.msgpack.encode([b"x", float("inf")]), "msgpack"),
        packets.result(COOKIE, 1, msgspec.msgpack.encode({1.0: float("-inf")}), "msgpack"),
        packets.result(COOKIE, 1, b"\xca\x7f\x80\x00\x00", "msgpack"),
        encode(PacketType.RESULT, cookie=COOKIE, meta=b"\xc1", payload=b"1"),
        encode(PacketType.RESULT, cookie=COOKIE, meta=b"\x81\xa3enc\x05", payload=b"1"),
    ],
    ids=[
        *("bytes", "unknown", "unnamed", "no msgpack", "extension", "list for a key", "deep"),
        *("NaN", "infinity", "-infinity", "infinity in 32 bits", "no meta", "wrong meta"),
    ],
)
def test_a_result_that_json_can_not_say_is_told_as_an_exception(frame: bytes) -> None:
    packet = told(frame)
    assert packet is not None
    assert (packet["rc"], packet["cookie"]) == ("EXCEPTION", TEXT)
    assert packet["error"].startswith("the job succeeded, but its result can't be told in JSON: ")
    assert packet["error"].isprintable()


@pytest.mark.parametrize(
    ("code", "rc", "error"),
    [
        (Code.PROCESSOR_EXCEPTION, "PROCESSOR_EXCEPTION", "T: why"),
        (Code.EXCEPTION, "EXCEPTION", "T: why"),
        (Code.CANCELLED, "EXCEPTION", "CANCELLED: T: why"),
        (Code.DEADLINE_EXCEEDED, "EXCEPTION", "DEADLINE_EXCEEDED: T: why"),
        (Code.QUEUE_TIMEOUT, "NO_CAPACITY", "QUEUE_TIMEOUT: T: why"),
        (Code.WORKER_WENT_AWAY, "WORKER_WENT_AWAY", "T: why"),
        (Code.BROKER_WENT_AWAY, "BROKER_WENT_AWAY", "T: why"),
        (Code.DEAD_LETTERED, "EXCEPTION", "DEAD_LETTERED: T: why"),
        (Code.TOO_LARGE, "EXCEPTION", "TOO_LARGE: T: why"),
    ],
)
def test_a_failure_is_told_by_a_code_that_existing_peers_know(code: Code, rc: str, error: str) -> None:
    frame = packets.failed(COOKIE, 1, code, "why", error_type="T", stack=["at x"])
    assert told(frame) == {"packet_type": "RESULT", "cookie": TEXT, "rc": rc, "error": error, "stacktrace": ["at x"]}


@pytest.mark.parametrize(("kind", "error", "told_as"), [("T", "", "T"), ("", "", ""), ("", "why", "why")])
def test_a_failure_without_words_is_told_by_what_there_is(kind: str, error: str, told_as: str) -> None:
    packet = told(packets.failed(COOKIE, 1, Code.EXCEPTION, error, error_type=kind))
    assert packet is not None
    assert packet["error"] == told_as


@pytest.mark.parametrize("code", [code for code in Code if Code.BAD_PACKET <= code < Code.QUEUED] + [Code.TOO_LARGE])
def test_a_refused_run_is_told_with_its_cookie_by_a_code_that_existing_peers_know(code: Code) -> None:
    packet = told(packets.reply(PacketType.RUN, code, "why", cookie=COOKIE))
    assert packet is not None
    assert packet["cookie"] == TEXT
    known = {"BAD_PACKET", "UNSUPPORTED_PACKET_TYPE", "NO_CAPACITY", "COOKIE_NOT_FOUND", "COOKIE_COLLISION", "EXCEPTION"}
    assert packet["rc"] in known
    assert packet["error"] == ("why" if packet["rc"] == code.name else f"{code.name}: why")


@pytest.mark.parametrize("code", [code for code in Code if Code.BAD_PACKET <= code < Code.QUEUED])
def test_an_error_about_a_cancel_never_carries_the_cookie_of_a_job_that_may_live(code: Code) -> None:
    packet = told(packets.reply(PacketType.CANCEL, code, "why", cookie=COOKIE))
    assert packet is not None
    assert ("cookie" in packet) == (code == Code.COOKIE_NOT_FOUND)


@pytest.mark.parametrize("to", [PacketType.RUN, PacketType.CANCEL, PacketType.REGISTER])
@pytest.mark.parametrize("code", [Code.OK, Code.QUEUED, Code.DISPATCHED, Code.CANCELLING])
def test_good_news_is_not_told(to: PacketType, code: Code) -> None:
    assert told(packets.reply(to, code, "fine", cookie=COOKIE)) is None


@pytest.mark.parametrize(
    "kind", [kind for kind in PacketType if kind not in (PacketType.RUN, PacketType.RESULT, PacketType.REPLY)]
)
def test_what_existing_peers_do_not_know_is_not_told(kind: PacketType) -> None:
    known = {PacketType.CANCEL, PacketType.DRAIN}
    assert (told(encode(kind, code=CloseReason.NORMAL)) is None) == (kind not in known)


@pytest.mark.parametrize("reason", [reason for reason in CloseReason if reason < CloseReason.PEER_CLOSED])
def test_an_offence_is_told_before_the_end_and_nothing_else_is(reason: CloseReason) -> None:
    offences = {CloseReason.PROTOCOL_ERROR, CloseReason.FRAME_TOO_LARGE, CloseReason.HANDSHAKE_TIMEOUT}
    packet = told(packets.goodbye(reason, "why"))
    expected = {"packet_type": "RESULT", "rc": "BAD_PACKET", "error": "why"} if reason in offences else None
    assert packet == expected


def test_a_json_peer_is_sent_json_as_it_is_and_all_else_in_its_words() -> None:
    frame = to_json(packets.drain())
    assert for_json_peer(frame) == frame
    assert for_json_peer(packets.drain()) == frame
    assert for_json_peer(packets.ping()) == b""
