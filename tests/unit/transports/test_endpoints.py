"""URLs: what each means, and what is said of those that mean nothing."""

from pathlib import Path

import pytest
import trustme

from reasonchip_broker.errors import EndpointError
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.endpoints import Endpoint, client_transport, parse, server_transport
from reasonchip_broker.transports.memory import MemoryClientTransport, MemoryServerTransport
from reasonchip_broker.transports.tcp import TcpClientTransport, TcpServerTransport
from reasonchip_broker.transports.tls import TlsClientTransport, TlsServerTransport
from reasonchip_broker.transports.unix import UnixClientTransport, UnixServerTransport


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("endpoints") / "broker.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("tcp://127.0.0.1:7", Endpoint("tcp", host="127.0.0.1", port=7)),
        ("tcp://127.0.0.1:0/", Endpoint("tcp", host="127.0.0.1", port=0)),
        ("tcp://[::1]:7", Endpoint("tcp", host="::1", port=7)),
        ("tcp://broker.example", Endpoint("tcp", host="broker.example", port=51500)),
        ("tls://broker.example:1?ca=/a%20b", Endpoint("tls", host="broker.example", port=1, options={"ca": "/a b"})),
        ("unix:///run/b.sock", Endpoint("unix", path="/run/b.sock")),
        ("unix:///run/a%20b.sock?json_queue=1", Endpoint("unix", path="/run/a b.sock", options={"json_queue": "1"})),
        ("socket:///run/b.sock", Endpoint("unix", path="/run/b.sock")),
        ("memory://name", Endpoint("memory", path="name")),
    ],
)
def test_a_url_says_where(url: str, endpoint: Endpoint) -> None:
    assert parse(url, Role.CLIENT) == endpoint


@pytest.mark.parametrize(("role", "port"), [(Role.CLIENT, 51500), (Role.WORKER, 51510)])
@pytest.mark.parametrize("url", ["tcp://localhost", "tcp://localhost/", "tls://localhost"])
def test_a_port_that_is_not_given_is_where_existing_peers_look(url: str, role: Role, port: int) -> None:
    assert parse(url, role).port == port


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:51500",
        "http://localhost",
        "tcp:localhost",
        "tcp://",
        "tcp://:51500",
        "tcp://localhost:port",
        "tcp://localhost:65536",
        "tcp://localhost:-1",
        "tcp://localhost/path",
        "tcp://[::1",
        "unix://",
        "unix:///",
        "unix://run/b.sock",
        "unix:run.sock",
        "\x00",
        "tcp://local\nhost\x1b[31m/x",
    ],
)
@pytest.mark.parametrize("role", list(Role))
def test_a_url_that_means_nothing_is_one_line_that_says_what_would(url: str, role: Role) -> None:
    for make in (parse, server_transport, client_transport):
        with pytest.raises(EndpointError) as caught:
            make(url, role)
        assert str(caught.value).isprintable()
        assert "://" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("tcp://localhost", True),
        ("tcp://127.0.0.1", True),
        ("tcp://127.9.9.9", True),
        ("tcp://[::1]", True),
        ("unix:///run/b.sock", True),
        ("memory://b", True),
        ("tcp://0.0.0.0", False),
        ("tcp://[::]", False),
        ("tcp://10.0.0.1", False),
        ("tcp://broker.example", False),
        ("tcp://localhost.example", False),
        ("tls://192.0.2.1", False),
        ("tcp://[::ffff:10.0.0.1]", False),
    ],
)
def test_what_only_this_machine_can_reach_is_local(url: str, is_local: bool) -> None:
    assert parse(url, Role.CLIENT).is_local is is_local


def test_each_scheme_has_a_listener(certificate: Path) -> None:
    kinds = {
        "tcp://localhost": TcpServerTransport,
        "unix:///run/b.sock": UnixServerTransport,
        "memory://b": MemoryServerTransport,
        f"tls://localhost?cert={certificate}": TlsServerTransport,
    }
    assert {url: type(server_transport(url, Role.CLIENT)) for url in kinds} == kinds


def test_each_scheme_has_a_dialler(certificate: Path) -> None:
    kinds = {
        "tcp://localhost": TcpClientTransport,
        "unix:///run/b.sock": UnixClientTransport,
        "memory://b": MemoryClientTransport,
        "tls://localhost": TlsClientTransport,
    }
    assert {url: type(client_transport(url, Role.CLIENT)) for url in kinds} == kinds


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:7", "tcp://[::1]:7", "unix:///run/b.sock", "memory://b", "tls://localhost:7"])
def test_a_transport_tells_the_url_that_leads_to_it(url: str, certificate: Path) -> None:
    options = f"?cert={certificate}" if url.startswith("tls") else ""
    assert server_transport(url + options, Role.CLIENT).url == url
    assert client_transport(url, Role.CLIENT).url == url


@pytest.mark.parametrize("path", ["/run/a b.sock", "/run/100%.sock", "/run/what?.sock", "/run/#1.sock"])
def test_the_url_that_a_transport_tells_leads_to_it_whatever_its_path(path: str) -> None:
    assert parse(UnixServerTransport(path).url, Role.CLIENT).path == path


@pytest.mark.parametrize(
    ("query", "flag", "queues"),
    [
        ("", False, False),
        ("", True, True),
        ("?json_queue=1", False, True),
        ("?json_queue=yes", False, True),
        ("?json_queue=0", False, False),
        ("?json_queue=no", False, False),
        ("?json_queue=false", False, False),
    ],
)
@pytest.mark.parametrize("url", ["tcp://localhost", "unix:///run/b.sock", "memory://b", "tls://localhost"])
def test_a_listener_may_queue_for_existing_clients(url: str, query: str, flag: bool, queues: bool, certificate: Path) -> None:
    if url.startswith("tls"):
        query += f"{'&' if query else '?'}cert={certificate}"
    assert server_transport(url + query, Role.CLIENT, json_queue=flag).json_queue is queues


@pytest.mark.parametrize("url", ["tcp://localhost?jsonqueue=1", "unix:///run/b.sock?mode=600", "memory://b?size=1"])
def test_an_option_that_is_not_known_is_named(url: str) -> None:
    for make in (server_transport, client_transport):
        with pytest.raises(EndpointError, match=r"jsonqueue|mode|size") as caught:
            make(url, Role.CLIENT)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["tcp://localhost?cert=x", "unix:///run/b.sock?client_ca=x", "tcp://localhost?ca=x"])
def test_certificates_are_for_tls_alone_and_not_quietly_ignored_elsewhere(url: str) -> None:
    """Who writes them believes that the connection is encrypted."""
    for make in (server_transport, client_transport):
        with pytest.raises(EndpointError):
            make(url, Role.CLIENT)


def test_a_tls_listener_needs_a_certificate() -> None:
    with pytest.raises(EndpointError, match="cert="):
        server_transport("tls://localhost", Role.CLIENT)
