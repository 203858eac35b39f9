"""An exchange on paper: a connection that only writes down what is sent, and what one needs to talk to it."""

import asyncio
import os
from typing import cast

from reasonchip_broker import errors
from reasonchip_broker.client.exchange import Exchange
from reasonchip_broker.client.job import Job
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.protocol.frames import BinaryDecoder, Frame
from reasonchip_broker.transports.connection import Connection

LOST = errors.ConnectionLost("it broke")


class Paper:
    """A connection that writes down what is sent."""

    def __init__(self) -> None:
        self.sent: list[Packet] = []
        self.flushed = 0

    def send(self, frame: bytes) -> None:
        self.sent.append(decode(frame))

    def flush(self) -> None:
        self.flushed += 1

    def take(self) -> list[tuple[int, bytes]]:
        """What was sent since the last time: types and cookies."""
        sent, self.sent = self.sent, []
        return [(packet.kind, packet.cookie) for packet in sent]


def start(connect_timeout_s: float = 10.0) -> Exchange:
    exchange = Exchange("memory://x", connect_timeout_s)
    exchange.started(asyncio.get_running_loop())
    return exchange


def up(exchange: Exchange, *, jobs: int = 100, frame: int = 10_000) -> Paper:
    paper = Paper()
    welcome = schemas.WelcomeMeta(conn=b"c" * 16, broker=b"b" * 16, frame=frame, jobs=jobs, beat=1, dead=2, credit=1)
    exchange.up(cast(Connection, paper), welcome)
    return paper


def post(
    exchange: Exchange,
    payload: bytes = b"v",
    *,
    timeout: float | None = None,
    deadline_s: float | None = None,
    cookie: bytes | None = None,
    detach: bool = False,
) -> Job:
    job = Job(exchange, cookie or os.urandom(16), b"", payload, detach)
    exchange.post(job, timeout, deadline_s)
    return job


def frames(*encoded: bytes) -> list[Frame]:
    return BinaryDecoder(1 << 20).feed(b"".join(encoded))


def ok(job: Job, value: bytes = b"\x01") -> bytes:
    return packets.result(job._cookie, 1, value, "msgpack")


def runs(*jobs: Job) -> list[tuple[int, bytes]]:
    return [(PacketType.RUN, job._cookie) for job in jobs]
