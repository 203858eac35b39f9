"""What a job has that asks for more than to be run: followers, progress, input, attempts, a place in a tree or a batch, timers.

A plain job has none of it, and nearly all jobs are plain; a million of them wait in a backlog at 500 bytes each. So all this is in
a record of its own, made when it is needed."""

from collections import deque
from typing import TYPE_CHECKING

from reasonchip_broker.protocol.schemas import AttemptRecord
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.replay import Ring
from reasonchip_broker.routing.timers import Timer

if TYPE_CHECKING:
    from reasonchip_broker.routing.route import Route


class Follower:
    """A connection that gets a job's outcome and, if it wants, its progress: where it is in it, and how much more it may be sent."""

    __slots__ = ("credit", "next", "peer")

    def __init__(self, peer: Peer, first: int, credit: int) -> None:
        self.peer = peer
        self.next = first
        """The number of the next chunk to send; 0: it wants none."""
        self.credit = credit


class Sender:
    """A connection that sent some input in a row, and the number of the last of it."""

    __slots__ = ("last", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.last = 0


class Extras:
    """The further record of one job. Numbers of chunks are the job's: they grow over all its attempts."""

    __slots__ = (
        "after_break",
        "attached",
        "attempt_began_at",
        "base",
        "batched",
        "children",
        "followers",
        "history",
        "input_credit",
        "input_next",
        "inputs",
        "orphan_timer",
        "parent",
        "progress",
        "senders",
        "wait_timer",
    )

    def __init__(self) -> None:
        self.followers: list[Follower] = []
        """Connections that follow it; the owner is among them if it wants progress, and is then the *primary* follower."""
        self.attached = False
        """Whether somebody attached, so that even a detached job's outcome is waited for."""
        self.progress: Ring | None = None
        self.base = 0
        """The highest number of progress in earlier attempts: a worker counts from 1 in each."""
        self.after_break = False
        """Whether its worker has just come back, and progress may have been lost on the way."""
        self.inputs: Ring | None = None
        self.input_next = 1
        """The number of the next chunk of input for this attempt."""
        self.input_credit = 0
        """How much more of it the worker may be sent."""
        self.senders: deque[Sender] = deque()
        """Who sent the input that is not credited yet, in order."""
        self.history: list[AttemptRecord] = []
        """Attempts that ended without ending the job."""
        self.attempt_began_at = 0.0
        self.parent: Route | None = None
        self.children: dict[bytes, Route] = {}
        """Live jobs that its handler has submitted, by cookie."""
        self.batched = False
        self.wait_timer: Timer | None = None
        """The limit of its wait for a slot, or the wait for its time or its next attempt."""
        self.orphan_timer: Timer | None = None
        """When it is cancelled, since its client is gone."""
