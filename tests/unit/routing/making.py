"""The small parts that tests of the routing room are made of."""

from reasonchip_broker.protocol.codes import Dialect, Role
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.roster import Pool, Roster, Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Shares
from reasonchip_broker.scheduling import Scheduling

SHARES = Shares(Scheduling())
_numbers = iter(range(1, 1_000_000))


def make_peer(role: Role = Role.CLIENT, dialect: Dialect = Dialect.BINARY) -> Peer:
    """A connection's record; its link is its number."""
    number = next(_numbers)
    return Peer(number, number.to_bytes(16, "big"), role, dialect, "", True, SHARES.of_connection("", str(number)))


def make_route(
    kind: EligibilityClass,
    sequence: int = 0,
    frame: bytes = b"",
    state: RouteState = RouteState.QUEUED,
    cookie: bytes = b"",
    owner: Peer | None = None,
    priority: int = 4,
) -> Route:
    """A job of a class."""
    owner = owner or make_peer()
    cookie = cookie or next(_numbers).to_bytes(16, "big")
    route = Route(cookie, owner, "", RunOptions(p=kind.pipeline, prio=priority), kind, state)
    route.sequence, route.frame = sequence, frame
    return route


def make_worker(pool: Pool, capacity: int = 1) -> Worker:
    """A worker that stands in its pool."""
    worker = Worker(make_peer(Role.WORKER, pool.dialect), capacity, pool)
    pool.workers[worker] = None
    pool.place(worker)
    return worker


def make_pool(roster: Roster, *serves: str, dialect: Dialect = Dialect.BINARY) -> Pool:
    """A roster's pool for an offer."""
    return roster.pool_for(dialect, serves or ("*",))[0]
