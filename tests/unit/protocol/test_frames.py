"""Streams of bytes into frames. Rows 7 and 8 of the design's faults: pieces of any size, and lengths of any size."""

import tracemalloc

import pytest

from reasonchip_broker.errors import RemoteProtocolError
from reasonchip_broker.limits import HANDSHAKE_FRAME_BYTES_MAX, KIB, MIB
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, PacketType
from reasonchip_broker.protocol.frames import (
    AT_ONCE_BYTES,
    BULK_BYTES,
    HEADER,
    HEADER_BYTES,
    LARGE_BYTES,
    LENGTH_MIN,
    MALFORMED,
    OVERSIZED,
    PREFACE,
    PREFACE_MAGIC,
    UNKNOWN,
    VERSION,
    VERSIONS,
    BinaryDecoder,
    Frame,
)
from tests.feeding import every_way, feed_all, split_at
from tests.golden.table import COOKIE, all_golden, golden

LIMIT = 1000


def head(length: int, kind: int = PacketType.RUN, meta_length: int = 0) -> bytes:
    """A header that says whatever it is told to."""
    return HEADER.pack(length, kind, 0, 1, COOKIE, 0, meta_length)


def oversized(length: int = LIMIT + 1) -> bytes:
    return head(length) + b"x" * (length - LENGTH_MIN)


def failed_with(decoder: BinaryDecoder, reason: CloseReason) -> bool:
    """Whether the stream has ended, for this reason, with nothing kept and nothing more to come."""
    failure = decoder.failure
    return (
        isinstance(failure, RemoteProtocolError)
        and failure.reason == reason
        and decoder.buffered_bytes == 0
        and not decoder.incomplete
        and decoder.feed(packets.ping()) == []
    )


def test_the_constants_are_those_of_the_wire() -> None:
    assert PREFACE == b"RCB\x01" == PREFACE_MAGIC + bytes((VERSION,))
    assert VERSIONS == (1,)
    assert HEADER.size == HEADER_BYTES == 32
    assert LENGTH_MIN == 28


def test_no_packet_type_can_be_taken_for_a_pseudo_type() -> None:
    types = {int(kind) for kind in PacketType}
    assert not types & {UNKNOWN, MALFORMED}
    assert OVERSIZED > 255
    assert MALFORMED > 255 + OVERSIZED


def test_a_frame_is_its_header_and_its_own_bytes() -> None:
    raw = encode(PacketType.RESULT, 3, 513, COOKIE, 0xFFFFFFFF, b"\x80", b"payload")
    assert BinaryDecoder(LIMIT).feed(raw) == [(PacketType.RESULT, COOKIE, raw, 3, 513, 0xFFFFFFFF, 1)]


def test_a_frame_without_a_job_has_no_cookie() -> None:
    assert BinaryDecoder(LIMIT).feed(golden("ping"))[0][1] == NO_COOKIE


@pytest.mark.parametrize("strict", [False, True])
def test_row_7_golden_frames_come_out_the_same_however_they_are_cut(strict: bool) -> None:
    frames = list(all_golden().values())
    stream = b"".join(frames)
    whole = BinaryDecoder(LIMIT, strict).feed(stream)
    assert [frame[2] for frame in whole] == frames
    for pieces in every_way(stream):
        decoder = BinaryDecoder(LIMIT, strict)
        assert feed_all(decoder, pieces) == whole
        assert (decoder.failure, decoder.incomplete, decoder.buffered_bytes) == (None, False, 0)


def test_row_7_a_frame_in_three_pieces_comes_out_whole_wherever_they_are_cut() -> None:
    raw = golden("run")
    for first in range(len(raw)):
        for second in range(first, len(raw)):
            decoder = BinaryDecoder(LIMIT)
            assert [frame[2] for frame in feed_all(decoder, split_at(raw, first, second))] == [raw]


