"""Every packet that either end sends, held to its golden frame, and what its arguments become."""

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, PacketType
from tests.golden.table import BUILT, COOKIE, all_golden, golden

RESERVED = {
    PacketType.ACK,
    PacketType.PROGRESS,
    PacketType.INPUT,
    PacketType.CREDIT,
    PacketType.ATTACH,
    PacketType.STATUS,
    PacketType.PARK,
    PacketType.RESUME,
    PacketType.EXTEND,
}


@pytest.mark.parametrize("name", sorted(BUILT))
def test_a_packet_is_its_golden_frame(name: str) -> None:
    assert BUILT[name].hex(" ") == golden(name).hex(" ")


def test_every_golden_frame_is_built_and_every_packet_has_one() -> None:
    frames = all_golden()
    assert set(frames) == set(BUILT)
    assert {decode(frame).kind for frame in frames.values()} == set(PacketType) - RESERVED


def test_hello_and_welcome_say_what_their_schemas_do() -> None:
    hello = schemas.HelloMeta(sw="s", v="1", token="t", feat=["f"], name="n", inst=b"i" * 16, grace=60)
    assert schemas.hello_meta(decode(packets.hello(hello)).meta) == hello
    welcome = schemas.WelcomeMeta(conn=b"c" * 16, broker=b"b" * 16, frame=1, jobs=2, beat=3, dead=4, credit=5, feat=["f"])
    assert schemas.welcome_meta(decode(packets.welcome(welcome)).meta) == welcome


def test_pong_carries_the_number_of_its_ping() -> None:
    assert decode(packets.ping(0xFFFFFFFF)).number == decode(packets.pong(0xFFFFFFFF)).number == 0xFFFFFFFF


def test_goodbye_tells_why_and_which_versions_there_are() -> None:
    packet = decode(packets.goodbye(CloseReason.UNSUPPORTED_VERSION, "no", (1, 2)))
    assert packet.code == CloseReason.UNSUPPORTED_VERSION
    assert schemas.goodbye_meta(packet.meta) == schemas.GoodbyeMeta(msg="no", versions=[1, 2])


def test_reply_names_what_it_answers() -> None:
    packet = decode(packets.reply(PacketType.RUN, Code.OVERLOADED, "later", cookie=COOKIE, number=9, retry_ms=250))
    assert (packet.code, packet.cookie, packet.number) == (Code.OVERLOADED, COOKIE, 9)
    assert schemas.reply_meta(packet.meta) == schemas.ReplyMeta(to=PacketType.RUN, msg="later", retry=250)


def test_sentences_that_are_too_long_are_cut_so_that_the_other_end_takes_them() -> None:
    long = "ü" * (packets.SENTENCE_CHARS_MAX + 1)
    for meta in (
        schemas.goodbye_meta(decode(packets.goodbye(CloseReason.NORMAL, long)).meta).msg,
        schemas.reply_meta(decode(packets.reply(PacketType.RUN, Code.BAD_PACKET, long)).meta).msg,
        schemas.cancel_meta(decode(packets.cancel(COOKIE, why=long)).meta).why,
    ):
        assert meta == "ü" * packets.SENTENCE_CHARS_MAX


def test_run_carries_options_and_variables_as_they_are() -> None:
    packet = decode(packets.run(COOKIE, b"\x80", b"\xff\x00", left_ms=5, attempt=3))
    assert (packet.kind, packet.cookie, packet.attempt, packet.number) == (PacketType.RUN, COOKIE, 3, 5)
    assert (packet.meta, packet.payload) == (b"\x80", b"\xff\x00")


def test_json_run_is_a_run_whose_variables_are_json_text() -> None:
    packet = decode(packets.json_run(COOKIE, "p", b"{}", detach=True))
    assert schemas.run_options(packet.meta) == schemas.RunOptions(p="p", enc="json", detach=True)
    assert packet.attempt == 1


def test_result_names_its_encoding_unless_there_is_nothing() -> None:
    assert schemas.result_meta(decode(packets.result(COOKIE, 2, b"1", "json")).meta).enc == "json"
    nothing = decode(packets.result(COOKIE, 2, b"", ""))
    assert (nothing.meta, nothing.payload, nothing.attempt, nothing.code) == (b"\x80", b"", 2, Code.OK)


@pytest.mark.parametrize("may_have_run", [True, False])
def test_failed_says_what_went_wrong_and_whether_the_job_may_have_run(may_have_run: bool) -> None:
    raw = packets.failed(COOKIE, 4, Code.EXCEPTION, "e", error_type="T", stack=[], may_have_run=may_have_run)
    packet = decode(raw)
    assert (packet.code, packet.attempt, packet.cookie) == (Code.EXCEPTION, 4, COOKIE)
    assert schemas.result_meta(packet.meta).ran == may_have_run
    assert schemas.failure(packet.payload) == schemas.Failure(error="e", type="T", stack=[])


def test_cancel_is_polite_unless_told_otherwise() -> None:
    assert schemas.cancel_meta(decode(packets.cancel(COOKIE)).meta) == schemas.CancelMeta(now=False, why="")
    assert schemas.cancel_meta(decode(packets.cancel(COOKIE, at_once=True)).meta).now


def test_packets_that_name_no_job_have_no_cookie() -> None:
    for raw in (packets.ping(), packets.pong(1), packets.drain(), packets.goodbye(CloseReason.NORMAL, "")):
        assert decode(raw).cookie == NO_COOKIE
