"""The switchboard: which packet, from whom, in which state, means what.

A synchronous state machine. Connections, packets and the present time come in; effects come out, in `effects`, for the caller to
carry out. It performs no I/O, reads no clock, draws no random numbers and holds no lock: a step is atomic, and the same inputs give
the same outputs. What a connection may say next is a table of handlers, one table for each role, dialect and state; each handler is
short, because the work is done by `routing/`.
"""

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import meta_of
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import MALFORMED, OVERSIZED, Frame
from reasonchip_broker.routing.answers import Answers
from reasonchip_broker.routing.assignment import Assignment
from reasonchip_broker.routing.counters import Counters
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.effects import Close, Effects, Link
from reasonchip_broker.routing.intake import Intake
from reasonchip_broker.routing.leases import Leases
from reasonchip_broker.routing.peers import ELSE, Handlers, Peer, PeerState
from reasonchip_broker.routing.plain import PlainPath
from reasonchip_broker.routing.roster import choose
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import TimerKind, Timers


class Switchboard:
    """The brain of a broker: routing tables, availability of workers, and the answer to everything that a peer can send.

    `instance` (16 bytes) names this broker's run; `version` is told to peers. `json_slot_rest_ms` is how long an existing (JSON)
    worker's freed slot rests, None for the measured default; `json_cancel` passes CANCEL on to such workers, which ends them. With
    `admits`, each job waits for `admitted` or `rejected` before it may run.
    """

    def __init__(
        self,
        instance: bytes,
        limits: Limits,
        *,
        version: str = "",
        json_slot_rest_ms: int | None = None,
        json_cancel: bool = False,
        admits: bool = False,
    ) -> None:
        self.effects = Effects()
        self.timers = Timers()
        self.peers: dict[bytes, Peer] = {}
        self._instance = instance
        self._version = version
        self._limits = limits
        self._admits = admits
        self._dispatcher = Dispatcher(limits, self.effects, self.timers, json_slot_rest_ms, json_cancel)
        self._answers = Answers(self.effects, self._dispatcher.routes)
        self._intake = Intake(limits, self._dispatcher, self._answers, self._close, admits=admits)
        self._plain = PlainPath(self._dispatcher, self._intake.known, limits.client_jobs_max)
        self._leases = Leases(limits, self.timers, self.effects)
        self._tables = self._make_tables()

    def _make_tables(self) -> dict[tuple[Role, Dialect, PeerState], Handlers]:
        shared: Handlers = {
            PacketType.PING: self._ping,
            PacketType.PONG: self._ignore,
            PacketType.REPLY: self._ignore,
            PacketType.GOODBYE: self._goodbye,
            PacketType.HELLO: self._out_of_order,
            ELSE: self._unsupported,
        }
        client: Handlers = {
            PacketType.RUN: self._intake.run,
            PacketType.CANCEL: self._cancel,
            PacketType.RUN + OVERSIZED: self._intake.oversized,
        }
        worker: Handlers = {
            PacketType.RESULT: self._dispatcher.result,
            PacketType.REGISTER: self._register,
            PacketType.DRAIN: self._drain_worker,
            PacketType.RESULT + OVERSIZED: self._oversized_result,
        }
        greeting: Handlers = {PacketType.HELLO: self._hello, PacketType.GOODBYE: self._goodbye, ELSE: self._out_of_order}
        json: Handlers = {MALFORMED: self._malformed, ELSE: self._unsupported}
        gone: Handlers = {ELSE: self._ignore}
        tables: dict[tuple[Role, Dialect, PeerState], Handlers] = {}
        for role, own in ((Role.CLIENT, client), (Role.WORKER, worker)):
            tables[role, Dialect.BINARY, PeerState.GREETING] = greeting
            tables[role, Dialect.BINARY, PeerState.WELCOMED] = {**shared, **own}
            tables[role, Dialect.JSON, PeerState.WELCOMED] = {**own, **json}
            for dialect in Dialect:
                tables[role, dialect, PeerState.GONE] = gone
        return tables

    # What the caller may ask

    @property
    def counters(self) -> Counters:
        """Totals since the start."""
        return self._dispatcher.counters

    @property
    def draining(self) -> bool:
        """Whether it takes no more jobs."""
        return self.effects.draining

    @property
    def jobs(self) -> int:
        """How many jobs are not over."""
        return len(self._dispatcher.routes)

    @property
    def waiting(self) -> int:
        """How many of them wait for a slot."""
        return self._dispatcher.backlog.jobs

    def free_slots(self, pipeline: str, *, as_json: bool = False) -> int:
        """How many jobs of a pipeline could be dispatched now."""
        return sum(pool.free for pool in self._intake.class_of(pipeline, as_json).pools)

    # What the caller may say

    def connected(
        self,
        link: Link,
        connection_id: bytes,
        role: Role,
        dialect: Dialect,
        now: float,
        *,
        principal: str = "",
        queues: bool = True,
        waited_s: float = 0.0,
    ) -> Peer:
        """A connection has shown its dialect, `waited_s` after its first byte. `queues` is whether its RUNs may wait."""
        peer = Peer(link, connection_id, role, dialect, principal, queues)
        self.peers[connection_id] = peer
        peer.heard_at = now
        self._move(peer, PeerState.WELCOMED if dialect == Dialect.JSON else PeerState.GREETING)
        if peer.state == PeerState.GREETING:
            peer.timer = self.timers.arm(TimerKind.HANDSHAKE, peer, now + max(0.0, self._limits.handshake_s - waited_s))
        return peer

    def received(self, peer: Peer, frames: list[Frame], now: float) -> None:
        """A connection sent these frames (none: it sent a part of one)."""
        peer.heard_at = self._dispatcher.now = now
        reader = peer.reader
        if reader is not None and not self.effects.nothing_is_plain:
            reader(peer, frames)
            return
        for frame in frames:
            handlers = peer.handlers
            handler = handlers.get(frame[0]) or handlers[ELSE]
            handler(peer, frame)

    def offended(self, peer: Peer, reason: CloseReason, sentence: str, now: float) -> None:
        """A connection sent what is no frame: nothing more can come of it."""
        self._dispatcher.now = now
        self._close(peer, reason, sentence)

    def disconnected(self, peer: Peer, reason: CloseReason, now: float) -> None:
        """A connection has gone. May be said of one that the switchboard itself has closed."""
        self._dispatcher.now = now
        self._forget(peer, reason)
        # Jobs of a client that has gone keep its record; they need not keep its buffers.
        peer.link = None

    def congested(self, peer: Peer, now: float) -> None:
        """A connection's outbox passed its mark: a worker gets no jobs until `writable`."""
        self._dispatcher.now = now
        if peer.state is not PeerState.GONE and not peer.congested:
            peer.congested = True
            if peer.worker is not None:
                self._dispatcher.availability_changed(peer.worker)

    def writable(self, peer: Peer, now: float) -> None:
        """A connection's outbox has room again."""
        self._dispatcher.now = peer.heard_at = now
        if peer.state is not PeerState.GONE and peer.congested:
            peer.congested = False
            if peer.worker is not None:
                self._dispatcher.availability_changed(peer.worker)

    def admitted(self, cookie: bytes, number: int, now: float) -> None:
        """Whoever admits jobs has taken this one; it may have been cancelled meanwhile."""
        self._dispatcher.now = now
        route = self._dispatcher.admitting(cookie, number)
        if route is None:
            return
        kind = route.kind = self._intake.class_of(route.kind.pipeline, route.kind.as_json)
        worker = choose(kind.pools)
        owner = route.owner
        if worker is not None:
            self._dispatcher.dispatch(route, worker, route.frame)
            if route.options.reply:
                self._answers.reply(owner, PacketType.RUN, Code.DISPATCHED, "a worker has it", cookie)
        elif owner.state is PeerState.GONE or self._intake.would_wait(owner, cookie, route.options, kind):
            self._intake.wait(route)
        else:
            self._dispatcher.withdraw(route)

    def rejected(self, cookie: bytes, number: int, code: Code, sentence: str, now: float) -> None:
        """Whoever admits jobs has refused this one; `code` is a refusal."""
        self._dispatcher.now = now
        route = self._dispatcher.admitting(cookie, number)
        if route is not None:
            owner = route.owner
            self._dispatcher.withdraw(route)
            self._intake.refuse(owner, cookie, code, sentence)

    def drain(self, now: float) -> None:
        """Stop taking jobs: waiting ones are given back as never started, workers finish what they have and go."""
        dispatcher = self._dispatcher
        dispatcher.now = now
        self.effects.draining = True
        for route in [route for route in dispatcher.routes.values() if route.assignment is None]:
            dispatcher.fail(route, Code.BROKER_WENT_AWAY, "the broker is stopping; the job never started", may_have_run=False)
        for peer in self.peers.values():
            if peer.role == Role.WORKER and peer.state == PeerState.WELCOMED:
                self.effects.send(peer, packets.drain())
                if peer.worker is not None:
                    peer.worker.draining = True
                    dispatcher.availability_changed(peer.worker)

    def stop(self, now: float) -> None:
        """End everything: each job that still runs is BROKER_WENT_AWAY for its owner, each connection is told goodbye."""
        dispatcher = self._dispatcher
        dispatcher.now = now
        self.effects.draining = True
        for route in list(dispatcher.routes.values()):
            ran = route.assignment is not None
            sentence = "the broker stopped while the job ran" if ran else "the broker stopped; the job never started"
            dispatcher.fail(route, Code.BROKER_WENT_AWAY, sentence, may_have_run=ran)
        for peer in list(self.peers.values()):
            self._close(peer, CloseReason.SHUTTING_DOWN, "the broker is stopping")

    def wake(self, now: float) -> None:
        """Do what is due. To be called at `timers.wake_at`, or soon after."""
        self._leases.woken(self.timers.wake_at, now)
        dispatcher = self._dispatcher
        dispatcher.now = now
        failure: Exception | None = None
        for timer in self.timers.due(now):
            try:
                self._due(timer.kind, timer.subject)
            except Exception as error:
                # A bug of ours in one of them is no reason to lose the others.
                failure = failure or error
        if failure is not None:
            raise failure

    def _due(self, kind: TimerKind, subject: object) -> None:
        now = self._dispatcher.now
        if isinstance(subject, Peer):
            if kind == TimerKind.LEASE:
                silent_s = self._leases.expired_s(subject, now)
                if silent_s is not None:
                    self._close(subject, CloseReason.HEARTBEAT_TIMEOUT, f"nothing was heard for {silent_s:.0f} s")
            elif subject.state == PeerState.GREETING:
                self._close(subject, CloseReason.HANDSHAKE_TIMEOUT, f"no HELLO within {self._limits.handshake_s:g} s")
        elif isinstance(subject, Route):
            if subject.state != RouteState.OVER:
                self._dispatcher.deadline_over(subject)
        elif isinstance(subject, Assignment):
            self._dispatcher.assignment_due(kind, subject)

    # Connections

    def _move(self, peer: Peer, state: PeerState) -> None:
        peer.state = state
        peer.handlers = self._tables[peer.role, peer.dialect, state]

    def _close(self, peer: Peer, reason: CloseReason, sentence: str) -> None:
        if peer.state != PeerState.GONE:
            self.effects.closes.append(Close(peer.link, reason, sentence))
            self._forget(peer, reason)

    def _forget(self, peer: Peer, reason: CloseReason) -> None:
        if peer.state != PeerState.GONE:
            self._move(peer, PeerState.GONE)
            peer.reader = None
            del self.peers[peer.id]
            if peer.timer is not None:
                self.timers.disarm(peer.timer)
                peer.timer = None
            if peer.worker is not None:
                worker, peer.worker = peer.worker, None
                self._dispatcher.worker_lost(worker, reason)

    def _hello(self, peer: Peer, frame: Frame) -> None:
        try:
            hello = schemas.hello_meta(meta_of(frame[2]))
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            self._close(peer, CloseReason.PROTOCOL_ERROR, f"HELLO: {error}")
            return
        peer.name = hello.name or ""
        self._move(peer, PeerState.WELCOMED)
        peer.reader = self._plain.results if peer.role == Role.WORKER else None if self._admits else self._plain.runs
        if peer.timer is not None:
            self.timers.disarm(peer.timer)
        self._leases.begin(peer, self._dispatcher.now)
        self.effects.welcomes.append(peer.link)
        welcome = packets.welcome_meta(peer.id, self._instance, self._limits, self._version)
        self.effects.send(peer, packets.welcome(welcome))
        fields = {"connection": peer.id.hex(), "software": f"{hello.sw} {hello.v}".strip(), "name": peer.name}
        self.effects.logs.append(("info", "connection welcomed", fields))

    def _ping(self, peer: Peer, frame: Frame) -> None:
        self.effects.send(peer, packets.pong(frame[5]))

    def _ignore(self, peer: Peer, frame: Frame) -> None:
        """Nothing to do: a PONG was counted as a sign of life already, an answer must not be answered, the closed are not heard."""

    def _goodbye(self, peer: Peer, frame: Frame) -> None:
        self._close(peer, CloseReason.NORMAL, "goodbye")

    def _out_of_order(self, peer: Peer, frame: Frame) -> None:
        expected = "HELLO comes first" if peer.state == PeerState.GREETING else "HELLO comes once"
        self._close(peer, CloseReason.PROTOCOL_ERROR, f"{expected}, not packet type {frame[2][4]}")

    def _unsupported(self, peer: Peer, frame: Frame) -> None:
        _, cookie, raw, _, _, number, _ = frame
        too = ", and over the frame limit" if frame[0] >= OVERSIZED else ""
        sentence = f"Packet type not supported on this {peer.role.name.lower()}{too}"
        self._answers.reply(peer, raw[4], Code.UNSUPPORTED_PACKET_TYPE, sentence, cookie, number)

    def _malformed(self, peer: Peer, frame: Frame) -> None:
        self._answers.reply(peer, PacketType.RUN, Code.BAD_PACKET, frame[2].decode("utf-8", "replace"), frame[1])

    # Clients

    def _cancel(self, peer: Peer, frame: Frame) -> None:
        _, cookie, raw, _, _, number, _ = frame
        try:
            meta = schemas.cancel_meta(meta_of(raw))
        except schemas.MetaUndecodable as error:
            self._close(peer, CloseReason.PROTOCOL_ERROR, f"CANCEL: {error}")
            return
        except schemas.MetaInvalid as error:
            self._answers.reply(peer, PacketType.CANCEL, Code.BAD_PACKET, f"CANCEL: {error}", cookie, number)
            return
        route = self._dispatcher.routes.get(cookie)
        if cookie == NO_COOKIE:
            code, sentence = Code.BAD_PACKET, "Missing cookie"
        elif route is None or route.principal != peer.principal:
            code, sentence = Code.COOKIE_NOT_FOUND, "No such cookie"
        else:
            code, sentence = self._dispatcher.cancel(route, at_once=meta.now, why=meta.why)
        self._answers.reply(peer, PacketType.CANCEL, code, sentence, cookie, number)

    # Workers

    def _register(self, peer: Peer, frame: Frame) -> None:
        number = frame[5]
        try:
            meta = schemas.register_meta(meta_of(frame[2]))
        except schemas.MetaUndecodable as error:
            self._close(peer, CloseReason.PROTOCOL_ERROR, f"REGISTER: {error}")
            return
        except schemas.MetaInvalid as error:
            self._answers.reply(peer, PacketType.REGISTER, Code.BAD_PACKET, f"REGISTER: {error}", number=number)
            return
        if peer.worker is not None:
            self._answers.reply(
                peer, PacketType.REGISTER, Code.NOT_ALLOWED, "this connection has registered already", number=number
            )
            return
        self._answers.reply(peer, PacketType.REGISTER, Code.OK, "registered", number=number)
        if self.effects.draining or peer.leaving:
            self.effects.send(peer, packets.drain())
        else:
            self._dispatcher.register(peer, meta.cap, meta.serves)
        fields = {"connection": peer.id.hex(), "name": peer.name, "capacity": meta.cap, "serves": meta.serves[:10]}
        self.effects.logs.append(("info", "worker registered", fields))

    def _oversized_result(self, peer: Peer, frame: Frame) -> None:
        kind, cookie, _, _, attempt, _, _ = frame
        raw = packets.failed(
            cookie, attempt, Code.TOO_LARGE, f"the worker's RESULT: {packets.too_long(frame[2], self._limits.frame_bytes_max)}"
        )
        self._dispatcher.result(peer, (kind, cookie, raw, Code.TOO_LARGE, attempt, 0, 0))

    def _drain_worker(self, peer: Peer, frame: Frame) -> None:
        self._answers.reply(peer, PacketType.DRAIN, Code.OK, "no more jobs will come", number=frame[5])
        peer.leaving = True
        if peer.worker is not None and not peer.worker.draining:
            peer.worker.draining = True
            self._dispatcher.availability_changed(peer.worker)
            self.effects.logs.append(("info", "worker draining", {"connection": peer.id.hex(), "name": peer.name}))

    def invariants(self) -> None:
        """Raise InternalError if anything disagrees with anything else. For tests and for a broker that doubts itself."""
        self._dispatcher.invariants()
