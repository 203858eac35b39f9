"""Where `serve` listens, and where it refuses to."""

import socket
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import click

from reasonchip_broker.cli.settings import Settings
from reasonchip_broker.errors import EndpointError
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.endpoints import Endpoint, parse, server_transport
from reasonchip_broker.transports.server_transport import ServerTransport

EXPOSE_FLAG = "--expose-without-authentication"

DROP_IN_SOCKETS = {Role.CLIENT: "reasonchip-broker-client.sock", Role.WORKER: "reasonchip-broker-worker.sock"}
"""In the temporary directory: where existing ReasonChip peers look before they try TCP."""


def listeners(settings: Settings, *, exposed: bool) -> tuple[list[ServerTransport], list[ServerTransport]]:
    """The listeners for clients and for workers.

    Raises click.UsageError for one beyond this machine, unless `exposed` says that it is meant; EndpointError for a URL that is none.
    """
    clients = _listeners(settings.clients or (), Role.CLIENT, settings, exposed=exposed)
    return clients, _listeners(settings.workers or (), Role.WORKER, settings, exposed=exposed)


def drop_in_urls(role: Role) -> list[str]:
    """Where existing ReasonChip peers of this role look for a broker if they are not told."""
    path = Path(tempfile.gettempdir(), DROP_IN_SOCKETS[role])
    return [f"unix://{quote(str(path))}", "tcp://localhost"]


def ready_urls(urls: Iterable[str]) -> str:
    """URLs for the ready line, which is split at spaces and commas: neither is left inside a URL."""
    return ",".join(quote(url, safe=":/[]%") for url in urls)


def _listeners(urls: Sequence[str], role: Role, settings: Settings, *, exposed: bool) -> list[ServerTransport]:
    wanted = [*urls, *(drop_in_urls(role) if settings.drop_in else ())]
    queue = role is Role.CLIENT and bool(settings.json_queue)
    found: dict[str, ServerTransport] = {}
    for url in wanted:
        endpoint = parse(url, role)
        if endpoint.scheme == "memory":
            raise EndpointError(f"{url!r} is reached only from inside this process: use tcp://, tls:// or unix://")
        if not endpoint.is_local and not exposed:
            raise click.UsageError(
                f"Refused to listen on {url}: there is no authentication yet, so whoever reaches it can run jobs, and cancel those "
                f"of others. Use localhost or a Unix socket, or say {EXPOSE_FLAG}."
            )
        transport = server_transport(_reachable(url, endpoint), role, json_queue=queue)
        if endpoint.port == 0 and endpoint.scheme != "unix":
            found[f"{transport.url} #{len(found)}"] = transport  # each port 0 is another port
        else:
            found.setdefault(transport.url, transport)
    return list(found.values())


def _reachable(url: str, endpoint: Endpoint) -> str:
    """`localhost` is both loopback addresses, but where this machine has no IPv6 the other one must do."""
    if endpoint.host != "localhost" or _has_ipv6():
        return url
    return url.replace("localhost", "127.0.0.1", 1)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
