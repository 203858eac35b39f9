"""Whose turn it is: the highest priority, then the key that has used least, then the oldest."""

import gc
from heapq import heappop, heappush

import pytest

from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.roster import Pool
from reasonchip_broker.routing.route import Route
from reasonchip_broker.routing.turns import Row
from reasonchip_broker.scheduling import Scheduling
from tests.unit.routing.making import make_peer
from tests.unit.routing.queueing import Scene

# Priorities


def test_the_highest_priority_goes_first_whoever_came_before() -> None:
    scene = Scene()
    pool = scene.pool("*")
    low, middle, high = (scene.push("a", priority=priority) for priority in (0, 4, 9))
    other = scene.push("b", priority=9)
    assert [scene.pop(pool) for _ in range(5)] == [high, other, middle, low, None]


def test_a_job_counts_for_one_level_more_each_time_that_it_has_waited_for_so_long() -> None:
    scene = Scene(Scheduling(ageing_s=10.0))
    pool = scene.pool("*")
    old = scene.push("a", priority=2)
    scene.now = 19.9
    younger = scene.push("a", priority=4)
    assert scene.pop(pool) is younger, "it is at 3 by now"
    scene.now = 20.1
    younger = scene.push("b", priority=4)
    assert scene.pop(pool) is old, "it is at 4, and older"
    assert scene.pop(pool) is younger


def test_whoever_comes_after_an_aged_job_has_its_own_age() -> None:
    scene = Scene(Scheduling(ageing_s=10.0))
    pool = scene.pool("*")
    scene.push("a", priority=2)
    scene.now = 35.0
    second, expedited = scene.push("a", priority=2), scene.push("b", priority=4)
    assert scene.pop(pool) is not second
    assert scene.pop(pool) is expedited
    assert scene.pop(pool) is second


def test_whoever_comes_after_an_aged_job_that_left_has_its_own_age() -> None:
    scene = Scene(Scheduling(ageing_s=10.0))
    pool = scene.pool("*")
    aged = scene.push("a", priority=2)
    scene.now = 35.0
    second, expedited = scene.push("a", priority=2), scene.push("b", priority=4)
    assert scene.pop(scene.pool("none")) is None, "it is at 5 now"
    scene.leave(aged)
    assert [scene.pop(pool), scene.pop(pool)] == [expedited, second]


def test_under_strict_priority_with_ageing_nobody_starves() -> None:
    scene = Scene(Scheduling(ageing_s=10.0))
    pool = scene.pool("*")
    lowest = scene.push("a", priority=0)
    taken = []
    for _ in range(100):
        scene.now += 1.0
        scene.push("b", priority=9)
        taken.append(scene.pop(pool))
    assert lowest in taken


def test_levels_are_strict_for_ever_without_ageing() -> None:
    scene = Scene()
    pool = scene.pool("*")
    lowest = scene.push("a", priority=0)
    for _ in range(1000):
        scene.now += 1000.0
        scene.push("b", priority=1)
        assert scene.pop(pool) is not lowest


def test_ageing_can_be_switched_on_and_off_while_jobs_wait() -> None:
    scene = Scene()
    pool = scene.pool("*")
    low, high = scene.push("a", priority=2), scene.push("a", priority=4)
    scene.now = 50.0
    scene.backlog.configure(Scheduling(ageing_s=10.0), [], scene.now)
    later = scene.push("b", priority=8)
    assert scene.pop(pool) is high, "both have waited for five times as long, and are at 7 and 9"
    scene.backlog.configure(Scheduling(), [], scene.now)
    assert [scene.pop(pool), scene.pop(pool)] == [later, low]


# Fair shares


def test_a_newcomer_goes_before_all_that_have_had_a_turn() -> None:
    scene = Scene()
    pool = scene.pool("*")
    first = [scene.push("a") for _ in range(1000)]
    assert scene.pop(pool) is first[0]
    newcomers = [make_peer() for _ in range(3)]
    jobs = [[scene.push("a", owner=peer) for _ in range(2)] for peer in newcomers]
    assert [scene.pop(pool) for _ in range(3)] == [own[0] for own in jobs]
    # From now on it is turn by turn: nobody catches up on what was before it came.
    taken = [scene.pop(pool) for _ in range(4)]
    assert set(map(id, taken)) == {id(own[1]) for own in jobs} | {id(first[1])}


