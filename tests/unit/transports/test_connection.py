"""One connection, on a transport and a loop that do as they are told. What holds on real ones is in tests/conformance."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from reasonchip_broker.limits import HANDSHAKE_FRAME_BYTES_MAX, KIB
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import meta_of
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import PREFACE, BinaryDecoder, Frame
from reasonchip_broker.testing.transport_peers import numbered
from tests.unit.transports.fakes import FakeTransport, Rig

SMALL: dict[str, Any] = {"outbox_bytes_mark": 1000, "outbox_bytes_max": 5000}


def sent(transport: FakeTransport) -> list[Frame]:
    return BinaryDecoder(1 << 30).feed(transport.written)


def farewell(transport: FakeTransport) -> tuple[CloseReason, str, list[int]]:
    """The GOODBYE that was written last."""
    kind, _, raw, code, *_ = sent(transport)[-1]
    assert kind == PacketType.GOODBYE
    meta = schemas.goodbye_meta(meta_of(raw))
    return CloseReason(code), meta.msg, meta.versions


def binary(**limits: Any) -> Rig:
    """A rig whose peer speaks the binary protocol and is welcome."""
    rig = Rig(**limits)
    rig.hear(PREFACE)
    return rig


def json_frame(**fields: object) -> bytes:
    body = json.dumps(fields).encode()
    return len(body).to_bytes(4, "big") + body


# Out


def test_what_is_sent_in_one_turn_is_one_write_in_order() -> None:
    rig = binary()
    rig.send(numbered(1), numbered(2), numbered(3))
    assert rig.transport.writes == [numbered(1) + numbered(2) + numbered(3)]
    rig.send(numbered(4))
    assert rig.transport.writes[1:] == [numbered(4)]


@pytest.mark.parametrize("size", [16 * KIB, 200 * KIB])
def test_large_frames_are_handed_over_one_by_one_rather_than_copied(size: int) -> None:
    rig = binary()
    frames = [numbered(1, size), numbered(2), numbered(3, size)]
    rig.send(*frames)
    assert rig.transport.writes == frames


def test_over_the_mark_frames_wait_and_the_peer_is_not_read_from() -> None:
    rig = binary(**SMALL)
    rig.transport.room = 0
    rig.send(numbered(1, 1500))
    assert rig.told == ["accepts", "opened", "congested"]
    assert not rig.transport.reading
    rig.send(numbered(2, 100), numbered(3, 100))
    assert sent(rig.transport)[1:] == []
    assert rig.connection.pending_bytes == sum(len(numbered(number, size)) for number, size in ((1, 1500), (2, 100), (3, 100)))


def test_when_most_was_taken_the_rest_follows_in_order_and_the_peer_is_read_from() -> None:
    rig = binary(**SMALL)
    rig.transport.room = 0
    rig.send(numbered(1, 1500))
    rig.send(numbered(2, 100), numbered(3, 100))
    rig.transport.take(500)
    assert rig.told[-1] == "congested"
    rig.transport.take(800)
    assert [frame[5] for frame in sent(rig.transport)] == [1, 2, 3]
    assert rig.told[-1] == "writable"
    assert rig.transport.reading
    assert rig.connection.pending_bytes == rig.transport.waiting_bytes


def test_a_connection_that_is_full_again_at_once_stays_congested() -> None:
    rig = binary(**SMALL)
    rig.transport.room = 0
    rig.send(numbered(1, 1500))
    rig.send(numbered(2, 2000))
    rig.transport.take(1500)
    assert "writable" not in rig.told
    assert not rig.transport.reading


def test_one_frame_is_admitted_whatever_its_size() -> None:
    rig = binary(**SMALL)
    rig.transport.room = 0
    rig.send(numbered(1, 1500))
    rig.send(numbered(2, 50_000))
    assert rig.connection.reason is None


@pytest.mark.parametrize("dialect", list(Dialect))
def test_at_the_hard_cap_a_peer_is_a_slow_consumer(dialect: Dialect) -> None:
    rig = Rig(**SMALL)
    rig.hear(PREFACE if dialect is Dialect.BINARY else json_frame(packet_type="CANCEL"))
    rig.transport.room = 0
    frame = packets.result(b"c" * 16, 1, b'"' + b"x" * 1000 + b'"', "json")
    for _ in range(7):
        rig.send(frame)
    assert rig.connection.reason is CloseReason.SLOW_CONSUMER
    assert rig.told.count("closed") == 1
    assert rig.recorder.reasons[rig.connection] is CloseReason.SLOW_CONSUMER
    assert rig.connection.pending_bytes == 0


def test_a_peer_that_takes_nothing_for_the_write_deadline_is_a_slow_consumer() -> None:
    rig = binary(**SMALL, write_deadline_s=8)
    rig.transport.room = 0
    rig.send(numbered(1, 1500))
    rig.loop.advance(7.9)
    assert rig.connection.reason is None
    rig.loop.advance(0.2)
    assert rig.recorder.reasons[rig.connection] is CloseReason.SLOW_CONSUMER


def test_a_peer_below_the_mark_that_takes_nothing_more_is_a_slow_consumer_too() -> None:
    rig = binary(write_deadline_s=8)
    rig.transport.room = 0
    rig.send(numbered(1, 100))
    rig.send(numbered(2))
    rig.loop.advance(8.1)
    assert rig.recorder.reasons[rig.connection] is CloseReason.SLOW_CONSUMER


def test_every_byte_that_is_taken_gives_a_peer_more_time() -> None:
    rig = binary(**SMALL, write_deadline_s=8)
    rig.transport.room = 0
    rig.send(numbered(1, 1500))
    for _ in range(20):
        rig.loop.advance(6)
        rig.transport.take(1)
    assert rig.connection.reason is None
    rig.loop.advance(10.1)
    assert rig.connection.reason is CloseReason.SLOW_CONSUMER


def test_no_timer_is_left_when_everything_was_taken() -> None:
    rig = binary(**SMALL, write_deadline_s=8)
    rig.transport.room = 0
    rig.send(numbered(1, 1500))
    rig.transport.take(2000)
    rig.loop.advance(8)
    assert rig.connection.reason is None
    assert rig.loop.timers == 0


def test_an_idle_connection_has_no_timer() -> None:
    rig = binary()
    rig.send(numbered(1))
    assert rig.loop.timers == 0


def test_writable_is_told_in_the_next_turn_to_one_that_has_room() -> None:
    rig = binary()
    rig.connection.notify_when_writable()
    assert "writable" not in rig.told
    rig.loop.turn()
    assert rig.told.count("writable") == 1


def test_writable_is_told_once_there_is_room_to_one_that_has_none() -> None:
    rig = binary(**SMALL)
    rig.transport.room = 0
    rig.connection.send(numbered(1, 1500))
    rig.connection.notify_when_writable()
    rig.loop.turn()
    assert "writable" not in rig.told
    rig.transport.take(1500)
    assert rig.told.count("writable") == 1


def test_a_json_peer_gets_json_and_nothing_that_it_does_not_know() -> None:
    rig = Rig()
    rig.hear(json_frame(packet_type="CANCEL"))
    rig.send(packets.ping(), packets.result(b"c" * 16, 1, b"[1]", "json"), packets.goodbye(CloseReason.NORMAL, "bye"))
    body = json.loads(rig.transport.written[4:])
    assert (body["packet_type"], body["rc"], body["result"]) == ("RESULT", Code.OK.name, "[1]")


# In


def pieces(stream: bytes) -> Iterator[list[bytes]]:
    yield [stream]
    yield [stream[place : place + 1] for place in range(len(stream))]
    for place in range(1, len(stream)):
        yield [stream[:place], stream[place:]]


def test_the_first_bytes_tell_the_binary_protocol_however_they_are_cut() -> None:
    for parts in pieces(PREFACE + numbered(1) + numbered(2, 5)):
        rig = Rig()
        for part in parts:
            rig.hear(part)
        assert rig.connection.dialect is Dialect.BINARY
        assert [frame[2] for frame in rig.recorder.frames[rig.connection]] == [numbered(1), numbered(2, 5)]
        assert rig.told[:2] == ["accepts", "opened"]
        assert rig.told.count("opened") == 1
        assert rig.loop.timers == 0


def test_the_first_bytes_tell_the_json_protocol_however_they_are_cut() -> None:
    cookie = "00000000-0000-0000-0000-000000000001"
    for parts in pieces(json_frame(packet_type="CANCEL", cookie=cookie) * 2):
        rig = Rig()
        for part in parts:
            rig.hear(part)
        assert rig.connection.dialect is Dialect.JSON
        assert [frame[0] for frame in rig.recorder.frames[rig.connection]] == [PacketType.CANCEL] * 2
        assert rig.told[:2] == ["accepts", "opened"]
        assert rig.told.count("opened") == 1
        assert rig.loop.timers == 0


@pytest.mark.parametrize("version", [0, 2, 255])
def test_an_unknown_version_is_answered_with_those_that_are_spoken(version: int) -> None:
    rig = Rig()
    rig.hear(b"RCB" + bytes((version,)) + b"whatever that version says")
    reason, sentence, versions = farewell(rig.transport)
    assert (reason, versions) == (CloseReason.UNSUPPORTED_VERSION, [1])
    assert str(version) in sentence
    assert rig.told == ["accepts", "closed"]


def test_before_the_welcome_a_frame_is_small_and_after_it_as_large_as_the_limit() -> None:
    for size, is_taken in ((HANDSHAKE_FRAME_BYTES_MAX - 28, True), (HANDSHAKE_FRAME_BYTES_MAX, False)):
        rig = Rig()
        rig.recorder.opened = lambda connection: None  # type: ignore[method-assign]
        rig.hear(PREFACE + numbered(1, size)[:40])
        assert (rig.recorder.offences == {}) is is_taken
        if not is_taken:
            assert rig.recorder.offences[rig.connection][0] is CloseReason.FRAME_TOO_LARGE
            assert rig.connection.buffered_bytes == 0
    rig = binary()
    rig.hear(numbered(1, HANDSHAKE_FRAME_BYTES_MAX))
    assert len(rig.recorder.frames[rig.connection]) == 1


def test_frames_before_a_fault_count_and_the_fault_is_told_once() -> None:
    rig = binary()
    rig.hear(numbered(1) + numbered(2) + bytes(32) + numbered(3))
    rig.hear(numbered(4))
    assert rig.recorder.received_numbers(rig.connection) == [1, 2]
    assert rig.told.count("offended") == 1
    assert rig.recorder.offences[rig.connection][0] is CloseReason.PROTOCOL_ERROR
    assert farewell(rig.transport)[0] is CloseReason.PROTOCOL_ERROR


def test_a_part_of_a_frame_is_told_as_a_sign_of_life() -> None:
    rig = binary()
    calls: list[int] = []
    rig.recorder.received = lambda connection, frames: calls.append(len(frames))  # type: ignore[method-assign]
    rig.hear(numbered(1, 100)[:50])
    rig.hear(numbered(1, 100)[50:])
    assert calls == [0, 1]


def test_what_is_held_of_an_incomplete_frame_is_counted() -> None:
    rig = Rig()
    rig.hear(b"RC")
    assert rig.connection.buffered_bytes == 2
    rig.hear(b"B\x01" + numbered(1, 100)[:50])
    assert rig.connection.buffered_bytes == 50
    rig.hear(numbered(1, 100)[50:])
    assert rig.connection.buffered_bytes == 0


def test_a_peer_that_says_nothing_is_left_alone_since_it_may_be_an_idle_json_one() -> None:
    rig = Rig(handshake_s=10)
    rig.loop.advance(3600)
    assert rig.connection.reason is None
    assert rig.loop.timers == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_preface_that_is_not_completed_in_time_ends_the_connection(count: int) -> None:
    rig = Rig(handshake_s=10)
    for byte in PREFACE[:count]:
        rig.hear(bytes((byte,)))
        rig.loop.advance(3)
    rig.loop.advance(9.9 - 3 * count)
    assert rig.connection.reason is None
    rig.loop.advance(0.2)
    assert farewell(rig.transport)[0] is CloseReason.HANDSHAKE_TIMEOUT
    assert rig.told == ["accepts", "closed"]


def test_a_json_frame_that_drips_ends_the_connection() -> None:
    rig = Rig(handshake_s=10)
    frame = json_frame(packet_type="CANCEL")
    rig.hear(frame)
    for place in range(6):
        rig.hear(frame[place : place + 1])
        rig.loop.advance(1.9)
    assert rig.recorder.offences[rig.connection][0] is CloseReason.HANDSHAKE_TIMEOUT


def test_a_json_peer_whose_frames_are_complete_in_time_lives_wherever_reads_end() -> None:
    """A busy peer's reads hardly ever end where a frame does; what counts is that each frame is complete soon after it was begun."""
    rig = Rig(handshake_s=10)
    frame = json_frame(packet_type="CANCEL", cookie="00000000-0000-0000-0000-000000000001")
    rig.hear(frame + frame[:10])
    for _ in range(20):
        rig.loop.advance(2)
        rig.hear(frame[10:] + frame[:10])
    assert rig.recorder.offences == {}
    assert len(rig.recorder.frames[rig.connection]) == 21
    rig.loop.advance(10.1)
    assert rig.recorder.offences[rig.connection][0] is CloseReason.HANDSHAKE_TIMEOUT


