"""Row 28 of failures.md: line ends, escapes and control characters in whatever a peer may say leave logs and terminals clean."""

import json
import os
import socket
from pathlib import Path

import msgspec
import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import PREFACE
from tests.process.rows import ServeProcess
from tests.raw_peers import HELLO, RawClient, RawPeer, RawWorker, connect, hang_up

pytestmark = pytest.mark.process

HOSTILE = [
    "\r\nevent=forged",
    "\x1b[31mred\x1b[2J",
    "\x07\x08\x00",
    "\u2028\u2029\x85",
    "\x9b31m",
    "\u202eesrever",
    '"}\n{"event":"forged"}',
]
SECRET = "s3cr3t"


def json_frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def meta(**fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


async def say_everything(clients: str, workers: str, evil: str, folder: Path) -> None:
    """Put it wherever a peer may put text."""
    for fields in ({"sw": evil}, {"v": evil}, {"name": evil}, {"token": SECRET + evil}, {"feat": [evil]}, {evil: 1}):
        for url in (clients, workers):
            peer = await connect(url, RawPeer())
            peer.send(PREFACE, encode(PacketType.HELLO, meta=meta(**fields)))
            await peer.until(lambda peer=peer: bool(peer.frames), "HELLO was not answered")  # type: ignore[misc]
    client = await connect(clients, RawClient())
    await client.hello()
    worker = await connect(workers, RawWorker(lambda frame: None))
    for registered in (meta(cap=1, serves=[evil]), meta(cap=1, serves=["other"], labels={evil: evil}), meta(cap=evil)):
        stranger = await connect(workers, RawPeer())
        await stranger.hello()
        stranger.send(encode(PacketType.REGISTER, meta=registered))
        await stranger.kind(PacketType.REPLY)
        stranger.live.abort()
    await worker.register(1, "held")
    for pipeline in (evil, f"x{evil}y"):
        cookie = os.urandom(16)
        client.send(packets.run(cookie, meta(p=pipeline), SECRET.encode()))
        await client.reply(cookie)
    cookie = client.run("held", SECRET.encode())
    await worker.holds(1)
    client.send(packets.cancel(cookie, why=evil, number=1))
    worker.send(packets.failed(cookie, 1, Code.EXCEPTION, evil, error_type=evil, stack=[evil, SECRET]))
    assert schemas.failure((await client.outcome(cookie)).payload).error == evil, "what it is about is the owner's, unchanged"
    for body in (
        evil.encode(),
        json.dumps(evil).encode(),
        json.dumps({evil: evil}).encode(),
        b'{"packet_type": "' + evil.encode(),
    ):
        peer = await connect(clients, RawPeer())
        peer.send(json_frame(body))
    client.send(encode(PacketType.GOODBYE, code=128, meta=meta(msg=evil)))
    await client.until(lambda: client.is_lost, "GOODBYE did not end the connection")
    worker.send(encode(PacketType.GOODBYE, code=128, meta=meta(msg=evil)))
    await worker.until(lambda: worker.is_lost, "GOODBYE did not end the connection")


def come_from(folder: Path, url: str, number: int, evil: str) -> None:
    """A Unix socket's peer may have a name of its own; a file's name may hold anything but a slash and a NUL."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / f"{number}{evil}".replace("\x00", "").replace("/", "")))
        sock.connect(url.removeprefix("unix://"))
        sock.sendall(HELLO)
        assert sock.recv(4, socket.MSG_WAITALL)


@pytest.mark.parametrize("style", ["json", "console"])
async def test_row_28_whatever_peers_say_the_log_is_one_clean_line_an_event(style: str, tmp_path: Path) -> None:
    urls = [f"unix://{tmp_path}/{side}.sock" for side in ("clients", "workers")]
    arguments = ("--clients", urls[0], "--workers", urls[1], "--log-level", "debug", "--log-format", style)
    with ServeProcess(tmp_path / "log", *arguments) as serve:
        for number, evil in enumerate(HOSTILE):
            await say_everything(serve.clients, serve.workers, evil, tmp_path)
            come_from(tmp_path, serve.clients, number, evil)
        await hang_up()
        log = serve.stop()
    lines = log.split("\n")
    assert lines.pop() == ""
    assert len(lines) > 100
    if style == "json":
        events = [json.loads(line)["event"] for line in lines]
        assert events.count("connection opened") == events.count("connection closed")
        assert "forged" not in events
    unclean = [line for line in lines if not line.isprintable()]
    assert not unclean, unclean[:3]
    assert SECRET not in log
    assert not [line for line in lines if line.startswith("event=forged")]
