"""What tests of the backlog begin with: a backlog, its roster, and jobs that are numbered as they come."""

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Dialect
from reasonchip_broker.routing.backlog import Backlog
from reasonchip_broker.routing.clock import Clock
from reasonchip_broker.routing.gates import Gates
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.pressure import Pressure
from reasonchip_broker.routing.roster import Pool, Roster
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import Timers
from reasonchip_broker.scheduling import Scheduling
from tests.unit.routing.making import make_peer, make_route, make_worker


class Scene:
    """A backlog, its roster, and jobs that are numbered as they come."""

    def __init__(self, scheduling: Scheduling | None = None) -> None:
        self.roster = Roster()
        self.clock = Clock()
        timers = Timers()
        scheduling = scheduling or Scheduling()
        self.backlog = Backlog(
            self.roster, scheduling, Gates(scheduling.limits, self.clock, timers), timers, Pressure(Limits(), self.clock)
        )
        self.count = 0
        self.owner = make_peer()
        self.owner.share = self.backlog.shares.of_connection("", "usual")

    @property
    def now(self) -> float:
        return self.clock.now

    @now.setter
    def now(self, now: float) -> None:
        self.clock.now = now

    def pool(self, *serves: str, dialect: Dialect = Dialect.BINARY) -> Pool:
        """A pool whose one worker has no slot free."""
        pool, is_new = self.roster.pool_for(dialect, serves)
        worker = make_worker(pool)
        worker.draining = True
        pool.place(worker)
        if is_new:
            self.backlog.add_pool(pool, self.now)
        return pool

    def push(
        self, pipeline: str, *, as_json: bool = False, frame: bytes = b"12345", owner: Peer | None = None, priority: int = 4
    ) -> Route:
        self.count += 1
        kind = self.backlog.class_of(pipeline, as_json)
        route = make_route(kind, self.count, frame, owner=owner or self.owner, priority=priority)
        route.queued_at = self.now
        self.backlog.push(route, self.now)
        return route

    def pop(self, pool: Pool) -> Route | None:
        route = self.backlog.pop_for(next(iter(pool.workers)), self.now)
        if route is not None:
            route.state = RouteState.DISPATCHED
            route.share.began(1, self.now)
        return route

    def end(self, route: Route) -> None:
        """A job that was dispatched is over."""
        route.share.ended(1, 1, self.now)
        self.backlog.moved(route.share, self.now)

    def waiting(self) -> list[Route]:
        """All that wait, oldest first."""
        kinds = self.backlog._classes.values()
        lines = [line for kind in kinds for line in kind.lines.values()]
        routes = [route for line in lines for route in line.queue if route.state is RouteState.QUEUED]
        return sorted(routes, key=lambda route: route.sequence)

    def leave(self, route: Route) -> None:
        route.state = RouteState.OVER
        self.backlog.withdraw(route, self.now)
