"""The backlog: first in first out, within a class and across classes, without a scan, whatever leaves it in between."""

from collections.abc import Callable
from random import Random

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import PIPELINES_KNOWN_MAX
from reasonchip_broker.protocol.codes import Dialect
from reasonchip_broker.routing.roster import Pool
from reasonchip_broker.routing.route import Route, RouteState
from tests.unit.routing.making import make_pool, make_worker
from tests.unit.routing.queueing import Scene


def test_nothing_waits_in_an_empty_backlog() -> None:
    scene = Scene()
    pool = scene.pool("*")
    assert (scene.pop(pool), scene.backlog.jobs, scene.backlog.bytes, scene.waiting()) == (None, 0, 0, [])


def test_as_many_jobs_wait_for_some_pools_as_these_may_run_counted_no_further_than_is_asked() -> None:
    scene = Scene()
    one, both, none = scene.pool("a"), scene.pool("a", "b"), scene.pool("c")
    for pipeline in "aab":
        scene.push(pipeline)
    waiting = scene.backlog.waiting_for
    assert [waiting([one], 9), waiting([both], 9), waiting([one, both], 9), waiting([none], 9)] == [2, 3, 3, 0]
    assert [waiting([both], at_most) for at_most in range(5)] == [0, 1, 2, 3, 3]


def test_jobs_come_out_in_the_order_in_which_they_went_in() -> None:
    scene = Scene()
    pool = scene.pool("*")
    routes = [scene.push(pipeline) for pipeline in "abacbca"]
    assert scene.waiting() == routes
    assert [scene.pop(pool) for _ in range(8)] == [*routes, None]


def test_a_pool_gets_only_what_it_serves() -> None:
    scene = Scene()
    scene.push("a")
    wanted = [scene.push("b"), scene.push("b")]
    scene.push("b", as_json=True)
    narrow = scene.pool("b")
    json_only = scene.pool("*", dialect=Dialect.JSON)
    assert scene.pop(narrow) is wanted[0]
    json_job = scene.pop(json_only)
    assert json_job is not None
    assert json_job.kind.as_json
    assert scene.pop(json_only) is None
    assert scene.pop(narrow) is wanted[1]


def test_two_pools_never_get_the_same_job() -> None:
    scene = Scene()
    routes = [scene.push("a") for _ in range(4)]
    first, second = scene.pool("a"), scene.pool("*")
    assert [scene.pop(pool) for pool in (first, second, second, first, first, second)] == [*routes, None, None]


def test_jobs_and_bytes_are_counted() -> None:
    scene = Scene()
    pool = scene.pool("*")
    routes = [scene.push("a", frame=bytes(size)) for size in (10, 200, 3000)]
    assert (scene.backlog.jobs, scene.backlog.bytes) == (3, 3210)
    scene.pop(pool)
    scene.leave(routes[1])
    assert (scene.backlog.jobs, scene.backlog.bytes) == (1, 3000)


def test_a_job_that_stopped_waiting_lets_go_of_its_frame() -> None:
    scene = Scene()
    scene.push("a")
    gone = scene.push("a", frame=bytes(1000))
    scene.leave(gone)
    assert gone.frame == b""
    scene.backlog.invariants()


def test_a_class_whose_oldest_job_left_keeps_its_place_by_the_next_one() -> None:
    scene = Scene()
    pool = scene.pool("*")
    first, second, third = scene.push("a"), scene.push("b"), scene.push("a")
    scene.leave(first)
    assert [scene.pop(pool), scene.pop(pool)] == [second, third]


def test_a_class_that_ran_empty_and_filled_again_stands_where_its_new_jobs_belong() -> None:
    scene = Scene()
    pool = scene.pool("*")
    scene.leave(scene.push("a"))
    older, newer = scene.push("b"), scene.push("a")
    assert [scene.pop(pool), scene.pop(pool)] == [older, newer]


def test_a_class_in_which_no_job_waits_any_more_keeps_none_of_those_that_did() -> None:
    scene = Scene()
    scene.pool("*")
    routes = [scene.push("a"), scene.push("a")]
    for route in routes:
        scene.leave(route)
    assert not routes[0].kind.lines
    assert not scene.owner.share.lines


