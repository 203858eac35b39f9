"""The broker's only view of the network: a listener that makes connections."""

from abc import ABC, abstractmethod
from typing import Protocol

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.pacing import AT_ONCE, Pacer

__all__ = ["AT_ONCE", "Connection", "ConnectionHandler", "Flusher", "Pacer", "ServerTransport"]


class ConnectionHandler(Protocol):
    """What a connection tells its owner. None of these may block or raise."""

    def accepts(self, connection: Connection) -> bool:
        """Whether a connection that was just made may stay; False ends it without a word."""

    def opened(self, connection: Connection) -> None:
        """The dialect is known; frames may be sent from now on."""

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        """These frames are complete; none, if only a part of one has come."""

    def offended(self, connection: Connection, reason: CloseReason, sentence: str) -> None:
        """What came is no frame; nothing more will be read. The owner closes the connection."""

    def congested(self, connection: Connection) -> None:
        """More than the mark waits to be written."""

    def writable(self, connection: Connection) -> None:
        """No more than that waits any longer."""

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        """The connection has ended. Said once, for each connection that was accepted."""


class ServerTransport(ABC):
    """A listener.

    What every implementation promises (`testing.check_server_transport` holds it to that): after `start` returns, peers can connect
    to `url`; each connection is announced to the handler before anything else of it, in order, and its end exactly once; after
    `stop` returns nobody new gets in, the address is free again, and connections that were made live on.
    """

    json_queue = False
    """Whether RUNs of existing (JSON) clients of this listener wait for a slot, instead of the NO_CAPACITY that they know."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it listens: as configured before `start`, with the real port after it."""

    @abstractmethod
    async def start(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> None:
        """Listen. Raises ListenError, in one line, when that can't be; nothing is left behind then."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop listening; may be called of one that never started."""
