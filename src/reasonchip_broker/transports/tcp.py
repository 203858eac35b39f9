"""TCP, and what TLS shares with it."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from reasonchip_broker.errors import ConnectError, ListenError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Dialect, Role
from reasonchip_broker.transports.client_transport import ClientTransport
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.server_transport import ConnectionHandler, ServerTransport

KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3
USER_TIMEOUT_MS = 60_000
"""A peer without a lease (a JSON one) that fell silent is found by TCP: a minute of unanswered probes or data."""

_FREE_PORT_ATTEMPTS = 10
"""The free port that the first address of a name gets may be taken on the second; any other will do."""

BACKLOG = 4096
"""Connections that may wait to be accepted: thousands reconnect at once after a restart."""


def tune(sock: socket.socket) -> None:
    """Send small frames at once, and let the kernel find dead peers."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _tune(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        tune(sock)


class TcpServerTransport(ServerTransport):
    """Listens on a host and port; on both loopback addresses where the host is `localhost`. Port 0 takes a free one."""

    scheme = "tcp"

    def __init__(self, host: str, port: int, *, json_queue: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.port = port
        self.json_queue = json_queue
        self._tls = tls
        self._servers: list[asyncio.Server] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    async def start(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> None:
        """Listen. Raises ListenError."""
        loop = asyncio.get_running_loop()

        def make() -> Connection:
            return Connection(handler, os.urandom(16), role, limits, flusher, json_queue=self.json_queue, prepare=_tune)

        sockets = await self._bind()
        handshake_s = limits.tls_handshake_s if self._tls is not None else None
        try:
            for sock in sockets:
                server = await loop.create_server(
                    make, sock=sock, ssl=self._tls, ssl_handshake_timeout=handshake_s, backlog=BACKLOG
                )
                self._servers.append(server)
            # uvloop does not say that it could not listen: it closes the socket, and this fails.
            self.port = sockets[0].getsockname()[1]
        except OSError as error:
            # Two that start at once may both bind (SO_REUSEADDR allows it), and one of them then may not listen.
            await self.stop()
            for sock in sockets:
                with suppress(OSError):
                    sock.close()
            why = "somebody listens there already" if error.errno == errno.EBADF else describe(error)
            raise ListenError(f"can't listen on {self.url}: {why}") from error

    async def _bind(self) -> list[socket.socket]:
        loop = asyncio.get_running_loop()
        # Not every machine's `localhost` names both, and peers may try either.
        names = ("127.0.0.1", "::1") if self.host == "localhost" else (self.host,)
        infos: list[Any] = []
        for name in names:
            try:
                infos += await loop.getaddrinfo(name, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            except (OSError, UnicodeError) as error:
                if name == names[0]:
                    raise ListenError(f"can't listen on {self.url}: {describe(error)}") from error
        for attempt in range(1, _FREE_PORT_ATTEMPTS + 1):
            sockets, refusal = self._bind_all(list(dict.fromkeys(infos)))
            if refusal is None:
                return sockets
            for sock in sockets:
                sock.close()
            if self.port or refusal.errno != errno.EADDRINUSE or attempt == _FREE_PORT_ATTEMPTS:
                raise ListenError(f"can't listen on {self.url}: {describe(refusal)}") from refusal
        return []

    def _bind_all(self, infos: list[tuple[int, int, int, str, Any]]) -> tuple[list[socket.socket], OSError | None]:
        """Bind every address that this machine has, all to one port; what was bound, and what went wrong."""
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        port = self.port
        for family, kind, proto, _, address in infos:
            try:
                sock = socket.socket(family, kind, proto)
            except OSError as error:
                missing = error
                continue
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address[0], port, *address[2:]))
            except OSError as error:
                sock.close()
                if error.errno != errno.EADDRNOTAVAIL:
                    return sockets, error
                # Most containers have ::1 in their /etc/hosts and no IPv6: `localhost` is 127.0.0.1 there.
                missing = error
                continue
            sock.setblocking(False)
            port = sock.getsockname()[1]
            sockets.append(sock)
        return sockets, None if sockets else missing or OSError("the name has no address")

    async def stop(self) -> None:
        """Stop listening."""
        servers, self._servers = self._servers, []
        await close_servers(servers)


async def close_servers(servers: Sequence[asyncio.Server]) -> None:
    """End listeners of sockets. Whoever was accepted before is announced when this returns, or, with TLS, after its handshake."""
    loop = asyncio.get_running_loop()
    for server in servers:
        # asyncio accepts in one turn and makes the transport in the next. Were a server closed between the two, it would let go of
        # the accepted socket without a word, open as it is. So nobody is accepted any more first, and all who were get theirs.
        for sock in server.sockets:
            # uvloop has none any more where it could not listen.
            with suppress(ValueError):
                loop.remove_reader(sock)
    await asyncio.sleep(0)
    for server in servers:
        server.close()
    # They are announced a turn after they have their transports; and uvloop gives descriptors back in its next turn.
    await asyncio.sleep(0)


class TcpClientTransport(ClientTransport):
    """Dials a host and port."""

    scheme = "tcp"

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.port = port
        self._tls = tls

    @property
    def url(self) -> str:
        """Where it dials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    async def dial(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> Connection:
        """Connect. Raises ConnectError."""
        loop = asyncio.get_running_loop()

        def make() -> Connection:
            return Connection(handler, os.urandom(16), role, limits, flusher, dialect=Dialect.BINARY, prepare=_tune)

        try:
            async with asyncio.timeout(limits.handshake_s):
                _, connection = await loop.create_connection(make, self.host, self.port, ssl=self._tls)
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"can't connect to {self.url}: {describe(error)}") from error
        return connection


def describe(error: Exception) -> str:
    """What an error of the network says, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was refused: {error.verify_message}"
    if isinstance(error, UnicodeError):
        return "the host's name is not one that a host can have"
    text = str(getattr(error, "strerror", None) or str(error))
    if isinstance(error, OSError) and error.errno and text.startswith("Connect call failed"):
        text = os.strerror(error.errno)  # asyncio says where to in its place, which the URL says already.
    if isinstance(error, TimeoutError) and not text:
        return "no answer in time"
    return " ".join(text.split()) or type(error).__name__
