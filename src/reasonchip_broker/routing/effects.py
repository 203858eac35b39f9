"""What a step of the switchboard asks its caller to do.

Effects of one kind are kept in one list, in order. Nearly all of them are sends, and so those are kept where they will be wanted:
the frames for a peer in its own `sends`, and here, in `recipients`, the peers that have some. The caller carries out the sends
first, then the rest. A *link* is whatever the caller passed for a connection; nothing here looks at it."""

from typing import TYPE_CHECKING, Any, TypeAlias

from reasonchip_broker.protocol.codes import CloseReason

if TYPE_CHECKING:
    from reasonchip_broker.routing.peers import Peer

Link: TypeAlias = Any
LogLine: TypeAlias = tuple[str, str, dict[str, Any]]
"""Level, event, fields."""


class Close:
    """Say goodbye to a connection, for a reason and with a sentence, and close it."""

    __slots__ = ("link", "reason", "sentence")

    def __init__(self, link: Link, reason: CloseReason, sentence: str) -> None:
        self.link = link
        self.reason = reason
        self.sentence = sentence


class Outcome:
    """A job reached its one outcome; `frame` is its RESULT."""

    __slots__ = ("cookie", "frame")

    def __init__(self, cookie: bytes, frame: bytes) -> None:
        self.cookie = cookie
        self.frame = frame


class Effects:
    """The effects of the steps since the last `clear`."""

    __slots__ = (
        "admissions",
        "capacity",
        "closes",
        "draining",
        "log_routes",
        "logs",
        "observe_capacity",
        "observe_outcomes",
        "outcomes",
        "recipients",
        "welcomes",
        "writables",
    )

    def __init__(self) -> None:
        self.recipients: list[Peer] = []
        """Peers whose `sends` have frames for them, each once."""
        self.welcomes: list[Link] = []
        """These finished the handshake: their frames may be as large as the limit allows."""
        self.writables: list[Link] = []
        """Tell the switchboard (`writable`) when these have room for more."""
        self.closes: list[Close] = []
        self.logs: list[LogLine] = []
        self.admissions: list[tuple[bytes, int]] = []
        """Cookies of jobs that wait to be admitted, and the number of each admission (only where the switchboard was told to ask)."""
        self.outcomes: list[Outcome] = []
        """Only where `observe_outcomes` is set."""
        self.capacity: list[tuple[str, ...]] = []
        """Offers whose free slots turned from none to some (only where `observe_capacity` is set)."""
        self.log_routes = False
        self.observe_outcomes = False
        self.observe_capacity = False
        self.draining = False

    @property
    def nothing_is_plain(self) -> bool:
        """Whether every job needs more than a plain one: somebody watches, or no more are taken."""
        return self.log_routes or self.observe_outcomes or self.observe_capacity or self.draining

    def send(self, peer: "Peer", frame: bytes) -> None:
        """Send a frame to a peer. (The hot path does this in line.)"""
        sends = peer.sends
        if not sends:
            self.recipients.append(peer)
        sends.append(frame)

    def send_at(self, peer: "Peer", place: int, frame: bytes) -> None:
        """Send a frame to a peer after the first `place` frames that it is to be sent in this step, and before the others."""
        if peer.sends:
            peer.sends.insert(place, frame)
        else:
            self.send(peer, frame)

    def take_sends(self) -> list[tuple[Link, bytes]]:
        """Every send, as pairs of a link and a frame, and forget them: for whoever has no use for many frames at a time."""
        pairs = [(peer.link, frame) for peer in self.recipients for frame in peer.sends]
        self.clear_sends()
        return pairs

    @property
    def rare(self) -> bool:
        """Whether there is anything but sends."""
        return bool(
            self.logs or self.closes or self.welcomes or self.writables or self.admissions or self.outcomes or self.capacity
        )

    def clear(self) -> None:
        """Forget all effects, once they are carried out."""
        self.clear_sends()
        self.clear_rare()

    def clear_sends(self) -> None:
        """Forget the sends."""
        for peer in self.recipients:
            peer.sends.clear()
        self.recipients.clear()

    def clear_rare(self) -> None:
        """Forget all but the sends."""
        self.welcomes.clear()
        self.writables.clear()
        self.closes.clear()
        self.logs.clear()
        self.admissions.clear()
        self.outcomes.clear()
        self.capacity.clear()
