"""A frame's fields, from its bytes and into them."""

import struct

import pytest

from reasonchip_broker.protocol import binary
from reasonchip_broker.protocol.codes import NO_COOKIE, PacketType
from reasonchip_broker.protocol.frames import HEADER_BYTES
from tests.golden.table import BUILT, COOKIE, all_golden, golden

FULL = binary.encode(PacketType.RESULT, 9, 0xABCD, COOKIE, 0x01020304, b"\x81\xa1k\x01", b"payload")


def test_the_layout_is_the_one_that_the_page_has() -> None:
    length, kind, code, attempt, cookie, number, meta_length = struct.unpack(">IBBH16sII", FULL[:HEADER_BYTES])
    assert (length, kind, code, attempt) == (len(FULL) - 4, 18, 9, 0xABCD)
    assert (cookie, number, meta_length) == (COOKIE, 0x01020304, 4)
    assert FULL[HEADER_BYTES:] == b"\x81\xa1k\x01payload"


def test_a_frame_with_nothing_in_it_is_a_header() -> None:
    assert binary.encode(PacketType.PING) == b"\x00\x00\x00\x1c\x03" + bytes(27)


def test_decoding_gives_back_every_field() -> None:
    packet = binary.decode(FULL)
    assert (packet.kind, packet.code, packet.attempt, packet.cookie) == (PacketType.RESULT, 9, 0xABCD, COOKIE)
    assert (packet.number, packet.meta, packet.payload) == (0x01020304, b"\x81\xa1k\x01", b"payload")


@pytest.mark.parametrize("name", sorted(BUILT))
def test_golden_frames_survive_decoding_and_encoding(name: str) -> None:
    packet = binary.decode(golden(name))
    again = binary.encode(packet.kind, packet.code, packet.attempt, packet.cookie, packet.number, packet.meta, packet.payload)
    assert again == golden(name)


@pytest.mark.parametrize("raw", [FULL, *all_golden().values()])
def test_single_fields_are_read_without_the_rest(raw: bytes) -> None:
    packet = binary.decode(raw)
    assert binary.code_of(raw) == packet.code
    assert binary.attempt_of(raw) == packet.attempt
    assert binary.number_of(raw) == packet.number
    assert binary.meta_of(raw) == packet.meta
    assert binary.payload_of(raw) == packet.payload
    assert binary.payload_length(raw) == binary.payload_length(raw[:HEADER_BYTES]) == len(packet.payload)


@pytest.mark.parametrize(("attempt", "number"), [(0, 0), (1, 1), (binary.ATTEMPT_MAX, binary.NUMBER_MAX)])
def test_readdressing_changes_attempt_and_number_and_nothing_else(attempt: int, number: int) -> None:
    before, after = binary.decode(FULL), binary.decode(binary.readdressed(FULL, attempt, number))
    assert (after.attempt, after.number) == (attempt, number)
    for field in ("kind", "code", "cookie", "meta", "payload"):
        assert getattr(after, field) == getattr(before, field)
    assert binary.readdressed(FULL, before.attempt, before.number) == FULL


@pytest.mark.parametrize("field", [{"attempt": 0x10000}, {"number": 0x100000000}, {"code": 256}, {"kind": -1}])
def test_a_field_that_does_not_fit_its_bytes_is_an_error_of_ours(field: dict[str, int]) -> None:
    fields = {"kind": 1, "code": 0, "attempt": 0, "number": 0, **field}
    with pytest.raises(struct.error):
        binary.encode(fields["kind"], fields["code"], fields["attempt"], COOKIE, fields["number"])


def test_a_frame_that_names_no_job_has_a_cookie_of_zeros() -> None:
    assert binary.decode(binary.encode(PacketType.HELLO)).cookie == NO_COOKIE
