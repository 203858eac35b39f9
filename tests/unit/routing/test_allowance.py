"""Allowances: so many chunks and so many bytes under way, and always one chunk."""

from reasonchip_broker.limits import CHUNK_HEAD_BYTES_MAX
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.protocol.frames import HEADER_BYTES, BinaryDecoder
from reasonchip_broker.routing.allowance import Allowance, size_of

COOKIE = b"c" * 16


def test_so_many_chunks_and_bytes_may_be_under_way() -> None:
    allowance = Allowance(3, 10)
    for size in (4, 3):
        assert allowance.admits(size)
        allowance.take(size)
    assert (allowance.admits(3), allowance.admits(4)) == (True, False)
    allowance.take(0)
    assert (allowance.admits(0), allowance.under_way) == (False, 3)


def test_one_chunk_alone_is_admitted_whatever_its_size() -> None:
    allowance = Allowance(3, 10)
    assert allowance.admits(1_000)
    allowance.take(1_000)
    assert not allowance.admits(0)


def test_credit_makes_room_for_as_much_as_was_credited_oldest_first() -> None:
    allowance = Allowance(3, 10)
    for size in (6, 4):
        allowance.take(size)
    assert (allowance.credit(1), allowance.credited, allowance.under_way) == (1, 1, 1)
    assert (allowance.admits(6), allowance.admits(7)) == (True, False)
    assert (allowance.credit(2), allowance.credited, allowance.under_way) == (1, 2, 0)
    allowance.take(6)
    assert (allowance.admits(4), allowance.admits(5)) == (True, False)


def test_what_came_beyond_it_counts_until_it_is_credited() -> None:
    allowance = Allowance(1, 10)
    for size in (10, 9):
        allowance.take(size)
    assert (allowance.credit(1), allowance.admits(2)) == (1, False)


def test_a_new_beginning_has_all_of_it() -> None:
    allowance = Allowance(1, 10)
    allowance.take(10)
    allowance.begin(7)
    assert (allowance.credited, allowance.under_way, allowance.admits(10)) == (7, 0, True)
    allowance.take(10)
    assert allowance.credit(8) == 1


def test_what_came_says_whether_it_was_within_it() -> None:
    allowance = Allowance(3, 10)
    assert [allowance.take(size) for size in (100, 1)] == [True, False]
    allowance.begin(0)
    assert [allowance.take(size) for size in (6, 4, 0, 0)] == [True, True, True, False]


def size(frame: bytes, kept: int | None = None) -> int:
    """Of a frame as it comes from the decoder, which skips it if it is over the limit."""
    decoder = BinaryDecoder(kept or len(frame))
    (found,) = decoder.feed(frame)
    return size_of(found[2], found[6])


def test_a_chunk_takes_up_its_payload() -> None:
    assert [size(packets.progress(COOKIE, 1, 1, bytes(many), "e" * 32)) for many in (0, 1, 5_000)] == [0, 1, 5_000]
    assert size(encode(PacketType.PROGRESS, 0, 1, COOKIE, 1)) == 0


def test_a_chunk_that_was_skipped_takes_up_what_its_sender_has_sent() -> None:
    assert size(packets.progress(COOKIE, 1, 1, bytes(5_000), ""), 1_000) == 5_000
    assert size(packets.progress(COOKIE, 1, 1, bytes(5_000), "text"), 1_000) == 5_000


def test_a_meta_beyond_all_measure_takes_up_so_much_more() -> None:
    metas = [bytes(CHUNK_HEAD_BYTES_MAX - HEADER_BYTES + more) for more in (0, 7)]
    assert [size(encode(PacketType.PROGRESS, 0, 1, COOKIE, 1, meta, bytes(5))) for meta in metas] == [5, 12]
    assert size(encode(PacketType.PROGRESS, 0, 1, COOKIE, 1, metas[1])) == 7


def test_a_header_that_contradicts_itself_takes_up_nothing() -> None:
    head = encode(PacketType.PROGRESS, 0, 1, COOKIE, 1)[:-4] + b"\xff\xff\xff\xff"
    assert size_of(head, 0) == 0
