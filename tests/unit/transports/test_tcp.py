"""What TCP adds to the promises of every transport: addresses, ports, the kernel's options, what it says when it can't."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from reasonchip_broker.errors import ConnectError, ListenError
from reasonchip_broker.limits import KIB, Limits
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.protocol.frames import PREFACE
from reasonchip_broker.testing.transport_peers import Peer, Recorder, numbered
from reasonchip_broker.transports import tcp
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.tcp import TcpClientTransport, TcpServerTransport, describe
from tests.unit.transports.arrivals import stopped_as_somebody_comes

LIMITS = Limits()


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop) as runner:
        yield runner


async def started(transport: TcpServerTransport, limits: Limits = LIMITS) -> Recorder:
    recorder = Recorder()
    await transport.start(Role.CLIENT, recorder, limits, Flusher(asyncio.get_running_loop()))
    return recorder


async def dial(transport: TcpClientTransport, recorder: Recorder) -> Connection:
    return await transport.dial(Role.CLIENT, recorder, LIMITS, Flusher(asyncio.get_running_loop()))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "tcp://127.0.0.1:7"), ("::1", "tcp://[::1]:7"), ("localhost", "tcp://localhost:7")]
)
def test_a_url_names_host_and_port(host: str, url: str) -> None:
    assert TcpServerTransport(host, 7).url == TcpClientTransport(host, 7).url == url


def test_port_0_becomes_the_real_port() -> None:
    async def check() -> None:
        transport = TcpServerTransport("127.0.0.1", 0)
        await started(transport)
        assert transport.port > 0
        assert transport.url == f"tcp://127.0.0.1:{transport.port}"
        await transport.stop()

    asyncio.run(check())


def test_both_ends_send_at_once_and_let_the_kernel_find_the_dead(runner: asyncio.Runner) -> None:
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, tcp.KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, tcp.KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, tcp.KEEPALIVE_PROBES),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, tcp.USER_TIMEOUT_MS),
    ]

    def require_tuned(connection: Connection) -> None:
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            assert [same.getsockopt(level, name) for level, name, _ in options] == [value for _, _, value in options]

    async def check() -> None:
        transport = TcpServerTransport("127.0.0.1", 0)
        recorder, mine = await started(transport), Recorder()
        dialled = await dial(TcpClientTransport("127.0.0.1", transport.port), mine)
        await recorder.until(lambda: len(recorder.connections) == 1, "a connection was not announced")
        require_tuned(dialled)
        require_tuned(recorder.connections[0])
        dialled.abort(CloseReason.NORMAL)
        await recorder.until(lambda: recorder.count("closed") == 1, "its end was not told")
        await transport.stop()

    runner.run(check())


@pytest.mark.parametrize(
    "host",
    ["192.0.2.1", "no-such-host.invalid", "a" * 70, "a..b", "\udcff"],
    ids=["not-ours", "unknown", "long-label", "empty-label", "no-text"],
)
def test_a_host_that_is_not_ours_or_no_host_is_one_line(runner: asyncio.Runner, host: str) -> None:
    async def check() -> None:
        transport = TcpServerTransport(host, 0)
        with pytest.raises(ListenError) as caught:
            await started(transport)
        assert "\n" not in str(caught.value)
        await transport.stop()

    runner.run(check())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "no-such-host.invalid", "a" * 70, "a..b"],
    ids=["nobody-there", "unknown", "long-label", "empty-label"],
)
def test_a_broker_that_can_not_be_reached_is_one_line(runner: asyncio.Runner, host: str) -> None:
    async def check() -> None:
        mine = Recorder()
        with pytest.raises(ConnectError) as caught:
            await dial(TcpClientTransport(host, free_port()), mine)
        assert "\n" not in str(caught.value)
        assert "can't connect to tcp://" in str(caught.value)
        assert mine.told == {}

    runner.run(check())


def test_a_broker_that_does_not_answer_is_given_up_in_time() -> None:
    """A listener whose queue is full drops what asks: nothing comes back."""

    async def check() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = full.getsockname()
            waiting = [socket.socket() for _ in range(3)]
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(address)
            flusher = Flusher(asyncio.get_running_loop())
            with pytest.raises(ConnectError, match="no answer in time"):
                await TcpClientTransport(*address).dial(Role.CLIENT, Recorder(), Limits(handshake_s=0.05), flusher)
            for sock in waiting:
                sock.close()

    asyncio.run(check())


def test_a_port_that_somebody_else_begins_to_listen_on_meanwhile_is_one_line(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that start at once may both bind (SO_REUSEADDR allows it), and one of them then may not listen."""

    async def check() -> None:
        with socket.socket() as rival:
            rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rival.bind(("127.0.0.1", 0))
            transport = TcpServerTransport("127.0.0.1", rival.getsockname()[1])
            bind = transport._bind

            async def bind_then_lose() -> list[socket.socket]:
                sockets = await bind()
                rival.listen()
                return sockets

            monkeypatch.setattr(transport, "_bind", bind_then_lose)
            # uvloop opens descriptors of its own with the first listener of a process.
            warm_up = TcpServerTransport("127.0.0.1", 0)
            await started(warm_up)
            await warm_up.stop()
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(ListenError):
                await started(transport)
            await transport.stop()
            assert len(os.listdir("/proc/self/fd")) == before

    runner.run(check())


