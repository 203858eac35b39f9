"""What becomes of a RUN: which check it fails, or whether its job is dispatched, admitted first, or waits.

The checks come in the order that `docs/reference/protocol.md` promises. RUNs that pass all of them and ask for nothing special are
taken by `plain.py` before they come here.
"""

from math import ceil

from reasonchip_broker.limits import OPTIONS_CACHED_BYTES_MAX, OPTIONS_CACHED_MAX, Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_JSON, NO_COOKIE, CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import HEADER_BYTES, Frame
from reasonchip_broker.protocol.json_v0 import run_meta
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.followers import may
from reasonchip_broker.routing.gates import LimitGate
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.plain import Known
from reasonchip_broker.routing.pressure import RETRY_MS
from reasonchip_broker.routing.requests import Requests
from reasonchip_broker.routing.roster import Labels, Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Share
from reasonchip_broker.routing.status import ALL_TAKEN, PREFERRED_BUSY, limit_reached, not_served
from reasonchip_broker.scheduling import WhenReached


class Intake:
    """Takes RUNs. `instance` is this run of the broker; with `admits`, each job waits for somebody's word."""

    __slots__ = (
        "_admits",
        "_answers",
        "_client_jobs_max",
        "_dispatcher",
        "_instance",
        "_known_epoch",
        "_limits",
        "_requests",
        "known",
    )

    def __init__(self, limits: Limits, dispatcher: Dispatcher, requests: Requests, instance: bytes, *, admits: bool) -> None:
        self._limits = limits
        self._dispatcher = dispatcher
        self._answers = dispatcher.answers
        self._requests = requests
        self._instance = instance
        self._admits = admits
        self._client_jobs_max = limits.client_jobs_max
        self.known: dict[bytes, Known] = {}
        """What options mean, by their bytes: the same few come over and over."""
        self._known_epoch = 0

    def run(self, peer: Peer, frame: Frame) -> None:
        """RUN: refuse it, attach it to the job that it already is, or take a new one."""
        _, cookie, raw, _, _, left_ms, meta_length = frame
        meta = raw[HEADER_BYTES : HEADER_BYTES + meta_length] if meta_length else run_meta(raw)
        known = self.known.get(meta) or self._learn(peer, cookie, meta)
        if known is None:
            return
        options, kind, _ = known
        dispatcher = self._dispatcher
        parent: Route | None = None
        if self._is_its_own(peer, cookie, options):
            return
        if options.parent is not None or peer.role is Role.WORKER:
            parent = self._parent(peer, cookie, options)
            if parent is None:
                return
        if not self._is_new(peer, cookie, options):
            return
        if dispatcher.effects.draining:
            self.refuse(peer, cookie, Code.DRAINING, "the broker is stopping and takes no more jobs")
        elif peer.unfinished >= self._client_jobs_max:
            sentence = f"{peer.unfinished} jobs of this connection are unfinished"
            hint_ms = dispatcher.pressure.unfinished(dispatcher.share_for(peer, options, parent), cookie)
            self.refuse(peer, cookie, Code.OVERLOADED, sentence, hint_ms)
        else:
            if options.delay:
                if self._has_room(peer, cookie, dispatcher.share_for(peer, options, parent), len(raw)):
                    self._take_for_later(dispatcher.open(cookie, peer, options, kind, left_ms, parent), raw)
                return
            share = dispatcher.share_for(peer, options, parent)
            gate = dispatcher.gate_for(kind, share)
            pools = kind.pools
            worker: Worker | None = None
            waits_for: Worker | None = None
            if options.aff and gate is None:
                may_wait = options.queue and peer.queues
                principal = parent.principal if parent is not None else peer.principal
                worker = dispatcher.affinity.choose(kind, principal, options.aff, may_wait=may_wait)
                if worker is not None and not worker.available:
                    waits_for = worker
                    worker = None
            elif gate is None:
                worker = pools[0].least_loaded() if len(pools) == 1 and not kind.special else kind.choose()
            if worker is None and not self._may_wait(peer, cookie, options, kind, gate, share, len(raw)):
                return
            if worker is not None and not self._admits and options.is_simple and kind.slots == 1:
                dispatcher.run(cookie, peer, options, kind, worker, frame)
                self._dispatched(peer, cookie, options)
                return
            route = dispatcher.open(cookie, peer, options, kind, left_ms, parent)
            route.frame = raw
            if self._admits:
                dispatcher.effects.admissions.append((cookie, route.sequence))
            elif worker is not None:
                dispatcher.dispatch(route, worker, raw)
                self._dispatched(peer, cookie, options)
            else:
                self.wait(route, waits_for)

    def _take_for_later(self, route: Route, raw: bytes) -> None:
        """Take a new job that is not to run yet; whoever admits jobs is asked now, and not when its time comes."""
        route.frame = raw
        if self._admits:
            self._dispatcher.effects.admissions.append((route.cookie, route.sequence))
        else:
            self.schedule(route)

    def _dispatched(self, peer: Peer, cookie: bytes, options: schemas.RunOptions) -> None:
        if options.reply:
            self._answers.reply(peer, PacketType.RUN, Code.DISPATCHED, "a worker has it", cookie)

    def _parent(self, peer: Peer, cookie: bytes, options: schemas.RunOptions) -> Route | None:
        """The job that submits this one; if there is none, or it is not this peer's to speak for, its client is told, and None."""
        parent = self._dispatcher.routes.get(options.parent) if options.parent is not None else None
        if parent is not None and parent.state >= RouteState.OVER:
            parent = None
        if peer.role is not Role.WORKER:
            if parent is not None and parent.principal == peer.principal:
                return parent
            self.refuse(peer, cookie, Code.COOKIE_NOT_FOUND, "there is no such parent")
            return None
        if parent is not None and parent.assignment is not None and parent.assignment.worker is peer.worker:
            return parent
        if peer.worker is None and options.parent is None:
            sentence = "this is the address for workers, and it takes no jobs: clients have another one"
        else:
            sentence = "a worker submits jobs for a job that it holds, and names that as their parent"
        self.refuse(peer, cookie, Code.NOT_ALLOWED, sentence)
        return None

    def _is_its_own(self, peer: Peer, cookie: bytes, options: schemas.RunOptions) -> bool:
        """Whether a RUN came again from whoever sent it first: then it attaches to its job."""
        if not options.nonce:
            return False
        dispatcher = self._dispatcher
        route = dispatcher.routes.get(cookie)
        if route is not None and options.nonce == route.options.nonce and may(peer, route):
            dispatcher.followers.resubmitted(peer, route)
            return True
        spent = dispatcher.routes.spent_by(cookie) if route is None else None
        # Of one that is acknowledged nothing but cookie and code are left to compare.
        if spent is not None and spent[0] == peer.principal:
            frame = packets.reply(
                PacketType.RUN,
                Code.OUTCOME_GONE,
                "the job is over, and its outcome is no longer kept",
                cookie=cookie,
                job=dispatcher.status.of_spent(spent[1]),
            )
            dispatcher.effects.send(peer, frame)
            return True
        return False

    def _is_new(self, peer: Peer, cookie: bytes, options: schemas.RunOptions) -> bool:
        """Whether there was never a job with this cookie, as far as is known. If there was, or may have been, its client is told."""
        dispatcher = self._dispatcher
        if cookie in dispatcher.routes or cookie in dispatcher.slots.reserved:
            self.refuse(peer, cookie, Code.COOKIE_COLLISION, "Already in use")
            return False
        if cookie == NO_COOKIE:
            self.refuse(peer, cookie, Code.BAD_PACKET, "Missing cookie")
            return False
        if options.at is not None and options.at != self._instance:
            sentence = "the job was sent to an earlier run of the broker, of which nothing is known: it may have run"
            dispatcher.effects.send(peer, packets.failed(cookie, 0, Code.BROKER_WENT_AWAY, sentence))
            dispatcher.outcomes.sent_unknown(peer)
            return False
        return True

    def _learn(self, peer: Peer, cookie: bytes, meta: bytes) -> Known | None:
        """Decode a RUN's options and find its class; the same bytes come over and over, so both are kept."""
        try:
            options = schemas.run_options(meta)
        except schemas.MetaUndecodable as error:
            self._requests.close(peer, CloseReason.PROTOCOL_ERROR, f"RUN: {error}")
            return None
        except schemas.MetaInvalid as error:
            self.refuse(peer, cookie, Code.BAD_PACKET, f"RUN: {error}")
            return None
        delay_ms_max = self._limits.delay_s_max * 1000
        if options.delay > delay_ms_max:
            too_far = f"{options.delay:,} ms is too far ahead, at most {delay_ms_max:,} ms are allowed here - at `$.delay`"
            self.refuse(peer, cookie, Code.BAD_PACKET, f"RUN: {too_far}")
            return None
        as_json = options.enc == ENCODING_JSON
        kind = self.class_of(options.p, as_json, labels_of(options.need), labels_of(options.like))
        is_plain = not as_json and not options.reply and not (options.like or options.aff) and not kind.special
        known = options, kind, is_plain and options.is_simple
        if options.delay:
            # Made anew for each, from the time that is left: none of them comes twice, and together they would drive out all others.
            return known
        if len(self.known) >= OPTIONS_CACHED_MAX:
            self.known.clear()
        if len(meta) <= OPTIONS_CACHED_BYTES_MAX:
            self.known[meta] = known
        return known

    def class_of(self, pipeline: str, as_json: bool, need: Labels = (), like: Labels = ()) -> EligibilityClass:
        """The class of a job; if others were forgotten for it, so are the options that led to them."""
        backlog = self._dispatcher.backlog
        kind = backlog.class_of(pipeline, as_json, need, like)
        if backlog.epoch != self._known_epoch:
            self._known_epoch = backlog.epoch
            self.known.clear()
        return kind

    def _may_wait(
        self,
        peer: Peer,
        cookie: bytes,
        options: schemas.RunOptions,
        kind: EligibilityClass,
        gate: LimitGate | None,
        share: Share,
        frame_bytes: int,
    ) -> bool:
        """Whether a job for which no slot is free, or that a limit holds back, may wait; if not, its client is told why."""
        objection = self.objection_to_waiting(peer, options, kind, gate)
        if objection is not None:
            self.refuse(peer, cookie, *objection)
            return False
        return self._has_room(peer, cookie, share, frame_bytes)

    def _has_room(self, peer: Peer, cookie: bytes, share: Share, frame_bytes: int) -> bool:
        """Whether one more job may wait, for a slot or for its time; if not, its client is told why. One limit for both: who waits for
        its time has room to wait for a slot when that comes."""
        dispatcher = self._dispatcher
        backlog, scheduled = dispatcher.backlog, dispatcher.scheduled
        jobs, size = backlog.jobs + scheduled.jobs, backlog.bytes + scheduled.bytes
        objection = dispatcher.pressure.objection(share, cookie, frame_bytes, jobs, size)
        if objection is not None:
            self.refuse(peer, cookie, Code.OVERLOADED, *objection)
        return objection is None

    def objection_to_waiting(
        self, peer: Peer, options: schemas.RunOptions, kind: EligibilityClass, gate: LimitGate | None
    ) -> tuple[Code, str, int] | None:
        """With what a client is refused whose job is not to wait, and for how many milliseconds; None, if it may."""
        if gate is not None:
            if gate.limit.when_reached is WhenReached.REFUSE:
                now = self._dispatcher.clock.now
                return Code.OVERLOADED, limit_reached(gate, now), max(RETRY_MS, ceil((gate.opens_at - now) * 1000))
            if not options.queue or not peer.queues:
                return Code.NO_CAPACITY, limit_reached(gate, self._dispatcher.clock.now), 0
        if options.queue and peer.queues:
            return (Code.NOT_SERVED, not_served(kind), 0) if options.served and not kind.pools else None
        resting = sum(pool.resting for pool in kind.pools)
        if not peer.queues and self._dispatcher.backlog.waiting_for(kind.pools, resting) < resting:
            # A slot that only rests is as good as free, for as many jobs as there are such slots.
            return None
        if kind.pools or not peer.queues:
            return Code.NO_CAPACITY, "No capacity available", 0
        return Code.NOT_SERVED, not_served(kind), 0

    def wait(self, route: Route, worker: Worker | None = None) -> None:
        """Queue a job for which no slot is free, for this worker at first, if one is named, and say so."""
        self._dispatcher.enqueue(route, worker)
        gate = self._dispatcher.gate_for(route.kind, route.share)
        if not route.kind.pools:
            sentence = f"{not_served(route.kind)} yet"
        elif worker is not None:
            sentence = PREFERRED_BUSY
        elif gate is not None:
            sentence = limit_reached(gate, self._dispatcher.clock.now)
        else:
            sentence = ALL_TAKEN
        self._answers.reply(route.owner, PacketType.RUN, Code.QUEUED, sentence, route.cookie)

    def schedule(self, route: Route) -> None:
        """Keep a job until its time comes, and say so. It is not said when that has come."""
        self._dispatcher.scheduled.put(route)
        sentence = self._dispatcher.status.sentence(route)
        self._answers.reply(route.owner, PacketType.RUN, Code.SCHEDULED, sentence, route.cookie)

    def turn_away(self, route: Route, code: Code, sentence: str, retry_ms: int = 0) -> None:
        """A job that was being admitted is none after all: whoever follows it meanwhile hears of it what its owner does."""
        owner, cookie = route.owner, route.cookie
        followers = route.extras.followers if route.extras is not None else ()
        self._dispatcher.withdraw(route)
        self.refuse(owner, cookie, code, sentence, retry_ms)
        for follower in followers:
            if follower.peer is not owner:
                self._answers.reply(follower.peer, PacketType.RUN, code, sentence, cookie, retry_ms=retry_ms)

    def refuse(self, peer: Peer, cookie: bytes, code: Code, sentence: str, retry_ms: int = 0) -> None:
        self._dispatcher.counters.refused += 1
        self._answers.reply(peer, PacketType.RUN, code, sentence, cookie, retry_ms=retry_ms)

    def oversized(self, peer: Peer, frame: Frame) -> None:
        self.refuse(peer, frame[1], Code.TOO_LARGE, packets.too_long(frame[2], self._limits.frame_bytes_max))


def labels_of(labels: dict[str, str]) -> Labels:
    """Labels as a class is found by them."""
    return tuple(sorted(labels.items())) if labels else ()