def test_row_7_a_truncated_stream_gives_what_was_complete_and_ends_clean() -> None:
    first, second = golden("run"), golden("welcome")
    stream = first + second
    for end in range(len(stream)):
        for pieces in ([stream[:end]], split_at(stream[:end], *range(1, end))):
            decoder = BinaryDecoder(LIMIT)
            assert [frame[2] for frame in feed_all(decoder, pieces)] == ([first] if end >= len(first) else [])
            kept = end - len(first) if end >= len(first) else end
            assert (decoder.failure, decoder.incomplete, decoder.buffered_bytes) == (None, kept > 0, kept)


def test_row_7_trailing_data_waits_for_the_rest_of_its_frame() -> None:
    decoder = BinaryDecoder(LIMIT)
    ping, run = golden("ping"), golden("run")
    assert [frame[2] for frame in decoder.feed(ping + run[:40])] == [ping]
    assert decoder.buffered_bytes == 40
    assert [frame[2] for frame in decoder.feed(run[40:] + ping[:3])] == [run]
    assert [frame[2] for frame in decoder.feed(ping[3:])] == [ping]


@pytest.mark.parametrize("length", [0, 1, 27])
@pytest.mark.parametrize("strict", [False, True])
def test_row_7_a_length_under_28_ends_the_stream_however_it_is_cut(length: int, strict: bool) -> None:
    ping = golden("ping")
    for pieces in every_way(ping + head(length)):
        decoder = BinaryDecoder(LIMIT, strict)
        assert [frame[2] for frame in feed_all(decoder, pieces)] == [ping]
        assert failed_with(decoder, CloseReason.PROTOCOL_ERROR)
        assert str(length) in str(decoder.failure)


@pytest.mark.parametrize(("length", "strict"), [(27, False), (27, True), (LIMIT + 1, True)])
def test_row_7_a_bad_length_is_refused_at_its_fourth_byte_however_it_is_cut(length: int, strict: bool) -> None:
    for pieces in every_way(head(length)[:4]):
        decoder = BinaryDecoder(LIMIT, strict)
        feed_all(decoder, pieces)
        assert decoder.failure is not None


def test_row_7_meta_beyond_its_frame_ends_the_stream_however_it_is_cut() -> None:
    run = golden("run")
    for pieces in every_way(run + head(LENGTH_MIN + 5, meta_length=6) + b"12345"):
        decoder = BinaryDecoder(LIMIT)
        assert [frame[2] for frame in feed_all(decoder, pieces)] == [run]
        assert failed_with(decoder, CloseReason.PROTOCOL_ERROR)
        assert "6" in str(decoder.failure)


def test_meta_may_fill_its_frame() -> None:
    raw = encode(PacketType.RUN, cookie=COOKIE, meta=b"12345")
    assert BinaryDecoder(LIMIT).feed(raw)[0][6] == 5


def test_an_error_is_told_with_the_frames_that_were_complete_before_it() -> None:
    decoder = BinaryDecoder(LIMIT)
    ping = golden("ping")
    frames = decoder.feed(ping + ping + head(3) + ping)
    assert [frame[2] for frame in frames] == [ping, ping]
    assert failed_with(decoder, CloseReason.PROTOCOL_ERROR)


def test_row_8_a_frame_at_the_limit_is_taken_and_one_over_it_costs_only_itself() -> None:
    ping = golden("ping")
    fits, over = oversized(LIMIT), oversized(LIMIT + 1)
    frames = BinaryDecoder(LIMIT).feed(ping + fits + over + ping)
    skipped: Frame = (PacketType.RUN + OVERSIZED, COOKIE, over[:HEADER_BYTES], 0, 1, 0, 0)
    assert [frame[2] for frame in frames] == [ping, fits, over[:HEADER_BYTES], ping]
    assert frames[2] == skipped


def test_row_8_a_frame_over_the_limit_is_skipped_however_it_is_cut() -> None:
    stream = golden("ping") + oversized(120) + golden("pong") + oversized(101)
    whole = BinaryDecoder(100).feed(stream)
    assert [frame[0] for frame in whole] == [3, 17 + OVERSIZED, 4, 17 + OVERSIZED]
    for pieces in every_way(stream):
        decoder = BinaryDecoder(100)
        assert feed_all(decoder, pieces) == whole
        assert (decoder.failure, decoder.incomplete, decoder.buffered_bytes) == (None, False, 0)