def test_row_5_when_the_loop_stood_still_what_came_meanwhile_is_read_before_a_frame_is_overdue() -> None:
    rig = Rig(handshake_s=10)
    frame = json_frame(packet_type="CANCEL")
    rig.hear(frame + frame[:20])
    for _ in range(3):
        rig.loop.clock.advance(60)
        rig.loop.advance(0)
        rig.hear(frame[20:] + frame[:20])
    rig.loop.clock.advance(60)
    rig.loop.advance(0)
    assert rig.recorder.offences == {}
    rig.loop.advance(0.2)
    assert rig.recorder.offences[rig.connection][0] is CloseReason.HANDSHAKE_TIMEOUT


def test_a_json_peer_between_frames_is_left_alone() -> None:
    rig = Rig(handshake_s=10)
    rig.hear(json_frame(packet_type="CANCEL"))
    rig.loop.advance(3600)
    assert rig.connection.reason is None
    assert rig.loop.timers == 0


# The end


def test_close_writes_what_waits_then_says_why_then_ends() -> None:
    rig = binary(**SMALL)
    rig.transport.room = 0
    rig.send(numbered(1, 1500))
    rig.send(numbered(2))
    rig.connection.close(CloseReason.REPLACED, "a newer one")
    rig.send(numbered(3))
    assert [frame[5] for frame in sent(rig.transport)[:-1]] == [1, 2]
    assert farewell(rig.transport)[:2] == (CloseReason.REPLACED, "a newer one")
    assert "closed" not in rig.told
    rig.transport.take(1 << 20)
    assert rig.recorder.reasons[rig.connection] is CloseReason.REPLACED


