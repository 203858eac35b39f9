"""Unix sockets."""

import asyncio
import os
import socket
import stat
from contextlib import suppress
from urllib.parse import quote

from reasonchip_broker.errors import ConnectError, ListenError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Dialect, Role
from reasonchip_broker.transports.client_transport import ClientTransport
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.server_transport import ConnectionHandler, ServerTransport
from reasonchip_broker.transports.tcp import BACKLOG, close_servers, describe

_PROBE_S = 1.0


class UnixServerTransport(ServerTransport):
    """Listens on a path. A socket that is there already is replaced only if nobody listens on it."""

    def __init__(self, path: str, *, json_queue: bool = False) -> None:
        self.path = path
        self.json_queue = json_queue
        self._server: asyncio.Server | None = None
        self._inode: int | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{quote(self.path, errors='surrogateescape')}"

    async def start(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> None:
        """Listen. Raises ListenError."""
        loop = asyncio.get_running_loop()

        def make() -> Connection:
            return Connection(handler, os.urandom(16), role, limits, flusher, json_queue=self.json_queue)

        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._clear_stale()
            sock.bind(self.path)
            sock.setblocking(False)
            self._inode = os.stat(self.path).st_ino
            self._server = await loop.create_unix_server(make, sock=sock, backlog=BACKLOG)
        except (OSError, ValueError) as error:
            sock.close()
            self._unlink()
            raise ListenError(f"can't listen on {self.url}: {describe(error)}") from error
        except ListenError:
            sock.close()
            raise

    def _clear_stale(self) -> None:
        try:
            if not stat.S_ISSOCK(os.stat(self.path).st_mode):
                raise ListenError(f"can't listen on {self.url}: there is a file of that name that is no socket")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_S)
            try:
                probe.connect(self.path)
            except (ConnectionRefusedError, FileNotFoundError):
                os.unlink(self.path)
                return
            except OSError:
                pass
        raise ListenError(f"can't listen on {self.url}: somebody listens there already")

    async def stop(self) -> None:
        """Stop listening, and take the socket away if it is still this one."""
        server, self._server = self._server, None
        if server is None:
            return
        await close_servers([server])
        self._unlink()

    def _unlink(self) -> None:
        """Take the socket away if it is still the one that was made here."""
        if self._inode is not None:
            with suppress(FileNotFoundError):
                if os.stat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
            self._inode = None


class UnixClientTransport(ClientTransport):
    """Dials a path."""

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def url(self) -> str:
        """Where it dials."""
        return f"unix://{quote(self.path, errors='surrogateescape')}"

    async def dial(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> Connection:
        """Connect. Raises ConnectError."""
        loop = asyncio.get_running_loop()

        def make() -> Connection:
            return Connection(handler, os.urandom(16), role, limits, flusher, dialect=Dialect.BINARY)

        try:
            async with asyncio.timeout(limits.handshake_s):
                _, connection = await loop.create_unix_connection(make, self.path)
        except (OSError, ValueError) as error:
            raise ConnectError(f"can't connect to {self.url}: {describe(error)}") from error
        return connection
