"""Rows 17 and 24 of failures.md, in short: what an idle connection costs, and that connections and jobs that are over cost nothing.

`serve` disables the cyclic collector, so whatever forms a cycle when it is done with stays for ever: that is what the slopes find.
"""

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from reasonchip_broker.limits import KIB
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import PREFACE
from tests.process.rows import BrokerProcess, ServeProcess, broker_process, raise_descriptor_limit
from tests.raw_peers import HELLO, RawClient, options

pytestmark = pytest.mark.process

IDLE_BYTES = 4 * KIB
WARM_UP = 300
IDLE = 2000

LEAK_BYTES = 64
"""A connection or a job that is over may cost less than this: the smallest object that could be left of it is larger."""

REGISTER = packets.register(schemas.RegisterMeta(cap=4, serves=["never-asked-for"]))


def json_frame(**fields: object) -> bytes:
    body = json.dumps(fields).encode()
    return len(body).to_bytes(4, "big") + body


def dial(url: str) -> socket.socket:
    """A blocking socket: ten thousand of them are quicker made than a loop runs."""
    scheme, _, place = url.partition("://")
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(place)
        return sock
    host, _, port = place.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=30)
    # No TIME_WAIT: ports would run out. A reset is also what a killed peer leaves.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sock


def read_frames(sock: socket.socket, count: int) -> None:
    for _ in range(count):
        left = int.from_bytes(sock.recv(4, socket.MSG_WAITALL), "big")
        assert len(sock.recv(left, socket.MSG_WAITALL)) == left


# Row 17


IDLE_KINDS: dict[str, tuple[str, bytes, int]] = {
    "client": ("clients", HELLO, 1),
    "worker": ("workers", HELLO + REGISTER, 2),
    "silent": ("clients", b"", 0),
    "json-worker": ("workers", json_frame(packet_type="REGISTER", capacity=1), 0),
    "json-client": ("clients", json_frame(packet_type="CANCEL", cookie="6a" * 16), 1),
}


