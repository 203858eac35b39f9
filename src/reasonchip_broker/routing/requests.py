"""What peers ask about jobs, packet by packet: read, checked, handed to whoever does it, answered."""

from collections.abc import Callable
from typing import Final

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import meta_of
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, Dialect, PacketType
from reasonchip_broker.protocol.frames import OVERSIZED, Frame
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.followers import may
from reasonchip_broker.routing.peers import Handlers, Peer
from reasonchip_broker.routing.route import RouteState

Closer = Callable[[Peer, CloseReason, str], None]

_OVER: Final = RouteState.OVER
_HOLDING: Final = frozenset({AssignmentState.HELD, AssignmentState.PARKED})


class Requests:
    """Handlers for packets of clients and workers. `close` ends a connection."""

    __slots__ = ("_answers", "_dispatcher", "_limits", "close")

    def __init__(self, limits: Limits, dispatcher: Dispatcher, close: Closer) -> None:
        self._limits = limits
        self._dispatcher = dispatcher
        self._answers = dispatcher.answers
        self.close = close
        """Ends a connection, for a reason and with a sentence."""

    @property
    def of_clients(self) -> Handlers:
        """What a binary client may send, and a binary worker for the jobs that its handlers submit."""
        return {
            PacketType.CANCEL: self.cancel,
            PacketType.ACK: self._ack,
            PacketType.ATTACH: self._attach,
            PacketType.STATUS: self._status,
            PacketType.INPUT: self._dispatcher.streams.input,
            PacketType.INPUT + OVERSIZED: self._dispatcher.streams.oversized_input,
            PacketType.CREDIT: self._dispatcher.streams.credit,
        }

    @property
    def of_workers(self) -> Handlers:
        """What only a binary worker may send."""
        return {
            PacketType.PROGRESS: self._dispatcher.streams.progress,
            PacketType.PROGRESS + OVERSIZED: self._dispatcher.streams.progress,
            PacketType.PARK: self._park,
            PacketType.RESUME: self._resume,
            PacketType.EXTEND: self._extend,
        }

    def read(self, peer: Peer, frame: Frame, schema: schemas.Decoder[schemas.Map]) -> schemas.Map | None:
        """A packet's meta. What is no map ends the connection, a bad map is answered; then None is returned."""
        _, cookie, raw, _, _, number, _ = frame
        kind = PacketType(raw[4])
        try:
            return schema(meta_of(raw))
        except schemas.MetaUndecodable as error:
            self.close(peer, CloseReason.PROTOCOL_ERROR, f"{kind.name}: {error}")
        except schemas.MetaInvalid as error:
            self._answers.reply(peer, kind, Code.BAD_PACKET, f"{kind.name}: {error}", cookie, number)
        return None

    # Clients

    def cancel(self, peer: Peer, frame: Frame) -> None:
        """CANCEL of a job, or of a batch."""
        _, cookie, _, _, _, number, _ = frame
        meta = self.read(peer, frame, schemas.cancel_meta)
        if meta is None:
            return
        if meta.batch is not None:
            self._cancel_batch(peer, number, meta, meta.batch)
            return
        dispatcher = self._dispatcher
        route = dispatcher.routes.get(cookie)
        if cookie == NO_COOKIE:
            code, sentence = Code.BAD_PACKET, "Missing cookie"
        elif route is None or not may(peer, route) or route.state is _OVER:
            code, sentence = Code.COOKIE_NOT_FOUND, "No such cookie"
        else:
            code, sentence = dispatcher.stopping.cancel(route, at_once=meta.now, why=meta.why, asker=peer)
        self._answers.reply(peer, PacketType.CANCEL, code, sentence, cookie, number)

    def _cancel_batch(self, peer: Peer, number: int, meta: schemas.CancelMeta, batch: bytes) -> None:
        dispatcher = self._dispatcher
        routes = dispatcher.family.batch(peer.principal, batch)
        for route in routes:
            # One of them may have been the parent of another.
            if route.state < _OVER:
                dispatcher.stopping.cancel(route, at_once=meta.now, why=meta.why, asker=peer)
        if routes:
            jobs = "1 job was" if len(routes) == 1 else f"{len(routes)} jobs were"
            sentence = f"{jobs} cancelled, or asked to stop"
            frame = packets.reply(PacketType.CANCEL, Code.OK, sentence, number=number, count=len(routes))
            dispatcher.effects.send(peer, frame)
        else:
            self._answers.reply(peer, PacketType.CANCEL, Code.COOKIE_NOT_FOUND, "No such batch", number=number)

    def _attach(self, peer: Peer, frame: Frame) -> None:
        meta = self.read(peer, frame, schemas.attach_meta)
        if meta is not None:
            self._dispatcher.followers.attach(peer, frame[1], meta, frame[5])

    def _status(self, peer: Peer, frame: Frame) -> None:
        _, cookie, _, _, _, number, _ = frame
        meta = self.read(peer, frame, schemas.status_meta)
        if meta is None:
            return
        dispatcher = self._dispatcher
        route = dispatcher.followers.find(peer, cookie, PacketType.STATUS, number)
        if route is not None:
            status = dispatcher.status
            reply = packets.reply(
                PacketType.STATUS,
                Code.OK,
                status.sentence(route),
                cookie=cookie,
                number=number,
                job=status.of(route, tree=meta.tree),
            )
            dispatcher.effects.send(peer, reply)

    def queue(self, peer: Peer, frame: Frame) -> None:
        """QUEUE from a client, for an operator: who waits for what."""
        meta = self.read(peer, frame, schemas.queue_meta)
        if meta is not None:
            report = self._dispatcher.report.of(peer.principal, meta.rows)
            sentence = "1 job waits" if report.wait == 1 else f"{report.wait:,} jobs wait"
            reply = packets.reply(PacketType.QUEUE, Code.OK, sentence, number=frame[5], queue=report)
            self._dispatcher.effects.send(peer, reply)

    def _ack(self, peer: Peer, frame: Frame) -> None:
        self._dispatcher.outcomes.acknowledge(peer, frame[5])

    def drain_worker(self, peer: Peer, frame: Frame) -> None:
        """DRAIN from a client, for an operator: no more jobs to the worker of that name."""
        meta = self.read(peer, frame, schemas.drain_meta)
        if meta is None:
            return
        number = frame[5]
        other = self._dispatcher.sessions.find(peer.principal, meta.worker)
        if other is None:
            self._answers.reply(peer, PacketType.DRAIN, Code.WORKER_NOT_FOUND, "No such worker", number=number)
            return
        self._leave(other)
        # By its name it knows that it is meant, and not the broker that is stopping.
        self._dispatcher.effects.send(other, packets.drain(worker=meta.worker))
        self._answers.reply(peer, PacketType.DRAIN, Code.OK, "the worker was told to finish and leave", number=number)

    # Workers

    def drain(self, peer: Peer, frame: Frame) -> None:
        """DRAIN from a worker: it wants no more jobs."""
        self._answers.reply(peer, PacketType.DRAIN, Code.OK, "no more jobs will come", number=frame[5])
        self._leave(peer)

    def _leave(self, peer: Peer) -> None:
        peer.leaving = True
        if peer.worker is not None and not peer.worker.draining:
            peer.worker.draining = True
            self._dispatcher.slots.availability_changed(peer.worker)
            fields = {"connection": peer.id.hex(), "name": peer.name}
            self._dispatcher.effects.logs.append(("info", "worker draining", fields))

    def oversized_result(self, peer: Peer, frame: Frame) -> None:
        """A RESULT over the frame limit costs its own job."""
        kind, cookie, _, _, attempt, _, _ = frame
        too_long = packets.too_long(frame[2], self._limits.frame_bytes_max)
        raw = packets.failed(cookie, attempt, Code.TOO_LARGE, f"the worker's RESULT: {too_long}")
        self._dispatcher.result(peer, (kind, cookie, raw, Code.TOO_LARGE, attempt, 0, 0))

    @staticmethod
    def _held(peer: Peer, frame: Frame) -> Assignment | None:
        """The attempt that a worker speaks of, if it holds it and its job is not over."""
        assignment = peer.worker.assignments.get(frame[1]) if peer.worker is not None else None
        if assignment is None or assignment.attempt != frame[4] or assignment.state not in _HOLDING:
            return None
        return assignment

    def _park(self, peer: Peer, frame: Frame) -> None:
        assignment = self._held(peer, frame)
        if assignment is None:
            self._dispatcher.counters.parking_dropped += 1
        else:
            self._dispatcher.slots.park(assignment)

    def _resume(self, peer: Peer, frame: Frame) -> None:
        assignment = self._held(peer, frame)
        if assignment is None:
            self._dispatcher.counters.parking_dropped += 1
        else:
            self._dispatcher.slots.ask_back(assignment)

    def _extend(self, peer: Peer, frame: Frame) -> None:
        assignment = self._held(peer, frame)
        if assignment is None:
            self._dispatcher.counters.extends_dropped += 1
        elif frame[5]:
            self._dispatcher.stopping.extend(assignment, frame[5])

    def register(self, peer: Peer, frame: Frame) -> None:
        """REGISTER: a worker says what it takes, and what it still holds."""
        number = frame[5]
        meta = self.read(peer, frame, schemas.register_meta)
        if meta is None:
            return
        dispatcher = self._dispatcher
        if peer.worker is not None:
            sentence = "this connection has registered already"
            self._answers.reply(peer, PacketType.REGISTER, Code.NOT_ALLOWED, sentence, number=number)
            return
        if peer.dialect == Dialect.JSON:
            self._answers.reply(peer, PacketType.REGISTER, Code.OK, "registered", number=number)
        before = len(peer.sends)
        worker = dispatcher.slots.register(peer, meta.cap, meta.serves, tuple(sorted(meta.labels.items())))
        confirmed = dispatcher.sessions.begin(peer, worker, meta.held)
        if peer.dialect == Dialect.BINARY:
            reply = packets.reply(PacketType.REGISTER, Code.OK, "registered", number=number, held=confirmed)
            # Before all that these jobs were sent just now.
            dispatcher.effects.send_at(peer, before, reply)
        # Also one that an operator had drained before its connection broke.
        worker.draining = dispatcher.effects.draining or peer.leaving
        if worker.draining:
            dispatcher.effects.send(peer, packets.drain())
        dispatcher.slots.availability_changed(worker)
        fields = {"connection": peer.id.hex(), "name": peer.name, "capacity": meta.cap, "serves": meta.serves[:10]}
        if meta.labels:
            fields["labels"] = dict(list(meta.labels.items())[:10])
        dispatcher.effects.logs.append(("info", "worker registered", fields))
