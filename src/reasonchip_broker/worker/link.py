"""A worker's connection to its broker: made, kept alive, made again when it ends, and left in good order.

All of it is in the connection's thread, but for `leave` and `hurry`, which any thread and any signal handler may call.

    dialling ─▶ greeting ─WELCOME─▶ settling ─▶ registered ─DRAIN─▶ leaving ─GOODBYE─▶ closed ─▶ dialling, unless stopping
                                       │
                                       └ jobs of the last connection that have not ended hold their slots; they get a moment.
                                         With a session there is no such moment: they are listed, and held by the broker too

A worker leaves (takes no more, finishes what it has, says goodbye) when it is told to stop, when the broker drains it, and in
order to come back with all of its slots when it had to register with fewer. One with a session that loses its connection while
it owes results comes back to deliver them, even if it is to stop. It never closes the connection itself while all
goes well: the broker does, on GOODBYE, since a socket closed with unread data in it may take back what was sent last.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Final

import msgspec

from reasonchip_broker.errors import REFUSALS_BY_CODE, ConnectError, ConnectionLost, ReasonChipError, RemoteProtocolError
from reasonchip_broker.limits import Limits
from reasonchip_broker.peer.backoff import Backoff
from reasonchip_broker.peer.session import Session
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import attempt_of, code_of, meta_of, number_of
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import OVERSIZED, Frame
from reasonchip_broker.transports.client_transport import ClientTransport
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.worker.desk import Desk
from reasonchip_broker.worker.grace import Grace
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.kindred import Kindred
from reasonchip_broker.worker.outflow import Outflow
from reasonchip_broker.worker.watch import Watch

SETTLE_S = 3.0
"""How long jobs of a lost connection may take to end before their slots are left out of the next REGISTER."""

STEADY_S = 5.0
"""A connection that lived this long was a good one: when it ends, the next is tried soon. Others count as failed attempts."""

STOP_S = 3.0
"""How long jobs that are stopped by the worker's own end may take to end, so that what is done after all is delivered."""

CLOSE_S = 5.0
"""How long the broker may take to close a connection after our GOODBYE."""

ACK_S = 2.0
"""How long a worker with a session waits, before it says goodbye, for the broker to acknowledge the last results."""

FINAL: Final = frozenset({CloseReason.NOT_AUTHENTICATED, CloseReason.REPLACED, CloseReason.UNSUPPORTED_VERSION})
"""Trying again would end the same way, or throw out the worker that took our place."""

CHILDRENS: Final = frozenset({PacketType.RESULT, PacketType.PROGRESS, PacketType.RESULT + OVERSIZED})
HEARD_BY_JOBS: Final = frozenset({PacketType.INPUT, PacketType.CREDIT, PacketType.RESUME})

_RUN: Final = int(PacketType.RUN)
_ACK: Final = int(PacketType.ACK)
"""What comes for every job, compared as plain numbers: to look up a member of an enum costs as much as all the rest of a comparison."""

_REGISTER_NUMBER = 1
_DRAIN_NUMBER = 2

logger = logging.getLogger("reasonchip_broker.worker")


class LinkState(IntEnum):
    """How far the present connection is."""

    DOWN = 0
    GREETING = 1
    SETTLING = 2
    REGISTERED = 3
    LEAVING = 4
    """No more jobs are wanted; the broker may not know yet."""
    DISMISSED = 5
    """No more jobs will come."""
    PARTED = 6
    """GOODBYE was sent."""


