"""The switchboard, fed packets by peers that come, go, lie and fall silent."""

from collections import Counter

import msgspec

from fuzz.choices import Choices
from fuzz.decoders import require
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode, encode
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import BinaryDecoder, Frame, FrameDecoder
from reasonchip_broker.protocol.json_v0 import JsonDecoder, to_binary
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, json_packet

LINKS_MAX = 10
STEPS_MAX = 150
LIMITS = Limits(
    client_jobs_max=4,
    backlog_jobs_max=6,
    backlog_bytes_max=2000,
    frame_bytes_max=4096,
    retention_s=20.0,
    retention_s_max=60.0,
    outcomes_max=4,
    outcomes_bytes_max=9000,
    client_outcomes_max=3,
    client_outcomes_bytes_max=4000,
    credit_frames=2,
    ring_chunks_max=3,
    ring_bytes_max=4000,
    rings_bytes_max=9000,
)
COOKIES = tuple(bytes((number,)) * 16 for number in range(6))  # the first is none at all
BATCH = b"b" * 16
PIPELINES = ("a", "a.b", "", "x\n", "y" * 256)
TIMES_S = (0.001, 0.001, 0.03, 0.03, 0.3, 1.0, 6.0, 9.0, 11.0, 31.0, 100.0)
METAS: tuple[object, ...] = (
    {},
    {"sw": "f", "name": "n"},
    {"name": "n", "inst": COOKIES[1], "grace": 5},
    {"name": "n", "inst": COOKIES[2], "grace": 5},
    {"name": "bad\n"},
    {"p": "a", "enc": "json"},
    {"p": "a"},
    {"p": "a.b", "enc": "json", "queue": False},
    {"p": "a", "nonce": b"n", "follow": True, "keep": 5000},
    {"p": "a", "enc": "json", "att": 3, "back": 0, "again": ["*"], "rlim": 50},
    {"p": "a", "att": 2, "back": 30, "qlim": 20, "orphan": 0, "batch": BATCH},
    {"p": "a", "orphan": 1000, "batch": BATCH, "at": COOKIES[1], "nonce": b"n"},
    {"p": "a", "enc": "json", "delay": 25, "qlim": 20, "nonce": b"n", "batch": BATCH},
    {"p": "a", "delay": 400, "queue": False, "parent": COOKIES[1]},
    {"p": "a", "parent": COOKIES[1]},
    {"p": "a", "parent": COOKIES[2], "loose": True, "enc": "json", "keep": 0},
    {"p": "a", "enc": "json", "detach": True, "reply": True},
    {"p": "a", "reply": True},
    {"p": 5},
    {"cap": 1, "serves": ["*"]},
    {"cap": 3, "serves": ["a", "a.*"]},
    {"cap": 0, "serves": ["*"]},
    {"cap": 2, "serves": ["*"], "held": [[COOKIES[1], 1], [COOKIES[2], 2]]},
    {"cap": 1, "serves": ["a"], "held": [[cookie, 1] for cookie in COOKIES]},
    {"batch": BATCH},
    {"first": 1},
    {"first": 2, "take": False},
    {"tree": True},
    {"worker": "n"},
    {"cap": True, "serves": []},
    {"now": True, "why": "w"},
    {"now": 1},
    {"enc": "json"},
    {"enc": "msgpack"},
    {"ran": False},
    [],
)
KINDS = (*PacketType, 0, 99, 255)
HELLOS = (
    schemas.HelloMeta(),
    schemas.HelloMeta(name="n"),
    schemas.HelloMeta(name="n", inst=COOKIES[1], grace=5),
    schemas.HelloMeta(name="m", inst=COOKIES[2], grace=40),
)
OPTIONS = (
    schemas.RunOptions(p="a"),
    schemas.RunOptions(p="a", enc="json"),
    schemas.RunOptions(p="a.b", enc="json", queue=False),
    schemas.RunOptions(p="a.b", nonce=b"n", follow=True),
    schemas.RunOptions(p="a", enc="json", att=3, back=10, again=["*"]),
    schemas.RunOptions(p="a.b", enc="json", att=2, back=0, rlim=1000, nonce=b"n", follow=True),
    schemas.RunOptions(p="a", orphan=500, qlim=50, batch=BATCH),
    schemas.RunOptions(p="a", orphan=0, keep=3000, detach=True),
    schemas.RunOptions(p="a", enc="json", delay=40, att=2),
)
"""What a client may well ask for."""


