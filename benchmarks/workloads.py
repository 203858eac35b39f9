"""What is measured: which protocol, over which kind of socket, between how many peers, with what payload; and in which order.

A job is RUN to a worker and RESULT back to the client. The load is a *closed loop*: a client keeps a fixed number of jobs in flight
and sends the next one when an answer comes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TypeVar

KIB = 1024
MIB = 1024 * KIB
Item = TypeVar("Item")


class System(StrEnum):
    """Which broker, and which of its protocols, is measured."""

    BINARY = "binary"
    """Ours, binary protocol."""
    COMPILED = "compiled"
    """The same, with the core compiled."""
    JSON = "json"
    """Ours, the JSON protocol of existing ReasonChip peers."""
    NATS = "nats"
    """NATS, request and reply with a queue group."""
    RELAY = "relay"
    """A byte relay in C that speaks no protocol: the peers of our binary one speak through it."""
    GEARMAN = "gearman"
    """gearmand, its binary protocol."""
    REDIS = "redis"
    """Redis, lists with blocking pops."""
    RABBITMQ = "rabbitmq"
    """RabbitMQ, direct reply-to."""


OURS = (System.BINARY, System.COMPILED, System.JSON)


class Socket(StrEnum):
    """What the peers connect over."""

    TCP = "tcp"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class Shape:
    """How many peers there are, how much they do at once, and how large the variables and the result of a job are."""

    name: str
    clients: int
    in_flight: int
    """Jobs in flight of each client."""
    workers: int
    capacity: int
    """Jobs at once of each worker; there are never more jobs than slots."""
    payload_bytes: int
    """Size of the variables, and of the result."""


ONE = Shape("1x1-100B", clients=1, in_flight=1, workers=1, capacity=1, payload_bytes=100)
SMALL = Shape("4x32-100B", clients=4, in_flight=32, workers=4, capacity=32, payload_bytes=100)
MANY_JOBS = Shape("4x64-100B", clients=4, in_flight=64, workers=4, capacity=64, payload_bytes=100)
MANY_PEERS = Shape("64x64-100B", clients=64, in_flight=1, workers=64, capacity=1, payload_bytes=100)
LARGE = Shape("4x8-64KiB", clients=4, in_flight=8, workers=4, capacity=8, payload_bytes=64 * KIB)
HUGE = Shape("4x2-1MiB", clients=4, in_flight=2, workers=4, capacity=2, payload_bytes=MIB)

SHAPES = (ONE, SMALL, MANY_JOBS, MANY_PEERS, LARGE, HUGE)
"""In the order in which they are measured and reported."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing that is measured."""

    system: System
    socket: Socket
    shape: Shape

    @property
    def name(self) -> str:
        """As `--only` and the table have it: `binary-tcp-4x64-100B`."""
        return f"{self.system}-{self.socket}-{self.shape.name}"

    @property
    def baseline(self) -> "Workload":
        """What it is compared with: NATS, the same shape, over TCP (NATS has no Unix sockets)."""
        return Workload(System.NATS, Socket.TCP, self.shape)


@dataclass(frozen=True, slots=True)
class IdleWorkload:
    """Connections that are open and welcomed and do nothing: what each costs the broker in memory."""

    system: System

    @property
    def name(self) -> str:
        """As `--only` and the table have it: `idle-binary-tcp`."""
        return f"idle-{self.system}-{Socket.TCP}"


IDLE = (IdleWorkload(System.BINARY), IdleWorkload(System.NATS))


def _of(socket: Socket, binary: Iterable[Shape], json: Iterable[Shape]) -> list[Workload]:
    """Our own workloads over one kind of socket."""
    chosen = [Workload(System.BINARY, socket, shape) for shape in binary]
    return chosen + [Workload(System.JSON, socket, shape) for shape in json]


EVERYTHING: tuple[Workload, ...] = (
    *_of(Socket.TCP, [ONE, MANY_JOBS, MANY_PEERS, LARGE, HUGE], [ONE, SMALL, MANY_JOBS, MANY_PEERS, LARGE, HUGE]),
    *_of(Socket.UNIX, [ONE, MANY_JOBS, MANY_PEERS, LARGE, HUGE], [ONE, SMALL, MANY_JOBS, MANY_PEERS, LARGE, HUGE]),
)
QUICK: tuple[Workload, ...] = (
    *_of(Socket.TCP, [ONE, MANY_JOBS, MANY_PEERS, LARGE], [SMALL]),
    *_of(Socket.UNIX, [MANY_JOBS], []),
)


def _matches(name: str, pattern: str | None) -> bool:
    """Whether `name` is asked for: by words of it (`4x64` is not `64x64`), or by a pattern with `*` and `?`; None asks for all."""
    return pattern is None or f"-{pattern}" in f"-{name}" or fnmatchcase(name, pattern)


def select(pattern: str | None, *, quick: bool, nats: bool) -> list[Workload]:
    """The workloads to measure, of one shape next to each other, each shape with the NATS workload that it is compared with.

    `quick` takes the few that tell most. `nats` off leaves NATS out.
    """
    available = QUICK if quick else EVERYTHING
    baselines = dict.fromkeys(workload.baseline for workload in available) if nats else {}
    chosen = [workload for workload in (*baselines, *available) if _matches(workload.name, pattern)]
    ordered: list[Workload] = []
    for shape in SHAPES:
        group = [workload for workload in chosen if workload.shape == shape]
        if group and nats:
            ordered.append(group[0].baseline)
        ordered += [workload for workload in group if workload.system is not System.NATS]
    return ordered


def select_idle(pattern: str | None, *, nats: bool) -> list[IdleWorkload]:
    """The idle workloads to measure; NATS comes along wherever ours does."""
    chosen = [workload for workload in IDLE if _matches(workload.name, pattern) and workload.system is not System.NATS]
    if nats and any(_matches(workload.name, pattern) for workload in IDLE):
        chosen.append(IdleWorkload(System.NATS))
    return chosen


def rotated(items: Sequence[Item], number: int) -> list[Item]:
    """The order of round `number` (from 0): another one goes first each round, so that none always has the machine first."""
    first = number % len(items) if items else 0
    return [*items[first:], *items[:first]]


def turns(workloads: Sequence[Workload], number: int) -> list[Workload]:
    """The order of round `number` (from 0): shape by shape, and within a shape another system goes first each round.

    What is compared is measured within seconds of each other, and none always has the machine first.
    """
    order: list[Workload] = []
    for shape in dict.fromkeys(workload.shape for workload in workloads):
        group = [workload for workload in workloads if workload.shape == shape]
        order += rotated(group, number)
    return order