def test_a_mostly_dead_queue_is_rebuilt() -> None:
    scene = Scene()
    pool = scene.pool("*")
    routes = [scene.push("a") for _ in range(1000)]
    for route in routes[1:-1]:
        scene.leave(route)
    [line] = routes[0].kind.lines.values()
    assert len(line.queue) < 100
    assert [scene.pop(pool), scene.pop(pool), scene.pop(pool)] == [routes[0], routes[-1], None]


# Classes


def test_a_class_is_found_again() -> None:
    scene = Scene()
    first = scene.backlog.class_of("a", False)
    assert scene.backlog.class_of("a", False) is first
    assert scene.backlog.class_of("a", True) is not first


def test_classes_know_pools_that_come_later_and_forget_those_that_leave() -> None:
    scene = Scene()
    kind = scene.backlog.class_of("a", False)
    assert kind.pools == []
    pool = scene.pool("a")
    assert kind.pools == [pool]
    scene.pool("b")
    assert kind.pools == [pool]
    scene.backlog.remove_pool(pool)
    assert kind.pools == []


def test_a_class_that_was_forgotten_is_taken_up_again_with_the_pools_of_today() -> None:
    scene = Scene()
    kind = scene.backlog.class_of("a", False)
    for number in range(PIPELINES_KNOWN_MAX):
        scene.backlog.class_of(str(number), False)
    pool = scene.pool("a")
    assert kind.pools == []
    assert scene.backlog.current(kind) is kind
    assert (kind.pools, scene.backlog.class_of("a", False)) == ([pool], kind)
    assert scene.backlog.current(kind) is kind


def test_idle_classes_are_forgotten_beyond_a_bound_and_busy_ones_are_not() -> None:
    scene = Scene()
    pool = scene.pool("busy*")
    idle, busy = scene.backlog.class_of("idle", False), scene.push("busy").kind
    epoch = scene.backlog.epoch
    for number in range(PIPELINES_KNOWN_MAX):
        scene.backlog.class_of(str(number), False)
    assert scene.backlog.epoch != epoch
    assert scene.backlog.class_of("busy", False) is busy
    assert scene.backlog.class_of("idle", False) is not idle
    assert scene.pop(pool) is not None
    scene.backlog.invariants()


def test_to_forget_costs_no_more_for_each_class_where_none_is_idle() -> None:
    scene = Scene()
    for number in range(3 * PIPELINES_KNOWN_MAX):
        scene.push(str(number))
    epochs = scene.backlog.epoch
    assert epochs <= 3
    scene.backlog.invariants()


# At random


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_each_pool_gets_the_oldest_job_that_it_serves(seed: int) -> None:
    random = Random(seed)
    scene = Scene()
    pools: list[Pool] = []
    waiting: list[Route] = []
    for _ in range(2000):
        event = random.random()
        if event < 0.5:
            waiting.append(scene.push(random.choice("abcd"), as_json=random.random() < 0.5))
        elif event < 0.7 and waiting:
            scene.leave(waiting.pop(random.randrange(len(waiting))))
        elif event < 0.73 and len(pools) < 5:
            serves = random.choice((("a",), ("b", "c"), ("*",), ("[cd]",), ("d",)))
            pool = scene.pool(*serves, dialect=random.choice((Dialect.BINARY, Dialect.JSON)))
            if pool not in pools:
                pools.append(pool)
        elif event < 0.75 and pools:
            pool = pools.pop(random.randrange(len(pools)))
            pool.workers.clear()
            scene.roster.discard(pool)
            scene.backlog.remove_pool(pool)
        elif pools:
            pool = random.choice(pools)
            eligible = (route for route in waiting if pool.serves(route.kind.pipeline, route.kind.as_json))
            expected = next(eligible, None)
            assert scene.pop(pool) is expected
            if expected is not None:
                waiting.remove(expected)
        scene.backlog.invariants()
        assert scene.waiting() == waiting


# Invariants


def _jobs(scene: Scene, _: Route) -> None:
    scene.backlog.jobs += 1


def _bytes(scene: Scene, _: Route) -> None:
    scene.backlog.bytes -= 1


def _size(_: Scene, route: Route) -> None:
    route.kind.size = 0


def _over_unseen(_: Scene, route: Route) -> None:
    route.state = RouteState.OVER


def _pool_unknown(_: Scene, route: Route) -> None:
    route.kind.pools.clear()


