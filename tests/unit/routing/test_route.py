"""Routes: their table of steps, and what a new one is."""

from itertools import product

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.route import LEGAL, TRANSITIONS, RouteState
from tests.unit.routing.making import make_route

KIND = EligibilityClass(1, "p", False, [])


@pytest.mark.parametrize(("before", "after"), [*product(RouteState, RouteState)])
def test_a_route_takes_the_steps_of_its_table_and_no_others(before: RouteState, after: RouteState) -> None:
    route = make_route(KIND, state=before)
    if after in TRANSITIONS[before]:
        route.move(after)
        assert route.state is after
    else:
        with pytest.raises(InternalError, match=f"route {route.cookie.hex()} can't go from {before.name} to {after.name}"):
            route.move(after)
        assert route.state is before


def test_no_two_states_are_the_same() -> None:
    assert list(RouteState) == list(RouteState.__members__.values())


def test_the_packed_table_says_what_the_table_says() -> None:
    assert {(before << 4) | after for before, after in product(RouteState, RouteState) if after in TRANSITIONS[before]} == LEGAL


def test_any_live_job_may_end_and_what_is_over_stays_over() -> None:
    assert all(RouteState.OVER in afters for state, afters in TRANSITIONS.items() if state < RouteState.OVER)
    assert TRANSITIONS[RouteState.OVER] == {RouteState.FORGOTTEN}
    assert TRANSITIONS[RouteState.FORGOTTEN] == frozenset()


def test_a_cancelled_job_is_never_queued_again() -> None:
    seen, todo = set[RouteState](), {RouteState.CANCELLING}
    while todo:
        state = todo.pop()
        seen.add(state)
        if state != RouteState.SUSPENDED:  # a session that comes back is asked what it holds
            todo |= TRANSITIONS[state] - seen
    assert RouteState.QUEUED not in seen


def test_a_new_route_waits_for_nothing_and_holds_nothing() -> None:
    route = make_route(KIND, state=RouteState.ADMITTING)
    assert (route.attempt, route.assignment, route.timer, route.deadline, route.frame) == (0, None, None, 0.0, b"")


def test_routes_are_told_apart_though_all_they_say_is_the_same() -> None:
    first, second = (make_route(KIND, cookie=b"k" * 16) for _ in range(2))
    assert first != second
    assert len({first, second}) == 2
