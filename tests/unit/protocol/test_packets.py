"""Every packet that either end sends, held to its golden frame, and what its arguments become."""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, PacketType
from tests.golden.table import BUILT, COOKIE, all_golden, golden

CHILD = bytes(range(16))
STATUS = schemas.JobStatus(
    state="over",
    why="",
    pipe="p",
    att=2,
    of=3,
    age=1,
    left=2,
    prog=3,
    inp=4,
    worker="w",
    out=0,
    cookie=COOKIE,
    parent=CHILD,
    kids=[schemas.JobStatus(state="queued", why="not_served", cookie=CHILD)],
)


@pytest.mark.parametrize("name", sorted(BUILT))
def test_a_packet_is_its_golden_frame(name: str) -> None:
    assert BUILT[name].hex(" ") == golden(name).hex(" ")


def test_every_golden_frame_is_built_and_every_packet_has_one() -> None:
    frames = all_golden()
    assert set(frames) == set(BUILT)
    assert {decode(frame).kind for frame in frames.values()} == set(PacketType)


def test_hello_and_welcome_say_what_their_schemas_do() -> None:
    hello = schemas.HelloMeta(sw="s", v="1", token="t", feat=["f"], name="n", inst=b"i" * 16, grace=60)
    assert schemas.hello_meta(decode(packets.hello(hello)).meta) == hello
    welcome = schemas.WelcomeMeta(
        conn=b"c" * 16, broker=b"b" * 16, frame=1, jobs=2, beat=3, dead=4, credit=5, window=6, retain=7, feat=["f"]
    )
    assert schemas.welcome_meta(decode(packets.welcome(welcome)).meta) == welcome


def test_welcome_tells_the_limits_that_are_in_force() -> None:
    limits = Limits(
        frame_bytes_max=5000,
        client_jobs_max=7,
        heartbeat_s=1.5,
        lease_s=4.0,
        credit_frames=3,
        credit_bytes_max=999,
        retention_s=0.25,
    )
    said = packets.welcome_meta(b"c" * 16, b"b" * 16, limits, "1.2")
    assert (said.conn, said.broker, said.sw, said.v) == (b"c" * 16, b"b" * 16, packets.SOFTWARE, "1.2")
    assert (said.frame, said.jobs, said.beat, said.dead, said.credit, said.window, said.retain) == (
        5000,
        7,
        1500,
        4000,
        3,
        999,
        250,
    )
    unset = packets.welcome_meta(b"c" * 16, b"b" * 16, Limits(), "")
    default = schemas.WelcomeMeta(b"", b"", 0, 0, 0, 0, 0)
    assert (unset.window, unset.retain) == (default.window, default.retain)


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


def test_reply_tells_where_a_job_is_what_is_held_and_how_many_jobs_were_met() -> None:
    packet = decode(packets.reply(PacketType.STATUS, Code.OK, "", cookie=COOKIE, job=STATUS))
    assert schemas.reply_meta(packet.meta) == schemas.ReplyMeta(to=PacketType.STATUS, job=STATUS)
    packet = decode(packets.reply(PacketType.REGISTER, Code.OK, "", held=((COOKIE, 1), (CHILD, 2))))
    assert schemas.reply_meta(packet.meta).held == [(COOKIE, 1), (CHILD, 2)]
    packet = decode(packets.reply(PacketType.CANCEL, Code.OK, "", count=12))
    assert schemas.reply_meta(packet.meta).n == 12


def test_a_reply_that_has_nothing_more_to_say_is_as_small_as_it_was() -> None:
    assert decode(packets.reply(PacketType.RUN, Code.DISPATCHED, "")).meta == b"\x81\xa2to\x11"


