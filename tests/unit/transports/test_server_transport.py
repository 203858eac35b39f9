"""The listening interface itself; its implementations are held to it in tests/conformance/test_server_transports.py."""

import pytest

from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.endpoints import server_transport
from reasonchip_broker.transports.memory import MemoryServerTransport
from reasonchip_broker.transports.server_transport import ServerTransport
from reasonchip_broker.transports.tcp import TcpServerTransport
from reasonchip_broker.transports.tls import TlsServerTransport
from reasonchip_broker.transports.unix import UnixServerTransport


def test_an_implementation_has_a_url_a_start_and_a_stop() -> None:
    assert ServerTransport.__abstractmethods__ == {"url", "start", "stop"}


def test_without_a_word_existing_clients_are_not_queued_for() -> None:
    assert ServerTransport.json_queue is False


@pytest.mark.parametrize("kind", [TcpServerTransport, TlsServerTransport, UnixServerTransport, MemoryServerTransport])
def test_every_implementation_is_one(kind: type) -> None:
    assert issubclass(kind, ServerTransport)


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "unix:///run/b.sock", "memory://b"])
async def test_one_that_never_started_can_be_stopped(url: str) -> None:
    transport = server_transport(url, Role.CLIENT)
    await transport.stop()
    assert transport.url == url
