"""TLS: who is let in, who is not, and what is said of files that can't be used. Of a peer that is refused not a byte is processed."""

import asyncio
import datetime
import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import uvloop

from reasonchip_broker.errors import ConnectError, EndpointError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.protocol.frames import PREFACE
from reasonchip_broker.testing.transport_peers import Peer, Recorder, numbered
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.tls import TlsClientTransport, TlsServerTransport, client_context, server_context

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


class Certificates:
    """Two authorities that know nothing of each other, and what the first certified."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority, self.stranger = trustme.CA(), trustme.CA()
        self.ca = self._write("ca", self.authority.cert_pem)
        self.other_ca = self._write("other-ca", self.stranger.cert_pem)
        self.broker = self.issue("broker", self.authority, "127.0.0.1")
        self.client = self.issue("client", self.authority, "client.example")
        self.strange_client = self.issue("strange-client", self.stranger, "client.example")
        self.expired_client = self.issue("expired-client", self.authority, "client.example", LONG_AGO)

    def _write(self, name: str, pem: trustme.Blob) -> str:
        path = self._folder / f"{name}.pem"
        pem.write_to_path(str(path))
        return str(path)

    def issue(self, name: str, authority: trustme.CA, identity: str, not_after: datetime.datetime | None = None) -> str:
        certificate = authority.issue_cert(identity, not_after=not_after)
        return self._write(name, certificate.private_key_and_cert_chain_pem)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop) as runner:
        yield runner


class Listening:
    """A TLS listener at work, and what it heard."""

    def __init__(self, context: ssl.SSLContext, limits: Limits | None = None) -> None:
        self.transport = TlsServerTransport("127.0.0.1", 0, context)
        self.recorder = Recorder()
        self.limits = limits or Limits()

    async def __aenter__(self) -> "Listening":
        await self.transport.start(Role.CLIENT, self.recorder, self.limits, Flusher(asyncio.get_running_loop()))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.transport.stop()

    async def dial(self, context: ssl.SSLContext) -> tuple[Recorder, object]:
        mine = Recorder()
        dialler = TlsClientTransport("127.0.0.1", self.transport.port, context)
        connection = await dialler.dial(Role.CLIENT, mine, Limits(), Flusher(asyncio.get_running_loop()))
        return mine, connection

    async def require_untouched(self, good: ssl.SSLContext) -> None:
        """Whoever came before, the handler has heard nothing of; and one who may come in is served."""
        assert self.recorder.told == {}
        mine, _ = await self.dial(good)
        connection = mine.connections[0]
        connection.send(PREFACE + numbered(1))
        await self.recorder.until(lambda: self.recorder.count("received") == 1, "a good client was not served")
        connection.close(CloseReason.NORMAL, "done")
        await self.recorder.until(lambda: self.recorder.count("closed") == 1, "its end was not told")
        await mine.until(lambda: mine.count("closed") == 1, "its end was not told at its own end")


def test_the_url_names_host_and_port(certificates: Certificates) -> None:
    assert TlsServerTransport("::1", 7, server_context(certificates.broker)).url == "tls://[::1]:7"
    assert TlsClientTransport("localhost", 7, client_context()).url == "tls://localhost:7"


def test_both_ends_speak_tls_1_2_or_later(certificates: Certificates) -> None:
    assert server_context(certificates.broker).minimum_version >= ssl.TLSVersion.TLSv1_2
    assert client_context(certificates.ca).minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_dialler_checks_the_authority_and_the_name(certificates: Certificates) -> None:
    context = client_context(certificates.ca)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("problem", ["missing", "no PEM", "no key", "key of another", "missing authority", "no authority"])
def test_files_that_can_not_be_used_are_one_line(certificates: Certificates, tmp_path: Path, problem: str) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    missing = str(tmp_path / "missing.pem")
    arguments = {
        "missing": (missing,),
        "no PEM": (str(nonsense),),
        "no key": (certificates.ca,),
        "key of another": (certificates.broker, certificates.client),
        "missing authority": (certificates.broker, None, missing),
        "no authority": (certificates.broker, None, str(nonsense)),
    }[problem]
    with pytest.raises(EndpointError) as caught:
        server_context(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("problem", ["missing authority", "no authority", "missing certificate", "no key"])
def test_files_of_a_dialler_that_can_not_be_used_are_one_line(certificates: Certificates, tmp_path: Path, problem: str) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    missing = str(tmp_path / "missing.pem")
    arguments = {
        "missing authority": (missing,),
        "no authority": (str(nonsense),),
        "missing certificate": (certificates.ca, missing),
        "no key": (certificates.ca, certificates.ca),
    }[problem]
    with pytest.raises(EndpointError) as caught:
        client_context(*arguments)
    assert "\n" not in str(caught.value)


def test_a_folder_instead_of_a_file_is_one_line(certificates: Certificates, tmp_path: Path) -> None:
    for make in (lambda: server_context(str(tmp_path)), lambda: client_context(str(tmp_path))):
        with pytest.raises(EndpointError) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_row_26_a_broker_of_a_wrong_authority_is_not_trusted(runner: asyncio.Runner, certificates: Certificates) -> None:
    async def check() -> None:
        async with Listening(server_context(certificates.broker)) as it:
            with pytest.raises(ConnectError, match="certificate was refused"):
                await it.dial(client_context(certificates.other_ca))
            await it.require_untouched(client_context(certificates.ca))

    runner.run(check())


def test_row_26_a_broker_with_an_expired_certificate_is_not_trusted(runner: asyncio.Runner, certificates: Certificates) -> None:
    expired = certificates.issue("expired-broker", certificates.authority, "127.0.0.1", LONG_AGO)

    async def check() -> None:
        async with Listening(server_context(expired)) as it:
            with pytest.raises(ConnectError, match=r"certificate was refused.*expired"):
                await it.dial(client_context(certificates.ca))
            assert it.recorder.told == {}

    runner.run(check())


def test_row_26_a_broker_with_another_name_is_not_trusted(runner: asyncio.Runner, certificates: Certificates) -> None:
    elsewhere = certificates.issue("elsewhere", certificates.authority, "broker.example")

    async def check() -> None:
        async with Listening(server_context(elsewhere)) as it:
            with pytest.raises(ConnectError, match=r"certificate was refused.*127\.0\.0\.1"):
                await it.dial(client_context(certificates.ca))
            assert it.recorder.told == {}

    runner.run(check())


@pytest.mark.parametrize("kind", ["none", "strange", "expired"])
def test_row_26_a_client_whose_certificate_is_not_accepted_gets_nowhere(
    runner: asyncio.Runner, certificates: Certificates, kind: str
) -> None:
    """With TLS 1.3 such a client learns of it only after its own end of the handshake: it may have sent by then, and nobody hears."""
    own = {"none": None, "strange": certificates.strange_client, "expired": certificates.expired_client}[kind]

    async def check() -> None:
        async with Listening(server_context(certificates.broker, None, certificates.ca)) as it:
            try:
                mine, _ = await it.dial(client_context(certificates.ca, own))
            except ConnectError:
                pass
            else:
                mine.connections[0].send(PREFACE + numbered(1))
                await mine.until(lambda: mine.count("closed") == 1, "a client without a good certificate was not sent away")
                assert mine.count("received") == 0
            await it.require_untouched(client_context(certificates.ca, certificates.client))

    runner.run(check())


def test_row_26_tls_1_1_is_not_spoken(runner: asyncio.Runner, certificates: Certificates) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(certificates.ca)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")

    async def check() -> None:
        async with Listening(server_context(certificates.broker)) as it:
            with pytest.raises(ConnectError):
                await it.dial(old)
            await it.require_untouched(client_context(certificates.ca))

    runner.run(check())


def test_row_26_tls_1_2_is_spoken(runner: asyncio.Runner, certificates: Certificates) -> None:
    context = client_context(certificates.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def check() -> None:
        async with Listening(server_context(certificates.broker)) as it:
            await it.require_untouched(context)

    runner.run(check())


@pytest.mark.parametrize(
    "opening", [PREFACE + numbered(1), b"\x00\x00\x00\x02{}", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff"]
)
def test_row_26_plain_text_to_a_tls_port_is_not_heard(
    runner: asyncio.Runner, certificates: Certificates, opening: bytes
) -> None:
    async def check() -> None:
        async with Listening(server_context(certificates.broker), Limits(tls_handshake_s=0.2)) as it:
            peer = Peer()
            await asyncio.get_running_loop().create_connection(lambda: peer, "127.0.0.1", it.transport.port)
            peer.live.write(opening)
            await peer.until(lambda: peer.is_lost, "a peer that speaks no TLS was not sent away")
            assert peer.frames == []
            await it.require_untouched(client_context(certificates.ca))

    runner.run(check())


def test_row_20_a_tls_handshake_that_drips_is_given_up_in_time(runner: asyncio.Runner, certificates: Certificates) -> None:
    """Fifty that drip a record's first bytes, and fifty that say nothing at all."""

    async def check() -> None:
        async with Listening(server_context(certificates.broker), Limits(tls_handshake_s=0.3)) as it:
            loop = asyncio.get_running_loop()
            peers = [Peer() for _ in range(100)]
            began = loop.time()
            for peer in peers:
                await loop.create_connection(lambda peer=peer: peer, "127.0.0.1", it.transport.port)  # type: ignore[misc]

            def drip(peer: Peer, left: bytes) -> None:
                if left and not peer.is_lost:
                    peer.live.write(left[:1])
                    loop.call_later(0.05, drip, peer, left[1:])

            for peer in peers[::2]:
                drip(peer, b"\x16\x03\x01\x02\x00\x01" + bytes(100))
            await it.require_untouched(client_context(certificates.ca))
            for peer in peers:
                await peer.until(lambda peer=peer: peer.is_lost, "a handshake that drips was not given up")  # type: ignore[misc]
            assert loop.time() - began < 5

    runner.run(check())


def test_a_broker_that_speaks_no_tls_is_one_line(runner: asyncio.Runner) -> None:
    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as plain:
            dialler = TlsClientTransport("127.0.0.1", plain.getsockname()[1], client_context())
            with pytest.raises(ConnectError) as caught:
                await dialler.dial(Role.CLIENT, Recorder(), Limits(handshake_s=0.2), Flusher(asyncio.get_running_loop()))
            assert "\n" not in str(caught.value)

    runner.run(check())
