"""A client's connection to its broker: made, kept alive, and made again when it ends.

One task, `_keep`, dials, waits for the end, and dials again after a pause that grows and is drawn by chance. Everything else is
callbacks of the connection, which pass what concerns jobs on to `Exchange`. Some ends are final, since trying again can only
end the same way: the broker refused our token, or speaks no version of ours.
"""

import asyncio
import logging
from typing import Final

from reasonchip_broker.errors import ConnectError, ConnectionLost, ReasonChipError, RemoteProtocolError
from reasonchip_broker.limits import Limits
from reasonchip_broker.peer.backoff import Backoff
from reasonchip_broker.peer.exchange import Exchange
from reasonchip_broker.peer.session import Session
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.transports.client_transport import ClientTransport
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher

STEADY_S = 5.0
"""A connection that lived this long was a good one: when it ends, the next is tried soon. Others count as failed attempts."""

CLOSE_S = 5.0
"""How long `stop` waits for the broker to take what was sent before."""

FINAL: Final = frozenset({CloseReason.NOT_AUTHENTICATED, CloseReason.UNSUPPORTED_VERSION})

logger = logging.getLogger("reasonchip_broker.client")


class Link:
    """Keeps a client connected. `exchange` is told of every connection that is up, and of its end; `hello` is what is said of
    this client.

    Raises ValueError for a `hello` that no broker takes.
    """

    def __init__(
        self, transport: ClientTransport, hello: schemas.HelloMeta, limits: Limits, exchange: Exchange, *, reconnect: bool
    ) -> None:
        Session(Role.CLIENT, hello, limits)
        self._transport = transport
        self._hello = hello
        self._limits = limits
        self._exchange = exchange
        self._reconnect = reconnect
        self._backoff = Backoff()
        self._loop: asyncio.AbstractEventLoop
        self._flusher: Flusher
        self._keeper: asyncio.Task[None] | None = None
        self._welcomed: asyncio.Future[None]
        self._session: Session
        self._connection: Connection | None = None
        self._ended = True
        self._over: asyncio.Event
        self._why: ReasonChipError = ConnectError("no attempt was made yet")
        self._final = False
        self._once = False
        """Whether the first attempt to connect, which is still to succeed, is to be the only one."""
        self._up_at: float | None = None
        """Since when the present connection, or the last one, has been welcomed; None if it never was."""
        self._check: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection that the broker has welcomed."""
        return self._connection is not None and not self._ended and self._session.welcome is not None

    async def start(self, timeout_s: float, *, once: bool = False) -> None:
        """Connect, or wait for the connection that is being made: for `timeout_s` seconds, or (`once`, or without `reconnect`) one
        attempt. `once` is about the first connection only.

        Raises ConnectError. If the first connection can't be made, nothing goes on; later ones are tried again in the background.
        """
        is_first = self._keeper is None
        if self._keeper is None:
            self._loop = asyncio.get_running_loop()
            self._flusher = Flusher(self._loop)
            self._welcomed = self._loop.create_future()
            self._final = False
            self._once = once
            self._exchange.started(self._loop)
            self._keeper = self._loop.create_task(self._keep(), name=f"reasonchip client of {self._transport.url}")
        welcomed = self._welcomed
        try:
            await asyncio.wait({welcomed, self._keeper}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if is_first:
                await self.stop()
            raise
        if not welcomed.done():
            why = self._why
            if is_first:
                await self.stop()
            if isinstance(why, ConnectError):
                raise ConnectError(str(why)) from why
            raise ConnectError(f"can't connect to {self._transport.url}: {why}") from why

    async def stop(self) -> None:
        """End the connection, once the broker has taken what was sent, and make no other. What is still under way fails."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.cancel()
        why = ConnectionLost("the client was closed", CloseReason.NORMAL)
        self._exchange.ended(why, lambda: ConnectionLost("the client is closed", CloseReason.NORMAL))
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.wait({keeper})
                if self._connection is not None:
                    self._ended = True
                    self._connection.close(CloseReason.NORMAL, "the client is done")
                    await self._over.wait()
        except TimeoutError:
            logger.warning("%s did not take what was sent before the end", self._transport.url)
        finally:
            if self._check is not None:
                self._check.cancel()
            if self._connection is not None:
                self._connection.abort(CloseReason.NORMAL)

    async def _keep(self) -> None:
        try:
            await self._keep_connected()
        except Exception as error:
            # A bug, ours or a transport's: nobody may wait for a connection that will never be.
            logger.exception("the connection to %s can't be kept", self._transport.url)
            self._why = ConnectError(f"can't connect to {self._transport.url}: {type(error).__name__}: {error}")
        why = str(self._why)
        self._exchange.ended(self._why, lambda: ConnectError(f"there is no connection to {self._transport.url}: {why}"))

    async def _keep_connected(self) -> None:
        """Connect, again and again; returns when that is of no use any more."""
        while True:
            try:
                await self._serve()
            except (ConnectError, ConnectionLost) as error:
                self._why = error
            if self._final or self._once or not self._reconnect:
                logger.warning("no connection to %s, and no other will be tried: %s", self._transport.url, self._why)
                return
            self._exchange.down(self._why)
            if self._up_at is not None and self._loop.time() - self._up_at > STEADY_S:
                self._backoff.reset()
            pause_s = self._backoff.next_s()
            logger.info("no connection to %s; next attempt in %.2f s: %s", self._transport.url, pause_s, self._why)
            await asyncio.sleep(pause_s)

    async def _serve(self) -> None:
        """One connection, from dialling to its end. Raises ConnectError if it can't be made, ConnectionLost when it ends."""
        self._session = Session(Role.CLIENT, self._hello, self._limits)
        self._over = asyncio.Event()
        self._ended = False
        self._up_at = None
        try:
            await self._transport.dial(Role.CLIENT, self, self._limits, self._flusher)
        except ConnectError:
            # TLS may refuse a connection that was open already; what `closed` said of it is less than this.
            self._connection = None
            raise
        await self._over.wait()
        raise self._why

    # What the connection says

    def accepts(self, connection: Connection) -> bool:
        """A dialled connection is welcome."""
        return True

    def opened(self, connection: Connection) -> None:
        """It can be spoken on: say hello."""
        self._connection = connection
        connection.send(self._session.opening())
        self._look()

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        """Frames came."""
        session = self._session
        fresh = session.welcome is None
        try:
            answers, frames = session.receive(frames, self._loop.time())
            for answer in answers:
                connection.send(answer)
            if fresh and session.welcome is not None:
                self._up(connection, session.welcome)
            if frames:
                self._exchange.received(frames)
        except RemoteProtocolError as error:
            self.offended(connection, CloseReason(error.reason), str(error))
            return
        if session.goodbye is not None:
            reason, sentence = session.goodbye
            self._end(ConnectionLost(f"the broker said goodbye: {reason.name}, {sentence}", reason))
            self._final = self._final or reason in FINAL
            connection.close(CloseReason.PEER_CLOSED, "")

    def offended(self, connection: Connection, reason: CloseReason, sentence: str) -> None:
        """What came makes no sense: this connection is of no use any more."""
        logger.warning("%s sent what makes no sense: %s", self._transport.url, sentence)
        self._end(ConnectionLost(f"the broker sent what makes no sense: {sentence}", reason))
        connection.close(reason, sentence)

    def congested(self, connection: Connection) -> None:
        """The connection has more than it takes: no more jobs for now. Results are read all the same."""
        self._exchange.flow(False)

    def writable(self, connection: Connection) -> None:
        """It takes more."""
        if self.connected:
            self._exchange.flow(True)

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        """It has ended."""
        if connection is not self._connection:
            return
        self._end(ConnectionLost(f"the connection ended ({reason.name})", reason))
        self._connection = None
        self._over.set()

    # The life of a connection

    def _up(self, connection: Connection, welcome: schemas.WelcomeMeta) -> None:
        logger.info("connected to %s, connection %s", self._transport.url, welcome.conn.hex())
        connection.welcome()
        self._once = False
        self._up_at = self._loop.time()
        if not self._welcomed.done():
            self._welcomed.set_result(None)
        self._look()
        self._exchange.up(connection, welcome)

    def _end(self, why: ConnectionLost) -> None:
        """The connection has ended, or is about to: its jobs are told at once. Only the first reason counts."""
        if self._ended:
            return
        self._ended = True
        if self._check is not None:
            self._check.cancel()
            self._check = None
        self._why = why
        if self._welcomed.done():
            self._welcomed = self._loop.create_future()
        self._exchange.down(why, self._session.heard_at)

    def _look(self) -> None:
        """See whether the broker still lives, and when to look again."""
        connection = self._connection
        if self._check is not None:
            self._check.cancel()
        if connection is None or self._ended:
            return
        try:
            ping = self._session.check(self._loop.time())
        except ConnectionLost as error:
            logger.warning("%s: %s", self._transport.url, error)
            self._end(error)
            connection.abort(CloseReason(error.reason))
            return
        if ping is not None:
            connection.send(ping)
        self._check = self._loop.call_at(self._session.check_at, self._look)
