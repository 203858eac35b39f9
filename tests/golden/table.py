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
PARENT = bytes.fromhex("5d2f6a1b7c3e4d90a8b1c2d3e4f50617")
CHILD = bytes.fromhex("c1e2d3f4a5b64788990a1b2c3d4e5f60")
BATCH = bytes.fromhex("77aa01c2d3e44f5586979a0b1c2d3e4f")
NONCE = bytes(range(8))

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
EVERY_OPTION = schemas.RunOptions(
    p="text.count",
    enc="msgpack",
    nonce=NONCE,
    queue=False,
    reply=True,
    detach=True,
    follow=True,
    att=3,
    back=1000,
    again=["OSError"],
    orphan=30_000,
    keep=600_000,
    qlim=5_000,
    rlim=20_000,
    delay=120_000,
    prio=7,
    key="team-a",
    need={"gpu": "h200"},
    like={"region": "eu"},
    served=True,
    aff="chat-42",
    parent=PARENT,
    loose=True,
    batch=BATCH,
    at=INSTANCE,
)
RESENT = schemas.RunOptions(p="text.count", enc="json", nonce=NONCE, follow=True, at=INSTANCE)
RUNNING = schemas.JobStatus(state="running", pipe="text.count", att=1, age=2500, prog=2, worker="gpu-7")
TREE = schemas.JobStatus(
    state="parked",
    why="slot_lent_out",
    pipe="text.book",
    att=1,
    of=3,
    age=60_000,
    left=540_000,
    prog=12,
    inp=1,
    worker="gpu-7",
    cookie=COOKIE,
    kids=[schemas.JobStatus(state="queued", why="no_free_slot", pipe="text.count", age=800, cookie=CHILD, parent=COOKIE)],
)
HISTORY = [
    schemas.AttemptRecord(1, "gpu-7", "WORKER_WENT_AWAY", 1200),
    schemas.AttemptRecord(2, "gpu-8", "WORKER_WENT_AWAY", 700),
]
QUEUE = schemas.QueueReport(
    wait=3,
    size=372,
    sched=1,
    left=720,
    pools=[schemas.PoolStatus(serves=["text.*"], cap=4, labels={"zone": "a"}, n=1, slots=4, run=4, wait=3)],
    keys=[
        schemas.KeyStatus(key="team-b", named=True, weight=2.0, run=1, wait=1, used=5_000, turn=500),
        schemas.KeyStatus(key="team-a", named=True, run=3, wait=2, used=9_000, turn=500),
    ],
    lines=[
        schemas.LineStatus(pipe="text.count", prio=4, level=4, key="team-b", n=1, age=1_500, why="no_free_slot"),
        schemas.LineStatus(
            pipe="text.book",
            prio=4,
            level=4,
            key="team-a",
            n=2,
            age=800,
            why="limit_reached",
            msg="the limit 'books' is reached",
        ),
    ],
    limits=[schemas.LimitStatus(name="books", run=2, most=2, wait=2, shut=True)],
    of=[1, 2, 2, 1],
)
TWO = msgspec.msgpack.encode([2])

