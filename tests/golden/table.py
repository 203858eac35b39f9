"""The golden frames: what each packet is in bytes, written down once and never changed.

Beside this module stands one file a frame, `NAME.hex`. `BUILT` says for each which call of ours has to give these bytes, and
`tests/unit/docs` holds `docs/reference/protocol.md`, which shows the same frames, to them. Where they differ, what is built today
can't talk to what was built yesterday: mend the code, not the file.
"""

from pathlib import Path

import msgspec

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType

COOKIE = bytes.fromhex("0f8fad5bd9cb469fa16570867728950e")
CONNECTION = bytes.fromhex("3d0b3a9c5c6a4f0e9b1f6f2a7c1d2e3f")
INSTANCE = bytes.fromhex("8a6e0804c28e4f6db0d6a1d3d1c5b7e9")

WELCOME = schemas.WelcomeMeta(
    conn=CONNECTION,
    broker=INSTANCE,
    frame=16 * 1024 * 1024,
    jobs=100_000,
    beat=10_000,
    dead=30_000,
    credit=64,
    sw="reasonchip-broker",
    v="0.1.0",
)
RUN_OPTIONS = schemas.RunOptions(p="text.count", enc="json")
WAITLESS = schemas.RunOptions(p="text.count", enc="msgpack", nonce=bytes(range(8)), queue=False, reply=True, detach=True)
TWO = msgspec.msgpack.encode([2])

BUILT: dict[str, bytes] = {
    "hello_client": packets.hello(schemas.HelloMeta(sw="example", v="1")),
    "hello_worker": packets.hello(schemas.HelloMeta(sw="example", v="1", name="gpu-7", inst=INSTANCE)),
    "welcome": packets.welcome(WELCOME),
    "ping": packets.ping(7),
    "pong": packets.pong(7),
    "goodbye": packets.goodbye(CloseReason.SHUTTING_DOWN, "the broker is stopping"),
    "goodbye_version": packets.goodbye(CloseReason.UNSUPPORTED_VERSION, "version 9 is not spoken here", (1,)),
    "reply_queued": packets.reply(PacketType.RUN, Code.QUEUED, "every slot that serves this pipeline is taken", cookie=COOKIE),
    "reply_overloaded": packets.reply(PacketType.RUN, Code.OVERLOADED, "1000000 jobs wait", cookie=COOKIE, retry_ms=1000),
    "reply_cancelling": packets.reply(
        PacketType.CANCEL, Code.CANCELLING, "the worker was asked to stop", cookie=COOKIE, number=2
    ),
    "reply_registered": packets.reply(PacketType.REGISTER, Code.OK, "registered", number=1),
    "register": packets.register(schemas.RegisterMeta(cap=4, serves=["text.*", "ping"], labels={"zone": "a"})),
    "run": packets.run(COOKIE, schemas.encode_meta(RUN_OPTIONS), b'{"text":"a b"}'),
    "run_options": packets.run(COOKIE, schemas.encode_meta(WAITLESS), TWO, left_ms=30_000),
    "result": packets.result(COOKIE, 1, b"2", "json"),
    "result_failed": packets.failed(
        COOKIE, 1, Code.EXCEPTION, "no such file", error_type="OSError", stack=["in count", "in open"]
    ),
    "result_never_ran": packets.failed(COOKIE, 0, Code.CANCELLED, "cancelled before it ran", may_have_run=False),
    "cancel_client": packets.cancel(COOKIE, why="user left", number=2),
    "cancel_worker": packets.cancel(COOKIE, at_once=True, why="the cancel grace is over", attempt=1),
    "drain": packets.drain(),
    "drain_worker": packets.drain(3),
}
"""Name of the frame, and what our own code makes of it today."""


def path_of(name: str) -> Path:
    """The file of a golden frame."""
    return Path(__file__).with_name(f"{name}.hex")


def golden(name: str) -> bytes:
    """A golden frame. White space in the file means nothing, and a line that begins with # is a comment."""
    lines = path_of(name).read_text("ascii").splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def all_golden() -> dict[str, bytes]:
    """Every golden frame, by name."""
    return {path.stem: golden(path.stem) for path in sorted(Path(__file__).parent.glob("*.hex"))}
