"""The C client, which was written from docs/reference/protocol.md alone, against a real broker: the page is enough."""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from reasonchip_broker.broker import Broker
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import PREFACE
from reasonchip_broker.transports.endpoints import server_transport
from tests.wire_peers import DEADLINE_S, BinaryPeer

SOURCE = Path(__file__).parents[2] / "examples" / "c" / "client.c"
FLAGS = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
USAGE, UNAVAILABLE, PROTOCOL = 64, 69, 76
Conversation = Callable[[BinaryPeer], Awaitable[None]]

pytestmark = pytest.mark.process


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, compiled; the project needs a C compiler anyhow."""
    program = tmp_path_factory.mktemp("c") / "client"
    compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
    done = subprocess.run([compiler, *FLAGS, "-o", program, SOURCE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return program


async def start(client: Path, *arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(client, *arguments, stdout=pipe, stderr=pipe)


@dataclass
class Bench:
    """A broker that listens on TCP and a Unix socket, and a worker that has been told nothing yet."""

    broker: Broker
    worker: BinaryPeer
    client: Path

    @property
    def tcp(self) -> str:
        return self.broker.client_urls[0]

    @property
    def unix(self) -> str:
        return self.broker.client_urls[1]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await start(self.client, *arguments)

    async def job(self) -> Packet:
        return await self.worker.packet(PacketType.RUN)


@pytest.fixture
async def bench(client: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    listeners = [server_transport(url, Role.CLIENT) for url in ("tcp://127.0.0.1:0", f"unix://{tmp_path}/clients.sock")]
    broker = Broker(listeners, [server_transport("tcp://127.0.0.1:0", Role.WORKER)])
    await broker.start()
    worker = await BinaryPeer.dial(broker.worker_urls[0])
    await worker.register(1, "text.*")
    yield Bench(broker, worker, client)
    worker.close()
    await broker.stop()


async def end(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a client."""
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_a_job_goes_there_and_back(bench: Bench, transport: str) -> None:
    process = await bench.start(bench.tcp if transport == "tcp" else bench.unix, "text.count", '{"text": "a b"}')
    job = await bench.job()
    assert schemas.run_options(job.meta) == schemas.RunOptions(p="text.count", enc="json")
    assert (job.payload, job.attempt) == (b'{"text": "a b"}', 1)
    assert job.cookie[6] >> 4 == 4
    bench.worker.send(packets.result(job.cookie, job.attempt, b'{"words": 2}', "json"))
    assert await end(process) == (0, '{"words": 2}\n', "")


@pytest.mark.parametrize(
    ("payload", "encoding", "shown"),
    [
        (b"", "", "null"),
        (b"", "json", "null"),
        (b"plain \xc3\xbc", "text", "plain ü"),
        (b"", "text", ""),
        (
            msgspec.msgpack.encode({"a": [1, -1, -40, 300, 70000, 2**40, -(2**40), 2.5, None, True, False, 'q"\n', b"\xff"]}),
            "msgpack",
            '{"a": [1, -1, -40, 300, 70000, 1099511627776, -1099511627776, 2.5, null, true, false, "q\\"\\u000a", "ff"]}',
        ),
        (msgspec.msgpack.encode(["x" * 40, "y" * 300, list(range(20))]), "msgpack", None),
        (b"x" * 1_000_000, "bytes", None),
    ],
)
async def test_results_of_every_encoding_are_shown(bench: Bench, payload: bytes, encoding: str, shown: str | None) -> None:
    process = await bench.start(bench.tcp, "text.any")
    job = await bench.job()
    assert job.payload == b""
    bench.worker.send(packets.result(job.cookie, job.attempt, payload, encoding))
    code, out, err = await end(process)
    assert (code, err) == (0, "")
    if shown is None:
        shown = payload.decode() if encoding == "bytes" else str(msgspec.msgpack.decode(payload)).replace("'", '"')
    assert out == shown + "\n"


async def test_keys_that_the_client_does_not_know_do_not_disturb_it(bench: Bench) -> None:
    process = await bench.start(bench.tcp, "text.any")
    job = await bench.job()
    extra = {"zz": [1, {"y": msgspec.msgpack.Ext(3, b"abc")}, "x" * 70000, b"b" * 300, 1.5, -5], "enc": "json"}
    frame = packets.result(job.cookie, job.attempt, b"[1]", "json")
    meta = msgspec.msgpack.encode(extra)
    head = (28 + len(meta) + 3).to_bytes(4, "big") + frame[4:28] + len(meta).to_bytes(4, "big")
    bench.worker.send(head, meta, b"[1]")
    assert await end(process) == (0, "[1]\n", "")


async def test_a_failure_is_told_with_its_stack_and_sets_the_exit_code(bench: Bench) -> None:
    process = await bench.start(bench.tcp, "text.count")
    job = await bench.job()
    failure = packets.failed(
        job.cookie, 1, Code.PROCESSOR_EXCEPTION, "no\x1b[31m text", error_type="ValueError", stack=["in count", "in split"]
    )
    bench.worker.send(failure)
    assert await end(process) == (
        Code.PROCESSOR_EXCEPTION,
        "",
        "the job ended with code 1: ValueError: no?[31m text\n    in count\n    in split\n",
    )