def _pool_not_told(_: Scene, route: Route) -> None:
    pool = route.kind.pools[0]
    pool.turns.listings.clear()


def _pool_of_another_offer(scene: Scene, route: Route) -> None:
    route.kind.pools[0] = scene.pool("b")


def _pool_twice(_: Scene, route: Route) -> None:
    route.kind.pools *= 2


def _new_pool_not_told(scene: Scene, _: Route) -> None:
    make_worker(make_pool(scene.roster, "*")).busy = 1


def _listed_behind(_: Scene, route: Route) -> None:
    [line] = route.kind.lines.values()
    route.kind.pools[0].turns.listings[line] = (route.sequence + 1, line.number, line)


def _free_slot(_: Scene, route: Route) -> None:
    make_worker(route.kind.pools[0])


BREAKS: dict[Callable[[Scene, Route], None], str] = {
    _jobs: "the backlog counts 2 jobs",
    _bytes: "the backlog counts 1 jobs and 4 bytes",
    _size: "a class counts 0 waiting jobs, and its lines 1",
    _over_unseen: "a line counts 1 waiting jobs, and has 0",
    _pool_unknown: "lacks a pool",
    _pool_of_another_offer: "lacks a pool",
    _pool_twice: "pools that don't serve it",
    _new_pool_not_told: "lacks a pool",
    _pool_not_told: "does not know of a line",
    _listed_behind: "not in its place",
    _free_slot: "slots are free",
}


@pytest.mark.parametrize("break_it", BREAKS)
def test_the_invariants_notice_what_disagrees(break_it: Callable[[Scene, Route], None]) -> None:
    scene = Scene()
    scene.pool("a")
    route = scene.push("a")
    scene.backlog.invariants()
    break_it(scene, route)
    with pytest.raises(InternalError, match=BREAKS[break_it]):
        scene.backlog.invariants()


def test_the_invariants_notice_a_class_that_lost_its_pools_though_they_found_them_before() -> None:
    scene = Scene()
    pool = scene.pool("a")
    kind = scene.backlog.class_of("a", False)
    for _ in range(2):
        scene.backlog.invariants()
        kind.pools.remove(pool)
        with pytest.raises(InternalError, match="lacks a pool"):
            scene.backlog.invariants()
        kind.pools.append(pool)


def test_the_invariants_forget_pools_and_classes_that_are_gone() -> None:
    scene = Scene()
    pool, kind = scene.pool("a"), scene.backlog.class_of("a", False)
    scene.backlog.invariants()
    assert scene.backlog._checked == {kind: [pool]}
    pool.workers.clear()
    scene.roster.discard(pool)
    scene.backlog.remove_pool(pool)
    scene.backlog.invariants()
    assert (scene.backlog._checked, scene.backlog._checked_pools) == ({kind: []}, [])
    for number in range(PIPELINES_KNOWN_MAX):
        scene.backlog.class_of(str(number), False)
    for _ in range(2):
        scene.backlog.invariants()
    assert kind not in scene.backlog._checked


def test_the_invariants_change_nothing_in_a_queue() -> None:
    scene = Scene()
    scene.pool("a")
    first, _ = scene.push("a"), scene.push("a")
    scene.leave(first)
    [line] = first.kind.lines.values()
    scene.backlog.invariants()
    assert len(line.queue) == 2


def test_a_pool_that_is_made_anew_is_told_of_what_waits() -> None:
    scene = Scene()
    route = scene.push("a")
    assert scene.pop(scene.pool("a")) is route


def test_what_is_taken_out_waits_again_at_the_end_and_once() -> None:
    scene = Scene()
    pool = scene.pool("*")
    routes = [scene.push(pipeline) for pipeline in "aaba"]
    taken = [routes[1], routes[2]]
    for route in taken:
        route.state = RouteState.BACKOFF
    scene.backlog.take_out(taken, 0.0)
    assert (scene.backlog.jobs, scene.backlog.bytes) == (2, 10)
    for route in taken:
        scene.count += 1
        route.state, route.sequence = RouteState.QUEUED, scene.count
        scene.backlog.push(route, 0.0)
    scene.backlog.invariants()
    assert [scene.pop(pool) for _ in range(5)] == [routes[0], routes[3], *taken, None]
