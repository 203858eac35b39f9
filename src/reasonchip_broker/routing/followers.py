"""Who follows a job: its owner, who attaches to it, and what becomes of it when they leave.

A job's *owner* is the connection that sent it, or the last that took it over. Any connection of its principal may attach: to fetch
the outcome, to follow, or to take over. Every follower gets one RESULT. When the owner has gone and nobody else follows, the job's
policy is applied: go on, be cancelled, or be cancelled after a while unless somebody attaches."""

from typing import TYPE_CHECKING, Final

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.schemas import AttachMeta
from reasonchip_broker.routing.extras import Extras, Follower
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import TimerKind

if TYPE_CHECKING:
    from reasonchip_broker.routing.dispatcher import Dispatcher

_GONE: Final = PeerState.GONE
_OVER: Final = RouteState.OVER
_WAITS: Final = {RouteState.SCHEDULED: Code.SCHEDULED}


class Followers:
    """Attaching to jobs, and leaving them."""

    __slots__ = ("_dispatcher", "_effects", "_limits", "_outcomes", "_routes", "_status", "_streams")

    def __init__(self, dispatcher: "Dispatcher") -> None:
        self._dispatcher = dispatcher
        self._limits = dispatcher.limits
        self._effects = dispatcher.effects
        self._routes = dispatcher.routes
        self._outcomes = dispatcher.outcomes
        self._streams = dispatcher.streams
        self._status = dispatcher.status

    def submitted(self, route: Route) -> None:
        """A job that is not plain has an owner from the start: tie the two, and follow if that is wanted."""
        tie(route.owner, route)
        if route.options.follow:
            follower = Follower(route.owner, 1, self._limits.credit_frames)
            self._streams.extras_of(route).followers.append(follower)

    # Attaching

    def attach(self, peer: Peer, cookie: bytes, meta: AttachMeta, number: int) -> None:
        """ATTACH: follow a job, take it over, or fetch its outcome."""
        route = self.find(peer, cookie, PacketType.ATTACH, number)
        if route is None:
            return
        frame = packets.reply(
            PacketType.ATTACH, Code.OK, self._status.sentence(route), cookie=cookie, number=number, job=self._status.of(route)
        )
        self._effects.send(peer, frame)
        self.join(route, peer, meta.first, take=meta.take)

    def resubmitted(self, peer: Peer, route: Route) -> None:
        """A RUN came again, from whoever sent it first: it attaches, and hears what it would have heard."""
        if route.state is not _OVER:
            status = self._status.of(route)
            code = Code.DISPATCHED if route.assignment is not None else _WAITS.get(route.state, Code.QUEUED)
            sentence = self._status.sentence(route)
            self._effects.send(peer, packets.reply(PacketType.RUN, code, sentence, cookie=route.cookie, job=status))
        self.join(route, peer, 1 if route.options.follow else 0, take=True, attaches=not route.options.detach)

    def join(self, route: Route, peer: Peer, first: int, *, take: bool, attaches: bool = True) -> None:
        """A connection follows a job from a number of progress on (0: none of it). With `attaches` it waits for the outcome."""
        if route.state is _OVER:
            self._streams.follow(route, Follower(peer, first, 0))
            self._effects.send(peer, route.frame)
            if take:
                self._outcomes.taken(peer, route)
            self._outcomes.sent(peer, route)
            return
        extras = self._streams.extras_of(route)
        extras.attached = extras.attached or attaches
        tie(peer, route)
        follower = next((follower for follower in extras.followers if follower.peer is peer), None)
        if follower is None:
            follower = Follower(peer, first, self._limits.credit_frames)
            extras.followers.append(follower)
        else:
            follower.next, follower.credit = first, self._limits.credit_frames
        if take and route.owner is not peer:
            route.owner.unfinished -= 1
            peer.unfinished += 1
            if route.owner.state is not _GONE and not any(other.peer is route.owner for other in extras.followers):
                extras.followers.append(Follower(route.owner, 0, 0))
                tie(route.owner, route)
            route.own_share = route.share
            route.owner = peer
        if extras.orphan_timer is not None:
            self._dispatcher.timers.disarm(extras.orphan_timer)
            extras.orphan_timer = None
        self._streams.follow(route, follower)

    def find(self, peer: Peer, cookie: bytes, request: PacketType, number: int) -> Route | None:
        """The job that a request is about, if this peer may know of it; else it is told why not, and None is returned."""
        route = self._routes.get(cookie)
        if route is not None and may(peer, route):
            return route
        spent = self._routes.spent_by(cookie) if route is None else None
        if spent is not None and spent[0] == peer.principal:
            frame = packets.reply(
                request,
                Code.OK if request is PacketType.STATUS else Code.OUTCOME_GONE,
                "the job is over, and its outcome is no longer kept",
                cookie=cookie,
                number=number,
                job=self._status.of_spent(spent[1]),
            )
            self._effects.send(peer, frame)
        else:
            self._dispatcher.answers.reply(peer, request, Code.COOKIE_NOT_FOUND, "No such cookie", cookie, number)
        return None

    # Leaving

    def untie(self, route: Route, extras: Extras) -> None:
        """A job is over: none of its followers has anything more to do with it."""
        for follower in extras.followers:
            if follower.peer.ties is not None:
                follower.peer.ties.pop(route, None)
        if route.owner.ties is not None:
            route.owner.ties.pop(route, None)

    def left(self, peer: Peer) -> None:
        """A connection has gone: it follows nothing any more, and the jobs that it owned do as their policy says."""
        ties, peer.ties = peer.ties, None
        for route in ties or ():
            extras = route.extras
            if extras is None or route.state >= _OVER:
                continue
            extras.followers = [follower for follower in extras.followers if follower.peer is not peer]
            self._streams.touch(route)
            if route.owner.state is _GONE and not extras.followers:
                self._orphaned(route)

    def _orphaned(self, route: Route) -> None:
        orphan_ms = route.options.orphan
        extras = route.extras
        if orphan_ms is None or extras is None:
            return
        if orphan_ms == 0:
            self._dispatcher.stopping.cancel(route, at_once=False, why="its client is gone")
        elif extras.orphan_timer is None:
            when = self._dispatcher.clock.now + orphan_ms / 1000
            extras.orphan_timer = self._dispatcher.timers.arm(TimerKind.ORPHAN, route, when)

    def orphan_due(self, route: Route) -> None:
        """Nobody has attached in time."""
        if route.extras is not None:
            route.extras.orphan_timer = None
        why = "its client is gone, and nobody has attached in its place"
        self._dispatcher.stopping.cancel(route, at_once=False, why=why)


def may(peer: Peer, route: Route) -> bool:
    """Whether a connection may know of a job: it is its principal's, or it has sent it itself (a worker, for a job of its client's)."""
    return route.principal == peer.principal or route.owner is peer


def tie(peer: Peer, route: Route) -> None:
    """When this peer goes, this job is to be looked at."""
    if peer.ties is None:
        peer.ties = {}
    peer.ties[route] = None
