import socket
import tempfile

import click
import pytest

from reasonchip_broker.cli import listeners as module
from reasonchip_broker.cli.listeners import drop_in_urls, listeners, ready_urls
from reasonchip_broker.cli.settings import DEFAULTS, Settings, layered
from reasonchip_broker.errors import EndpointError
from reasonchip_broker.protocol.codes import Role


def urls(*, exposed=False, **said):
    clients, workers = listeners(layered(Settings(**said), DEFAULTS), exposed=exposed)
    return [transport.url for transport in clients], [transport.url for transport in workers]


@pytest.fixture
def with_ipv6(monkeypatch):
    monkeypatch.setattr(module, "_has_ipv6", lambda: True)


@pytest.mark.usefixtures("with_ipv6")
def test_by_default_existing_peers_find_it_on_this_machine():
    assert urls() == (["tcp://localhost:51500"], ["tcp://localhost:51510"])


def test_where_there_is_no_ipv6_the_other_loopback_address_does(monkeypatch):
    class NoSixes(socket.socket):
        def __init__(self, family=socket.AF_INET, *arguments):
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *arguments)

    monkeypatch.setattr(socket, "socket", NoSixes)
    assert urls() == (["tcp://127.0.0.1:51500"], ["tcp://127.0.0.1:51510"])


@pytest.mark.usefixtures("with_ipv6")
def test_drop_in_listens_wherever_existing_peers_look(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clients, workers = urls(drop_in=True)
    assert clients == ["tcp://localhost:51500", f"unix://{tmp_path}/reasonchip-broker-client.sock"]
    assert workers == ["tcp://localhost:51510", f"unix://{tmp_path}/reasonchip-broker-worker.sock"]


@pytest.mark.usefixtures("with_ipv6")
def test_drop_in_comes_beside_what_was_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clients, _ = urls(drop_in=True, clients=["unix:///run/mine.sock"])
    assert clients[0] == "unix:///run/mine.sock"
    assert len(clients) == 3


def test_a_temporary_directory_with_odd_characters_is_a_url_all_the_same(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/a b?c%20")
    (unix, _) = drop_in_urls(Role.CLIENT)
    clients, _ = urls(clients=[unix], workers=["unix:///w"])
    assert clients == ["unix:///tmp/a%20b%3Fc%2520/reasonchip-broker-client.sock"]


def test_one_address_named_twice_is_one_listener_but_each_port_0_is_another():
    clients, _ = urls(clients=["unix:///a", "unix:///a", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"])
    assert clients == ["unix:///a", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"]


@pytest.mark.parametrize("url", ["tcp://0.0.0.0:51500", "tcp://[::]", "tcp://broker.example", "tcp://192.0.2.1"])
@pytest.mark.parametrize("side", ["clients", "workers"])
def test_beyond_this_machine_it_listens_only_where_that_is_said_in_so_many_words(url, side):
    with pytest.raises(click.UsageError, match="--expose-without-authentication"):
        urls(**{side: [url]})
    assert urls(**{side: [url]}, exposed=True)


@pytest.mark.parametrize("url", ["tcp://127.0.0.2:0", "tcp://[::1]:0", "unix:///a", "socket:///a"])
def test_this_machine_alone_needs_no_such_words(url):
    assert urls(clients=[url])


def test_an_address_inside_the_process_is_of_no_use_here():
    with pytest.raises(EndpointError, match="only from inside this process"):
        urls(clients=["memory://x"])


def test_a_listener_queues_for_existing_clients_if_it_is_told_to():
    clients, workers = listeners(layered(Settings(json_queue=True), DEFAULTS), exposed=False)
    assert clients[0].json_queue
    assert not workers[0].json_queue


def test_the_ready_line_can_be_split_at_spaces_and_commas():
    assert ready_urls(["tcp://[::1]:5", "unix:///a b,c%"]) == "tcp://[::1]:5,unix:///a%20b%2Cc%"