def test_row_8_a_frame_over_the_limit_is_told_of_before_its_body_has_come() -> None:
    decoder = BinaryDecoder(LIMIT)
    assert [frame[0] for frame in decoder.feed(head(17 * MIB))] == [PacketType.RUN + OVERSIZED]
    assert decoder.incomplete
    assert decoder.buffered_bytes == 0


def test_row_8_what_an_oversized_header_says_of_its_meta_does_not_matter() -> None:
    frames = BinaryDecoder(LIMIT).feed(head(LIMIT + 1, meta_length=0xFFFFFFFF))
    assert [(frame[0], frame[6]) for frame in frames] == [(PacketType.RUN + OVERSIZED, 0)]


@pytest.mark.parametrize("length", [17 * MIB, 100 * MIB, 0xFFFFFFFF])
@pytest.mark.parametrize("strict", [False, True])
def test_row_8_memory_does_not_grow_with_a_declared_length(length: int, strict: bool) -> None:
    decoder = BinaryDecoder(HANDSHAKE_FRAME_BYTES_MAX if strict else 16 * MIB, strict)
    piece = bytes(64 * KIB)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        decoder.feed(head(length))
        for _ in range(16 * MIB // len(piece)):
            decoder.feed(piece)
            assert decoder.buffered_bytes == 0
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert grown <= 64 * KIB + len(piece)
    assert (decoder.failure is not None) == strict


def test_row_8_memory_is_what_was_received_even_in_the_smallest_pieces() -> None:
    raw = encode(PacketType.RUN, cookie=COOKIE, payload=bytes(256 * KIB))
    decoder = BinaryDecoder(16 * MIB)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for begin in range(0, len(raw) - 2, 2):
            decoder.feed(raw[begin : begin + 2])
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert decoder.buffered_bytes == len(raw) - 2
    assert grown <= 2 * len(raw) + 64 * KIB
    assert [frame[2] for frame in decoder.feed(raw[-2:])] == [raw]


def large(payload_bytes: int, number: int = 0) -> bytes:
    return encode(
        PacketType.RUN, number=number, cookie=COOKIE, meta=b"m" * 9, payload=b"0123456789abcdef" * (payload_bytes // 16)
    )


def written_to_its_place(decoder: BinaryDecoder, stream: bytes, at_once: int) -> list[Frame]:
    """The frames of a stream: so many bytes are fed at once, or, where there is a place, written there."""
    frames: list[Frame] = []
    begin = 0
    while begin < len(stream):
        place = decoder.place
        piece = stream[begin : begin + (at_once if place is None else len(place))]
        begin += len(piece)
        if place is None:
            frames += decoder.feed(piece)
        else:
            place[: len(piece)] = piece
            decoder.filled(len(piece))
            place.release()
            frames += decoder.feed(b"")
    return frames


@pytest.mark.parametrize("size", [LARGE_BYTES, 100 * KIB, BULK_BYTES, MIB])
@pytest.mark.parametrize("at_once", [HEADER_BYTES, 1000, 16 * KIB, 64 * KIB, 250 * KIB])
def test_row_7_large_frames_come_out_the_same_however_they_are_cut_and_whoever_writes_them(size: int, at_once: int) -> None:
    frames = [large(size, 1), golden("ping"), large(size - HEADER_BYTES - 9, 2), large(LARGE_BYTES // 2, 3), large(size, 4)]
    stream = b"".join(frames)
    whole = BinaryDecoder(16 * MIB).feed(stream)
    assert [frame[2] for frame in whole] == frames
    cut, placed = BinaryDecoder(16 * MIB), BinaryDecoder(16 * MIB)
    assert feed_all(cut, split_at(stream, *range(at_once, len(stream), at_once))) == whole
    assert written_to_its_place(placed, stream, at_once) == whole
    assert not cut.incomplete
    assert not placed.incomplete
    assert placed.place is None


def test_a_frame_that_is_all_that_was_read_is_not_copied() -> None:
    raw = large(100 * KIB)
    assert BinaryDecoder(16 * MIB).feed(raw)[0][2] is raw


def test_a_large_frame_in_pieces_is_in_memory_once() -> None:
    raw = large(4 * MIB)
    decoder = BinaryDecoder(16 * MIB)
    pieces = split_at(raw, *range(128 * KIB, len(raw), 128 * KIB))
    tracemalloc.start()
    try:
        frames = feed_all(decoder, pieces)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert frames[0][2] == raw
    assert most < len(raw) + 512 * KIB


def test_a_large_frame_has_a_place_only_once_some_of_it_has_come() -> None:
    raw = large(8 * MIB)
    decoder = BinaryDecoder(16 * MIB)
    tracemalloc.start()
    try:
        assert feed_all(decoder, [raw[:HEADER_BYTES], raw[HEADER_BYTES : 100 * KIB]]) == []
        assert decoder.place is None
        assert tracemalloc.get_traced_memory()[1] < 256 * KIB
    finally:
        tracemalloc.stop()
    decoder.feed(raw[100 * KIB : 150 * KIB])
    place = decoder.place
    assert place is not None
    assert decoder.buffered_bytes == 150 * KIB


def test_a_place_is_given_away_a_part_at_a_time_but_for_its_last_byte() -> None:
    raw = large(MIB)
    decoder = BinaryDecoder(16 * MIB)
    decoder.feed(raw[: 100 * KIB])
    sizes = []
    while place := decoder.place:
        sizes.append(len(place))
        decoder.filled(len(place))
    rest = len(raw) - 100 * KIB - 1
    assert sizes == [AT_ONCE_BYTES] * (rest // AT_ONCE_BYTES) + [rest % AT_ONCE_BYTES]
    assert len(decoder.feed(raw[-1:])) == 1


def test_only_a_frame_that_is_worth_it_is_to_be_written_to_its_place() -> None:
    decoder = BinaryDecoder(16 * MIB)
    small, bulky = large(BULK_BYTES // 2), large(BULK_BYTES)
    decoder.feed(small[:-1])
    assert not decoder.bulky
    decoder.feed(small[-1:] + bulky[: 64 * KIB])
    assert decoder.bulky
    decoder.feed(bulky[64 * KIB :])
    assert not decoder.bulky


def test_row_8_before_the_handshake_a_frame_over_the_limit_ends_the_stream_on_its_length_alone() -> None:
    for pieces in every_way(golden("hello_client") + head(HANDSHAKE_FRAME_BYTES_MAX + 1)):
        decoder = BinaryDecoder(HANDSHAKE_FRAME_BYTES_MAX, strict=True)
        assert [frame[2] for frame in feed_all(decoder, pieces)] == [golden("hello_client")]
        assert failed_with(decoder, CloseReason.FRAME_TOO_LARGE)


@pytest.mark.parametrize("cut", [0, 4, 10, 32, 100])
def test_row_8_before_the_handshake_a_frame_at_the_limit_is_taken(cut: int) -> None:
    raw = oversized(HANDSHAKE_FRAME_BYTES_MAX)
    decoder = BinaryDecoder(HANDSHAKE_FRAME_BYTES_MAX, strict=True)
    assert [frame[2] for frame in feed_all(decoder, split_at(raw, cut))] == [raw]


def test_after_the_handshake_the_same_decoder_takes_larger_frames_and_skips_the_largest() -> None:
    run = golden("run")
    decoder = BinaryDecoder(len(run), strict=True)
    assert [frame[2] for frame in decoder.feed(golden("hello_client") + run[:20])] == [golden("hello_client")]
    decoder.frame_bytes_max = LIMIT
    decoder.strict = False
    assert [frame[2] for frame in decoder.feed(run[20:] + oversized())] == [run, oversized()[:HEADER_BYTES]]
    assert decoder.failure is None
