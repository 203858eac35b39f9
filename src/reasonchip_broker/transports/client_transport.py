"""The dialling end."""

from abc import ABC, abstractmethod

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.server_transport import ConnectionHandler


class ClientTransport(ABC):
    """Makes connections to one address."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it dials."""

    @abstractmethod
    async def dial(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> Connection:
        """Make a connection; the handler has heard `opened` by the time this returns. Raises ConnectError, in one line."""