@contextmanager
def idle(url: str, opening: bytes, answers: int, count: int) -> Iterator[None]:
    """So many connections that have said what they have to, and say no more."""
    socks = []
    try:
        for _ in range(count):
            sock = dial(url)
            if opening:
                sock.sendall(opening)
            read_frames(sock, answers)
            socks.append(sock)
        yield
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("kind", IDLE_KINDS)
@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_row_17_an_idle_connection_takes_at_most_four_kib(
    scheme: str, kind: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    raise_descriptor_limit()
    urls = [f"unix://{tmp_path}/{side}.sock" if scheme == "unix" else "tcp://127.0.0.1:0" for side in ("clients", "workers")]
    arguments = ("--clients", urls[0], "--workers", urls[1], "--log-level", "warning")
    with ServeProcess(tmp_path / "log", *arguments) as serve:
        side, opening, answers = IDLE_KINDS[kind]
        url = serve.clients if side == "clients" else serve.workers
        with idle(url, opening, answers, WARM_UP):
            before = serve.rss_kib(), serve.descriptors()
            with idle(url, opening, answers, IDLE):
                while serve.descriptors() < before[1] + IDLE:
                    pass
                each = (serve.rss_kib() - before[0]) * KIB / IDLE
        record_property("bytes each", round(each))
        assert each <= IDLE_BYTES
        assert serve.stop() == ""


# Row 24


FAREWELL = encode(PacketType.GOODBYE, code=128)
LIVES: dict[str, tuple[str, bytes, int]] = {
    "silent": ("clients", b"", 0),
    "greeted": ("clients", HELLO, 1),
    "good-bye": ("clients", HELLO + FAREWELL, 1),
    "client": ("clients", HELLO + packets.run(b"c" * 16, options("none", queue=False), b"x"), 2),
    "waiting": ("clients", HELLO + packets.cancel(b"c" * 16, number=1) + packets.ping(1), 3),
    "worker": ("workers", HELLO + REGISTER, 2),
    "half-a-frame": ("clients", HELLO + packets.run(b"c" * 16, options("none"), bytes(1000))[:500], 1),
    "offended": ("clients", PREFACE + bytes(32), 1),
    "too-large": ("clients", PREFACE + b"\xff\xff\xff\xff", 1),
    "unknown-version": ("clients", b"RCB\x09", 1),
    "json-client": ("clients", json_frame(packet_type="CANCEL", cookie="6a" * 16), 1),
    "json-worker": ("workers", json_frame(packet_type="REGISTER", capacity=3), 0),
    "json-offended": ("clients", b"\x00\x00\x00\x02[[", 1),
}


def live_and_go(serve: ServeProcess, kinds: list[str], count: int) -> None:
    """So many connections, one after the other, each of them with a whole life."""
    for number in range(count):
        side, opening, answers = LIVES[kinds[number % len(kinds)]]
        sock = dial(serve.clients if side == "clients" else serve.workers)
        if opening:
            sock.sendall(opening)
        read_frames(sock, answers)
        sock.close()


def settled(serve: ServeProcess, descriptors: int) -> int:
    """The memory of a broker whose connections have all gone."""
    while serve.descriptors() > descriptors:
        pass
    return serve.rss_kib()


@contextmanager
def serving_process(tmp_path: Path, scheme: str = "tcp") -> Iterator[ServeProcess]:
    urls = [f"unix://{tmp_path}/{side}.sock" if scheme == "unix" else "tcp://127.0.0.1:0" for side in ("clients", "workers")]
    with ServeProcess(tmp_path / "log", "--clients", urls[0], "--workers", urls[1], "--log-level", "error") as serve:
        yield serve
        assert serve.stop() == ""


@pytest.mark.parametrize("kind", LIVES)
def test_row_24_no_kind_of_connection_leaves_anything(kind: str, tmp_path: Path) -> None:
    with serving_process(tmp_path) as serve:
        baseline = serve.descriptors()
        live_and_go(serve, [kind], 1000)
        before = settled(serve, baseline)
        live_and_go(serve, [kind], 3000)
        each = (settled(serve, baseline) - before) * KIB / 3000
        assert each < LEAK_BYTES, f"{each:.0f} bytes are left of each connection"


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_row_24_twenty_thousand_connects_and_disconnects_leave_memory_and_descriptors_as_they_were(
    scheme: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with serving_process(tmp_path, scheme) as serve:
        baseline = serve.descriptors()
        live_and_go(serve, list(LIVES), 5000)
        before = settled(serve, baseline)
        live_and_go(serve, list(LIVES), 15_000)
        each = (settled(serve, baseline) - before) * KIB / 15_000
        record_property("bytes each", round(each, 1))
        assert each < LEAK_BYTES, f"{each:.0f} bytes are left of each connection"
        assert serve.descriptors() == baseline


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_row_24_a_million_connects_and_disconnects_leave_memory_and_descriptors_as_they_were(tmp_path: Path) -> None:
    with serving_process(tmp_path, "unix") as serve:
        baseline = serve.descriptors()
        live_and_go(serve, list(LIVES), 20_000)
        before = settled(serve, baseline)
        live_and_go(serve, list(LIVES), 980_000)
        assert (settled(serve, baseline) - before) * KIB / 980_000 < 2
        assert serve.descriptors() == baseline


# Jobs that are over


async def run_all(client: RawClient, broker: BrokerProcess, kind: str, count: int) -> None:
    """So many jobs of a kind, to their end."""
    for _ in range(0, count, 100):
        cookies = [os.urandom(16) for _ in range(100)]
        for cookie in cookies:
            pipeline = {"queued": "none", "refused": "none", "late": "none", "failed": "fail"}.get(kind, "echo")
            deadline_ms = {"deadline": 600_000, "late": 1}.get(kind, 0)
            client.send(packets.run(cookie, options(pipeline, queue=kind != "refused"), b"x" * 100, deadline_ms))
        if kind == "queued":
            for cookie in cookies:
                client.send(packets.cancel(cookie, number=1))
        expected = PacketType.REPLY if kind == "refused" else PacketType.RESULT
        for cookie in cookies:
            await client.kind(expected, cookie)
        client.frames.clear()
        client.heard.clear()
        client.heard_at.clear()
    await over(broker)


async def over(broker: BrokerProcess) -> None:
    """Wait until every job is over and no outcome is kept any more."""
    await broker.becomes(lambda state: state["jobs"] == state["kept"] == 0, "jobs are left")


@pytest.mark.parametrize("kind", ["plain", "deadline", "late", "queued", "refused", "failed", "lost"])
async def test_row_24_no_kind_of_job_leaves_anything(kind: str) -> None:
    """What is left of each job is left of every batch of them. That more outcomes than ever before were kept at one moment, and the
    memory for that many is the process's from then on, happens in one batch and not in the next."""
    async with broker_process(retention_s=0.05) as broker:
        await broker.worker(100)
        await broker.worker(
            100, "fail", works=lambda frame: packets.failed(frame[1], frame[4], Code.EXCEPTION, "broken", stack=["one", "two"])
        )
        client = await broker.client()
        run = lose_all if kind == "lost" else run_all
        await run(client, broker, kind, 2000)
        rss_kib = [(await broker.state())["rss_kib"]]
        for _ in range(3):
            await run(client, broker, kind, 4000)
            rss_kib.append((await broker.state())["rss_kib"])
        each = min(after - before for before, after in pairwise(rss_kib)) * KIB / 4000
        assert each < LEAK_BYTES, f"{each:.0f} bytes are left of each job"


async def lose_all(client: RawClient, broker: BrokerProcess, kind: str, count: int) -> None:
    """So many jobs whose worker goes away, some of them while they are being cancelled."""
    for _ in range(0, count, 100):
        worker = await broker.worker(100, kind, works=lambda frame: None)
        cookies = [client.run(kind, b"x" * 100, left_ms=600_000) for _ in range(100)]
        await worker.holds(100)
        for cookie in cookies[::3]:
            client.send(packets.cancel(cookie, number=1))
        await client.ping()
        worker.live.abort()
        for cookie in cookies:
            await client.outcome(cookie)
        client.frames.clear()
        client.heard.clear()
        client.heard_at.clear()
    await over(broker)