def test_the_first_reason_counts_and_a_farewell_is_said_once() -> None:
    rig = binary()
    rig.connection.close(CloseReason.LIMIT, "first")
    rig.connection.close(CloseReason.REPLACED, "second")
    rig.connection.abort(CloseReason.NORMAL)
    rig.loop.turn()
    assert len(sent(rig.transport)) == 1
    assert rig.recorder.reasons[rig.connection] is CloseReason.LIMIT
    assert rig.told.count("closed") == 1


def test_what_comes_after_close_is_not_heard() -> None:
    rig = binary()
    rig.connection.close(CloseReason.NORMAL, "bye")
    rig.connection.data_received(numbered(1))
    assert rig.recorder.frames[rig.connection] == []


def test_a_peer_that_does_not_take_its_last_frames_is_not_waited_for_longer_than_the_write_deadline() -> None:
    for was_congested in (False, True):
        rig = binary(**SMALL, write_deadline_s=8)
        rig.transport.room = 0
        rig.send(numbered(1, 1500 if was_congested else 100))
        rig.connection.close(CloseReason.SHUTTING_DOWN, "bye")
        rig.loop.advance(16)
        assert rig.told[-1] == "closed"
        assert rig.recorder.reasons[rig.connection] is CloseReason.SHUTTING_DOWN
        assert rig.loop.timers == 0


