"""Every step that a route, an assignment or a connection takes is one that its table has, and every step of the table is taken.

The tables are data; here is what really happens, recorded over a long random run.
"""

from collections import Counter
from enum import IntEnum
from types import MemberDescriptorType
from typing import Any

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing import assignment, route
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.testing.simulation.walk import Walk
from reasonchip_broker.testing.switchboard_driver import SwitchboardDriver
from tests.unit.switchboard.interpreted import needs_interpreted_core

Steps = Counter[tuple[IntEnum | None, IntEnum]]

UNWALKED = {RouteState.SUSPENDED, RouteState.BACKOFF, AssignmentState.PARKED, AssignmentState.ABANDONED}
"""States that need what nobody does in a walk yet: sessions, several attempts, slots that are lent out."""

PEER_TRANSITIONS = {
    # A binary connection is in its first state from the start, and put into it once more to be given its handlers.
    PeerState.GREETING: {PeerState.GREETING, PeerState.WELCOMED, PeerState.GONE},
    PeerState.WELCOMED: {PeerState.GONE},
    PeerState.GONE: set[PeerState](),
}


class Recorder:
    """Stands in for a class's `state`, and writes down every change of it, however it comes about."""

    def __init__(self, member: MemberDescriptorType, steps: Steps) -> None:
        self._member = member
        self._steps = steps

    def __get__(self, thing: Any, kind: type | None = None) -> Any:
        return self if thing is None else self._member.__get__(thing, kind)

    def __set__(self, thing: Any, state: IntEnum) -> None:
        try:
            before = self._member.__get__(thing, type(thing))
        except AttributeError:
            before = None
        self._member.__set__(thing, state)
        self._steps[before, state] += 1


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[type, Steps]:
    """What was recorded, by class."""
    recorded: dict[type, Steps] = {}
    for kind in (Route, Assignment, Peer):
        recorded[kind] = Counter()
        monkeypatch.setattr(kind, "state", Recorder(kind.__dict__["state"], recorded[kind]))
    return recorded


@needs_interpreted_core
def test_every_transition_of_a_long_run_is_in_the_tables(steps: dict[type, Steps]) -> None:
    for seed in range(4):
        Walk(seed, audit_every=0).go(6000)
    for kind, table in ((Route, route.TRANSITIONS), (Assignment, assignment.TRANSITIONS), (Peer, PEER_TRANSITIONS)):
        illegal = {step for step in steps[kind] if step[0] is not None and step[1] not in table[step[0]]}  # type: ignore[index]
        assert illegal == set(), kind


@needs_interpreted_core
def test_every_transition_of_the_tables_is_taken_in_a_long_run(steps: dict[type, Steps]) -> None:
    for seed in range(4):
        Walk(seed, audit_every=0).go(6000)
    for kind, table in ((Route, route.TRANSITIONS), (Assignment, assignment.TRANSITIONS), (Peer, PEER_TRANSITIONS)):
        possible = {(before, after) for before, afters in table.items() for after in afters}
        built = {step for step in possible if not UNWALKED & set(step)}
        assert built - set(steps[kind]) == set(), kind


@pytest.mark.parametrize("table", [route.TRANSITIONS, assignment.TRANSITIONS])
def test_the_tables_have_a_row_for_each_state_and_only_the_last_one_is_an_end(table: dict[IntEnum, frozenset[IntEnum]]) -> None:
    states = type(next(iter(table)))
    assert set(table) == set(states)
    assert [state for state, afters in table.items() if not afters] == [max(states)]
    assert all(state not in afters for state, afters in table.items())


def test_a_step_that_a_table_does_not_have_is_an_error_of_ours() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    running = worker.peer.worker.assignments[cookie] if worker.peer.worker is not None else None
    assert running is not None
    with pytest.raises(InternalError, match="can't go from HELD to HELD"):
        running.move(AssignmentState.HELD)