def used(scene: Scene, pool: Pool, jobs: int, seconds: float) -> None:
    """The usual key has had so many jobs, one after the other, and more of its jobs wait."""
    for _ in range(jobs):
        scene.push("a")
        route = scene.pop(pool)
        assert route is not None
        scene.now += seconds
        scene.end(route)
    for _ in range(50):
        scene.push("a")


def of_whom(scene: Scene, pool: Pool, turns: int, owner: Peer) -> list[bool]:
    """Of so many turns in one instant, which were this one's."""
    routes = [scene.pop(pool) for _ in range(turns)]
    return [route is not None and route.owner is owner for route in routes]


def test_what_a_key_did_not_use_while_it_was_not_there_is_no_credit() -> None:
    scene = Scene(Scheduling(half_life_s=1e9))
    pool = scene.pool("*")
    used(scene, pool, 20, 10.0)
    scene.pop(pool)
    newcomer = make_peer()
    newcomer.share = scene.backlog.shares.of_connection("", "newcomer")
    for _ in range(50):
        scene.push("a", owner=newcomer)
    turns = of_whom(scene, pool, 20, newcomer)
    assert turns[0]
    assert 8 <= turns.count(True) <= 12


def test_the_jobs_of_a_new_key_are_taken_to_be_as_long_as_those_of_others() -> None:
    scene = Scene(Scheduling(half_life_s=1e9))
    pool = scene.pool("*")
    used(scene, pool, 20, 10.0)
    shares = scene.backlog.shares
    scene.owner.share.ended(0, 0, scene.now)
    assert shares.of_connection("", "new").turn_s == pytest.approx(shares.turn_s, rel=0.01)


def test_keys_that_wait_in_the_same_moment_take_turns_though_nothing_has_run_yet() -> None:
    scene = Scene()
    pool = scene.pool("*")
    owners = [make_peer() for _ in range(3)]
    for owner in owners:
        for _ in range(4):
            scene.push("a", owner=owner)
    taken = [scene.pop(pool) for _ in range(12)]
    for turn in range(0, 12, 3):
        assert {route.owner.id for route in taken[turn : turn + 3] if route} == {owner.id for owner in owners}


def test_a_key_whose_jobs_take_no_time_still_shares() -> None:
    scene = Scene()
    pool = scene.pool("*")
    other = make_peer()
    for _ in range(10):
        scene.push("a")
        scene.push("a", owner=other)
    turns = []
    for _ in range(10):
        route = scene.pop(pool)
        assert route is not None
        turns.append(route.owner is other)
        scene.end(route)
    assert turns.count(True) == turns.count(False)


@pytest.mark.parametrize(("weight", "other_s"), [(1.0, 1.0), (3.0, 1.0), (1.0, 10.0), (3.0, 0.2)])
def test_slot_time_is_shared_by_weight_whatever_the_length_of_jobs(weight: float, other_s: float) -> None:
    scene = Scene(Scheduling(weights={"heavy": weight}, half_life_s=1e6))
    pool = scene.pool("*")
    heavy, other = make_peer(), make_peer()
    heavy.share = scene.backlog.shares.of_key("", "heavy")
    other.share = scene.backlog.shares.of_key("", "other")
    lengths = {heavy: 1.0, other: other_s}
    for owner in lengths:
        for _ in range(6000):
            scene.push("a", owner=owner)
    running: list[tuple[float, int, Route]] = []
    used = {heavy: 0.0, other: 0.0}
    for place in range(2000):
        if len(running) == 8:
            scene.now, _, over = heappop(running)
            scene.end(over)
            used[over.owner] += lengths[over.owner]
        route = scene.pop(pool)
        assert route is not None
        heappush(running, (scene.now + lengths[route.owner], place, route))
    assert used[heavy] / used[other] == pytest.approx(weight, rel=0.05)


# What is left behind


