"""The wheel: never early, at most a tick late, in order, and cheap where nothing happens."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonchip_broker.limits import TIMER_TICK_S
from reasonchip_broker.routing.timers import AT_ONCE, NEVER, TimerKind, Timers

times = st.floats(0, 1e7) | st.integers(0, 10**7).map(lambda tick: tick * TIMER_TICK_S)
ULP = 1e-9
"""What a double can't tell apart at such times."""


def arm(timers: Timers, when: float, subject: object = None) -> None:
    timers.arm(TimerKind.DEADLINE, subject, when)


def test_an_empty_wheel_never_wants_to_be_woken() -> None:
    timers = Timers()
    assert (timers.wake_at, len(timers), timers.due(1e9)) == (NEVER, 0, [])


@given(times)
def test_a_timer_is_never_early_and_at_most_a_tick_late(when: float) -> None:
    timers = Timers()
    arm(timers, when)
    assert when <= timers.wake_at <= when + TIMER_TICK_S + ULP
    assert timers.due(when - ULP) == []
    assert len(timers.due(when + TIMER_TICK_S + ULP)) == 1


@given(times)
def test_a_timer_that_is_armed_at_its_wake_up_for_that_very_moment_waits_for_the_next(when: float) -> None:
    """Else whoever arms one anew each time that it fires would never come to an end."""
    timers = Timers()
    arm(timers, when)
    now = timers.wake_at
    timers.due(now)
    arm(timers, now)
    assert timers.wake_at > now
    assert timers.due(now) == []


@given(st.lists(times, max_size=30), st.lists(times, max_size=10).map(sorted))
def test_each_timer_fires_once_at_the_first_look_after_its_time(whens: list[float], looks: list[float]) -> None:
    timers = Timers()
    for when in whens:
        arm(timers, when, when)
    left = list(whens)
    for now in looks:
        for timer in timers.due(now):
            assert isinstance(timer.subject, float)
            assert timer.subject <= now
            left.remove(timer.subject)
        assert all(when > now - TIMER_TICK_S - ULP for when in left)
        assert len(timers) == len(left)
        assert timers.wake_at > now


def test_timers_fire_tick_by_tick_and_in_a_tick_in_the_order_of_arming() -> None:
    timers = Timers()
    for subject, when in (("c", 3.0), ("a1", 1.0), ("b", 2.0), ("a2", 1.0), ("a3", 1.001)):
        arm(timers, when, subject)
    assert [timer.subject for timer in timers.due(10)] == ["a1", "a2", "a3", "b", "c"]


def test_the_wheel_wants_to_be_woken_for_the_earliest() -> None:
    timers = Timers()
    wakes = []
    for when in (5.0, 3.0, 4.0, 1.0):
        arm(timers, when)
        wakes.append(timers.wake_at)
    assert wakes == sorted(wakes, reverse=True)
    assert 1.0 <= wakes[-1] <= 1.0 + TIMER_TICK_S + ULP
    timers.due(1.5)
    assert 3.0 <= timers.wake_at <= 3.0 + TIMER_TICK_S + ULP


def test_a_disarmed_timer_does_not_fire_and_may_be_disarmed_again_or_after_it_fired() -> None:
    timers = Timers()
    gone, fired = (timers.arm(TimerKind.LEASE, name, 1.0) for name in ("gone", "fired"))
    timers.disarm(gone)
    timers.disarm(gone)
    assert len(timers) == 1
    assert timers.due(2.0) == [fired]
    timers.disarm(fired)
    assert (len(timers), timers.wake_at) == (0, NEVER)


def test_disarming_one_of_a_tick_leaves_the_others() -> None:
    timers = Timers()
    made = [timers.arm(TimerKind.REST, number, 1.0) for number in range(5)]
    timers.disarm(made[2])
    assert [timer.subject for timer in timers.due(2.0)] == [0, 1, 3, 4]


def test_a_tick_may_be_emptied_and_armed_again() -> None:
    timers = Timers()
    for _ in range(3):
        timers.disarm(timers.arm(TimerKind.REST, "before", 1.0))
    arm(timers, 1.0, "after")
    assert [timer.subject for timer in timers.due(2.0)] == ["after"]
    assert timers.due(3.0) == []


def test_timers_that_are_disarmed_leave_nothing_in_the_wheel() -> None:
    timers = Timers()
    for number in range(10_000):
        timers.disarm(timers.arm(TimerKind.DEADLINE, None, 1000.0 + number))
    arm(timers, 1_000_000.0)
    looks = 0
    while timers.wake_at < 1_000_000.0:
        timers.due(timers.wake_at)
        looks += 1
    assert looks < 2000


@pytest.mark.parametrize("seed", range(3))
def test_many_timers_armed_disarmed_and_fired_at_random_are_all_accounted_for(seed: int) -> None:
    random = Random(seed)
    timers = Timers()
    live: dict[object, float] = {}
    now = 0.0
    for number in range(5000):
        timer = timers.arm(TimerKind.DEADLINE, number, now + random.choice((0.0, 0.001, 0.1, 5.0, 500.0)))
        live[timer] = now
        if random.random() < 0.5:
            gone = random.choice(list(live)[-20:])
            live.pop(gone)
            timers.disarm(gone)  # type: ignore[arg-type]
        now += random.choice((0.0, 0.003, 0.3))
        for fired in timers.due(now):
            live.pop(fired)
        assert len(timers) == len(live)


def test_of_very_many_timers_some_fire_at_once_and_the_others_at_the_next_looks_in_their_order() -> None:
    timers = Timers()
    many = 3 * AT_ONCE + 7
    for number in range(many):
        arm(timers, 1.0 + (number >= AT_ONCE + 3) * TIMER_TICK_S, number)
    arm(timers, 9.0, many)
    fired = []
    for _ in range(4):
        assert timers.wake_at <= 2.0
        some = timers.due(2.0)
        assert len(some) <= AT_ONCE
        fired += [timer.subject for timer in some]
        assert len(timers) == many + 1 - len(fired)
    assert fired == list(range(many))
    assert 9.0 <= timers.wake_at <= 9.0 + TIMER_TICK_S + ULP


def test_timers_of_many_ticks_count_together() -> None:
    timers = Timers()
    for number in range(2 * AT_ONCE):
        arm(timers, 1.0 + number // 2 * TIMER_TICK_S, number)
    assert [timer.subject for timer in timers.due(1000.0)] == list(range(AT_ONCE))
    assert [timer.subject for timer in timers.due(1000.0)] == list(range(AT_ONCE, 2 * AT_ONCE))
    assert timers.wake_at == NEVER


def test_a_timer_that_was_left_for_the_next_look_can_be_disarmed_and_joined() -> None:
    timers = Timers()
    armed = [timers.arm(TimerKind.DEADLINE, number, 1.0) for number in range(AT_ONCE + 3)]
    timers.due(2.0)
    timers.disarm(armed[-2])
    arm(timers, 1.0, "new")
    assert [timer.subject for timer in timers.due(2.0)] == [AT_ONCE, AT_ONCE + 2, "new"]
    assert timers.wake_at == NEVER


def test_when_all_that_were_left_are_disarmed_nothing_fires() -> None:
    timers = Timers()
    armed = [timers.arm(TimerKind.DEADLINE, number, 1.0) for number in range(AT_ONCE + 3)]
    timers.due(2.0)
    for timer in armed:
        timers.disarm(timer)
    assert (timers.due(2.0), timers.wake_at, len(timers)) == ([], NEVER, 0)
