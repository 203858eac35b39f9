"""A world is what its operations made of it, and ends with nothing left over."""

from collections.abc import Callable
from typing import Any

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.protocol.codes import Dialect
from reasonchip_broker.routing.allowance import Allowance
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.extras import Follower
from reasonchip_broker.routing.replay import Budget, Ring
from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.testing.simulation.features.clock import Clock
from reasonchip_broker.testing.simulation.features.connections import OFFERS
from reasonchip_broker.testing.simulation.features.jobs import Jobs
from reasonchip_broker.testing.simulation.records import PIPELINES, BrokenPromise
from reasonchip_broker.testing.simulation.world import COUNTED, World
from tests.unit.routing.making import make_peer
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, PEERS, PLAIN, WORKER

JOB = b"cookie of the job"[:16]
MISCOUNTED = Ring(Budget(1), 1, 1, Allowance(1, 1))
MISCOUNTED.bytes = 1
STRANGER = Follower(make_peer(), 1, 1)


def test_features_find_each_other() -> None:
    world = World(PLAIN)
    assert isinstance(world.find(Clock), Clock)
    assert {"run", "result"} <= world.find(Jobs).operations().keys()


@needs_interpreted_core
def test_a_job_that_is_not_counted_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(PLAIN)
    for operation in PEERS:
        world.apply(operation)
    monkeypatch.setattr(Switchboard, "jobs", property(lambda _: 7))
    with pytest.raises(BrokenPromise, match="7 jobs live and 0 wait; 0 and 0 should"):
        world.apply(("ping", CLIENT))


TABLES: dict[str, Callable[[Dispatcher], object]] = {
    "a pool": lambda tables: setattr(next(iter(tables.roster.pools.values())), "resting", 1),
    "a worker": lambda tables: setattr(next(iter(next(iter(tables.roster.pools.values())).workers)), "withheld", 1),
    "a class": lambda tables: tables.backlog.class_of(PIPELINES[0], True).pools.clear(),
    "the backlog": lambda tables: setattr(tables.backlog, "bytes", 1),
    "the outcomes": lambda tables: setattr(tables.outcomes, "bytes", 1),
    "the reserved cookies": lambda tables: tables.slots.reserve(JOB),
    "the routes": lambda tables: setattr(tables.routes[JOB], "attempt", 2),
    "a slot": lambda tables: setattr(tables.routes[JOB].assignment, "attempt", 2),
    "a ring": lambda tables: setattr(tables.streams.extras_of(tables.routes[JOB]), "inputs", MISCOUNTED),
    "followers": lambda tables: tables.streams.extras_of(tables.routes[JOB]).followers.append(STRANGER),
}
"""What disagrees with something else, and is not looked at by a PING and its PONG."""


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_disagrees_is_noticed_in_the_same_step(table: str) -> None:
    world = World(PLAIN)
    for operation in (*PEERS, ("run", CLIENT, JOB, PIPELINES[0]), ("ping", CLIENT)):
        world.apply(operation)
    TABLES[table](world.driver.switchboard._dispatcher)
    steps = world.steps
    with pytest.raises(InternalError):
        world.apply(("ping", CLIENT))
    assert world.steps == steps + 1


@pytest.mark.parametrize("dialect", Dialect)
def test_the_slots_of_every_worker_are_counted(dialect: Dialect) -> None:
    for serves in OFFERS if dialect == Dialect.BINARY else [("*",)]:
        world = World(PLAIN)
        world.apply(("connect worker", WORKER, dialect, 2, serves))
        mask = world.model.workers[WORKER].mask
        assert any(mask & world.model.kinds[place].bit for place in COUNTED), serves


def test_slots_are_counted_without_an_audit() -> None:
    world = World(PLAIN, audit_every=0)
    for operation in PEERS:
        world.apply(operation)
    (pool,) = world.driver.switchboard._dispatcher.roster.pools.values()
    for worker in pool.workers:
        worker.level = -1
    with pytest.raises(BrokenPromise, match="0 slots are free, and 2 should be"):
        world.apply(("ping", CLIENT))
    world.model.workers[WORKER].rests = 3
    with pytest.raises(BrokenPromise, match="3 slots taken, and there are 2"):
        world.apply(("ping", CLIENT))


@needs_interpreted_core
def test_tables_are_audited_as_often_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    audits: list[Any] = []
    monkeypatch.setattr(Switchboard, "invariants", lambda board: audits.append(board))
    for audit_every in (0, 1, 3):
        audits.clear()
        world = World(PLAIN, audit_every=audit_every)
        for _ in range(4):
            world.apply(("connect stranger", world.steps, 1))
        assert len(audits) == {0: 0, 1: 4, 3: 1}[audit_every]
