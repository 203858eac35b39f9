"""Every transport, on every event loop, against the one suite of `testing.check_server_transport`."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme
import uvloop

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.testing.check_server_transport import CHECKS, Check, Implementation, stage
from reasonchip_broker.testing.transport_peers import Peer, Recorder
from reasonchip_broker.transports.endpoints import client_transport, parse, server_transport
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.memory import MemoryClientTransport
from reasonchip_broker.transports.tls import client_context

Connect = Callable[[str, asyncio.Protocol], Awaitable[asyncio.Transport]]

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


async def connect_tcp(url: str, protocol: asyncio.Protocol) -> asyncio.Transport:
    endpoint = parse(url, Role.CLIENT)
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, endpoint.host, endpoint.port)
    return transport


async def connect_unix(url: str, protocol: asyncio.Protocol) -> asyncio.Transport:
    transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: protocol, parse(url, Role.CLIENT).path)
    return transport


async def connect_memory(url: str, protocol: asyncio.Protocol) -> asyncio.Transport:
    return MemoryClientTransport(parse(url, Role.CLIENT).path).connect(protocol)


def connect_tls(options: dict[str, str]) -> Connect:
    async def connect(url: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        endpoint = parse(url, Role.CLIENT)
        context = client_context(options["ca"], options.get("cert"), options.get("key"))
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: protocol, endpoint.host, endpoint.port, ssl=context)
        return transport

    return connect


def over(url: str, connect: Connect, *, here: str = "", there: str = "") -> Implementation:
    """The transport of a URL; `here` and `there` are the options of its listener and of its dialler."""
    return Implementation(
        lambda known: server_transport((known or url) + here, Role.CLIENT),
        connect,
        lambda known: client_transport(known + there, Role.CLIENT),
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and what it certified: the broker, as 127.0.0.1 and localhost, and a client."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "broker.pem"))
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    return folder


@pytest.fixture(
    params=[
        "tcp-v4",
        pytest.param("tcp-v6", marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")),
        "tcp-localhost",
        "unix",
        "memory",
        "tls",
        "tls-both-certified",
    ]
)
def implementation(request: pytest.FixtureRequest, tmp_path: Path, certificates: Path) -> Implementation:
    broker, client, ca = (certificates / name for name in ("broker.pem", "client.pem", "ca.pem"))
    match request.param:
        case "tcp-v4":
            return over("tcp://127.0.0.1:0", connect_tcp)
        case "tcp-v6":
            return over("tcp://[::1]:0", connect_tcp)
        case "tcp-localhost":
            return over("tcp://localhost:0", connect_tcp)
        case "unix":
            return over(f"unix://{tmp_path}/broker.sock", connect_unix)
        case "memory":
            return over("memory://broker", connect_memory)
        case "tls":
            return over(
                "tls://127.0.0.1:0", connect_tls({"ca": str(ca)}), here=f"?cert={broker}&key={broker}", there=f"?ca={ca}"
            )
        case _:
            options = {"ca": str(ca), "cert": str(client), "key": str(client)}
            here = f"?cert={broker}&key={broker}&client_ca={ca}"
            return over("tls://localhost:0", connect_tls(options), here=here, there=f"?ca={ca}&cert={client}&key={client}")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_transport_keeps_every_promise(implementation: Implementation, check: Check, loop: str) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(check(implementation))


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("loop", LOOPS)
def test_localhost_is_both_loopback_addresses_on_one_port(loop: str) -> None:
    async def check() -> None:
        async with stage(over("tcp://localhost:0", connect_tcp)) as it:
            port = parse(it.transport.url, Role.CLIENT).port
            for count, host in enumerate(("127.0.0.1", "[::1]"), 1):
                peer = Peer()
                it.peers.append(peer)
                await connect_tcp(f"tcp://{host}:{port}", peer)
                await it.recorder.until(lambda: len(it.recorder.connections) == count, f"{host} does not lead here")  # noqa: B023

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(check())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_listener_that_came_and_went_leaves_no_descriptor(implementation: Implementation, loop: str) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def come_and_go() -> None:
        listener = implementation.listener(None)
        await listener.start(Role.CLIENT, Recorder(), Limits(), Flusher(asyncio.get_running_loop()))
        second = implementation.listener(listener.url)
        with pytest.raises(Exception, match="can't listen"):
            await second.start(Role.CLIENT, Recorder(), Limits(), Flusher(asyncio.get_running_loop()))
        await listener.stop()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(come_and_go())
        before = descriptors()
        for _ in range(3):
            runner.run(come_and_go())
        assert descriptors() == before
