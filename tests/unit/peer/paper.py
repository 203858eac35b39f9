"""An exchange on paper: a connection that only writes down what is sent, and what one needs to talk to it."""

import asyncio
import os
from typing import Any

from reasonchip_broker import errors
from reasonchip_broker.peer import payloads
from reasonchip_broker.peer.exchange import Exchange
from reasonchip_broker.peer.job import Job
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import BinaryDecoder, Frame

META = schemas.encode_meta(schemas.RunOptions(p="p"))

LOST = errors.ConnectionLost("it broke")


class Paper:
    """A connection that writes down what is sent."""

    def __init__(self) -> None:
        self.sent: list[Packet] = []
        self.acks: list[int] = []
        self.flushed = 0

    def send(self, frame: bytes) -> None:
        self.sent.append(decode(frame))

    def flush(self) -> None:
        self.flushed += 1

    def take(self) -> list[tuple[int, bytes]]:
        """What was sent since the last time, but for ACKs: types and cookies."""
        return [(packet.kind, packet.cookie) for packet in self.take_packets()]

    def take_packets(self) -> list[Packet]:
        """The same, as packets."""
        sent, self.sent = self.sent, []
        self.acks += [packet.number for packet in sent if packet.kind == PacketType.ACK]
        return [packet for packet in sent if packet.kind != PacketType.ACK]


def start(connect_timeout_s: float = 10.0, patience_s: float = 0.0) -> Exchange:
    exchange = Exchange("memory://x", connect_timeout_s, patience_s)
    exchange.started(asyncio.get_running_loop())
    return exchange


BROKER, OTHER_BROKER = b"b" * 16, b"o" * 16


def up(
    exchange: Exchange,
    *,
    jobs: int = 100,
    frame: int = 10_000,
    broker: bytes = BROKER,
    credit: int = 4,
    window: int = 1000,
    retain_s: int = 300,
) -> Paper:
    paper = Paper()
    welcome = schemas.WelcomeMeta(
        conn=b"c" * 16,
        broker=broker,
        frame=frame,
        jobs=jobs,
        beat=1,
        dead=2,
        credit=credit,
        window=window,
        retain=retain_s * 1000,
    )
    exchange.up(paper, welcome)
    return paper


def post(
    exchange: Exchange,
    payload: bytes = b"v",
    *,
    timeout: float | None = None,
    deadline_s: float | None = None,
    delay_s: float = 0.0,
    cookie: bytes | None = None,
    detach: bool = False,
    follow: bool = False,
    meta: bytes = META,
) -> Job:
    job = Job(exchange, cookie or os.urandom(16), meta, payload, detach)
    if follow:
        job._stream = exchange.inflow(job._cookie)
        job._stream.by_run = True
    exchange.post(job, timeout, deadline_s, delay_s)
    return job


def frames(*encoded: bytes) -> list[Frame]:
    return BinaryDecoder(1 << 20).feed(b"".join(encoded))


def chunk(job: Job, number: int, attempt: int = 1) -> bytes:
    return packets.progress(job._cookie, attempt, number, payloads.encode(number, "msgpack"), "msgpack")


def attached(paper: Paper, code: Code = Code.OK, **status: Any) -> bytes:
    """The answer to the ATTACH that was sent last."""
    [attach] = [packet for packet in paper.take_packets() if packet.kind == PacketType.ATTACH][-1:]
    job = schemas.JobStatus(state=status.pop("state", "running"), **status) if code == Code.OK or status else None
    return packets.reply(PacketType.ATTACH, code, "", cookie=attach.cookie, number=attach.number, job=job)


def ok(job: Job, value: bytes = b"\x01") -> bytes:
    return packets.result(job._cookie, 1, value, "msgpack")


def runs(*jobs: Job) -> list[tuple[int, bytes]]:
    return [(PacketType.RUN, job._cookie) for job in jobs]
