"""The backlog: first in first out, within a class and across classes, without a scan, whatever leaves it in between."""

from collections.abc import Callable
from random import Random

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import PIPELINES_KNOWN_MAX
from reasonchip_broker.protocol.codes import Dialect
from reasonchip_broker.routing.backlog import Backlog
from reasonchip_broker.routing.roster import Pool, Roster
from reasonchip_broker.routing.route import Route, RouteState
from tests.unit.routing.making import make_pool, make_route, make_worker


class Line:
    """A backlog, its roster, and jobs that are numbered as they come."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.backlog = Backlog(self.roster)
        self.count = 0

    def pool(self, *serves: str, dialect: Dialect = Dialect.BINARY) -> Pool:
        """A pool whose one worker has no slot free."""
        pool, is_new = self.roster.pool_for(dialect, serves)
        worker = make_worker(pool)
        worker.draining = True
        pool.place(worker)
        if is_new:
            self.backlog.add_pool(pool)
        return pool

    def push(self, pipeline: str, *, as_json: bool = False, frame: bytes = b"12345") -> Route:
        self.count += 1
        route = make_route(self.backlog.class_of(pipeline, as_json), self.count, frame)
        self.backlog.push(route)
        return route

    def pop(self, pool: Pool) -> Route | None:
        route = self.backlog.pop_for(pool)
        if route is not None:
            route.state = RouteState.DISPATCHED
        return route

    def waiting(self) -> list[Route]:
        """All that wait, oldest first."""
        kinds = self.backlog._classes.values()
        routes = [route for kind in kinds for route in kind.queue or () if route.state is RouteState.QUEUED]
        return sorted(routes, key=lambda route: route.sequence)

    def leave(self, route: Route) -> None:
        route.state = RouteState.OVER
        self.backlog.withdraw(route)


def test_nothing_waits_in_an_empty_backlog() -> None:
    line = Line()
    pool = line.pool("*")
    assert (line.pop(pool), line.backlog.jobs, line.backlog.bytes, line.waiting()) == (None, 0, 0, [])


def test_as_many_jobs_wait_for_some_pools_as_these_may_run_counted_no_further_than_is_asked() -> None:
    line = Line()
    one, both, none = line.pool("a"), line.pool("a", "b"), line.pool("c")
    for pipeline in "aab":
        line.push(pipeline)
    waiting = line.backlog.waiting_for
    assert [waiting([one], 9), waiting([both], 9), waiting([one, both], 9), waiting([none], 9)] == [2, 3, 3, 0]
    assert [waiting([both], at_most) for at_most in range(5)] == [0, 1, 2, 3, 3]


def test_jobs_come_out_in_the_order_in_which_they_went_in() -> None:
    line = Line()
    pool = line.pool("*")
    routes = [line.push(pipeline) for pipeline in "abacbca"]
    assert line.waiting() == routes
    assert [line.pop(pool) for _ in range(8)] == [*routes, None]


def test_a_pool_gets_only_what_it_serves() -> None:
    line = Line()
    line.push("a")
    wanted = [line.push("b"), line.push("b")]
    line.push("b", as_json=True)
    narrow = line.pool("b")
    json_only = line.pool("*", dialect=Dialect.JSON)
    assert line.pop(narrow) is wanted[0]
    json_job = line.pop(json_only)
    assert json_job is not None
    assert json_job.kind.as_json
    assert line.pop(json_only) is None
    assert line.pop(narrow) is wanted[1]


def test_two_pools_never_get_the_same_job() -> None:
    line = Line()
    routes = [line.push("a") for _ in range(4)]
    first, second = line.pool("a"), line.pool("*")
    assert [line.pop(pool) for pool in (first, second, second, first, first, second)] == [*routes, None, None]


def test_jobs_and_bytes_are_counted() -> None:
    line = Line()
    pool = line.pool("*")
    routes = [line.push("a", frame=bytes(size)) for size in (10, 200, 3000)]
    assert (line.backlog.jobs, line.backlog.bytes) == (3, 3210)
    line.pop(pool)
    line.leave(routes[1])
    assert (line.backlog.jobs, line.backlog.bytes) == (1, 3000)


def test_a_job_that_stopped_waiting_lets_go_of_its_frame() -> None:
    line = Line()
    line.push("a")
    gone = line.push("a", frame=bytes(1000))
    line.leave(gone)
    assert gone.frame == b""
    line.backlog.invariants()


def test_a_class_whose_oldest_job_left_keeps_its_place_by_the_next_one() -> None:
    line = Line()
    pool = line.pool("*")
    first, second, third = line.push("a"), line.push("b"), line.push("a")
    line.leave(first)
    assert [line.pop(pool), line.pop(pool)] == [second, third]


def test_a_class_that_ran_empty_and_filled_again_stands_where_its_new_jobs_belong() -> None:
    line = Line()
    pool = line.pool("*")
    line.leave(line.push("a"))
    older, newer = line.push("b"), line.push("a")
    assert [line.pop(pool), line.pop(pool)] == [older, newer]


def test_a_class_in_which_no_job_waits_any_more_keeps_none_of_those_that_did() -> None:
    line = Line()
    line.pool("*")
    routes = [line.push("a"), line.push("a")]
    for route in routes:
        line.leave(route)
    assert not routes[0].kind.queue


def test_a_mostly_dead_queue_is_rebuilt() -> None:
    line = Line()
    pool = line.pool("*")
    routes = [line.push("a") for _ in range(1000)]
    for route in routes[1:-1]:
        line.leave(route)
    queue = routes[0].kind.queue
    assert queue is not None
    assert len(queue) < 100
    assert [line.pop(pool), line.pop(pool), line.pop(pool)] == [routes[0], routes[-1], None]


# Classes


def test_a_class_is_found_again() -> None:
    line = Line()
    first = line.backlog.class_of("a", False)
    assert line.backlog.class_of("a", False) is first
    assert line.backlog.class_of("a", True) is not first


def test_classes_know_pools_that_come_later_and_forget_those_that_leave() -> None:
    line = Line()
    kind = line.backlog.class_of("a", False)
    assert kind.pools == []
    pool = line.pool("a")
    assert kind.pools == [pool]
    line.pool("b")
    assert kind.pools == [pool]
    line.backlog.remove_pool(pool)
    assert kind.pools == []


def test_a_class_that_was_forgotten_is_taken_up_again_with_the_pools_of_today() -> None:
    line = Line()
    kind = line.backlog.class_of("a", False)
    for number in range(PIPELINES_KNOWN_MAX):
        line.backlog.class_of(str(number), False)
    pool = line.pool("a")
    assert kind.pools == []
    assert line.backlog.current(kind) is kind
    assert (kind.pools, line.backlog.class_of("a", False)) == ([pool], kind)
    assert line.backlog.current(kind) is kind


def test_idle_classes_are_forgotten_beyond_a_bound_and_busy_ones_are_not() -> None:
    line = Line()
    pool = line.pool("busy*")
    idle, busy = line.backlog.class_of("idle", False), line.push("busy").kind
    epoch = line.backlog.epoch
    for number in range(PIPELINES_KNOWN_MAX):
        line.backlog.class_of(str(number), False)
    assert line.backlog.epoch != epoch
    assert line.backlog.class_of("busy", False) is busy
    assert line.backlog.class_of("idle", False) is not idle
    assert line.pop(pool) is not None
    line.backlog.invariants()


def test_to_forget_costs_no_more_for_each_class_where_none_is_idle() -> None:
    line = Line()
    for number in range(3 * PIPELINES_KNOWN_MAX):
        line.push(str(number))
    epochs = line.backlog.epoch
    assert epochs <= 3
    line.backlog.invariants()


# At random


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_each_pool_gets_the_oldest_job_that_it_serves(seed: int) -> None:
    random = Random(seed)
    line = Line()
    pools: list[Pool] = []
    waiting: list[Route] = []
    for _ in range(2000):
        event = random.random()
        if event < 0.5:
            waiting.append(line.push(random.choice("abcd"), as_json=random.random() < 0.5))
        elif event < 0.7 and waiting:
            line.leave(waiting.pop(random.randrange(len(waiting))))
        elif event < 0.73 and len(pools) < 5:
            serves = random.choice((("a",), ("b", "c"), ("*",), ("[cd]",), ("d",)))
            pool = line.pool(*serves, dialect=random.choice((Dialect.BINARY, Dialect.JSON)))
            if pool not in pools:
                pools.append(pool)
        elif event < 0.75 and pools:
            pool = pools.pop(random.randrange(len(pools)))
            pool.workers.clear()
            line.roster.discard(pool)
            line.backlog.remove_pool(pool)
        elif pools:
            pool = random.choice(pools)
            eligible = (route for route in waiting if pool.serves(route.kind.pipeline, route.kind.as_json))
            expected = next(eligible, None)
            assert line.pop(pool) is expected
            if expected is not None:
                waiting.remove(expected)
        line.backlog.invariants()
        assert line.waiting() == waiting


# Invariants


def _jobs(line: Line, _: Route) -> None:
    line.backlog.jobs += 1


def _bytes(line: Line, _: Route) -> None:
    line.backlog.bytes -= 1


def _size(_: Line, route: Route) -> None:
    route.kind.size = 0


def _over_unseen(_: Line, route: Route) -> None:
    route.state = RouteState.OVER


def _pool_unknown(_: Line, route: Route) -> None:
    route.kind.pools.clear()


def _pool_not_told(_: Line, route: Route) -> None:
    pool = route.kind.pools[0]
    pool.waiting.clear()
    pool.listed.clear()


def _pool_of_another_offer(line: Line, route: Route) -> None:
    route.kind.pools[0] = line.pool("b")


def _pool_twice(_: Line, route: Route) -> None:
    route.kind.pools *= 2


def _new_pool_not_told(line: Line, _: Route) -> None:
    make_worker(make_pool(line.roster, "*")).busy = 1


def _listed_behind(_: Line, route: Route) -> None:
    route.kind.pools[0].waiting = [(route.sequence + 1, route.kind.number, route.kind)]


def _free_slot(_: Line, route: Route) -> None:
    make_worker(route.kind.pools[0])


BREAKS: dict[Callable[[Line, Route], None], str] = {
    _jobs: "the backlog counts 2 jobs",
    _bytes: "the backlog counts 1 jobs and 4 bytes",
    _size: "a class counts 0 waiting jobs, and has 1",
    _over_unseen: "a class counts 1 waiting jobs, and has 0",
    _pool_unknown: "lacks a pool",
    _pool_of_another_offer: "lacks a pool",
    _pool_twice: "pools that don't serve it",
    _new_pool_not_told: "lacks a pool",
    _pool_not_told: "does not know of a class",
    _listed_behind: "not in its place",
    _free_slot: "slots are free",
}


@pytest.mark.parametrize("break_it", BREAKS)
def test_the_invariants_notice_what_disagrees(break_it: Callable[[Line, Route], None]) -> None:
    line = Line()
    line.pool("a")
    route = line.push("a")
    line.backlog.invariants()
    break_it(line, route)
    with pytest.raises(InternalError, match=BREAKS[break_it]):
        line.backlog.invariants()


def test_the_invariants_notice_a_class_that_lost_its_pools_though_they_found_them_before() -> None:
    line = Line()
    pool = line.pool("a")
    kind = line.backlog.class_of("a", False)
    for _ in range(2):
        line.backlog.invariants()
        kind.pools.remove(pool)
        with pytest.raises(InternalError, match="lacks a pool"):
            line.backlog.invariants()
        kind.pools.append(pool)


def test_the_invariants_forget_pools_and_classes_that_are_gone() -> None:
    line = Line()
    pool, kind = line.pool("a"), line.backlog.class_of("a", False)
    line.backlog.invariants()
    assert line.backlog._checked == {kind: [pool]}
    pool.workers.clear()
    line.roster.discard(pool)
    line.backlog.remove_pool(pool)
    line.backlog.invariants()
    assert (line.backlog._checked, line.backlog._checked_pools) == ({kind: []}, [])
    for number in range(PIPELINES_KNOWN_MAX):
        line.backlog.class_of(str(number), False)
    for _ in range(2):
        line.backlog.invariants()
    assert kind not in line.backlog._checked


def test_the_invariants_change_nothing_in_a_queue() -> None:
    line = Line()
    line.pool("a")
    first, _ = line.push("a"), line.push("a")
    line.leave(first)
    queue = first.kind.queue
    assert queue is not None
    line.backlog.invariants()
    assert len(queue) == 2


def test_a_pool_that_is_made_anew_is_told_of_what_waits() -> None:
    line = Line()
    route = line.push("a")
    pool = make_pool(line.roster, "a")
    line.backlog.add_pool(pool)
    assert line.pop(pool) is route


def test_what_is_taken_out_waits_again_at_the_end_and_once() -> None:
    line = Line()
    pool = line.pool("*")
    routes = [line.push(pipeline) for pipeline in "aaba"]
    taken = [routes[1], routes[2]]
    for route in taken:
        route.state = RouteState.BACKOFF
    line.backlog.take_out(taken)
    assert (line.backlog.jobs, line.backlog.bytes) == (2, 10)
    for route in taken:
        line.count += 1
        route.state, route.sequence = RouteState.QUEUED, line.count
        line.backlog.push(route)
    line.backlog.invariants()
    assert [line.pop(pool) for _ in range(5)] == [routes[0], routes[3], *taken, None]
