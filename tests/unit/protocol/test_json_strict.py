"""The strict parser by itself: a frame, an answer, or an error that ends the stream. What peers may send is in `test_json_v0`."""

import json
from typing import Any

import pytest

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import NO_COOKIE, Code, PacketType
from reasonchip_broker.protocol.frames import MALFORMED, UNKNOWN
from reasonchip_broker.protocol.json_strict import COOKIE_FORM, one_line, read

TEXT = "0f8fad5b-d9cb-469f-a165-70867728950e"
COOKIE = bytes.fromhex(TEXT.replace("-", ""))
JUNK = "x" * 100_000


@pytest.mark.parametrize("large", [{}, {"junk": JUNK}])
@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"packet_type": "RUN", "pipeline": "p", "variables": "1", "detach": True}, PacketType.RUN),
        ({"packet_type": "CANCEL", "pipeline": 5, "detach": "x"}, PacketType.CANCEL),
        ({"packet_type": "RESULT", "rc": "OK", "result": "1"}, PacketType.RESULT),
        ({"packet_type": "REGISTER", "capacity": 4}, PacketType.REGISTER),
        ({"packet_type": "SHUTDOWN"}, UNKNOWN),
        ({"packet_type": "RUN"}, MALFORMED),
        ({}, MALFORMED),
    ],
)
def test_a_packet_is_the_same_whatever_its_size(fields: dict[str, Any], kind: int, large: dict[str, str]) -> None:
    frame = read(json.dumps({**fields, "cookie": TEXT, **large}).encode())
    assert frame == read(json.dumps({"cookie": TEXT, **fields}).encode())
    assert frame[:2] == (kind, COOKIE)


@pytest.mark.parametrize("large", [{}, {"junk": JUNK}])
@pytest.mark.parametrize("key", ["cookie", "pipeline", "variables", "detach", "rc", "error", "stacktrace", "result"])
@pytest.mark.parametrize("value", [7, {"x": 1}, [1], True, "x", "\ud800", ["\ud800"]])
@pytest.mark.parametrize("kind", ["RUN", "RESULT", "CANCEL"])
def test_a_field_of_a_wrong_type_is_told_in_the_same_words_whatever_the_size(
    kind: str, key: str, value: Any, large: dict[str, str]
) -> None:
    fields = {"packet_type": kind, "cookie": TEXT, "pipeline": "p", "rc": "OK", key: value}
    small, frame = (read(json.dumps({**fields, **more}).encode()) for more in ({}, large))
    assert frame[:2] == small[:2]
    assert frame[2] == small[2] or key == "rc"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"x":1,"x":1}', b'{"x":NaN}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_or_may_mean_two_things_is_an_error(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        read(body)


def test_a_result_that_makes_no_sense_still_ends_its_job() -> None:
    frame = read(json.dumps({"packet_type": "RESULT", "cookie": TEXT, "rc": "FINE"}).encode())
    packet = decode(frame[2])
    assert (packet.code, packet.cookie) == (Code.EXCEPTION, COOKIE)
    assert "FINE" in schemas.failure(packet.payload).error


def test_without_a_cookie_there_is_nobody_to_tell() -> None:
    assert read(b'{"packet_type":"RUN"}')[:3] == (MALFORMED, NO_COOKIE, b"Missing cookie")


def test_what_is_shown_of_a_text_is_short_and_on_one_line() -> None:
    assert one_line("a\n b" + "c" * 300) == "a b" + "c" * 197
    assert COOKIE_FORM.fullmatch(TEXT)
    assert not COOKIE_FORM.fullmatch(TEXT + "\n")
