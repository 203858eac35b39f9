"""Pools and workers: what they serve, who is next, and that no index disagrees with what it stands for."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonchip_broker.errors import InternalError
from reasonchip_broker.protocol.codes import Dialect
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.roster import Pool, Roster, Worker, choose
from reasonchip_broker.routing.roster import take as take_any
from tests.unit.routing.making import make_pool, make_worker

# What is served

names = st.text("ab.*?[]!-", min_size=1, max_size=6)


@given(st.lists(names, min_size=1, max_size=5), st.text("ab.*?[]!-", max_size=6), st.booleans())
def test_a_pool_serves_what_any_of_its_patterns_matches(patterns: list[str], pipeline: str, as_json: bool) -> None:
    pool = Pool(tuple(patterns), Dialect.BINARY)
    # A pattern without a wildcard is a name; fnmatch takes it the same way.
    assert pool.serves(pipeline, as_json) == any(fnmatchcase(pipeline, pattern) for pattern in patterns)


def test_a_json_pool_serves_only_variables_that_are_json_text() -> None:
    assert [Pool(("*",), Dialect.JSON).serves("p", as_json) for as_json in (False, True)] == [False, True]


def test_a_name_with_a_line_end_is_matched_as_a_whole() -> None:
    assert not Pool(("a",), Dialect.BINARY).serves("a\n", False)
    assert not Pool(("?",), Dialect.BINARY).serves("a\n", False)
    assert Pool(("*",), Dialect.BINARY).serves("a\n", False)


# Who is next


def take(pool: Pool) -> Worker | None:
    """Give the next job to whose turn it is."""
    worker = pool.least_loaded()
    if worker is not None:
        pool.occupy(worker)
        hold(worker)
    return worker


def take_at_once(pool: Pool) -> Worker | None:
    """The same, as the hot path does it."""
    worker = pool.take()
    if worker is not None:
        hold(worker)
    return worker


TAKES = pytest.mark.parametrize("take", [take, take_at_once])
Take = Callable[[Pool], Worker | None]


def hold(worker: Worker) -> None:
    """What the dispatcher does beside: the job on the slot."""
    cookie = len(worker.assignments).to_bytes(16, "big")
    while cookie in worker.assignments:
        cookie = (int.from_bytes(cookie, "big") + 1).to_bytes(16, "big")
    worker.assignments[cookie] = Assignment(worker, cookie, 1)


def give_back(worker: Worker) -> None:
    worker.assignments.popitem()
    worker.pool.vacate(worker)


def test_an_empty_pool_has_no_worker_to_offer() -> None:
    pool = Pool(("*",), Dialect.BINARY)
    assert (pool.least_loaded(), pool.free) == (None, 0)


@TAKES
def test_workers_take_turns_until_all_slots_are_taken(take: Take) -> None:
    pool = make_pool(Roster())
    first, second = make_worker(pool, 2), make_worker(pool, 2)
    assert [take(pool) for _ in range(5)] == [first, second, first, second, None]
    assert pool.free == 0


def test_to_ask_who_is_next_changes_nothing() -> None:
    pool = make_pool(Roster())
    first, _ = make_worker(pool, 2), make_worker(pool, 2)
    assert {pool.least_loaded() for _ in range(5)} == {first}
    assert pool.free == 4


def test_a_worker_that_gives_a_slot_back_stands_behind_those_as_loaded() -> None:
    pool = make_pool(Roster())
    workers = [make_worker(pool, 1) for _ in range(3)]
    for _ in range(2):
        take(pool)
    give_back(workers[0])
    assert [take(pool), take(pool)] == [workers[2], workers[0]]


def test_a_worker_that_may_take_no_jobs_is_passed_over_and_its_slots_are_not_free() -> None:
    pool = make_pool(Roster())
    first, second = make_worker(pool, 3), make_worker(pool, 3)
    first.peer.congested = True
    pool.place(first)
    assert (first.available, pool.free, take(pool)) == (False, 3, second)
    first.peer.congested = False
    second.draining = True
    for worker in (first, second):
        pool.place(worker)
    assert (pool.free, take(pool)) == (3, first)
    pool.invariants()


def test_a_slot_given_back_by_a_worker_that_may_take_no_jobs_is_not_free() -> None:
    pool = make_pool(Roster())
    worker = make_worker(pool, 2)
    take(pool)
    worker.draining = True
    pool.place(worker)
    give_back(worker)
    assert (pool.free, pool.least_loaded(), worker.busy) == (0, None, 0)
    pool.invariants()


def test_a_worker_that_is_gone_is_gone_from_the_queue() -> None:
    pool = make_pool(Roster())
    gone, stays = make_worker(pool, 1), make_worker(pool, 1)
    pool.remove(gone)
    assert [take(pool), take(pool)] == [stays, None]
    pool.invariants()


@TAKES
@pytest.mark.parametrize("capacity", [1, 63, 64, 65, 10_000])
def test_every_slot_of_a_worker_can_be_taken_and_given_back(capacity: int, take: Take) -> None:
    pool = make_pool(Roster())
    worker = make_worker(pool, capacity)
    for _ in range(capacity):
        assert take(pool) is worker
    assert take(pool) is None
    for _ in range(capacity):
        give_back(worker)
    assert pool.free == capacity
    pool.invariants()


@TAKES
@pytest.mark.parametrize("seed", range(5))
def test_the_next_is_always_among_the_least_loaded_and_never_the_last_to_come_back(seed: int, take: Take) -> None:
    random = Random(seed)
    pool = make_pool(Roster())
    workers = [make_worker(pool, random.choice((1, 2, 5, 64, 100))) for _ in range(12)]
    for _ in range(3000):
        event = random.random()
        worker = random.choice(workers)
        if event < 0.5:
            loads = [other.busy / other.capacity for other in workers if other.available]
            chosen = take(pool)
            if chosen is None:
                assert loads == []
            else:
                assert (chosen.busy - 1) / chosen.capacity <= min(loads) + 1 / 64
        elif event < 0.9 and worker.assignments:
            give_back(worker)
        elif event < 0.95:
            worker.peer.congested = not worker.peer.congested
            pool.place(worker)
        else:
            pool.remove(worker)
            workers[workers.index(worker)] = make_worker(pool, random.choice((1, 3, 70)))
        pool.invariants()
        assert pool.free == sum(other.capacity - other.busy for other in workers if other.available)


def _rise_and_fall(pool: Pool) -> None:
    for _ in pool.workers:
        take(pool)
    for worker in pool.workers:
        give_back(worker)


def _come_and_go(pool: Pool) -> None:
    for worker in pool.workers:
        pool.place(worker)


@pytest.mark.parametrize("moves", [_rise_and_fall, _come_and_go])
def test_places_that_workers_have_left_do_not_pile_up_in_the_queues(moves: Callable[[Pool], None]) -> None:
    pool = make_pool(Roster())
    for _ in range(3):
        make_worker(pool, 2)
    for _ in range(500):
        moves(pool)
    assert max(len(queue or ()) for queue in pool._levels) < 100
    pool.invariants()


def test_a_slot_of_several_pools_is_that_of_the_worker_that_choose_chooses() -> None:
    roster = Roster()
    pools = [make_pool(roster, name) for name in ("a", "b")]
    first, second = [make_worker(pool, 1) for pool in pools]
    assert [take_any(pools), take_any(pools), take_any(pools)] == [first, second, None]
    assert (first.busy, second.busy) == (1, 1)


def test_choose_takes_the_least_loaded_of_several_pools() -> None:
    roster = Roster()
    pools = [make_pool(roster, name) for name in ("a", "b", "c")]
    workers = [make_worker(pool, 4) for pool in pools]
    for worker, busy in zip(workers, (2, 1, 3), strict=True):
        for _ in range(busy):
            worker.pool.occupy(worker)
    assert choose(pools) is workers[1]
    assert choose(pools[:1]) is workers[0]
    assert choose([]) is None


# Pools


def test_the_same_offer_is_one_pool_whatever_its_order() -> None:
    roster = Roster()
    pool, is_new = roster.pool_for(Dialect.BINARY, ["b", "a", "b"])
    assert (is_new, pool.offer) == (True, ("a", "b"))
    assert roster.pool_for(Dialect.BINARY, ["a", "b"]) == (pool, False)
    assert roster.pool_for(Dialect.JSON, ["a", "b"])[1]
    assert roster.pool_for(Dialect.BINARY, ["a"])[1]


def test_a_pool_is_forgotten_only_without_workers() -> None:
    roster = Roster()
    pool = make_pool(roster)
    worker = make_worker(pool)
    with pytest.raises(InternalError, match="a pool with workers can't be forgotten"):
        roster.discard(pool)
    pool.remove(worker)
    roster.discard(pool)
    assert roster.pool_for(Dialect.BINARY, ["*"])[1]
    assert not any(pool._levels), "nothing in it leads to a worker any more, which leads back to it"


# Invariants


def _wrong_busy(worker: Worker) -> None:
    worker.busy += 1


def _wrong_withheld(worker: Worker) -> None:
    worker.withheld = 1


def _withheld_unseen(worker: Worker) -> None:
    next(iter(worker.assignments.values())).state = AssignmentState.WITHHELD


def _over_capacity(worker: Worker) -> None:
    worker.capacity = 0


def _unlisted(worker: Worker) -> None:
    worker.level = -1


def _wrong_level(worker: Worker) -> None:
    worker.level = 0


def _no_ticket(worker: Worker) -> None:
    worker.ticket = None


def _removed_with_its_ticket(worker: Worker) -> None:
    del worker.pool.workers[worker]


def _drains_unseen(worker: Worker) -> None:
    worker.draining = True


def _resting_miscounted(worker: Worker) -> None:
    worker.pool.resting = 1


BREAKS: dict[Callable[[Worker], None], str] = {
    _wrong_busy: "slots busy",
    _wrong_withheld: "withheld slots are miscounted",
    _withheld_unseen: "withheld slots are miscounted",
    _over_capacity: "slots busy",
    _unlisted: "listed as available",
    _wrong_level: "in the wrong level",
    _no_ticket: "no ticket",
    _removed_with_its_ticket: "2 valid tickets for 1 workers",
    _drains_unseen: "listed as available",
    _resting_miscounted: "resting slots are miscounted",
}


@pytest.mark.parametrize("break_it", BREAKS)
def test_the_invariants_notice_what_disagrees(break_it: Callable[[Worker], None]) -> None:
    roster = Roster()
    pool = make_pool(roster)
    worker = make_worker(pool, 3)
    take(pool)
    make_worker(pool, 3)
    roster.invariants()
    break_it(worker)
    with pytest.raises(InternalError, match=BREAKS[break_it]):
        roster.invariants()


def test_the_invariants_notice_a_ticket_in_another_level_although_a_void_one_is_in_the_right_one() -> None:
    roster = Roster()
    pool = make_pool(roster)
    worker = make_worker(pool, 3)
    take(pool)
    level = worker.level
    pool.place(worker)
    give_back(worker)
    pool.place(worker)
    worker.busy, worker.level = 1, level
    worker.assignments[bytes(16)] = Assignment(worker, bytes(16), 1)
    with pytest.raises(InternalError, match="in another level"):
        roster.invariants()


def test_the_invariants_notice_a_pool_that_nobody_is_in() -> None:
    roster = Roster()
    make_pool(roster)
    with pytest.raises(InternalError, match="a pool without workers"):
        roster.invariants()
