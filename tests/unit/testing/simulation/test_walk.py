"""A walk goes the same way from the same seed, and stops where a promise is broken."""

from typing import Any

import pytest

from reasonchip_broker.routing.stopping import Stopping
from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.testing.simulation.walk import Failure, Walk, kind_of, take_again
from reasonchip_broker.testing.simulation.world import World
from tests.unit.switchboard.interpreted import needs_interpreted_core


def trace_of(seed: int) -> str:
    walk = Walk(seed, records=True)
    walk.go(300)
    return walk.trace


def test_the_same_seed_gives_the_same_trace_hash_for_hash() -> None:
    assert trace_of(3) == trace_of(3) != trace_of(4)


def test_a_walk_does_something() -> None:
    walk = Walk(5)
    walk.go(500)
    assert walk.steps > 300
    assert walk.jobs > 20


def test_a_walk_ends_where_its_episode_can_be_taken_again() -> None:
    walk = Walk(5)
    walk.go(100)
    assert take_again(walk.world.setting, walk.operations) is None
    assert walk.operations


@needs_interpreted_core
def test_a_walk_checks_everything_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that can be left out is counted here: the switchboard's own audit, and the count of slots."""
    walk = Walk(5)
    audited: list[int] = []
    counted: list[int] = []
    invariants, count = Switchboard.invariants, World._count

    def audit(board: Switchboard) -> None:
        audited.append(walk.world.steps)
        invariants(board)

    def count_slots(world: World) -> None:
        counted.append(world.steps)
        count(world)

    monkeypatch.setattr(Switchboard, "invariants", audit)
    monkeypatch.setattr(World, "_count", count_slots)
    walk.go(200)
    every_step = list(range(1, walk.steps + 1))
    assert counted == every_step
    assert audited == [*every_step, walk.steps], "once more at the end"


@needs_interpreted_core
def test_any_exception_ends_a_walk_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError(b"cookie 77")

    monkeypatch.setattr(Stopping, "cancel", fail)
    with pytest.raises(Failure, match=r"^seed 1: ") as caught:
        Walk(1).go(1000)
    failure = caught.value
    assert failure.kind == "KeyError: #"
    error = take_again(failure.setting, failure.operations, failure.audit_every)
    assert error is not None
    assert kind_of(error) == failure.kind
