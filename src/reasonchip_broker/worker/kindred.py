"""The children of a worker's jobs, as its connection and its handlers see them, whether or not there ever are any.

What children need (`children`, and the client's exchange) is loaded when the first one is submitted, by the handler that does: most
workers have none, and should start quickly. Before that nothing that the broker says can be about a child.
"""

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from reasonchip_broker.errors import ConnectionLost
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.worker.outflow import Outflow

if TYPE_CHECKING:
    from reasonchip_broker.peer.exchange import Exchange
    from reasonchip_broker.worker.children import Family, Submission

CHILD_CONNECT_S = 60.0
"""How long a child waits for a connection: about as long as a session may."""


class Kin(Protocol):
    """Who a handler speaks to about its children; from any thread, and without waiting."""

    def submit(self, submission: "Submission") -> None:
        """Send a child."""

    def ask(self, verb: str, cookie: bytes, *arguments: Any) -> "Future[Any]":
        """Ask something of a child. Cancelling the future is to want no answer."""

    def release(self, cookie: bytes) -> None:
        """Nobody will ask for this child again."""


class Kindred:
    """Children over one worker's connections. `submit`, `ask` and `release` may be called from any thread; the rest belongs to the
    connection's."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop, outflow: Outflow) -> None:
        self._url = url
        self._loop = loop
        self._outflow = outflow
        self._exchange: Exchange | None = None
        self._welcome: schemas.WelcomeMeta | None = None
        self._gone: ConnectionLost | None = None
        self._family: Family | None = None
        self._making = threading.Lock()
        """Guards the making of `_family` only."""

    # Kin

    def submit(self, submission: "Submission") -> None:
        """Send a child."""
        self.family.submit(submission)

    def ask(self, verb: str, cookie: bytes, *arguments: Any) -> "Future[Any]":
        """Ask something of a child."""
        return self.family.ask(verb, cookie, *arguments)

    def release(self, cookie: bytes) -> None:
        """Nobody will ask for this child again."""
        self.family.release(cookie)

    @property
    def family(self) -> "Family":
        """The children themselves."""
        from reasonchip_broker.worker.children import Family

        with self._making:
            if self._family is None:
                self._family = Family(self._get_exchange, self._loop)
            return self._family

    # The connection's

    def up(self, welcome: schemas.WelcomeMeta) -> None:
        """Children may be sent: the broker knows what this worker holds."""
        self._welcome = welcome
        if self._exchange is not None:
            self._exchange.up(self._outflow, welcome)
            self._exchange.flow(not self._outflow.congested)

    def flow(self) -> None:
        """The connection takes more, or has enough for now."""
        if self._exchange is not None:
            self._exchange.flow(not self._outflow.congested)

    def down(self, sentence: str, heard_at: float) -> None:
        """The connection has ended, and why; and when the broker was last heard (`time.monotonic()`, which is the loop's clock)."""
        self._welcome = None
        if self._exchange is not None:
            self._exchange.down(ConnectionLost(sentence), heard_at)

    def acknowledge(self) -> None:
        """Tell the broker now which RESULTs of children have arrived: the connection is about to be closed."""
        if self._exchange is not None:
            self._exchange.acknowledge()

    def ended(self) -> None:
        """There will be no other."""
        self._gone = self._left()
        if self._exchange is not None:
            self._exchange.ended(self._gone, self._left)

    def takes(self, view: Frame) -> bool:
        """Whether a REPLY is about children."""
        return self._exchange is not None and self._exchange.takes(view)

    def received(self, view: Frame) -> None:
        """Take a frame that is about a child. Raises RemoteProtocolError for what can't be understood."""
        if self._exchange is not None:
            self._exchange.received([view])

    def _get_exchange(self) -> "Exchange":
        if self._exchange is None:
            from reasonchip_broker.peer.exchange import Exchange

            exchange = self._exchange = Exchange(self._url, CHILD_CONNECT_S)
            exchange.started(self._loop)
            if self._gone is not None:
                exchange.ended(self._gone, self._left)
            elif self._welcome is not None:
                self.up(self._welcome)
        return self._exchange

    @staticmethod
    def _left() -> ConnectionLost:
        return ConnectionLost("the worker has left its broker")