class Link:
    """Keeps a worker connected until it is told to leave. `offer` is what it registers, with as many slots as are free then.

    `on_change` is called in the connection's thread with True when the broker has taken a REGISTER, and with False when that is
    over.
    """

    def __init__(
        self,
        transport: ClientTransport,
        hello: schemas.HelloMeta,
        offer: schemas.RegisterMeta,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[bool], None],
    ) -> None:
        self.state = LinkState.DOWN
        self.desk: Desk
        """To be set before `run`: a desk needs executors, which need to know where to report."""
        self._transport = transport
        self._hello = hello
        self._offer = offer
        self._limits = limits
        self._loop = loop
        self._flusher = Flusher(loop)
        self._backoff = Backoff()
        self._session: Session
        self._connection: Connection | None = None
        self._over = asyncio.Event()
        self._outflow = Outflow(limits.outbox_bytes_mark)
        self.kindred = Kindred(transport.url, loop, self._outflow)
        """The jobs that this worker's jobs submit."""
        self.transmit = self._outflow.send
        """Sends a frame on the present connection, now or when it takes more."""
        self._slots = 0
        self._dead_s = limits.lease_s
        """How long the broker may take to see that a connection is gone."""
        self._grace = Grace(loop, hello.grace)
        self._watch: Watch | None = None
        self._farewell_timer: asyncio.TimerHandle | None = None
        self._for_good = False
        """The broker's operator wants this worker to leave, and not to come back."""
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failure: ReasonChipError | None = None
        self._last_problem = ""
        self._on_change = on_change

    # From any thread

    def leave(self) -> None:
        """Stop taking jobs, finish those that run, and end."""
        self._from_outside(self._stop)

    def hurry(self) -> None:
        """Do not wait for jobs any longer."""
        self._from_outside(self._hurry)

    def _from_outside(self, event: asyncio.Event) -> None:
        try:
            self._loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            pass  # The loop is closed: it has left.

    # The whole life

    async def run(self, drain_s: float) -> None:
        """Serve until told to leave; then running jobs have `drain_s` seconds.

        Raises ConnectionLost when the broker said that this worker is not to come back, RequestRefused when it refused what
        is registered.
        """
        keeping = self._loop.create_task(self._keep_connected(), name=f"reasonchip worker of {self._transport.url}")
        stopping = self._loop.create_task(self._stop.wait())
        try:
            await asyncio.wait((keeping, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not keeping.done():
                await self._depart(keeping, drain_s)
        finally:
            for task in (keeping, stopping):
                task.cancel()
            await asyncio.wait((keeping, stopping))
            if self._connection is not None:
                self._connection.abort(CloseReason.NORMAL)
                await self._over.wait()
            self._grace.lose(self.desk)
            self.kindred.ended()
        if not keeping.cancelled():
            keeping.result()

    async def _depart(self, keeping: "asyncio.Task[None]", drain_s: float) -> None:
        """The orderly end: drain, deliver, say goodbye."""
        if self.state < LinkState.SETTLING and not self._owes:
            return
        logger.info("worker stopping: %d jobs have %g s to finish", self.desk.jobs, drain_s)
        self._begin_to_leave()
        hurrying = self._loop.create_task(self._hurry.wait())
        await asyncio.wait((keeping, hurrying), timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not keeping.done() and self.desk.jobs:
            logger.warning("worker stopping: %d unfinished jobs are stopped", self.desk.stop_all())
            self._part_if_done()
            if self._connection is not None:
                await asyncio.wait((keeping,), timeout=STOP_S)
        if not keeping.done() and self._connection is not None:
            self._part()
            await asyncio.wait((keeping,), timeout=CLOSE_S + 1.0)

    async def _keep_connected(self) -> None:
        while not self._leaves or self._owes:
            began_at = self._loop.time()
            try:
                await self._serve()
            except ConnectError as error:
                self._problem(str(error))
            if self._failure is not None:
                raise self._failure
            if self._loop.time() - began_at > STEADY_S:
                self._backoff.reset()
            if not self._leaves or self._owes:
                await asyncio.sleep(self._backoff.next_s())

    @property
    def _leaves(self) -> bool:
        return self._stop.is_set() or self._for_good

    @property
    def _owes(self) -> bool:
        """Whether a session has something to come back for."""
        return self.desk.ledger is not None and self.desk.owed > 0

    async def _serve(self) -> None:
        """One connection, from dialling to its end. Raises ConnectError if it can't be made."""
        self._session = Session(Role.WORKER, self._hello, self._limits)
        self._over = asyncio.Event()
        try:
            await self._transport.dial(Role.WORKER, self, self._limits, self._flusher)
        except BaseException:
            # TLS may refuse a connection that was open already.
            if self._connection is not None:
                self._ended(self._connection, "the connection could not be made")
            raise
        await self._over.wait()

    def _problem(self, sentence: str) -> None:
        """Say what keeps this worker from its broker, loudly when it is news."""
        # What a broker says is its own; one event stays one line.
        level = logging.DEBUG if sentence == self._last_problem else logging.WARNING
        self._last_problem = sentence
        logger.log(level, "no connection to the broker: %s", sentence.encode("unicode_escape").decode())

    # What the connection says

    def accepts(self, connection: Connection) -> bool:
        """A dialled connection is welcome."""
        return True

    def opened(self, connection: Connection) -> None:
        """It can be spoken on: say hello."""
        self._connection = connection
        self._outflow.opened(connection)
        self.state = LinkState.GREETING
        connection.send(self._session.opening())
        self._watch = Watch(self._loop, self._session, connection, self._outflow, self._problem)
        self._watch.look()

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        """Frames from the broker."""
        try:
            answers, left = self._session.receive(frames, time.monotonic())
        except RemoteProtocolError as error:
            self._problem(str(error))
            connection.close(CloseReason(error.reason), str(error))
            return
        for answer in answers:
            connection.send(answer)
        if self.state is LinkState.GREETING and self._session.welcome is not None:
            self._welcomed(self._session.welcome)
        try:
            for view in left:
                self._hear(view)
        except RemoteProtocolError as error:
            self._problem(str(error))
            connection.close(CloseReason(error.reason), str(error))

    def _hear(self, view: Frame) -> None:
        """Take a frame. Where a job of ours has submitted another that runs here too, both have the same cookie: the type tells
        whom a frame is for, and of CREDIT the attempt, which is 0 for who has submitted."""
        desk = self.desk
        kind, cookie, frame = view[0], view[1], view[2]
        if kind == _RUN:
            desk.run(cookie, frame)
        elif kind == _ACK:
            desk.acknowledged(number_of(frame))
            self._part_if_done()
        elif kind == PacketType.CANCEL:
            desk.cancel(cookie, frame)
        elif kind in CHILDRENS or (kind == PacketType.CREDIT and not attempt_of(frame)):
            self.kindred.received(view)
        elif kind == PacketType.REPLY:
            if self.kindred.takes(view):
                self.kindred.received(view)
            else:
                self._reply(frame)
        elif kind in HEARD_BY_JOBS:
            desk.deliver(cookie, frame)
        elif kind == PacketType.DRAIN:
            self._drained(frame)
        elif kind == PacketType.RUN + OVERSIZED:
            desk.oversized(cookie, frame)

    def offended(self, connection: Connection, reason: CloseReason, sentence: str) -> None:
        """What came is no frame."""
        self._problem(sentence)
        connection.close(reason, sentence)

    def congested(self, connection: Connection) -> None:
        """The broker takes less than it is sent."""
        self._outflow.congested = True
        self.kindred.flow()

    def writable(self, connection: Connection) -> None:
        """It has caught up."""
        self._outflow.writable()
        self.kindred.flow()
        self._part_if_done()

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        """The connection is no more."""
        if connection is not self._connection:
            return
        goodbye = self._session.goodbye
        if goodbye is not None:
            reason, sentence = goodbye[0], f"the broker said {goodbye[0].name}: {goodbye[1]}"
        else:
            sentence = f"the connection ended ({reason.name})"
        if reason == CloseReason.REPLACED:
            sentence = f"another worker of the name {self._hello.name!r} has taken this one's place: {sentence}"
        if reason in FINAL:
            self._failure = ConnectionLost(sentence, reason)
        parted = self.state is LinkState.PARTED
        self._ended(connection, sentence)
        if parted:
            logger.info("left the broker at %s", self._transport.url)
        else:
            self._problem(sentence)

    def _ended(self, connection: Connection, sentence: str) -> None:
        parted = self.state is LinkState.PARTED
        self._connection = None
        self.state = LinkState.DOWN
        self._on_change(False)
        if self._watch is not None:
            self._watch.end()
        if self._farewell_timer is not None:
            self._farewell_timer.cancel()
        self._watch = self._farewell_timer = None
        self._outflow.closed()
        self.kindred.down(sentence, self._session.heard_at)
        if self._owes and self._failure is None and not parted:
            self._grace.began(self.desk, self._dead_s)
        else:
            self._grace.lose(self.desk)
        self._over.set()

    # Registration

    def _welcomed(self, welcome: schemas.WelcomeMeta) -> None:
        self.state = LinkState.SETTLING
        self.desk.frame_bytes_max = welcome.frame
        self.desk.allowance = (welcome.credit, welcome.window)
        self._dead_s = welcome.dead / 1000
        if self._watch is not None:
            self._watch.look()
        logger.info("welcomed by broker %s at %s", welcome.broker.hex(), self._transport.url)
        if self._leaves and not self._owes:
            self._part()
        elif self.desk.ledger is not None:
            self._register(self.desk.capacity)
        elif not self._register_with_all():
            self._loop.call_later(SETTLE_S, self._settled, self._connection)

    def _register_with_all(self) -> bool:
        if self.desk.free == self.desk.capacity:
            self._register(self.desk.free)
        return self.state is not LinkState.SETTLING

    def _settled(self, connection: Connection | None) -> None:
        """Enough waited: register with the slots that are free, or wait for the first one."""
        if connection is self._connection and self.state is LinkState.SETTLING:
            if self.desk.free:
                self._register(self.desk.free)
            else:
                self._loop.call_later(SETTLE_S, self._settled, connection)

    def _register(self, slots: int) -> None:
        self._slots = slots
        if slots < self.desk.capacity:
            logger.warning(
                "%d of %d slots are still taken by jobs of a lost connection, and are not offered",
                self.desk.capacity - slots,
                self.desk.capacity,
            )
        self.state = LinkState.REGISTERED
        offer = msgspec.structs.replace(self._offer, cap=slots, held=self.desk.held())
        self.transmit(packets.register(offer, _REGISTER_NUMBER))

    def _registered(self, confirmed: list[tuple[bytes, int]]) -> None:
        self._last_problem = ""
        self._grace.ended()
        logger.info("registered %d slots for %d pipelines", self._slots, len(self._offer.serves))
        stopped = self.desk.resumed(frozenset(confirmed))
        if stopped:
            logger.warning("%d jobs are stopped: the broker has not waited for them", stopped)
        if self._session.welcome is not None:
            self.kindred.up(self._session.welcome)
        self._on_change(True)
        if self._leaves:
            self._begin_to_leave()

    def _reply(self, frame: bytes) -> None:
        number = number_of(frame)
        try:
            meta = schemas.reply_meta(meta_of(frame))
        except (schemas.MetaInvalid, schemas.MetaUndecodable):
            return
        if meta.to == PacketType.DRAIN and number == _DRAIN_NUMBER:
            self._dismissed()
        elif meta.to == PacketType.REGISTER and number == _REGISTER_NUMBER:
            code = code_of(frame)
            if code == Code.OK:
                self._registered(meta.held)
            else:
                sentence = meta.msg
                if code == Code.UNSUPPORTED_PACKET_TYPE:
                    sentence = f"{self._transport.url} is where a broker's clients connect: it has another address for workers"
                self._failure = REFUSALS_BY_CODE.get(code, REFUSALS_BY_CODE[Code.BAD_PACKET])(sentence)
                self._part()

    # Leaving

    def _begin_to_leave(self) -> None:
        """Ask for no more jobs."""
        if self.state is LinkState.REGISTERED:
            self.state = LinkState.LEAVING
            self.transmit(packets.drain(_DRAIN_NUMBER))
        elif self.state is LinkState.SETTLING:
            self._part()

    def _drained(self, frame: bytes) -> None:
        try:
            # It is named where an operator meant just this worker; a broker that stops says it to all, and will be back.
            schemas.drain_meta(meta_of(frame))
            self._for_good = True
        except (schemas.MetaInvalid, schemas.MetaUndecodable):
            pass
        logger.info("drained by the broker: %d jobs are finished first", self.desk.jobs)
        self._dismissed()

    def _dismissed(self) -> None:
        if self.state in (LinkState.SETTLING, LinkState.REGISTERED, LinkState.LEAVING):
            self.state = LinkState.DISMISSED
            self._part_if_done()

    def _part_if_done(self) -> None:
        if self.state is not LinkState.DISMISSED or self.desk.jobs or self._outflow:
            return
        if not self._owes:
            self._part()
        elif self._farewell_timer is None:
            self._farewell_timer = self._loop.call_later(ACK_S, self._part)

    def _part(self) -> None:
        """Say goodbye; the broker closes the connection when it has read all that was said before."""
        connection = self._connection
        if connection is None or self.state is LinkState.PARTED:
            return
        self.state = LinkState.PARTED
        if self._farewell_timer is not None:
            self._farewell_timer.cancel()
        self.kindred.acknowledge()
        connection.send(packets.goodbye(CloseReason.NORMAL, "the worker is leaving"))
        self._farewell_timer = self._loop.call_later(CLOSE_S, connection.abort, CloseReason.NORMAL)

    # Jobs

    def report(self, report: tuple[Job | None, bytes]) -> None:
        """A job has ended: its RESULT goes out, and its slot may be what was waited for. Or, without the job, something else that
        one says. Called through a mailbox, so that what a job says comes before its RESULT.
        """
        job, frame = report
        desk = self.desk
        if job is None:
            desk.said(frame)
            return
        desk.ended(job, frame)
        state = self.state
        if state is LinkState.DISMISSED:
            self._part_if_done()
        elif state is LinkState.SETTLING:
            self._register_with_all()
        elif state is LinkState.REGISTERED and self._slots < desk.capacity and desk.free == desk.capacity:
            # The slots that a lost connection's jobs held are free again: come back with all of them.
            self._begin_to_leave()
