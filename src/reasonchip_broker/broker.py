"""The broker: the switchboard's body. It owns the transports and the connections, and carries out what the switchboard asks for.

One lock, `_lifecycle`, orders start, drain and stop; it is never held while anything waits for a peer. Packets need no lock: a step
of the switchboard and the sends that follow from it happen in one go, in one callback of the event loop.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import Limits
from reasonchip_broker.ports import Admission, CapacityObserver, OutcomeObserver, Principals, Verdict
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.scheduling import Scheduling
from reasonchip_broker.steps import NEVER, Steps
from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.transports.server_transport import Connection, Flusher, Pacer, ServerTransport

CLOSE_S = 2.0
"""How long `stop` waits for the last frames to be taken, unless it is told otherwise."""


class BrokerState(IntEnum):
    """Where a broker is in its life."""

    NEW = 1
    RUNNING = 2
    DRAINING = 3
    STOPPED = 4


def _installed_version() -> str:
    try:
        return version("reasonchip-broker")
    except PackageNotFoundError:
        return "unknown"


class Broker:
    """A broker of jobs between clients and workers.

    `client_transports` and `worker_transports` are the listeners of either side (see `transports.endpoints`). `json_slot_rest_ms`
    and `json_cancel` concern existing JSON workers: how long a freed slot rests (None: as measured), and whether they are told of a
    CANCEL, which ends them. The rest are the seams of `ports`. A broker is started once, in a running event loop, and stopped in
    the same.
    """

    def __init__(
        self,
        client_transports: Sequence[ServerTransport],
        worker_transports: Sequence[ServerTransport],
        *,
        limits: Limits | None = None,
        json_slot_rest_ms: int | None = None,
        json_cancel: bool = False,
        admission: Admission | None = None,
        outcomes: OutcomeObserver | None = None,
        capacity: CapacityObserver | None = None,
        principals: Principals | None = None,
        scheduling: Scheduling | None = None,
        logger: Any = None,
    ) -> None:
        self.instance = os.urandom(16)
        """Names this run of the broker, so that a client knows whether it talks to the same one as before."""
        self.limits = limits or Limits()
        self.state = BrokerState.NEW
        self._client_transports = list(client_transports)
        self._worker_transports = list(worker_transports)
        self._admission = admission
        self._outcomes = outcomes
        self._capacity = capacity
        self._principals = principals
        self._log = logger if logger is not None else _stdlib_logger()
        self._lifecycle = asyncio.Lock()
        self._connections: dict[bytes, Connection] = {}
        self._strangers: Counter[str] = Counter()
        self._time = time.monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake_handle: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.failure: InternalError | None = None
        """The bug that stopped this broker, if one did; `failed` is set then."""
        self.failed = asyncio.Event()
        self.switchboard = Switchboard(
            self.instance,
            self.limits,
            version=_installed_version(),
            json_slot_rest_ms=json_slot_rest_ms,
            json_cancel=json_cancel,
            admits=admission is not None,
            scheduling=scheduling,
        )
        self._timers = self.switchboard.timers
        self._effects = self.switchboard.effects
        self._recipients = self._effects.recipients
        self._steps = Steps(self.switchboard, self._after_step, self._doubt, self._log)
        self.received: Callable[[Connection, list[Frame]], None] = self._steps.received
        """Told by a connection: frames came. The hot path."""
        self._effects.log_routes = self._log.isEnabledFor(logging.DEBUG)
        self._effects.observe_outcomes = outcomes is not None
        self._effects.observe_capacity = capacity is not None

    # Life

    @property
    def client_urls(self) -> list[str]:
        """Where clients connect, with the real ports once the broker runs."""
        return [transport.url for transport in self._client_transports]

    @property
    def worker_urls(self) -> list[str]:
        """Where workers connect."""
        return [transport.url for transport in self._worker_transports]

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen for workers, then for clients. Raises ListenError, with nothing left behind, if a listener can't be bound."""
        async with self._lifecycle:
            if self.state != BrokerState.NEW:
                raise InternalError(f"a broker is started once; this one is {self.state.name}")
            self._loop = asyncio.get_running_loop()
            flusher = Flusher(self._loop)
            board = self.switchboard
            steps = self._steps
            steps.pacer = Pacer(self._loop, steps.take, lambda: board.waiting, lambda: board.counters.finished)
            started: list[ServerTransport] = []
            self.state = BrokerState.RUNNING
            try:
                for role, transports in ((Role.WORKER, self._worker_transports), (Role.CLIENT, self._client_transports)):
                    for transport in transports:
                        started.append(transport)
                        await transport.start(role, self, self.limits, flusher)
            except BaseException:
                self.state = BrokerState.STOPPED
                for transport in started:
                    await transport.stop()
                for connection in list(self._connections.values()):
                    connection.abort(CloseReason.SHUTTING_DOWN)
                raise
        self._log.info("broker started", instance=self.instance.hex(), clients=self.client_urls, workers=self.worker_urls)

    def configure(self, scheduling: Scheduling) -> None:
        """Schedule by other rules from now on. Connections and jobs stay as they are; those that wait are put in their new order."""
        self.switchboard.configure(scheduling, self._time())
        self._log.info("scheduling configured", **scheduling.as_dict())

    async def drain(self, limit_s: float | None = None) -> int:
        """Stop taking connections and jobs, let running jobs finish for at most `limit_s` seconds (by default the configured
        limit).

        Returns how many are unfinished. `stop` should follow.
        """
        async with self._lifecycle:
            if self.state == BrokerState.RUNNING:
                self.state = BrokerState.DRAINING
                await self._stop_listening()
                board = self.switchboard
                self._log.info("broker draining", jobs=board.jobs, waiting=board.waiting, scheduled=board.scheduled)
                self.switchboard.drain(self._time())
                self._after_step()
        try:
            async with asyncio.timeout(self.limits.drain_s if limit_s is None else limit_s):
                await self._idle.wait()
        except TimeoutError:
            self._log.warning("drain limit reached", jobs=self.switchboard.jobs)
        return self.switchboard.jobs

    async def stop(self, limit_s: float = CLOSE_S) -> None:
        """Stop listening, end what still runs (each owner that listens is told), say goodbye and close every connection.

        Peers have `limit_s` seconds to take what they were sent. One that takes nothing is waited for no longer than the write
        deadline.
        """
        async with self._lifecycle:
            if self.state in (BrokerState.NEW, BrokerState.STOPPED):
                self.state = BrokerState.STOPPED
                return
            self.state = BrokerState.STOPPED
            await self._stop_listening()
            self.switchboard.stop(self._time())
            self._after_step()
            for connection in list(self._connections.values()):
                connection.close(CloseReason.SHUTTING_DOWN, "the broker is stopping")
        try:
            async with asyncio.timeout(limit_s):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._connections.values()):
                connection.abort(CloseReason.SHUTTING_DOWN)
            await asyncio.sleep(0)
        if self._wake_handle is not None:
            self._wake_handle.cancel()
        counts = self.switchboard.counters.as_dict()
        # Kept in memory only: whoever was to fetch them comes too late.
        self._log.info("broker stopped", outcomes_lost=self.switchboard.outcomes, **counts)

    async def _stop_listening(self) -> None:
        for transport in (*self._client_transports, *self._worker_transports):
            await transport.stop()

    # What connections tell

    def accepts(self, connection: Connection) -> bool:
        """Take a new connection, unless there are too many."""
        limits = self.limits
        host = _host(connection.address)
        if self.state != BrokerState.RUNNING:
            return False
        if len(self._connections) >= limits.connections_max:
            self._log.warning("connection refused: too many", address=connection.address, connections=len(self._connections))
            return False
        if host and self._strangers[host] >= limits.connections_unwelcomed_per_address_max:
            self._log.warning("connection refused: too many of this address have not said hello", address=connection.address)
            return False
        if host:
            self._strangers[host] += 1
        self._connections[connection.id] = connection
        self._empty.clear()
        role = connection.role.name.lower()
        self._log.info("connection opened", connection=connection.id.hex(), role=role, address=connection.address)
        return True

    def opened(self, connection: Connection) -> None:
        """A connection has shown its dialect."""
        try:
            principal = self._principals.principal(connection.role, connection.address) if self._principals is not None else ""
        except Exception as error:
            self._log.error("whose a connection is can't be told", error=repr(error), exc_info=error)
            connection.close(CloseReason.INTERNAL_ERROR, "an internal error")
            return
        dialect = connection.dialect or Dialect.JSON
        connection.context = self.switchboard.connected(
            connection,
            connection.id,
            connection.role,
            dialect,
            self._time(),
            principal=principal,
            queues=dialect == Dialect.BINARY or connection.json_queue,
            waited_s=connection.waited_s,
        )
        if dialect == Dialect.JSON:
            self._known(connection)
        self._after_step()

    def offended(self, connection: Connection, reason: CloseReason, sentence: str) -> None:
        """A connection sent what is no frame."""
        if self._steps.pacer is not None:
            self._steps.pacer.end(connection)
        self._log.warning("protocol error", connection=connection.id.hex(), reason=reason.name, error=sentence)
        self._step(connection, self.switchboard.offended, reason, sentence)

    def congested(self, connection: Connection) -> None:
        """A connection has more to take than it takes."""
        self._step(connection, self.switchboard.congested)

    def writable(self, connection: Connection) -> None:
        """It has taken it."""
        self._step(connection, self.switchboard.writable)

    def _step(self, connection: Connection, step: Callable[..., None], *arguments: object) -> None:
        """A step of the switchboard that concerns one connection, and what follows from it."""
        if connection.context is not None:
            try:
                step(connection.context, *arguments, self._time())
            except Exception as error:
                self._doubt(connection, error)
            self._after_step()

    def closed(self, connection: Connection, reason: CloseReason) -> None:
        """A connection has ended."""
        if self._connections.pop(connection.id, None) is None:
            return
        if self._steps.pacer is not None:
            self._steps.pacer.end(connection)
        self._step(connection, self.switchboard.disconnected, reason)
        # `serve` runs without the cyclic collector: whatever points both ways is taken apart by hand.
        connection.context = None
        self._known(connection)
        self._log.info("connection closed", connection=connection.id.hex(), reason=reason.name)
        if not self._connections:
            self._empty.set()

    def _known(self, connection: Connection) -> None:
        """A connection is no stranger any more, or no connection."""
        host = _host(connection.address)
        if host and not connection.known:
            connection.known = True
            self._strangers[host] -= 1
            if not self._strangers[host]:
                del self._strangers[host]

    # What the switchboard asks for

    def _after_step(self) -> None:
        steps = self._steps
        if steps.carrying:
            # This step came of a send: whoever is sending carries its effects out as well.
            steps.stepped = True
            return
        steps.carrying = True
        effects = self._effects
        while self._recipients or effects.rare:
            steps.send_out()
            if effects.rare:
                self._carry_out()
        steps.carrying = False
        if self._timers.wake_at < steps.wake_at:
            self._arm()
        if self.switchboard.draining and not self.switchboard.jobs:
            self._idle.set()

    def _carry_out(self) -> None:
        """All effects but sends. Lists are taken before they are worked on, since any of these may lead to further steps."""
        effects = self._effects
        welcomes, writables, closes = effects.welcomes[:], effects.writables[:], effects.closes[:]
        logs, admissions, outcomes, offers = effects.logs[:], effects.admissions[:], effects.outcomes[:], effects.capacity[:]
        effects.clear_rare()
        for connection in welcomes:
            connection.welcome()
            self._known(connection)
        for connection in writables:
            connection.notify_when_writable()
        for level, event, fields in logs:
            getattr(self._log, level)(event, **fields)
        for close in closes:
            close.link.close(close.reason, close.sentence)
        for cookie, number in admissions:
            self._admit(cookie, partial(self._verdict, cookie, number))
        if self._outcomes is not None:
            for outcome in outcomes:
                self._tell(self._outcomes.outcome, outcome.cookie, outcome.frame)
        if self._capacity is not None:
            for offer in offers:
                self._tell(self._capacity.capacity, offer)

    def _admit(self, cookie: bytes, verdict: Verdict) -> None:
        try:
            if self._admission is not None:
                self._admission.admit(cookie, verdict)
        except Exception as error:
            self._log.error("a job can't be admitted", cookie=cookie.hex(), error=repr(error), exc_info=error)
            verdict(Code.OVERLOADED, "the broker could not admit the job")

    def _tell(self, observer: Callable[..., None], *news: object) -> None:
        """Tell an observer. Its bugs are its own."""
        try:
            observer(*news)
        except Exception as error:
            self._log.error("an observer failed", error=repr(error), exc_info=error)

    def _verdict(self, cookie: bytes, number: int, code: Code | None, sentence: str) -> None:
        if code is None:
            self.switchboard.admitted(cookie, number, self._time())
        else:
            self.switchboard.rejected(cookie, number, code, sentence, self._time())
        self._after_step()

    def _arm(self) -> None:
        if self._wake_handle is not None:
            self._wake_handle.cancel()
        wake_at = self._steps.wake_at = self._timers.wake_at
        if self._loop is not None:
            self._wake_handle = self._loop.call_later(max(0.0, wake_at - self._time()), self._wake)

    def _wake(self) -> None:
        self._wake_handle = None
        self._steps.wake_at = NEVER
        try:
            self.switchboard.wake(self._time())
        except Exception as error:
            self._doubt(None, error)
        self._after_step()

    def _doubt(self, connection: Connection | None, error: Exception) -> None:
        """A bug of ours: the peer concerned is let go, and the broker goes on only if its tables still agree."""
        self._log.error("internal error", error=repr(error), exc_info=error)
        try:
            if connection is not None:
                self.switchboard.offended(connection.context, CloseReason.INTERNAL_ERROR, "an internal error", self._time())
            self.switchboard.invariants()
        except Exception as broken:
            self.failure = (
                broken if isinstance(broken, InternalError) else InternalError(f"tables can't be checked: {broken!r}")
            )
            self.failed.set()
            self._log.critical("tables disagree; the broker stops", error=str(broken))


def _host(address: str) -> str:
    """The part of an address that connections are counted by; nothing for local ones, which all share it."""
    if not address.startswith(("[", "1", "2", "3", "4", "5", "6", "7", "8", "9")):
        return ""
    host = address.rsplit(":", 1)[0].strip("[]")
    return "" if host.startswith("127.") or host == "::1" else host


def _stdlib_logger() -> Any:
    """A structlog logger over the standard library's, for a broker that is embedded: the application decides what becomes of it."""
    return structlog.wrap_logger(
        logging.getLogger("reasonchip_broker"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
