"""What becomes of a RUN: which check it fails, or whether its job is dispatched, admitted first, or waits.

The checks come in the order that `docs/reference/protocol.md` promises. RUNs that pass all of them and ask for nothing special are
taken by `plain.py` before they come here.
"""

from collections.abc import Callable

from reasonchip_broker.limits import OPTIONS_CACHED_BYTES_MAX, OPTIONS_CACHED_MAX, Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_JSON, NO_COOKIE, CloseReason, Code, PacketType
from reasonchip_broker.protocol.frames import HEADER_BYTES, Frame
from reasonchip_broker.protocol.json_v0 import run_meta
from reasonchip_broker.routing.answers import Answers
from reasonchip_broker.routing.backlog import EligibilityClass
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.plain import Known
from reasonchip_broker.routing.roster import choose
from reasonchip_broker.routing.route import Route

Closer = Callable[[Peer, CloseReason, str], None]


class Intake:
    """Takes RUNs. With `admits`, each job waits for somebody's word; `close` ends a connection whose options are no map."""

    __slots__ = ("_admits", "_answers", "_client_jobs_max", "_close", "_dispatcher", "_known_epoch", "_limits", "known")

    def __init__(self, limits: Limits, dispatcher: Dispatcher, answers: Answers, close: Closer, *, admits: bool) -> None:
        self._limits = limits
        self._dispatcher = dispatcher
        self._answers = answers
        self._close = close
        self._admits = admits
        self._client_jobs_max = limits.client_jobs_max
        self.known: dict[bytes, Known] = {}
        """What options mean, by their bytes: the same few come over and over."""
        self._known_epoch = 0

    def run(self, peer: Peer, frame: Frame) -> None:
        _, cookie, raw, _, _, left_ms, meta_length = frame
        meta = raw[HEADER_BYTES : HEADER_BYTES + meta_length] if meta_length else run_meta(raw)
        known = self.known.get(meta) or self._learn(peer, cookie, meta)
        if known is None:
            return
        options, kind, _ = known
        dispatcher = self._dispatcher
        if cookie in dispatcher.routes or cookie in dispatcher.reserved:
            self.refuse(peer, cookie, Code.COOKIE_COLLISION, "Already in use")
        elif cookie == NO_COOKIE:
            self.refuse(peer, cookie, Code.BAD_PACKET, "Missing cookie")
        elif self._dispatcher.effects.draining:
            self.refuse(peer, cookie, Code.DRAINING, "the broker is stopping and takes no more jobs")
        elif peer.unfinished >= self._client_jobs_max:
            self.refuse(
                peer, cookie, Code.OVERLOADED, f"{peer.unfinished} jobs of this connection are unfinished", retry_ms=1000
            )
        else:
            pools = kind.pools
            worker = pools[0].least_loaded() if len(pools) == 1 else choose(pools)
            if worker is None and not self._may_wait(peer, cookie, options, kind, len(raw)):
                return
            if worker is not None and not self._admits:
                dispatcher.run(cookie, peer, options, kind, worker, frame)
                if options.reply:
                    self._answers.reply(peer, PacketType.RUN, Code.DISPATCHED, "a worker has it", cookie)
                return
            route = dispatcher.open(cookie, peer, options, kind, left_ms)
            route.frame = raw
            if self._admits:
                dispatcher.effects.admissions.append((cookie, route.sequence))
            else:
                self.wait(route)

    def _learn(self, peer: Peer, cookie: bytes, meta: bytes) -> Known | None:
        """Decode a RUN's options and find its class; the same bytes come over and over, so both are kept."""
        try:
            options = schemas.run_options(meta)
        except schemas.MetaUndecodable as error:
            self._close(peer, CloseReason.PROTOCOL_ERROR, f"RUN: {error}")
            return None
        except schemas.MetaInvalid as error:
            self.refuse(peer, cookie, Code.BAD_PACKET, f"RUN: {error}")
            return None
        as_json = options.enc == ENCODING_JSON
        known = options, self.class_of(options.p, as_json), not as_json and not options.reply
        if len(self.known) >= OPTIONS_CACHED_MAX:
            self.known.clear()
        if len(meta) <= OPTIONS_CACHED_BYTES_MAX:
            self.known[meta] = known
        return known

    def class_of(self, pipeline: str, as_json: bool) -> EligibilityClass:
        """The class of a job; if others were forgotten for it, so are the options that led to them."""
        backlog = self._dispatcher.backlog
        kind = backlog.class_of(pipeline, as_json)
        if backlog.epoch != self._known_epoch:
            self._known_epoch = backlog.epoch
            self.known.clear()
        return kind

    def _may_wait(
        self, peer: Peer, cookie: bytes, options: schemas.RunOptions, kind: EligibilityClass, frame_bytes: int
    ) -> bool:
        """Whether a job for which no slot is free may wait; if not, its client is told why."""
        limits, backlog = self._limits, self._dispatcher.backlog
        if not self.would_wait(peer, cookie, options, kind):
            return False
        if backlog.jobs >= limits.backlog_jobs_max or backlog.bytes + frame_bytes > limits.backlog_bytes_max:
            sentence = f"{backlog.jobs} jobs of {backlog.bytes} bytes wait already"
            self.refuse(peer, cookie, Code.OVERLOADED, sentence, retry_ms=1000)
            return False
        return True

    def would_wait(self, peer: Peer, cookie: bytes, options: schemas.RunOptions, kind: EligibilityClass) -> bool:
        """Whether its client wants it to; if not, it is told that there is no capacity."""
        if options.queue and peer.queues:
            return True
        resting = sum(pool.resting for pool in kind.pools)
        if not peer.queues and self._dispatcher.backlog.waiting_for(kind.pools, resting) < resting:
            # A slot that only rests is as good as free, for as many jobs as there are such slots.
            return True
        if kind.pools or not peer.queues:
            self.refuse(peer, cookie, Code.NO_CAPACITY, "No capacity available")
        else:
            self.refuse(peer, cookie, Code.NOT_SERVED, "no connected worker serves this pipeline")
        return False

    def wait(self, route: Route) -> None:
        """Queue a job for which no slot is free, and say so."""
        self._dispatcher.enqueue(route)
        sentence = (
            "every slot that serves this pipeline is taken"
            if route.kind.pools
            else "no connected worker serves this pipeline yet"
        )
        self._answers.reply(route.owner, PacketType.RUN, Code.QUEUED, sentence, route.cookie)

    def refuse(self, peer: Peer, cookie: bytes, code: Code, sentence: str, retry_ms: int = 0) -> None:
        self._dispatcher.counters.refused += 1
        self._answers.reply(peer, PacketType.RUN, code, sentence, cookie, retry_ms=retry_ms)

    def oversized(self, peer: Peer, frame: Frame) -> None:
        self.refuse(peer, frame[1], Code.TOO_LARGE, packets.too_long(frame[2], self._limits.frame_bytes_max))
