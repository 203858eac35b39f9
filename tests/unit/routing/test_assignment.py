"""Assignments: their table of steps."""

from itertools import product

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.assignment import LEGAL, TRANSITIONS, Assignment, AssignmentState
from reasonchip_broker.routing.roster import Roster
from tests.unit.routing.making import make_pool, make_worker


def make_assignment(state: AssignmentState = AssignmentState.HELD) -> Assignment:
    made = Assignment(make_worker(make_pool(Roster())), b"k" * 16, 1)
    made.state = state
    return made


@pytest.mark.parametrize(("before", "after"), [*product(AssignmentState, AssignmentState)])
def test_an_assignment_takes_the_steps_of_its_table_and_no_others(before: AssignmentState, after: AssignmentState) -> None:
    made = make_assignment(before)
    if after in TRANSITIONS[before]:
        made.move(after)
        assert made.state is after
    else:
        with pytest.raises(InternalError, match=f"can't go from {before.name} to {after.name}"):
            made.move(after)
        assert made.state is before


def test_no_two_states_are_the_same() -> None:
    assert list(AssignmentState) == list(AssignmentState.__members__.values())


def test_the_packed_table_says_what_the_table_says() -> None:
    pairs = product(AssignmentState, AssignmentState)
    assert {(before << 4) | after for before, after in pairs if after in TRANSITIONS[before]} == LEGAL


def test_any_slot_may_be_lost_with_its_worker_and_what_is_gone_stays_gone() -> None:
    for state, afters in TRANSITIONS.items():
        assert (AssignmentState.GONE in afters) == (state != AssignmentState.GONE)


def test_what_was_withheld_or_rests_never_holds_a_job_again() -> None:
    for state in (AssignmentState.WITHHELD, AssignmentState.RESTING):
        assert AssignmentState.HELD not in TRANSITIONS[state]


def test_a_new_assignment_is_held_and_may_stand_in_a_table() -> None:
    first, second = make_assignment(), make_assignment()
    assert (first.state, first.timer) == (AssignmentState.HELD, None)
    assert len({first, second}) == 2