def test_what_a_key_uses_moves_one_entry_however_many_lines_it_has() -> None:
    scene = Scene()
    pool = scene.pool("*")
    for number in range(1000):
        scene.push(str(number))
    looked_at = 0
    original = type(scene.owner.share).order

    def order(self: object, now: float) -> float:
        nonlocal looked_at
        looked_at += 1
        return original(self, now)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(scene.owner.share), "order", order)
        for _ in range(100):
            route = scene.pop(pool)
            assert route is not None
            scene.end(route)
    assert looked_at < 1000


@pytest.mark.parametrize("whose", ["one key's", "a new key's each time"])
def test_jobs_that_come_and_go_while_nobody_has_a_slot_leave_nothing(whose: str) -> None:
    scene = Scene()
    pool = scene.pool("*")
    scene.push("stays")
    for number in range(3000):
        owner = scene.owner if whose == "one key's" else make_peer()
        scene.leave(scene.push(str(number), owner=owner))
    assert len(pool.turns.listings) < 200
    assert len(scene.owner.share.rows) == 1
    entries = sum(map(len, pool.turns._heaps)) + sum(len(row.lines) for row in pool.turns._rows.values())
    assert entries < 400
    assert scene.pop(pool) is not None
    assert scene.pop(pool) is None
    assert (pool.turns.listings, pool.turns._rows, scene.owner.share.rows, pool.turns.levels) == ({}, {}, {}, 0)


def test_a_pool_that_is_gone_is_no_place_to_wait_any_more() -> None:
    scene = Scene()
    pool = scene.pool("*")
    scene.push("a")
    pool.workers.clear()
    scene.roster.discard(pool)
    scene.backlog.remove_pool(pool)
    assert scene.owner.share.rows == {}
    scene.backlog.moved(scene.owner.share, scene.now)
    scene.backlog.invariants()


def test_the_turns_stay_the_same_when_numbers_are_made_smaller() -> None:
    scene = Scene(Scheduling(half_life_s=1.0))
    pool = scene.pool("*")
    owners = [make_peer() for _ in range(3)]
    for owner in owners:
        owner.share = scene.backlog.shares.of_key("", owner.id.hex())
        for _ in range(2000):
            scene.push("a", owner=owner)
    counts = dict.fromkeys(owners, 0)
    for _ in range(3000):
        scene.now += 0.5
        if scene.now >= scene.backlog.shares.advances_at:
            scene.backlog.advance(scene.now)
        route = scene.pop(pool)
        assert route is not None
        counts[route.owner] += 1
        scene.now += 0.1
        scene.end(route)
    assert set(counts.values()) == {1000}
    scene.backlog.invariants()


def test_nothing_is_left_of_a_key_that_waits_no_more_though_nobody_collects_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        scene = Scene()
        pool = scene.pool("*")
        before = rows()
        for number in range(100):
            owner = make_peer()
            owner.share = scene.backlog.shares.of_connection("", str(number))
            scene.push("a", owner=owner)
            assert scene.pop(pool) is not None
            assert scene.pop(pool) is None
        assert rows() <= before + 1
    finally:
        gc.enable()


def rows() -> int:
    return sum(type(thing) is Row for thing in gc.get_objects())


def test_who_is_given_a_slot_goes_behind_and_comes_again_when_it_has_used_least() -> None:
    """What is said of a key before its job is over is not too late when it is."""
    scene = Scene()
    pool = scene.pool("*")
    owners = [make_peer() for _ in range(3)]
    for number, owner in enumerate(owners):
        owner.share = scene.backlog.shares.of_connection("", str(number))
        for _ in range(3):
            scene.push("a", owner=owner)
    given = []
    for step in range(9):
        scene.now += 1.0
        line = pool.turns.first(scene.now)
        assert line is not None
        route = line.queue.popleft()
        scene.backlog._forget(line, route)
        pool.turns.given(line, scene.now)
        given.append(owners.index(route.owner))
        scene.now += 2.0 if step == 0 else 0.5
        scene.end(route)
    assert given == [0, 1, 2, 1, 2, 1, 2, 0, 0]