BUILT: dict[str, bytes] = {
    "hello_client": packets.hello(schemas.HelloMeta(sw="example", v="1")),
    "hello_worker": packets.hello(schemas.HelloMeta(sw="example", v="1", name="gpu-7", inst=INSTANCE)),
    "hello_session": packets.hello(schemas.HelloMeta(sw="example", v="1", name="gpu-7", inst=INSTANCE, grace=30)),
    "welcome": packets.welcome(WELCOME),
    "ping": packets.ping(7),
    "pong": packets.pong(7),
    "goodbye": packets.goodbye(CloseReason.SHUTTING_DOWN, "the broker is stopping"),
    "goodbye_version": packets.goodbye(CloseReason.UNSUPPORTED_VERSION, "version 9 is not spoken here", (1,)),
    "reply_queued": packets.reply(PacketType.RUN, Code.QUEUED, "every slot that serves this pipeline is taken", cookie=COOKIE),
    "reply_scheduled": packets.reply(
        PacketType.RUN, Code.SCHEDULED, "the job is scheduled, and may start in 0:02:00 (h:mm:ss)", cookie=COOKIE
    ),
    "reply_overloaded": packets.reply(PacketType.RUN, Code.OVERLOADED, "1000000 jobs wait", cookie=COOKIE, retry_ms=1000),
    "reply_cancelling": packets.reply(
        PacketType.CANCEL, Code.CANCELLING, "the worker was asked to stop", cookie=COOKIE, number=2
    ),
    "reply_registered": packets.reply(PacketType.REGISTER, Code.OK, "registered", number=1),
    "reply_batch": packets.reply(PacketType.CANCEL, Code.OK, "2 jobs were cancelled", number=4, count=2),
    "reply_input": packets.reply(PacketType.INPUT, Code.BAD_PACKET, "input 3 was expected", cookie=COOKIE, number=5),
    "reply_resent": packets.reply(PacketType.RUN, Code.DISPATCHED, "a worker has it", cookie=COOKIE, job=RUNNING),
    "reply_attached": packets.reply(PacketType.ATTACH, Code.OK, "attached", cookie=COOKIE, number=5, job=RUNNING),
    "reply_gone": packets.reply(
        PacketType.ATTACH,
        Code.OUTCOME_GONE,
        "it ended OK, and that was acknowledged",
        cookie=COOKIE,
        number=5,
        job=schemas.JobStatus(state="over", out=Code.OK),
    ),
    "reply_status": packets.reply(PacketType.STATUS, Code.OK, "it lent its slot out", cookie=COOKIE, number=6, job=TREE),
    "reply_queue": packets.reply(PacketType.QUEUE, Code.OK, "3 jobs wait", number=8, queue=QUEUE),
    "reply_resumed": packets.reply(PacketType.REGISTER, Code.OK, "registered", number=1, held=[(COOKIE, 1)]),
    "register": packets.register(schemas.RegisterMeta(cap=4, serves=["text.*", "ping"], labels={"zone": "a"})),
    "register_resume": packets.register(schemas.RegisterMeta(cap=4, serves=["text.*"], held=[(COOKIE, 1), (CHILD, 2)])),
    "run": packets.run(COOKIE, schemas.encode_meta(RUN_OPTIONS), b'{"text":"a b"}'),
    "run_options": packets.run(COOKIE, schemas.encode_meta(EVERY_OPTION), TWO, left_ms=30_000),
    "run_resent": packets.run(COOKIE, schemas.encode_meta(RESENT), b'{"text":"a b"}', left_ms=21_500),
    "result": packets.result(COOKIE, 1, b"2", "json"),
    "result_failed": packets.failed(
        COOKIE, 1, Code.EXCEPTION, "no such file", error_type="OSError", stack=["in count", "in open"]
    ),
    "result_never_ran": packets.failed(COOKIE, 0, Code.CANCELLED, "cancelled before it ran", may_have_run=False),
    "result_dead_lettered": packets.failed(
        COOKIE, 2, Code.DEAD_LETTERED, "each of 2 attempts lost its worker", history=HISTORY
    ),
    "cancel_client": packets.cancel(COOKIE, why="user left", number=2),
    "cancel_batch": packets.cancel_batch(BATCH, number=4),
    "cancel_worker": packets.cancel(COOKIE, at_once=True, why="the cancel grace is over", attempt=1),
    "progress": packets.progress(COOKIE, 1, 3, b'"half"', "json"),
    "progress_gap": packets.gap(PacketType.PROGRESS, COOKIE, 1, 4, 9),
    "input": packets.input_chunk(COOKIE, 1, b"more", "text"),
    "input_worker": packets.input_chunk(COOKIE, 1, b"more", "text", attempt=1),
    "credit": packets.credit(COOKIE, 1, 16),
    "credit_client": packets.credit(COOKIE, 0, 1),
    "ack": packets.ack(2),
    "attach": packets.attach(COOKIE, first=4, number=5),
    "status": packets.status(COOKIE, tree=True, number=6),
    "queue": packets.queue(2, number=8),
    "park": packets.park(COOKIE, 1),
    "resume": packets.resume(COOKIE, 1),
    "extend": packets.extend(COOKIE, 1, 60_000),
    "drain": packets.drain(),
    "drain_worker": packets.drain(3),
    "drain_client": packets.drain(7, "gpu-7"),
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
