"""The switchboard's record of one live connection."""

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from reasonchip_broker.protocol.codes import Dialect, Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.routing.effects import Link
from reasonchip_broker.routing.shares import Share
from reasonchip_broker.routing.timers import Timer

if TYPE_CHECKING:
    from reasonchip_broker.routing.packs import Pack
    from reasonchip_broker.routing.roster import Worker
    from reasonchip_broker.routing.route import Route

Handler: TypeAlias = "Callable[[Peer, Frame], None]"
Handlers: TypeAlias = dict[int, Handler]
Reader: TypeAlias = "Callable[[Peer, list[Frame]], bool]"
"""Returns whether nothing came of them but frames to be sent."""

ELSE: Final = -1
"""The handler of a table for what is not in it."""


class PeerState(IntEnum):
    """How far a connection has come. JSON peers are welcomed from the start: they know no handshake."""

    GREETING = 1
    WELCOMED = 2
    GONE = 3


class Peer:
    """One live connection: who it is, what it may say next (`handlers`), what it has running."""

    __slots__ = (
        "acknowledged",
        "awaited",
        "congested",
        "dialect",
        "grace_s",
        "handlers",
        "heard_at",
        "id",
        "kept_bytes",
        "last_pack",
        "leaving",
        "link",
        "name",
        "pack",
        "principal",
        "process",
        "queues",
        "reader",
        "results",
        "role",
        "sends",
        "share",
        "state",
        "ties",
        "timer",
        "unacknowledged",
        "unfinished",
        "unheard",
        "worker",
    )

    def __init__(
        self, link: Link, connection_id: bytes, role: Role, dialect: Dialect, principal: str, queues: bool, share: Share
    ) -> None:
        self.link = link
        self.id = connection_id
        self.role = role
        self.dialect = dialect
        self.principal = principal
        self.share = share
        """The fairness key of its jobs that name none."""
        self.queues = queues
        """Whether a RUN of this peer may wait in the backlog without saying so."""
        self.state = PeerState.GREETING
        self.handlers: Handlers = {}
        self.reader: Reader | None = None
        """What takes its frames while most of them are of plain jobs; None: `handlers`, one by one."""
        self.heard_at = 0.0
        self.timer: Timer | None = None
        self.name = ""
        self.congested = False
        self.leaving = False
        """A worker that said DRAIN, perhaps before it registered."""
        self.process = b""
        """A worker's process, random for each."""
        self.grace_s = 0
        """How long a worker's jobs wait for it to come back."""
        self.results = 0
        """RESULTs that a worker with such a grace has sent."""
        self.ties: dict[Route, None] | None = None
        """Jobs that are to be looked at when it goes: it follows them, or their policy says so."""
        self.unacknowledged: deque[Route | Pack] | None = None
        """Jobs whose RESULT it was sent and has not acknowledged, in order, singly and by the pack."""
        self.awaited = 0
        """How many they are."""
        self.pack: Pack | None = None
        """What its RESULTs go into in the present step."""
        self.last_pack: Pack | None = None
        """What its last RESULT went into, if more may be put into that: nothing else was sent after it that can be acknowledged."""
        self.unheard: deque[Route] | None = None
        """Jobs that it had detached and that are over, in order: nobody was sent their RESULT."""
        self.acknowledged = 0
        """How many it has acknowledged in all, modulo 2³²; those that were dropped meanwhile count too."""
        self.kept_bytes = 0
        """Bytes of the outcomes that are kept for it."""
        self.unfinished = 0
        """A client's jobs that are not over."""
        self.sends: list[bytes] = []
        """Frames for it, of the present step."""
        self.worker: Worker | None = None
        """A registered worker's slots."""
