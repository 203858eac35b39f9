"""Starting a broker under test: a real process, pinned, on addresses of its own.

Ours runs as a user would run it, with everything on that a default broker has. The one flag that is not a default is
`--json-slot-rest-ms 0`, for JSON workloads only: existing workers need a rest between two jobs of a slot, ours do not.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import nats_server
from benchmarks.errors import BenchError
from benchmarks.peers import servers
from benchmarks.process import Child, pinned
from benchmarks.workloads import OURS, Socket, System

START_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that answers."""

    child: Child
    clients: str
    """URL for clients: `tcp://127.0.0.1:40001` or `unix:///tmp/…/clients.sock`."""
    workers: str
    """URL for workers."""


@dataclass(frozen=True, slots=True)
class Commands:
    """How the brokers are started."""

    ours: tuple[str, ...]
    """What comes before `serve`."""
    nats: Path | None
    """The nats-server executable, unless NATS is left out."""
    limits: tuple[str, ...] = ()
    """Of ours, those that are not the defaults: `connections_max=20000`."""
    compiled: tuple[str, ...] = ()
    """The same as `ours`, of an installation with the core compiled, if there is one."""


def our_command(python: str) -> tuple[str, ...]:
    """Our broker as installed for the interpreter `python`."""
    return (python, "-m", "reasonchip_broker")


@contextmanager
def running(system: System, socket: Socket, commands: Commands, core: int, directory: Path) -> Iterator[Running]:
    """A fresh broker on `core`, which ends with the block. Files go to `directory`, which must be empty. Raises BenchError."""
    if system is System.NATS:
        if commands.nats is None:
            raise BenchError("NATS was left out")
        with nats_server.start(commands.nats, core, directory) as child:
            url = nats_server.wait_for_url(child, directory)
            yield Running(child, clients=url, workers=url)
        return
    if system not in OURS:
        with servers.running(system, socket, core, directory) as (child, clients, workers):
            yield Running(child, clients, workers)
        return
    command = [*(commands.compiled if system is System.COMPILED else commands.ours), "serve", *_addresses(socket, directory)]
    for limit in commands.limits:
        command += ["--limit", limit]
    if system is System.JSON:
        command += ["--json-slot-rest-ms", "0"]
    with Child("our broker", pinned(core, command), directory / "broker.log", cwd=directory) as child:
        line = child.read_line(START_TIMEOUT_S, "that it is ready")
        try:
            clients, workers = parse_ready(line)
        except ValueError:
            raise child.failed(f"printed {line!r} where `ready clients=… workers=…` was expected") from None
        yield Running(child, clients=clients, workers=workers)


def _addresses(socket: Socket, directory: Path) -> Sequence[str]:
    """The flags that tell our broker where to listen: a free port, or a path in `directory`, for each side."""
    if socket is Socket.TCP:
        return ["--clients", "tcp://127.0.0.1:0", "--workers", "tcp://127.0.0.1:0"]
    return ["--clients", f"unix://{directory}/clients.sock", "--workers", f"unix://{directory}/workers.sock"]


def parse_ready(line: str) -> tuple[str, str]:
    """The first client URL and the first worker URL of `ready clients=URL,URL workers=URL,URL`. Raises ValueError if it is not that."""
    word, *pairs = line.split()
    values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if word != "ready" or not values.get("clients") or not values.get("workers"):
        raise ValueError(f"not a ready line: {line!r}")
    return values["clients"].split(",")[0], values["workers"].split(",")[0]