class _Room:
    """A switchboard, who is connected to it, and what each client may expect."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.driver = SwitchboardDriver(
            LIMITS, json_slot_rest_ms=choices.of((None, 0, 40)), json_cancel=choices.one_in(2), admits=choices.one_in(4)
        )
        self.driver.on_step = self._watch
        self.decoders: dict[int, FrameDecoder] = {}
        self.asked: Counter[tuple[int, bytes]] = Counter()
        """RUNs and ATTACHs by connection and cookie, less the RESULTs that came."""

    def _watch(self, sends: list[tuple[FakeLink, bytes]], closes: list[Close]) -> None:
        for link, frame in sends:
            packet = decode(to_binary(frame, 1))
            if packet.kind == PacketType.RESULT:
                self.asked[link.number, packet.cookie] -= 1
                require(self.asked[link.number, packet.cookie] >= 0, "a peer got an outcome that it had not asked for")
        for close in closes:
            self.decoders.pop(close.link.number, None)

    def connect(self) -> None:
        role, dialect = self.choices.of(tuple(Role)), self.choices.of(tuple(Dialect))
        link = self.driver.connect(role, dialect, queues=self.choices.one_in(2) or None)
        if dialect == Dialect.JSON:
            self.decoders[link.number] = JsonDecoder(LIMITS.frame_bytes_max, role)
        else:
            self.decoders[link.number] = BinaryDecoder(LIMITS.frame_bytes_max, strict=True)
            if not self.choices.one_in(8):
                self.receive(link, packets.hello(self.choices.of(HELLOS)))
                if role == Role.WORKER:
                    held = [(cookie, 1 + self.choices.below(2)) for cookie in COOKIES[1:] if self.choices.one_in(8)]
                    self.receive(link, packets.register(schemas.RegisterMeta(cap=2, serves=["*"], held=held)))

    def receive(self, link: FakeLink, data: bytes) -> None:
        """Bytes arrive at a connection, as they would through a socket."""
        decoder = self.decoders.get(link.number)
        if decoder is None or link.closed:
            return
        frames = decoder.feed(data)
        self._expect(link, frames)
        self.driver.deliver(link, frames)
        if isinstance(decoder, BinaryDecoder):
            decoder.strict = not link.welcomed
        if decoder.failure is not None and not link.closed:
            self.driver.offend(link, CloseReason(decoder.failure.reason), str(decoder.failure))

    def _expect(self, link: FakeLink, frames: list[Frame]) -> None:
        for kind, cookie, *_ in frames:
            if kind in (PacketType.RUN, PacketType.ATTACH):
                self.asked[link.number, cookie] += 1

    def packet(self, link: FakeLink) -> bytes:
        """A packet that makes more or less sense."""
        choices = self.choices
        cookie = choices.of(COOKIES)
        if link.dialect == Dialect.JSON:
            kind = choices.of(("RUN", "RESULT", "CANCEL", "REGISTER", "SHUTDOWN"))
            rc = choices.of(("OK", "EXCEPTION", "NO_CAPACITY", "?"))
            body = json_packet(
                kind,
                cookie if any(cookie) else None,
                capacity=choices.of((1, 3, 0, None)),
                pipeline=choices.of(PIPELINES) if kind == "RUN" else None,
                variables=choices.of((None, "1")) if kind == "RUN" else None,
                detach=choices.one_in(4) if kind == "RUN" else None,
                rc=rc if kind == "RESULT" else None,
                result="1" if kind == "RESULT" else None,
            )
            return len(body).to_bytes(4, "big") + body
        if not choices.one_in(6):
            return self.sensible(link, choices.of(COOKIES[1:]))
        meta = choices.bytes(choices.below(12)) if choices.one_in(8) else msgspec.msgpack.encode(choices.of(METAS))
        return encode(
            choices.of(KINDS),
            choices.of((0, 0, 2, 3, 9, 10, 66, 255)),
            choices.of((1, 1, 0, 2)),
            cookie,
            choices.of((0, 0, 1, 500, 0xFFFFFFFF)),
            meta,
            b"x" * choices.of((0, 1, 3000, 5000)),
        )

    def sensible(self, link: FakeLink, cookie: bytes) -> bytes:
        """A packet that a peer of that role may well send."""
        choices = self.choices
        attempt = 1 + choices.below(2)
        worker = link.peer.worker
        if worker is not None and worker.assignments and not choices.one_in(6):
            held = choices.of(list(worker.assignments.values()))
            cookie, attempt = held.cookie, held.attempt
        if link.role == Role.WORKER and not choices.one_in(4):
            return choices.of(
                (
                    packets.result(cookie, attempt, b"1", "json"),
                    packets.failed(cookie, attempt, Code.EXCEPTION, "why"),
                    packets.failed(cookie, attempt, Code.CANCELLED, "why"),
                    packets.progress(cookie, attempt, 1 + choices.below(4), b"x" * choices.of((0, 1, 3000)), "json"),
                    packets.park(cookie, attempt),
                    packets.resume(cookie, attempt),
                    packets.extend(cookie, attempt, 500),
                    packets.credit(cookie, attempt, 1),
                )
            )
        if choices.one_in(3):
            parent = choices.of(COOKIES[1:]) if link.role == Role.WORKER or choices.one_in(8) else None
            options = msgspec.structs.replace(choices.of(OPTIONS), parent=parent)
            return packets.run(cookie, schemas.encode_meta(options), b"1", choices.of((0, 0, 20, 5000)))
        return choices.of(
            (
                packets.cancel(cookie, at_once=choices.one_in(3), number=1),
                packets.cancel_batch(BATCH, number=2),
                packets.ack(choices.below(6)),
                packets.input_chunk(cookie, 1 + choices.below(4), b"x" * choices.of((0, 1, 3000)), "json"),
                packets.credit(cookie, 0, 1 + choices.below(3)),
                packets.attach(cookie, first=choices.below(3), take=choices.one_in(2), number=3),
                packets.status(cookie, tree=choices.one_in(2), number=4),
                packets.drain(5, "n"),
            )
        )

    def step(self) -> None:
        """One thing happens."""
        choices, driver = self.choices, self.driver
        what = choices.below(16)
        if what == 0 or not driver.links:
            if sum(not link.closed for link in driver.links) < LINKS_MAX:
                self.connect()
            return
        link = choices.of([link for link in driver.links if not link.closed] or driver.links[-1:])
        if what == 1:
            driver.advance(choices.of(TIMES_S))
        elif what == 2:
            driver.jump(choices.of(TIMES_S))
        elif what == 3 and driver.admissions:
            cookie, number = driver.admissions.pop()
            driver.admit(cookie, number) if choices.one_in(2) else driver.reject(cookie, Code.NOT_ALLOWED, number=number)
        elif what == 4 and choices.one_in(20):
            driver.drain()
        elif link.closed:
            return
        elif what == 5 and choices.one_in(2):
            self.decoders.pop(link.number, None)
            driver.disconnect(link)
        elif what == 6:
            driver.unblock(link) if choices.one_in(2) else driver.congest(link)
        elif what == 7 and choices.one_in(4):
            self.receive(link, choices.bytes(choices.below(64)))
        else:
            self.receive(link, self.packet(link))


def switchboard(data: bytes) -> None:
    """Whatever peers send, in whatever order, and whenever they leave: no exception, every table agrees with every other after each
    step, nothing is sent to who is gone or not welcomed, nobody gets more outcomes than it asked for, and a broker that stops has
    no job left, and in the end no outcome and no timer."""
    choices = Choices(data)
    room = _Room(choices)
    for _ in range(STEPS_MAX):
        if not choices.left:
            break
        room.step()
    room.driver.advance(100.0)
    room.driver.stop()
    require(room.driver.switchboard.jobs == 0, "the broker has stopped, and a job has not")
    require(not room.driver.switchboard.peers, "the broker has stopped, and a connection has not")
    room.driver.advance(LIMITS.retention_s_max + 3 * LIMITS.retention_s)
    require(not len(room.driver.switchboard.timers), "everything is over, and a timer runs")
