"""How values of handlers travel: by the encoding of the job's variables."""

from dataclasses import dataclass

import pytest

from reasonchip_broker.worker.encoding import encoded


@dataclass
class Point:
    x: int


class Text(str):
    """A text of a class of its own."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "asked", "payload", "name"),
    [
        ({"a": 1}, "msgpack", b"\x81\xa1a\x01", "msgpack"),
        ({"a": 1}, "json", b'{"a":1}', "json"),
        ({"a": 1}, "", b"\x81\xa1a\x01", "msgpack"),
        ("grüße", "msgpack", "grüße".encode(), "text"),
        ("grüße", "json", '"grüße"'.encode(), "json"),
        (b"\x00", "text", b"\x00", "bytes"),
        (bytearray(b"\x00"), "msgpack", b"\x00", "bytes"),
        (bytearray(b"\x00"), "", b"\x00", "bytes"),
        (memoryview(b"\x00"), "msgpack", b"\x00", "bytes"),
        (Text("tea"), "msgpack", b"tea", "text"),
        (True, "msgpack", b"\xc3", "msgpack"),
        (None, "msgpack", b"", "msgpack"),
        (Point(1), "msgpack", b"\x81\xa1x\x01", "msgpack"),
        (Point(1), "json", b'{"x":1}', "json"),
        (None, "json", b"", "json"),
    ],
)
def test_json_for_who_sent_json_and_what_fits_for_others(value: object, asked: str, payload: bytes, name: str) -> None:
    assert encoded(value, asked) == (payload, name)


def test_bytes_have_no_form_in_json() -> None:
    with pytest.raises(TypeError):
        encoded(b"\x00", "json")
