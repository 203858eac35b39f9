"""URLs into transports: `tcp://host[:port]`, `tls://host[:port]`, `unix:///path` (`socket:///path` is the same), `memory://name`.

Options stand in the query: `json_queue=1` (a client listener queues for existing clients), and for TLS `cert`, `key`, `client_ca` of a
listener, `ca`, `cert`, `key` of a dialler.
"""

from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import parse_qsl, unquote, urlsplit

from reasonchip_broker.errors import EndpointError
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.client_transport import ClientTransport
from reasonchip_broker.transports.memory import MemoryClientTransport, MemoryServerTransport
from reasonchip_broker.transports.server_transport import ServerTransport
from reasonchip_broker.transports.tcp import TcpClientTransport, TcpServerTransport
from reasonchip_broker.transports.tls import TlsClientTransport, TlsServerTransport, client_context, server_context
from reasonchip_broker.transports.unix import UnixClientTransport, UnixServerTransport

DEFAULT_PORTS = {Role.CLIENT: 51500, Role.WORKER: 51510}
_LISTENER_OPTIONS = {"json_queue"}
_TLS_LISTENER_OPTIONS = {"json_queue", "cert", "key", "client_ca"}
_TLS_DIALLER_OPTIONS = {"ca", "cert", "key"}
_FORMS = "use tcp://host[:port], tls://host[:port], unix:///path or memory://name"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed URL: `host` and `port` of tcp and tls, `path` of unix and memory."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.scheme in ("unix", "memory") or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(url: str, role: Role) -> Endpoint:
    """Read a URL; `role` gives the default port. Raises EndpointError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise EndpointError(f"{url!r} is no endpoint ({error}): {_FORMS}") from error
    options = dict(parse_qsl(parts.query))
    scheme = "unix" if parts.scheme == "socket" else parts.scheme
    if scheme in ("tcp", "tls"):
        if not parts.hostname or parts.path not in ("", "/"):
            raise EndpointError(f"{url!r} is no endpoint: {_FORMS}")
        return Endpoint(scheme, host=parts.hostname, port=DEFAULT_PORTS[role] if port is None else port, options=options)
    if scheme == "unix":
        if parts.netloc or not parts.path.startswith("/") or not parts.path.strip("/"):
            raise EndpointError(f"{url!r} is no endpoint: a Unix socket is unix:///path, with three slashes")
        return Endpoint(scheme, path=unquote(parts.path), options=options)
    if scheme == "memory":
        return Endpoint(scheme, path=parts.netloc + parts.path, options=options)
    raise EndpointError(f"{url!r} is no endpoint: {_FORMS}")


def _check_options(url: str, endpoint: Endpoint, known: set[str]) -> None:
    unknown = set(endpoint.options) - known
    if unknown:
        raise EndpointError(
            f"{url!r} has an option that is not known: {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}"
        )


def server_transport(url: str, role: Role, *, json_queue: bool = False) -> ServerTransport:
    """A listener for a URL. Raises EndpointError."""
    endpoint = parse(url, role)
    _check_options(url, endpoint, _TLS_LISTENER_OPTIONS if endpoint.scheme == "tls" else _LISTENER_OPTIONS)
    options = endpoint.options
    queue = json_queue or options.get("json_queue", "0") not in ("0", "no", "false")
    if endpoint.scheme == "tcp":
        return TcpServerTransport(endpoint.host, endpoint.port, json_queue=queue)
    if endpoint.scheme == "unix":
        return UnixServerTransport(endpoint.path, json_queue=queue)
    if endpoint.scheme == "memory":
        return MemoryServerTransport(endpoint.path, json_queue=queue)
    if "cert" not in options:
        raise EndpointError(f"{url!r} needs a certificate: tls://host:port?cert=FILE&key=FILE")
    context = server_context(options["cert"], options.get("key"), options.get("client_ca"))
    return TlsServerTransport(endpoint.host, endpoint.port, context, json_queue=queue)


def client_transport(url: str, role: Role) -> ClientTransport:
    """A dialler for a URL. Raises EndpointError."""
    endpoint = parse(url, role)
    _check_options(url, endpoint, _TLS_DIALLER_OPTIONS if endpoint.scheme == "tls" else set())
    options = endpoint.options
    if endpoint.scheme == "tcp":
        return TcpClientTransport(endpoint.host, endpoint.port)
    if endpoint.scheme == "unix":
        return UnixClientTransport(endpoint.path)
    if endpoint.scheme == "memory":
        return MemoryClientTransport(endpoint.path)
    context = client_context(options.get("ca"), options.get("cert"), options.get("key"))
    return TlsClientTransport(endpoint.host, endpoint.port, context)
