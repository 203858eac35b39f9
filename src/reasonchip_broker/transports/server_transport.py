"""The broker's only view of the network: a listener that makes connections."""

from abc import ABC, abstractmethod

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.transports.connection import Connection, ConnectionHandler
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.pacing import AT_ONCE, Pacer

__all__ = ["AT_ONCE", "Connection", "ConnectionHandler", "Flusher", "Pacer", "ServerTransport"]


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


__all__ = ["CloseReason", "Connection", "ConnectionHandler", "Flusher", "ServerTransport"]
