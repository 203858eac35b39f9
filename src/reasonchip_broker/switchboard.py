"""The switchboard: which packet, from whom, in which state, means what.

A synchronous state machine. Connections, packets and the present time come in; effects come out, in `effects`, for the caller to
carry out. It performs no I/O, reads no clock, draws no random numbers and holds no lock: a step is atomic, and the same inputs give
the same outputs. What a connection may say next is a table of handlers, one table for each role, dialect and state; each handler is
short, because the work is done by `routing/`.
"""

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import meta_of
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import MALFORMED, OVERSIZED, Frame
from reasonchip_broker.routing.assignment import Assignment
from reasonchip_broker.routing.counters import Counters
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.effects import Close, Effects, Link
from reasonchip_broker.routing.gates import LimitGate
from reasonchip_broker.routing.intake import Intake
from reasonchip_broker.routing.invariants import check
from reasonchip_broker.routing.leases import Leases
from reasonchip_broker.routing.lines import Line
from reasonchip_broker.routing.peers import ELSE, Handlers, Peer, PeerState
from reasonchip_broker.routing.plain import PlainPath
from reasonchip_broker.routing.plain_json import PlainJsonPath
from reasonchip_broker.routing.requests import Requests
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.scheduled import starts_at
from reasonchip_broker.routing.sessions import Session
from reasonchip_broker.routing.shares import ANONYMOUS
from reasonchip_broker.routing.timers import Timer, TimerKind, Timers
from reasonchip_broker.scheduling import Scheduling


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
        scheduling: Scheduling | None = None,
    ) -> None:
        self.effects = Effects()
        self.timers = Timers()
        self.peers: dict[bytes, Peer] = {}
        self._instance = instance
        self._version = version
        self._limits = limits
        self._admits = admits
        self._dispatcher = Dispatcher(limits, self.effects, self.timers, json_slot_rest_ms, json_cancel, scheduling)
        self._shares = self._dispatcher.shares
        self._clock = self._dispatcher.clock
        self._answers = self._dispatcher.answers
        self._requests = Requests(limits, self._dispatcher, self._close)
        self._intake = Intake(limits, self._dispatcher, self._requests, instance, admits=admits)
        self._plain = PlainPath(self._dispatcher, self._intake.known, limits.client_jobs_max)
        self._plain_json = PlainJsonPath(self._dispatcher, self._intake.known, limits.client_jobs_max)
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
        requests, runs = self._requests, self._intake
        client: Handlers = {
            PacketType.RUN: runs.run,
            PacketType.CANCEL: requests.cancel,
            PacketType.RUN + OVERSIZED: runs.oversized,
        }
        worker: Handlers = {
            PacketType.RESULT: self._dispatcher.result,
            PacketType.REGISTER: requests.register,
            PacketType.RESULT + OVERSIZED: requests.oversized_result,
        }
        operator: Handlers = {PacketType.DRAIN: requests.drain_worker, PacketType.QUEUE: requests.queue}
        binary = {
            Role.CLIENT: {**client, **requests.of_clients, **operator},
            Role.WORKER: {**client, **requests.of_clients, **worker, **requests.of_workers, PacketType.DRAIN: requests.drain},
        }
        greeting: Handlers = {PacketType.HELLO: self._hello, PacketType.GOODBYE: self._goodbye, ELSE: self._out_of_order}
        json: Handlers = {MALFORMED: self._malformed, ELSE: self._unsupported}
        gone: Handlers = {ELSE: self._ignore}
        tables: dict[tuple[Role, Dialect, PeerState], Handlers] = {}
        for role, own in ((Role.CLIENT, client), (Role.WORKER, worker)):
            tables[role, Dialect.BINARY, PeerState.GREETING] = greeting
            tables[role, Dialect.BINARY, PeerState.WELCOMED] = {**shared, **binary[role]}
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
        return self._dispatcher.live

    @property
    def outcomes(self) -> int:
        """How many outcomes are kept, since nobody has acknowledged them."""
        return self._dispatcher.outcomes.count

    @property
    def waiting(self) -> int:
        """How many of them wait for a slot."""
        return self._dispatcher.backlog.jobs

    @property
    def scheduled(self) -> int:
        """How many of them wait for their time."""
        return self._dispatcher.scheduled.jobs

    def free_slots(self, pipeline: str, *, as_json: bool = False) -> int:
        """How many jobs of a pipeline could be dispatched now."""
        free = 0
        kind = self._intake.class_of(pipeline, as_json)
        for pool in kind.pools:
            free += pool.room_for(kind.slots)
        return free

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
        is_known = principal not in ("", ANONYMOUS)
        share = self._shares.of_key(principal, "") if is_known else self._shares.of_connection(principal, connection_id.hex())
        peer = Peer(link, connection_id, role, dialect, principal, queues, share)
        self.peers[connection_id] = peer
        peer.heard_at = now
        self._move(peer, PeerState.WELCOMED if dialect == Dialect.JSON else PeerState.GREETING)
        if peer.state == PeerState.GREETING:
            peer.timer = self.timers.arm(TimerKind.HANDSHAKE, peer, now + max(0.0, self._limits.handshake_s - waited_s))
        elif role == Role.WORKER:
            peer.reader = self._plain_json.results
        elif not self._admits:
            peer.reader = self._plain_json.runs
        return peer

    def received(self, peer: Peer, frames: list[Frame], now: float) -> bool:
        """A connection sent these frames (none: it sent a part of one). Returns whether nothing came of them but frames to be sent,
        and perhaps a timer: whoever carries out the effects need not look for others then."""
        peer.heard_at = self._clock.now = now
        if now >= self._shares.advances_at:
            self._dispatcher.backlog.advance(now)
        reader = peer.reader
        if reader is not None and not self.effects.nothing_is_plain:
            if reader(peer, frames):
                if peer.grace_s:
                    self._acknowledge(peer, frames)
                return True
        else:
            for frame in frames:
                handlers = peer.handlers
                handler = handlers.get(frame[0]) or handlers[ELSE]
                handler(peer, frame)
        if peer.grace_s:
            self._acknowledge(peer, frames)
        self._dispatcher.settle()
        return False

    def _acknowledge(self, peer: Peer, frames: list[Frame]) -> None:
        """A worker that may come back keeps its RESULTs until it knows that they have arrived."""
        results = sum(frame[0] % OVERSIZED == PacketType.RESULT for frame in frames)
        if results and peer.state is PeerState.WELCOMED:
            peer.results += results
            self.effects.send(peer, packets.ack(peer.results))

    def offended(self, peer: Peer, reason: CloseReason, sentence: str, now: float) -> None:
        """A connection sent what is no frame: nothing more can come of it."""
        self._clock.now = now
        self._close(peer, reason, sentence)
        self._dispatcher.settle()

    def disconnected(self, peer: Peer, reason: CloseReason, now: float) -> None:
        """A connection has gone. May be said of one that the switchboard itself has closed."""
        self._clock.now = now
        self._forget(peer, reason)
        self._dispatcher.settle()
        # Jobs of a client that has gone keep its record; they need not keep its buffers.
        peer.link = None

    def congested(self, peer: Peer, now: float) -> None:
        """A connection's outbox passed its mark: a worker gets no jobs until `writable`."""
        self._clock.now = now
        if peer.state is not PeerState.GONE and not peer.congested:
            peer.congested = True
            if peer.worker is not None:
                self._dispatcher.slots.availability_changed(peer.worker)
                self._dispatcher.settle()

    def writable(self, peer: Peer, now: float) -> None:
        """A connection's outbox has room again."""
        self._clock.now = peer.heard_at = now
        if peer.state is not PeerState.GONE and peer.congested:
            peer.congested = False
            if peer.worker is not None:
                self._dispatcher.slots.availability_changed(peer.worker)
            self._dispatcher.streams.writable(peer)
            self._dispatcher.settle()

    def admitted(self, cookie: bytes, number: int, now: float) -> None:
        """Whoever admits jobs has taken this one; it may have been cancelled meanwhile."""
        self._clock.now = now
        dispatcher = self._dispatcher
        route = dispatcher.admitting(cookie, number)
        if route is None:
            return
        if starts_at(route) > now:
            self._intake.schedule(route)
            dispatcher.settle()
            return
        kind = route.kind = self._intake.class_of(*route.kind.key)
        is_held = cookie in self._dispatcher.slots.reserved
        owner = route.owner
        gate = dispatcher.gate_for(kind, route.share)
        worker = None if is_held else dispatcher.worker_for(route, may_wait=route.options.queue and owner.queues)
        if worker is not None and worker.available:
            dispatcher.dispatch(route, worker, route.frame)
            if route.options.reply:
                self._answers.reply(owner, PacketType.RUN, Code.DISPATCHED, "a worker has it", cookie)
        else:
            gone = owner.state is PeerState.GONE
            objection = None if gone else self._intake.objection_to_waiting(owner, route.options, kind, gate)
            if objection is not None:
                self._intake.turn_away(route, *objection)
            else:
                self._intake.wait(route, worker)
                if is_held:
                    # A worker that registered meanwhile says that it has it from another run of the broker.
                    self._dispatcher.hold_back([route])
        dispatcher.settle()

    def rejected(self, cookie: bytes, number: int, code: Code, sentence: str, now: float) -> None:
        """Whoever admits jobs has refused this one; `code` is a refusal."""
        self._clock.now = now
        route = self._dispatcher.admitting(cookie, number)
        if route is not None:
            self._intake.turn_away(route, code, sentence)
            self._dispatcher.settle()

    def configure(self, scheduling: Scheduling, now: float) -> None:
        """Schedule by other rules from now on."""
        self._clock.now = now
        dispatcher = self._dispatcher
        dispatcher.backlog.configure(scheduling, [route for route in dispatcher.routes if route.assignment is not None], now)
        dispatcher.affinity.configure(scheduling)
        # Jobs that were plain may be none by the new rules.
        self._intake.known.clear()
        for peer in self.peers.values():
            peer.last_pack = None
        dispatcher.gates.to_fill.update(dict.fromkeys(dispatcher.roster.pools.values()))
        dispatcher.settle()

    def drain(self, now: float) -> None:
        """Stop taking jobs: waiting ones are given back as never started, workers finish what they have and go."""
        dispatcher = self._dispatcher
        self._clock.now = now
        self.effects.draining = True
        for route in [route for route in dispatcher.routes if route.assignment is None and route.state < RouteState.OVER]:
            ran = route.attempt > 0
            sentence = "and tries no job again" if ran else "the job never started"
            dispatcher.fail(route, Code.BROKER_WENT_AWAY, f"the broker is stopping; {sentence}", may_have_run=ran)
        for peer in self.peers.values():
            if peer.role == Role.WORKER and peer.state == PeerState.WELCOMED:
                self.effects.send(peer, packets.drain())
                if peer.worker is not None:
                    peer.worker.draining = True
                    dispatcher.slots.availability_changed(peer.worker)
        dispatcher.settle()

    def stop(self, now: float) -> None:
        """End everything: each job that still runs is BROKER_WENT_AWAY for its owner, each connection is told goodbye."""
        dispatcher = self._dispatcher
        self._clock.now = now
        self.effects.draining = True
        for route in [route for route in dispatcher.routes if route.state < RouteState.OVER]:
            ran = route.attempt > 0
            sentence = "the broker stopped while the job ran" if ran else "the broker stopped; the job never started"
            dispatcher.fail(route, Code.BROKER_WENT_AWAY, sentence, may_have_run=ran)
        for peer in list(self.peers.values()):
            self._close(peer, CloseReason.SHUTTING_DOWN, "the broker is stopping")
        dispatcher.settle()

    def wake(self, now: float) -> None:
        """Do what is due. To be called at `timers.wake_at`, or soon after."""
        late_s = self._leases.woken(self.timers.wake_at, now)
        dispatcher = self._dispatcher
        self._clock.now = now
        if now >= self._shares.advances_at:
            dispatcher.backlog.advance(now)
        failure: Exception | None = None
        for timer in self.timers.due(now):
            if not timer.is_armed:
                continue
            try:
                if late_s and self._waits_for_a_peer(timer, late_s):
                    continue
                self._due(timer)
            except Exception as error:
                # A bug of ours in one of them is no reason to lose the others.
                failure = failure or error
        for route in dispatcher.scheduled.take_due():
            try:
                dispatcher.scheduled.begin(route)
            except Exception as error:
                failure = failure or error
        dispatcher.settle()
        if failure is not None:
            raise failure

    def _waits_for_a_peer(self, timer: Timer, late_s: float) -> bool:
        """Whether a timer gives a peer time to come back, or to say HELLO. While the broker stood still it could not, or was not
        heard: then it has that time yet, up to all that it is given from the beginning."""
        subject, now = timer.subject, self._clock.now
        if timer.kind == TimerKind.SESSION and isinstance(subject, Session) and subject.timer is timer:
            subject.timer = self.timers.arm(timer.kind, subject, now + min(late_s, subject.grace_s))
            return True
        if timer.kind == TimerKind.ORPHAN and isinstance(subject, Route):
            extras, orphan_ms = subject.extras, subject.options.orphan
            if extras is not None and extras.orphan_timer is timer and orphan_ms is not None:
                extras.orphan_timer = self.timers.arm(timer.kind, subject, now + min(late_s, orphan_ms / 1000))
                return True
        if timer.kind == TimerKind.HANDSHAKE and isinstance(subject, Peer) and subject.timer is timer:
            subject.timer = self.timers.arm(timer.kind, subject, now + min(late_s, self._limits.handshake_s))
            return True
        return False

    def _due(self, timer: Timer) -> None:
        kind, subject, now = timer.kind, timer.subject, self._clock.now
        if isinstance(subject, Peer):
            if kind == TimerKind.LEASE:
                silent_s = self._leases.expired_s(subject, now)
                if silent_s is not None:
                    self._close(subject, CloseReason.HEARTBEAT_TIMEOUT, f"nothing was heard for {silent_s:.0f} s")
            elif subject.state == PeerState.GREETING:
                self._close(subject, CloseReason.HANDSHAKE_TIMEOUT, f"no HELLO within {self._limits.handshake_s:g} s")
        elif isinstance(subject, Assignment):
            # What was due before it in the same wake-up may have put another one in its place, or let go of the job.
            if subject.timer is timer:
                self._dispatcher.stopping.assignment_due(kind, subject)
        elif kind == TimerKind.RETENTION:
            self._dispatcher.outcomes.due(subject, now)
        elif isinstance(subject, Route):
            if subject.state < RouteState.OVER:
                self._route_due(kind, subject)
        elif isinstance(subject, Session):
            self._dispatcher.sessions.due(subject)
        elif isinstance(subject, LimitGate):
            self._dispatcher.gates.due(subject)
        elif isinstance(subject, Line):
            self._dispatcher.backlog.waited(subject, self._dispatcher.affinity.wait_s, now)

    def _route_due(self, kind: TimerKind, route: Route) -> None:
        dispatcher = self._dispatcher
        if kind == TimerKind.DEADLINE:
            dispatcher.stopping.deadline_over(route)
        elif kind == TimerKind.QUEUE_LIMIT:
            # A slot may have become free in the same wake-up.
            if route.state is RouteState.QUEUED:
                dispatcher.stopping.queue_limit_over(route)
        elif kind == TimerKind.BACKOFF:
            dispatcher.attempts.due(route)
        elif kind == TimerKind.SCHEDULED:
            dispatcher.scheduled.due(route)
        else:
            dispatcher.followers.orphan_due(route)

    # Connections

    def _move(self, peer: Peer, state: PeerState) -> None:
        peer.state = state
        peer.handlers = self._tables[peer.role, peer.dialect, state]

    def _close(self, peer: Peer, reason: CloseReason, sentence: str, *, as_if: CloseReason | None = None) -> None:
        """Say goodbye to a peer; `as_if` is the reason for its jobs, where that is another one."""
        if peer.state != PeerState.GONE:
            self.effects.closes.append(Close(peer.link, reason, sentence))
            self._forget(peer, as_if or reason)

    def _forget(self, peer: Peer, reason: CloseReason) -> None:
        if peer.state != PeerState.GONE:
            self._move(peer, PeerState.GONE)
            peer.reader = None
            del self.peers[peer.id]
            if peer.timer is not None:
                self.timers.disarm(peer.timer)
                peer.timer = None
            # First it follows nothing any more: what it held as a worker may be jobs of its own, and end now.
            self._dispatcher.outcomes.left(peer)
            self._dispatcher.followers.left(peer)
            self._dispatcher.sessions.left(peer)
            self._shares.left(peer.share)
            if peer.worker is not None:
                worker, peer.worker = peer.worker, None
                self._dispatcher.sessions.lost(peer, worker, reason)

    def _hello(self, peer: Peer, frame: Frame) -> None:
        try:
            hello = schemas.hello_meta(meta_of(frame[2]))
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            self._close(peer, CloseReason.PROTOCOL_ERROR, f"HELLO: {error}")
            return
        peer.name = hello.name or ""
        if peer.role == Role.WORKER:
            if hello.name and hello.inst:
                peer.process = hello.inst
                peer.grace_s = hello.grace
            replaced = self._dispatcher.sessions.greeted(peer)
            if replaced is not None:
                self._close(replaced, CloseReason.REPLACED, "a worker of the same name has connected")
            self._dispatcher.sessions.claimed(peer)
        self._move(peer, PeerState.WELCOMED)
        peer.reader = self._plain.results if peer.role == Role.WORKER else None if self._admits else self._plain.runs
        if peer.timer is not None:
            self.timers.disarm(peer.timer)
        self._leases.begin(peer, self._clock.now)
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
        leaves = frame[3] in (CloseReason.NORMAL, CloseReason.SHUTTING_DOWN)
        self._close(peer, CloseReason.NORMAL, "goodbye", as_if=CloseReason.NORMAL if leaves else CloseReason.PEER_CLOSED)

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

    def invariants(self) -> None:
        """Raise InternalError if anything disagrees with anything else. For tests and for a broker that doubts itself."""
        check(self._dispatcher)