def test_a_peer_that_half_closes_and_takes_nothing_is_not_waited_for_longer_than_the_write_deadline() -> None:
    rig = binary(write_deadline_s=8)
    rig.transport.room = 0
    rig.send(numbered(1, 100))
    rig.transport.eof()
    rig.loop.advance(16)
    assert rig.told[-1] == "closed"


def test_a_peer_that_half_closes_gets_what_was_sent_before() -> None:
    rig = binary()
    rig.send(numbered(1))
    rig.transport.eof()
    rig.send(numbered(2))
    assert [frame[5] for frame in sent(rig.transport)] == [1]
    assert rig.recorder.reasons[rig.connection] is CloseReason.PEER_CLOSED


def test_abort_ends_it_at_once_without_a_word() -> None:
    rig = binary()
    rig.connection.send(numbered(1))
    rig.connection.abort(CloseReason.SHUTTING_DOWN)
    rig.connection.send(numbered(2))
    assert numbered(2) not in rig.connection._outbox
    rig.loop.turn()
    assert rig.transport.written in (b"", numbered(1))
    assert rig.recorder.reasons[rig.connection] is CloseReason.SHUTTING_DOWN


@pytest.mark.parametrize(
    ("error", "reason"), [(None, CloseReason.PEER_CLOSED), (ConnectionResetError(), CloseReason.CONNECTION_LOST)]
)
def test_an_end_that_the_peer_made_is_told_with_its_reason(error: Exception | None, reason: CloseReason) -> None:
    rig = binary()
    rig.connection.send(numbered(1))
    rig.transport.lose(error)
    rig.send(numbered(2))
    rig.connection.close(CloseReason.NORMAL, "too late")
    assert rig.recorder.reasons[rig.connection] is reason
    assert rig.told == ["accepts", "opened", "closed"]
    assert rig.connection.pending_bytes == 0


def test_no_timer_outlives_a_connection() -> None:
    rig = Rig(**SMALL)
    rig.hear(b"R")
    rig.transport.lose()
    assert rig.loop.timers == 0
    rig = binary(**SMALL)
    rig.transport.room = 0
    rig.send(numbered(1, 1500))
    rig.transport.lose()
    assert rig.loop.timers == 0


def test_a_connection_that_is_refused_is_never_told_of_again() -> None:
    rig = Rig(takes=False)
    rig.hear(PREFACE + numbered(1))
    assert rig.told == ["accepts"]
    assert rig.transport.lost
    assert rig.transport.written == b""


@pytest.mark.parametrize("role", list(Role))
def test_a_dialled_connection_is_open_from_the_start(role: Role) -> None:
    rig = Rig(dialect=Dialect.BINARY, role=role)
    assert rig.told == ["accepts", "opened"]
    rig.hear(numbered(1, 2 * HANDSHAKE_FRAME_BYTES_MAX))
    assert rig.recorder.received_numbers(rig.connection) == [1]
