"""What a peer is told about what it sent: REPLYs, and to whom none may be sent."""

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import NO_COOKIE, Code, Dialect, PacketType, Role
from reasonchip_broker.routing.effects import Effects
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.route import RouteState
from reasonchip_broker.routing.table import RouteTable


class Answers:
    """Answers peers. `routes` are the jobs that are known, by cookie."""

    __slots__ = ("_routes", "effects")

    def __init__(self, effects: Effects, routes: RouteTable) -> None:
        self.effects = effects
        self._routes = routes

    def reply(
        self, peer: Peer, to: int, code: Code, sentence: str, cookie: bytes = NO_COOKIE, number: int = 0, retry_ms: int = 0
    ) -> None:
        """Answer a request of type `to`; RUN is known by its cookie, others by `number`. Whoever has gone is told nothing."""
        if peer.state is PeerState.GONE:
            return
        kept = to != PacketType.REGISTER or peer.worker is not None
        if kept and peer.role == Role.WORKER and peer.dialect == Dialect.JSON:
            # An existing worker exits on any answer, and takes its jobs with it; only one that has none may.
            self.effects.logs.append(("warning", "bad packet from a worker", {"connection": peer.id.hex(), "error": sentence}))
            return
        if peer.dialect == Dialect.JSON and code < Code.QUEUED and self.is_owner(peer, cookie):
            # An existing client takes any RESULT with its cookie for the outcome of a job, which in this case goes on.
            cookie = NO_COOKIE
        frame = packets.reply(to, code, sentence, cookie=cookie, number=number, retry_ms=retry_ms)
        self.effects.send(peer, frame)

    def is_owner(self, peer: Peer, cookie: bytes) -> bool:
        """Whether this connection has a job with this cookie that is not over."""
        route = self._routes.get(cookie)
        return route is not None and route.owner is peer and route.state < RouteState.OVER