async def test_a_job_that_waits_is_told_so_and_runs_when_it_is_its_turn(bench: Bench) -> None:
    first = await bench.start(bench.tcp, "text.first")
    job = await bench.job()
    second = await bench.start(bench.tcp, "text.second")
    assert second.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        assert (await second.stderr.readline()).startswith(b"the broker says (64): ")
    for process in (first, second):
        bench.worker.send(packets.result(job.cookie, 1, b"1", "json"))
        assert (await end(process))[:2] == (0, "1\n")
        if process is first:
            job = await bench.job()


async def test_a_refusal_is_told_and_sets_the_exit_code(bench: Bench) -> None:
    code, out, err = await end(await bench.start(bench.tcp, "bad\nname"))
    assert (code, out) == (Code.BAD_PACKET, "")
    assert "$.p" in err


async def test_control_c_cancels_the_job(bench: Bench) -> None:
    process = await bench.start(bench.tcp, "text.long")
    job = await bench.job()
    process.send_signal(signal.SIGINT)
    cancel = await bench.worker.packet(PacketType.CANCEL)
    assert cancel.cookie == job.cookie
    assert schemas.cancel_meta(cancel.meta) == schemas.CancelMeta(now=False, why="Ctrl-C")
    bench.worker.send(packets.failed(job.cookie, 1, Code.CANCELLED, "stopped"))
    code, out, err = await end(process)
    assert (code, out) == (Code.CANCELLED, "")
    assert err.splitlines()[-1] == "the job ended with code 3: stopped"


async def against(client: Path, broker: Conversation) -> tuple[int, str, str]:
    """Run the client against a broker that does only what this conversation does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = BinaryPeer(reader, writer)
        assert await peer.read(4) == PREFACE
        assert (await peer.packet()).kind == PacketType.HELLO
        await broker(peer)
        writer.write_eof()
        await peer.ended()
        peer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    ended = await end(await start(client, url, "p"))
    server.close()
    await server.wait_closed()
    return ended


def welcome(beat_ms: int, dead_ms: int) -> bytes:
    return packets.welcome(schemas.WelcomeMeta(bytes(16), bytes(16), 5000, 1, beat_ms, dead_ms, 1))


async def test_a_ping_is_answered_with_its_number(client: Path) -> None:
    async def broker(peer: BinaryPeer) -> None:
        peer.send(welcome(10_000, 20_000))
        cookie = (await peer.packet(PacketType.RUN)).cookie
        peer.send(packets.ping(77))
        assert (await peer.packet(PacketType.PONG)).number == 77
        peer.send(packets.result(cookie, 1, b"1", "json"))

    assert await against(client, broker) == (0, "1\n", "")


async def test_a_broker_that_falls_silent_is_pinged_and_given_up(client: Path) -> None:
    async def broker(peer: BinaryPeer) -> None:
        peer.send(welcome(20, 100))
        await peer.packet(PacketType.RUN)
        await peer.packet(PacketType.PING)
        await peer.ended()

    code, out, err = await against(client, broker)
    assert (code, out) == (UNAVAILABLE, "")
    assert err.splitlines()[-1] == "nothing was heard of the broker for 100 ms"


async def test_a_frame_that_the_broker_would_not_take_is_not_sent(client: Path) -> None:
    async def broker(peer: BinaryPeer) -> None:
        meta = schemas.WelcomeMeta(bytes(16), bytes(16), 40, 1, 1000, 2000, 1)
        peer.send(packets.welcome(meta))
        assert await peer.ended() == b""

    assert (await against(client, broker))[0] == Code.TOO_LARGE


async def test_a_broker_that_stops_is_told(bench: Bench) -> None:
    process = await bench.start(bench.tcp, "text.long")
    await bench.job()
    await bench.broker.stop()
    code, _, err = await end(process)
    assert code == Code.BROKER_WENT_AWAY
    assert "the broker stopped while the job ran" in err


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (
            packets.goodbye(CloseReason.UNSUPPORTED_VERSION, "version 1 is not spoken here", (2,)),
            UNAVAILABLE,
            "(130): version 1",
        ),
        (packets.ping(), PROTOCOL, "began with packet type 3"),
        (b"\x00\x00\x00\x05hello" + bytes(40), PROTOCOL, "a frame of length 5"),
        (b"\x7f\x00\x00\x00" + bytes(40), PROTOCOL, "a frame of length 2130706432"),
        (packets.welcome(schemas.WelcomeMeta(bytes(16), bytes(16), 1, 1, 1, 1, 1))[:50], UNAVAILABLE, "closed the connection"),
        (b"", UNAVAILABLE, "closed the connection"),
    ],
)
async def test_a_broker_that_makes_no_sense_ends_the_client(client: Path, said: bytes, code: int, words: str) -> None:
    async def broker(peer: BinaryPeer) -> None:
        peer.send(said)

    got, out, err = await against(client, broker)
    assert (got, out) == (code, "")
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [([], USAGE), (["tcp://127.0.0.1:1"], USAGE), (["http://x", "p"], USAGE), (["unix:///nonexistent", "p"], UNAVAILABLE)],
)
async def test_wrong_arguments_are_told(client: Path, arguments: list[str], code: int) -> None:
    got, out, err = await end(await start(client, *arguments))
    assert (got, out) == (code, "")
    assert err