@pytest.mark.parametrize("turns", range(5))
def test_who_comes_just_as_a_listener_stops_is_announced_or_hung_up_on(runner: asyncio.Runner, turns: int) -> None:
    async def check() -> None:
        transport = TcpServerTransport("127.0.0.1", 0)
        recorder = await started(transport)
        await stopped_as_somebody_comes(transport, recorder, ("127.0.0.1", transport.port), turns)

    runner.run(check())


def info(host: str, port: int = 0) -> tuple[Any, ...]:
    if ":" in host:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)


async def resolved_as(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every name mean these addresses."""

    async def getaddrinfo(*args: object, **kwargs: object) -> list[tuple[Any, ...]]:
        return [info(host) for host in hosts]

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", getaddrinfo)


def test_a_name_with_an_address_that_this_machine_lacks_is_listened_on_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most containers have ::1 in their /etc/hosts and no IPv6: `localhost` is 127.0.0.1 there."""

    async def check() -> None:
        await resolved_as(monkeypatch, "2001:db8::1", "127.0.0.1")
        transport = TcpServerTransport("localhost", 0)
        recorder = await started(transport)
        monkeypatch.undo()
        peer = Peer()
        await asyncio.get_running_loop().create_connection(lambda: peer, "127.0.0.1", transport.port)
        await recorder.until(lambda: len(recorder.connections) == 1, "nobody listens on the address that there is")
        peer.live.abort()
        await recorder.until(lambda: recorder.count("closed") == 1, "its end was not told")
        await transport.stop()

    asyncio.run(check())


def test_a_name_with_no_address_of_this_machine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        await resolved_as(monkeypatch, "2001:db8::1", "192.0.2.1")
        with pytest.raises(ListenError):
            await started(TcpServerTransport("localhost", 0))

    asyncio.run(check())


def test_a_free_port_is_free_on_every_address_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port that the first address gets may be taken on the second: then another one is tried, since any will do."""

    async def check() -> None:
        await resolved_as(monkeypatch, "127.0.0.1", "127.0.0.2")
        taken: list[socket.socket] = []

        class Rivalled(socket.socket):
            def bind(self, address: Any) -> None:
                super().bind(address)
                if address[0] == "127.0.0.1" and not taken:
                    taken.append(socket.socket())
                    taken[0].bind(("127.0.0.2", self.getsockname()[1]))

        monkeypatch.setattr(socket, "socket", Rivalled)
        transport = TcpServerTransport("localhost", 0)
        try:
            await started(transport)
        finally:
            await transport.stop()
            for sock in taken:
                sock.close()

    asyncio.run(check())


def test_a_farewell_reaches_a_peer_that_is_still_talking(runner: asyncio.Runner) -> None:
    """To close a socket with unread bytes resets it, and what the peer has not taken by then is lost: results, and the reason."""

    async def check() -> None:
        transport = TcpServerTransport("127.0.0.1", 0)
        recorder = await started(transport)
        peer = Peer()
        await asyncio.get_running_loop().create_connection(lambda: peer, "127.0.0.1", transport.port)
        peer.live.write(PREFACE)
        await recorder.until(lambda: recorder.count("opened") == 1, "a connection was not announced")
        connection = recorder.connections[0]
        peer.live.pause_reading()
        frames = 0
        while "congested" not in recorder.told[connection]:
            frames += 1
            connection.send(numbered(frames, 64 * KIB))
            await asyncio.sleep(0)
        peer.live.write(numbered(1, 64 * KIB))
        connection.close(CloseReason.SHUTTING_DOWN, "the broker is stopping")
        peer.live.resume_reading()
        await peer.until(lambda: peer.is_lost, "a closed connection did not end")
        await recorder.until(lambda: recorder.count("closed") == 1, "its end was not told")
        await transport.stop()
        assert peer.numbers() == list(range(1, frames + 1))
        assert peer.goodbye() == (CloseReason.SHUTTING_DOWN, "the broker is stopping")

    runner.run(check())


def test_a_reset_is_told_as_a_lost_connection() -> None:
    async def check() -> None:
        transport = TcpServerTransport("127.0.0.1", 0)
        recorder = await started(transport)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.connect(("127.0.0.1", transport.port))
            await recorder.until(lambda: len(recorder.connections) == 1, "a connection was not announced")
        await recorder.until(lambda: recorder.count("closed") == 1, "its end was not told")
        assert list(recorder.reasons.values()) == [CloseReason.CONNECTION_LOST]
        await transport.stop()

    asyncio.run(check())


def test_errors_of_the_network_in_a_few_words() -> None:
    assert describe(TimeoutError()) == "no answer in time"
    assert describe(ConnectionRefusedError(111, "Connection refused")) == "Connection refused"
    assert describe(ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 9)")) == os.strerror(111)
    assert describe(OSError("Multiple exceptions: a, b")) == "Multiple exceptions: a, b"
    assert describe(OSError()) == "OSError"
