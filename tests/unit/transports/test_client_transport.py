"""The dialling interface itself; its implementations are checked with the listeners that they dial, in tests/conformance."""

import asyncio

import pytest

from reasonchip_broker.errors import ConnectError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import CloseReason, Dialect, Role
from reasonchip_broker.testing.transport_peers import Recorder
from reasonchip_broker.transports.client_transport import ClientTransport
from reasonchip_broker.transports.endpoints import client_transport, server_transport
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.memory import MemoryClientTransport
from reasonchip_broker.transports.tcp import TcpClientTransport
from reasonchip_broker.transports.tls import TlsClientTransport
from reasonchip_broker.transports.unix import UnixClientTransport


def test_an_implementation_has_a_url_and_dials() -> None:
    assert ClientTransport.__abstractmethods__ == {"url", "dial"}


@pytest.mark.parametrize("kind", [TcpClientTransport, TlsClientTransport, UnixClientTransport, MemoryClientTransport])
def test_every_implementation_is_one(kind: type) -> None:
    assert issubclass(kind, ClientTransport)


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:1", "tls://127.0.0.1:1", "unix:///nowhere.sock", "memory://nobody"])
@pytest.mark.parametrize("role", list(Role))
async def test_a_connection_that_can_not_be_made_is_one_line_and_the_handler_hears_nothing(url: str, role: Role) -> None:
    recorder = Recorder()
    with pytest.raises(ConnectError) as caught:
        await client_transport(url, role).dial(role, recorder, Limits(), Flusher(asyncio.get_running_loop()))
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert recorder.told == {}


@pytest.mark.parametrize("role", list(Role))
async def test_a_dialled_connection_has_its_role_its_dialect_and_an_id(role: Role) -> None:
    flusher = Flusher(asyncio.get_running_loop())
    listener = server_transport("tcp://127.0.0.1:0", role)
    theirs, mine = Recorder(), Recorder()
    await listener.start(role, theirs, Limits(), flusher)
    dialler = client_transport(listener.url, role)
    one, two = [await dialler.dial(role, mine, Limits(), flusher) for _ in range(2)]
    assert (one.role, one.dialect, len(one.id)) == (role, Dialect.BINARY, 16)
    assert one.id != two.id
    assert one.address == listener.url.removeprefix("tcp://")
    for connection in (one, two):
        connection.abort(CloseReason.NORMAL)
    await theirs.until(lambda: theirs.count("closed") == theirs.count("accepts"), "an end was not told")
    await mine.until(lambda: mine.count("closed") == 2, "an end was not told")
    await listener.stop()
