"""A world is what its operations made of it, and ends with nothing left over."""

from typing import Any

import pytest

from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.testing.simulation.features.clock import Clock
from reasonchip_broker.testing.simulation.features.jobs import Jobs
from reasonchip_broker.testing.simulation.records import BrokenPromise
from reasonchip_broker.testing.simulation.world import World
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, PEERS, PLAIN


def test_features_find_each_other() -> None:
    world = World(PLAIN)
    assert isinstance(world.find(Clock), Clock)
    assert {"run", "result"} <= world.find(Jobs).operations().keys()


@needs_interpreted_core
def test_a_job_that_is_not_counted_is_noticed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    world = World(PLAIN)
    for operation in PEERS:
        world.apply(operation)
    monkeypatch.setattr(Switchboard, "jobs", property(lambda _: 7))
    with pytest.raises(BrokenPromise, match="7 jobs live and 0 wait; 0 and 0 should"):
        world.apply(("ping", CLIENT))


@needs_interpreted_core
def test_tables_are_audited_as_often_as_asked_for(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    audits: list[Any] = []
    monkeypatch.setattr(Switchboard, "invariants", lambda board: audits.append(board))
    for audit_every in (0, 1, 3):
        audits.clear()
        world = World(PLAIN, audit_every=audit_every)
        for _ in range(4):
            world.apply(("connect stranger", world.steps, 1))
        assert len(audits) == {0: 0, 1: 4, 3: 1}[audit_every]
