"""Input to begin with: nearly all random bytes are refused at the first of them, so begin with some that are not."""

from random import Random

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.testing.switchboard_driver import json_packet

COOKIE = bytes(range(16))
UNCUT = b"\x00\x00"
"""The decisions of a decoder's target: not strict (or a client), no cuts."""


def binary_streams() -> list[bytes]:
    """Streams of binary frames."""
    options = schemas.encode_meta(schemas.RunOptions(p="a.b", enc="json"))
    frames = [
        packets.hello(schemas.HelloMeta(sw="fuzz", name="n")),
        packets.ping(1),
        packets.register(schemas.RegisterMeta(cap=1, serves=["*"])),
        packets.run(COOKIE, options, b'{"x": 1}'),
        packets.run(COOKIE, options, b"x" * 700),
        packets.result(COOKIE, 1, b"1", "json"),
        packets.failed(COOKIE, 1, Code.EXCEPTION, "why", stack=["a"]),
        packets.cancel(COOKIE, number=1),
        packets.reply(PacketType.RUN, Code.QUEUED, "wait", cookie=COOKIE),
    ]
    return [UNCUT + frame for frame in frames] + [
        UNCUT + b"".join(frames),
        b"\x01\x03\x00\x10\x00\x40\x00\x90" + b"".join(frames),
    ]


def json_streams() -> list[bytes]:
    """Streams of JSON frames, for either role."""
    bodies = [
        json_packet("RUN", COOKIE, pipeline="a", variables='{"x": "\\u00e9"}', detach=False),
        json_packet("RUN", COOKIE, pipeline="ü", detach=True),
        json_packet("RUN", COOKIE, pipeline="a", variables="x" * 700, detach=False),
        json_packet("CANCEL", COOKIE),
        json_packet("REGISTER", capacity=4),
        json_packet("RESULT", COOKIE, rc="OK", result="1"),
        json_packet("RESULT", COOKIE, rc="EXCEPTION", error="e", stacktrace=["a"]),
        b'{ "packet_type": "RUN", "cookie": "00010203-0405-0607-0809-0A0B0C0D0E0F", "pipeline": "p" }',
    ]
    frames = [len(body).to_bytes(4, "big") + body for body in bodies]
    both = [UNCUT + frame for frame in frames] + [b"\x01\x00" + frame for frame in frames]
    return [*both, UNCUT + b"".join(frames[:5]), b"\x01\x02\x00\x20\x01\x00" + b"".join(frames[4:])]


def scripts() -> list[bytes]:
    """Decisions for the switchboard's target: they mean something whatever they are, so any will do that are long enough."""
    random = Random("scripts")
    return [random.randbytes(length) for length in (50, 200, 400, 800, 1600)]