def test_sentences_that_are_too_long_are_cut_so_that_the_other_end_takes_them() -> None:
    long = "ü" * (packets.SENTENCE_CHARS_MAX + 1)
    for meta in (
        schemas.goodbye_meta(decode(packets.goodbye(CloseReason.NORMAL, long)).meta).msg,
        schemas.reply_meta(decode(packets.reply(PacketType.RUN, Code.BAD_PACKET, long)).meta).msg,
        schemas.cancel_meta(decode(packets.cancel(COOKIE, why=long)).meta).why,
        schemas.cancel_meta(decode(packets.cancel_batch(CHILD, why=long)).meta).why,
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


def test_failed_says_what_became_of_each_attempt() -> None:
    history = [schemas.AttemptRecord(1, "w", "WORKER_WENT_AWAY", 5), schemas.AttemptRecord(2, "", "EXCEPTION", 0)]
    packet = decode(packets.failed(COOKIE, 2, Code.EXCEPTION, "e", history=history))
    assert schemas.failure(packet.payload).hist == history


def test_cancel_is_polite_unless_told_otherwise() -> None:
    assert schemas.cancel_meta(decode(packets.cancel(COOKIE)).meta) == schemas.CancelMeta(now=False, why="")
    assert schemas.cancel_meta(decode(packets.cancel(COOKIE, at_once=True)).meta).now


def test_cancel_of_a_batch_names_the_batch_and_no_job() -> None:
    packet = decode(packets.cancel_batch(CHILD, at_once=True, why="w", number=3))
    assert (packet.kind, packet.cookie, packet.number) == (PacketType.CANCEL, NO_COOKIE, 3)
    assert schemas.cancel_meta(packet.meta) == schemas.CancelMeta(now=True, why="w", batch=CHILD)


def test_progress_carries_the_number_of_its_chunk_and_its_attempt() -> None:
    packet = decode(packets.progress(COOKIE, 2, 7, b"chunk", "bytes"))
    assert (packet.kind, packet.code, packet.cookie, packet.attempt, packet.number) == (PacketType.PROGRESS, 0, COOKIE, 2, 7)
    assert (schemas.chunk_meta(packet.meta), packet.payload) == (schemas.ChunkMeta(enc="bytes"), b"chunk")


@pytest.mark.parametrize("attempt", [0, 2])
def test_input_carries_the_number_of_its_chunk_and_the_attempt_once_there_is_one(attempt: int) -> None:
    packet = decode(packets.input_chunk(COOKIE, 7, b"chunk", "text", attempt))
    assert (packet.kind, packet.code, packet.cookie, packet.number) == (PacketType.INPUT, 0, COOKIE, 7)
    assert (packet.attempt, schemas.chunk_meta(packet.meta).enc, packet.payload) == (attempt, "text", b"chunk")


@pytest.mark.parametrize("kind", [PacketType.PROGRESS, PacketType.INPUT])
def test_a_gap_names_the_first_and_the_last_chunk_that_are_missing(kind: PacketType) -> None:
    packet = decode(packets.gap(kind, COOKIE, 2, 4, 9))
    assert (packet.kind, packet.code, packet.cookie, packet.attempt) == (kind, Code.GAP, COOKIE, 2)
    assert (schemas.chunk_meta(packet.meta), packet.number, packet.payload) == (schemas.ChunkMeta(first=4), 9, b"")


def test_ack_counts_on_from_zero_after_the_largest_number() -> None:
    assert [decode(packets.ack(count)).number for count in (0, 1, 2**32 - 1, 2**32, 2**32 + 5)] == [0, 1, 2**32 - 1, 0, 5]


def test_attach_takes_the_job_over_unless_told_otherwise() -> None:
    packet = decode(packets.attach(COOKIE, number=8))
    assert (packet.kind, packet.cookie, packet.number) == (PacketType.ATTACH, COOKIE, 8)
    assert schemas.attach_meta(packet.meta) == schemas.AttachMeta(first=0, take=True)
    onlooker = decode(packets.attach(COOKIE, first=5, take=False)).meta
    assert schemas.attach_meta(onlooker) == schemas.AttachMeta(first=5, take=False)


@pytest.mark.parametrize("tree", [True, False])
def test_status_asks_for_one_job_or_for_its_tree(tree: bool) -> None:
    packet = decode(packets.status(COOKIE, tree=tree, number=8))
    assert (packet.kind, packet.cookie, packet.number) == (PacketType.STATUS, COOKIE, 8)
    assert schemas.status_meta(packet.meta).tree == tree


@pytest.mark.parametrize(
    ("raw", "kind", "number"),
    [
        (packets.credit(COOKIE, 3, 16), PacketType.CREDIT, 16),
        (packets.park(COOKIE, 3), PacketType.PARK, 0),
        (packets.resume(COOKIE, 3), PacketType.RESUME, 0),
        (packets.extend(COOKIE, 3, 60_000), PacketType.EXTEND, 60_000),
    ],
)
def test_what_is_said_of_an_attempt_is_all_in_its_header(raw: bytes, kind: PacketType, number: int) -> None:
    packet = decode(raw)
    assert (packet.kind, packet.cookie, packet.attempt, packet.number) == (kind, COOKIE, 3, number)
    assert (packet.code, packet.meta, packet.payload) == (0, b"", b"")


def test_drain_names_a_worker_only_where_somebody_else_drains_it() -> None:
    assert decode(packets.drain(3)).meta == b""
    packet = decode(packets.drain(3, "gpu-7"))
    assert (packet.number, schemas.drain_meta(packet.meta).worker) == (3, "gpu-7")


def test_packets_that_name_no_job_have_no_cookie() -> None:
    for raw in (
        packets.ping(),
        packets.pong(1),
        packets.drain(),
        packets.drain(1, "w"),
        packets.goodbye(CloseReason.NORMAL, ""),
        packets.ack(1),
        packets.cancel_batch(CHILD),
    ):
        assert decode(raw).cookie == NO_COOKIE
