"""The hot path of existing peers: RUNs and RESULTs in JSON, each kind in a loop of its own.

The same as `plain.py`, for jobs that a JSON client submits: it can ask for nothing but that they be run. A RUN that a JSON worker gets,
and a RESULT that goes back to a JSON client, are passed on as the bytes that they came as (`protocol/json_v0.py` tells which may be).
Such an outcome is delivered, and forgotten at once: its cookie is free. Anything else is left to its handler: a job that has to wait,
the outcome of a job that speaks the other protocol, one in another form. Nothing is decided here that is not decided there as well,
and a test compares the two."""

from typing import Final

from reasonchip_broker.protocol.codes import Dialect, PacketType
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.protocol.json_v0 import is_json, run_meta, to_binary
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.peers import ELSE, Peer, PeerState
from reasonchip_broker.routing.plain import NOT_PLAIN, Known
from reasonchip_broker.routing.roster import take
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Share

_RUN: Final = int(PacketType.RUN)
_RESULT: Final = int(PacketType.RESULT)
_JSON: Final = Dialect.JSON
_DISPATCHED: Final = RouteState.DISPATCHED
_HELD: Final = AssignmentState.HELD
_GONE: Final = PeerState.GONE


class PlainJsonPath:
    """Both loops, over the tables of a dispatcher. `known` is what options mean, by their bytes; `jobs_max` bounds a client's jobs."""

    __slots__ = ("_dispatcher", "_jobs_max", "_known", "_recipients", "_routes", "_shards")

    def __init__(self, dispatcher: Dispatcher, known: dict[bytes, Known], jobs_max: int) -> None:
        self._dispatcher = dispatcher
        self._routes = dispatcher.routes
        self._shards = dispatcher.routes.shards
        self._recipients = dispatcher.effects.recipients
        self._known = known
        self._jobs_max = jobs_max

    def runs(self, peer: Peer, frames: list[Frame]) -> bool:
        """Frames from a JSON client. Returns whether all were of jobs that got a slot."""
        known, shards, recipients, dispatcher = self._known, self._shards, self._recipients, self._dispatcher
        reserved, now, principal, share = dispatcher.slots.reserved, dispatcher.clock.now, peer.principal, peer.share
        left, taken, all_plain = self._jobs_max - peer.unfinished, 0, True
        last = b""
        options, kind, _ = NOT_PLAIN
        pools = kind.pools
        for frame in frames:
            code, cookie, raw, _, _, _, _ = frame
            if code == _RUN and is_json(raw):
                meta = run_meta(raw)
                if meta != last:
                    options, kind, _ = known.get(meta, NOT_PLAIN)
                    last, pools = meta, kind.pools
                shard = shards[cookie[15]]
                if (
                    kind.as_json
                    and not kind.special
                    and not options.detach
                    and cookie not in shard
                    and (not reserved or cookie not in reserved)
                    and taken < left
                ):
                    worker = pools[0].take() if len(pools) == 1 else take(pools) if pools else None
                    if worker is not None:
                        assignment = worker.assignments[cookie] = Assignment(worker, cookie, 1, share)
                        shard[cookie] = Route(cookie, peer, principal, options, kind, _DISPATCHED, 1, assignment, now)
                        taken += 1
                        to = worker.peer
                        if not to.sends:
                            recipients.append(to)
                        to.sends.append(raw if to.dialect is _JSON else to_binary(raw, 1))
                        continue
            if taken:
                self._began(peer, share, taken)
            taken, last, all_plain = 0, b"", False
            handlers = peer.handlers
            (handlers.get(code) or handlers[ELSE])(peer, frame)
            if peer.state is _GONE:
                return False
            left = self._jobs_max - peer.unfinished
        if taken:
            self._began(peer, share, taken)
        return all_plain

    def _began(self, peer: Peer, share: Share, jobs: int) -> None:
        """So many new jobs of a client have their slots."""
        share.began(jobs, self._dispatcher.clock.now)
        peer.unfinished += jobs
        self._routes.routes += jobs

    def results(self, peer: Peer, frames: list[Frame]) -> bool:
        """Frames from a JSON worker. Returns whether all ended jobs of JSON clients, and no others took their slots."""
        shards, recipients, dispatcher = self._shards, self._recipients, self._dispatcher
        slots, gates = dispatcher.slots, dispatcher.gates
        all_plain = True
        share: Share | None = None
        ended = freed = 0
        worker = peer.worker
        held = worker.assignments if worker is not None else {}
        for frame in frames:
            kind, cookie, raw, code, _, _, _ = frame
            if kind == _RESULT and not code and is_json(raw) and worker is not None:
                assignment = held.get(cookie)
                if (
                    assignment is not None
                    and assignment.state is _HELD
                    and assignment.timer is None
                    and assignment.slots == 1
                    and not (worker.pool.turns.levels or worker.resuming or gates.held)
                ):
                    cookie = assignment.cookie
                    shard = shards[cookie[15]]
                    route: Route = shard[cookie]
                    owner = route.owner
                    if (
                        route.timer is None
                        and route.extras is None
                        and owner.dialect is _JSON
                        and owner.state is not _GONE
                        and not route.options.detach
                    ):
                        del held[cookie], shard[cookie]
                        if route.share is not share:
                            if share is not None:
                                self._over(share, ended)
                            share, ended = route.share, 0
                        ended += 1
                        owner.unfinished -= 1
                        if not owner.sends:
                            recipients.append(owner)
                        owner.sends.append(raw)
                        if worker.capacity == 1 or not slots.rest(assignment):
                            freed += 1
                        continue
            if share is not None and worker is not None:
                self._over(share, ended)
                if freed:
                    worker.pool.vacate(worker, freed)
                share, ended, freed = None, 0, 0
            all_plain = False
            handlers = peer.handlers
            (handlers.get(kind) or handlers[ELSE])(peer, frame)
            worker = peer.worker
            held = worker.assignments if worker is not None else {}
        if share is not None and worker is not None:
            self._over(share, ended)
            if freed:
                worker.pool.vacate(worker, freed)
        return all_plain

    def _over(self, share: Share, jobs: int) -> None:
        """So many jobs of a fairness key are over, and forgotten."""
        dispatcher = self._dispatcher
        now = dispatcher.clock.now
        share.ended(jobs, jobs, now)
        if share.rows:
            dispatcher.backlog.moved(share, now)
        dispatcher.counters.finished += jobs
        self._routes.routes -= jobs
