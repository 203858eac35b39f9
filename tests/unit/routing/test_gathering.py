"""Heavy jobs: those that take several slots of one worker, and how these are gathered."""

import random

import pytest

from reasonchip_broker.protocol.codes import ENCODING_BYTES, Code, Dialect, PacketType
from reasonchip_broker.scheduling import Limit, Scheduling
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver
from tests.unit.routing.scenes import inside
from tests.unit.switchboard.limiting import ran, run_out, worker_of

SLOTS = {"heavy": 3, "double": 2, "whole": 4}


def weighed(**settings: object) -> SwitchboardDriver:
    return SwitchboardDriver(scheduling=Scheduling(slots=SLOTS, **settings))  # type: ignore[arg-type]


def why(driver: SwitchboardDriver, client: FakeLink, cookie: bytes) -> str:
    client.unread.clear()
    return driver.status(client, cookie).why


# Never more than there are


@pytest.mark.parametrize("encoding", [ENCODING_BYTES, "application/json"])
def test_a_heavy_job_takes_its_slots_of_one_worker_and_gives_them_back(encoding: str) -> None:
    driver = weighed()
    client, worker = driver.client(), driver.worker(4)
    heavy = driver.run(client, "heavy", encoding=encoding)
    light = [driver.run(client, encoding=encoding) for _ in range(3)]
    assert ran(worker) == [heavy, light[0]]
    assert worker_of(worker).busy == 4
    driver.result(worker, heavy)
    assert ran(worker) == light[1:]
    assert worker_of(worker).busy == 3


def test_slots_of_several_workers_do_not_add_up() -> None:
    driver = weighed()
    client, workers = driver.client(), [driver.worker(2), driver.worker(2)]
    heavy = driver.run(client, "heavy")
    assert [ran(worker) for worker in workers] == [[], []]
    assert ran(driver.worker(3)) == [heavy]


def test_a_heavy_job_goes_to_the_worker_that_has_the_slots() -> None:
    driver = weighed()
    client = driver.client()
    small, large = driver.worker(1), driver.worker(8)
    for _ in range(5):
        driver.run(client)
    heavy = driver.run(client, "heavy")
    assert heavy in ran(large)
    assert heavy not in ran(small)


def test_a_job_for_which_every_worker_is_too_small_is_served_by_none_and_says_so() -> None:
    driver = weighed()
    client = driver.client()
    driver.worker(3)
    cookie = driver.run(client, "whole")
    assert why(driver, client, cookie) == "not_served"
    client.unread.clear()
    driver.run(client, "whole", served=True)
    assert client.take_reply() == (
        Code.NOT_SERVED,
        "no connected worker that has the 4 slots that a job takes serves this pipeline",
    )


def test_existing_workers_have_heavy_jobs_too_and_all_their_slots_rest() -> None:
    driver = SwitchboardDriver(scheduling=Scheduling(slots=SLOTS), json_slot_rest_ms=100)
    client, worker = driver.client(), driver.worker(4, dialect=Dialect.JSON)
    driver.result(worker, driver.run(client, "heavy"))
    assert (worker_of(worker).busy, worker_of(worker).pool.resting) == (3, 3)
    driver.advance(0.11)
    assert (worker_of(worker).busy, worker_of(worker).pool.resting) == (0, 0)


def test_all_slots_of_a_heavy_job_are_withheld_until_its_worker_lets_go() -> None:
    driver = weighed()
    client, worker = driver.client(), driver.worker(4)
    heavy = driver.run(client, "heavy")
    driver.cancel(client, heavy)
    driver.advance(driver.limits.cancel_grace_s + driver.limits.kill_grace_s + 1)
    assert (worker_of(worker).busy, worker_of(worker).withheld) == (3, 3)
    driver.fail(worker, heavy, Code.CANCELLED)
    assert (worker_of(worker).busy, worker_of(worker).withheld) == (0, 0)


def test_a_heavy_job_lends_all_its_slots_out_and_gets_all_of_them_back_before_others() -> None:
    driver = weighed()
    client, worker = driver.client(), driver.worker(4)
    heavy = driver.run(client, "heavy")
    driver.park(worker, heavy)
    light = [driver.run(client) for _ in range(6)]
    assert ran(worker) == [heavy, *light[:4]]
    driver.resume(worker, heavy)
    for cookie in light[:2]:
        driver.result(worker, cookie)
    assert worker.take_kinds(PacketType.RESUME) == []
    assert worker_of(worker).busy == 2, "what is free is kept for it"
    driver.result(worker, light[2])
    assert worker.take_kinds(PacketType.RESUME)[0].cookie == heavy
    driver.result(worker, light[3])
    assert ran(worker) == [light[4]]


def test_what_was_kept_for_a_job_that_wanted_its_slots_back_is_given_to_others_when_it_ends() -> None:
    driver = weighed()
    client, worker = driver.client(), driver.worker(4)
    heavy = driver.run(client, "heavy")
    driver.park(worker, heavy)
    light = [driver.run(client) for _ in range(6)]
    driver.resume(worker, heavy)
    driver.result(worker, light[0])
    ran(worker)
    driver.result(worker, heavy)
    assert ran(worker) == [light[4]]


def test_a_worker_that_comes_back_has_its_heavy_job_with_all_slots() -> None:
    driver = weighed()
    client = driver.client()
    worker = driver.worker(4, name="w", process=bytes(16), grace_s=30)
    heavy = driver.run(client, "heavy")
    driver.disconnect(worker)
    again = driver.worker(4, name="w", process=bytes(16), grace_s=30, held=[(heavy, 1)])
    assert again.kept == [(heavy, 1)]
    assert worker_of(again).busy == 3


# Gathering


def test_slots_are_gathered_for_a_heavy_job_instead_of_going_to_light_ones_for_ever() -> None:
    driver = weighed()
    client, other, worker = driver.client(), driver.client(), driver.worker(4)
    running = [driver.run(client) for _ in range(4)]
    for _ in range(20):
        driver.run(client)
    heavy = driver.run(other, "heavy")
    ran(worker)
    for left in (3, 2):
        driver.result(worker, running.pop())
        assert (ran(worker), worker_of(worker).busy, worker_of(worker).set_aside) == ([], left, True)
    driver.result(worker, running.pop())
    assert ran(worker) == [heavy]
    assert not worker_of(worker).set_aside
    driver.result(worker, running.pop())
    assert len(ran(worker)) == 1


def test_what_arrives_does_not_get_slots_that_are_gathered() -> None:
    driver = weighed()
    client, worker = driver.client(), driver.worker(4)
    running = [driver.run(client) for _ in range(2)]
    heavy = driver.run(client, "heavy")
    assert worker_of(worker).set_aside, "at once, although nobody waited when it came"
    late = driver.run(client, encoding=ENCODING_BYTES)
    assert ran(worker) == running
    driver.result(worker, running[0])
    assert ran(worker) == [heavy]
    driver.result(worker, running[1])
    assert ran(worker) == [late]


def test_of_a_pool_one_worker_at_most_gathers_and_the_others_go_on() -> None:
    driver = weighed()
    client, workers = driver.client(), [driver.worker(4) for _ in range(3)]
    running = [driver.run(client) for _ in range(12)]
    heavies = [driver.run(client, "heavy") for _ in range(3)]
    light = [driver.run(client, prio=3) for _ in range(12)]
    by_worker = {worker.number: ran(worker) for worker in workers}
    assert sum(map(len, by_worker.values())) == len(running)
    for worker in workers:
        driver.result(worker, by_worker[worker.number].pop())
    assert [worker_of(worker).set_aside for worker in workers] == [True, False, False]
    assert [ran(worker) for worker in workers] == [[], [light[0]], [light[1]]]
    assert why(driver, client, heavies[0]) == "no_free_slot"


def test_a_worker_with_more_free_slots_takes_over_and_the_other_goes_on() -> None:
    driver = weighed()
    client, first = driver.client(), driver.worker(4)
    mine = [driver.run(client) for _ in range(4)]
    second = driver.worker(4)
    doubles = [driver.run(client, "double") for _ in range(2)]
    heavy = driver.run(client, "heavy")
    light = [driver.run(client, prio=0) for _ in range(3)]
    driver.result(first, mine[0])
    assert worker_of(first).set_aside
    driver.result(second, doubles[0])
    assert (worker_of(first).set_aside, worker_of(second).set_aside) == (False, True)
    assert ran(first)[4:] == [light[0]]
    driver.result(second, doubles[1])
    assert ran(second)[2:] == [heavy, light[1]]


def test_a_worker_that_has_the_slots_takes_a_heavy_job_though_another_one_gathers() -> None:
    driver = weighed()
    client, first = driver.client(), driver.worker(4)
    mine = [driver.run(client) for _ in range(4)]
    second = driver.worker(4)
    large = driver.run(client, "heavy"), driver.run(client)
    heavy = driver.run(client, "heavy")
    driver.result(first, mine[0])
    assert worker_of(first).set_aside
    driver.result(second, large[0])
    assert heavy in ran(second)
    assert not worker_of(first).set_aside


def test_a_lighter_heavy_job_runs_where_it_fits_though_one_that_needs_more_is_gathered_for() -> None:
    driver = weighed()
    client, first = driver.client(), driver.worker(4)
    mine = [driver.run(client) for _ in range(4)]
    second = driver.worker(4)
    doubles = [driver.run(client, "double") for _ in range(2)]
    whole = driver.run(client, "whole")
    for cookie in mine[:2]:
        driver.result(first, cookie)
    double = driver.run(client, "double")
    ran(second)
    driver.result(second, doubles[0])
    assert (worker_of(first).set_aside, ran(second)) == (True, [double])
    assert why(driver, client, whole) == "no_free_slot"


@pytest.mark.parametrize("how", ["cancel", "limit", "rules"])
def test_slots_that_were_gathered_go_to_others_when_the_job_needs_them_no_more(how: str) -> None:
    limits = (Limit(name="heavies", pipelines=("heavy",), concurrency=1),)
    driver = weighed(limits=limits)
    client, worker = driver.client(), driver.worker(4)
    running = [driver.run(client) for _ in range(3)]
    heavy = driver.run(client, "heavy")
    light = driver.run(client)
    assert worker_of(worker).set_aside
    ran(worker)
    if how == "cancel":
        driver.cancel(client, heavy)
    elif how == "limit":
        driver.configure(Scheduling(slots=SLOTS, limits=(Limit(name="heavies", concurrency=3),)))
        driver.result(worker, running[0])
    else:
        driver.configure(Scheduling(slots={}))
        assert ran(worker) == [heavy]
        driver.result(worker, heavy)
    assert ran(worker) == [light] if how != "limit" else worker_of(worker).set_aside


def test_a_worker_that_drains_or_goes_away_gathers_no_more_and_another_one_does() -> None:
    for leave in ("drain_worker", "disconnect", "congest"):
        driver = weighed()
        client, first, second = driver.client(), driver.worker(4, name="first"), driver.worker(4, name="second")
        running = [driver.run(client) for _ in range(8)]
        heavy = driver.run(client, "heavy")
        held = {link.number: ran(link) for link in (first, second)}
        assert sum(map(len, held.values())) == len(running)
        driver.result(first, held[first.number].pop())
        gatherer, other = first, second
        assert worker_of(gatherer).set_aside
        if leave == "drain_worker":
            driver.drain_worker(client, "first")
        else:
            getattr(driver, leave)(gatherer)
        driver.result(other, held[other.number].pop())
        assert worker_of(other).set_aside, leave
        for _ in range(2):
            driver.result(other, held[other.number].pop())
        assert ran(other) == [heavy], leave


def test_who_is_urgent_gets_a_slot_of_the_gatherer_when_one_becomes_free() -> None:
    driver = weighed()
    client, worker = driver.client(), driver.worker(4)
    running = [driver.run(client) for _ in range(4)]
    heavy = driver.run(client, "heavy")
    driver.result(worker, running[0])
    urgent = driver.run(client, prio=9)
    ran(worker)
    driver.result(worker, running[1])
    assert ran(worker) == [urgent]
    driver.result(worker, running[2])
    driver.result(worker, urgent)
    assert ran(worker) == [heavy]


def test_a_share_is_charged_all_slots_of_a_heavy_job() -> None:
    driver = SwitchboardDriver(scheduling=Scheduling(slots={"heavy": 3}))
    client, worker = driver.client(), driver.worker(4)
    for _ in range(40):
        cookies = driver.run(client, "heavy", key="heavy"), driver.run(client, key="light")
        driver.advance(1.0)
        for cookie in cookies:
            driver.result(worker, cookie)
    heavy, light = (share for share in inside(driver).shares.all if share.is_named)
    assert heavy.used_s(0.0) == pytest.approx(3 * light.used_s(0.0), rel=0.01)
    assert [heavy.turn_s, light.turn_s] == [pytest.approx(1.0, rel=0.1)] * 2, "what a job takes of each slot"


def test_a_heavy_job_that_a_limit_holds_back_is_not_in_the_way_of_another_one_of_as_many_slots() -> None:
    limits = (Limit(name="one", pipelines=("double",), concurrency=1),)
    driver = SwitchboardDriver(scheduling=Scheduling(slots={**SLOTS, "duo": 2}, limits=limits))
    client, first = driver.client(), driver.worker(4)
    mine = [driver.run(client) for _ in range(4)]
    second = driver.worker(4)
    others = [driver.run(client) for _ in range(4)]
    driver.run(client, "whole")
    doubles, duo = [driver.run(client, "double") for _ in range(2)], driver.run(client, "duo")
    driver.result(first, mine[0])
    driver.result(second, others[0])
    assert ran(driver.worker(2, ["double"])) == doubles[:1]
    ran(second)
    driver.result(second, others[1])
    assert ran(second) == [duo]


def test_where_one_worker_gathers_another_one_with_free_slots_gets_what_waits_behind() -> None:
    driver = weighed(limits=(Limit(name="none", pipelines=("p", "double"), concurrency=0),))
    client, workers = driver.client(), [driver.worker(2), driver.worker(2)]
    for _ in range(2):
        driver.run(client, "other")
    assert [len(ran(worker)) for worker in workers] == [1, 1]
    heavy = driver.run(client, "double", prio=9)
    light = [driver.run(client) for _ in range(3)]
    driver.configure(Scheduling(slots=SLOTS))
    given = sorted(map(ran, workers))
    assert given == [[], [light[0]]], "one gathers, and the other goes on"
    assert why(driver, client, heavy) == "no_free_slot"


@pytest.mark.parametrize("seed", range(15))
def test_slots_are_never_oversubscribed_nor_left_idle_nor_gathered_for_ever(seed: int) -> None:
    """A walk; after each step `invariants` holds all counts against what is held, and no job waits that a worker has the slots for."""
    chance = random.Random(seed)
    limits = (Limit(name="some", pipelines=("heavy", "light"), concurrency=3),) if seed % 3 == 0 else ()
    rules = Scheduling(slots=SLOTS, limits=limits)
    driver = SwitchboardDriver(scheduling=rules)
    clients = [driver.client() for _ in range(2)]
    workers: list[FakeLink] = []
    held: dict[bytes, FakeLink] = {}
    parked: dict[bytes, FakeLink] = {}
    cookies: list[bytes] = []
    for _ in range(400):
        choice = chance.random()
        if choice < 0.45:
            pipeline = chance.choice(["light", "light", "free", "double", "heavy", "whole"])
            cookies.append(driver.run(chance.choice(clients), pipeline, key=chance.choice("xy"), prio=chance.choice([3, 4])))
        elif choice < 0.75 and held:
            cookie = chance.choice(sorted(held))
            driver.result(held.pop(cookie), cookie)
            parked.pop(cookie, None)
        elif choice < 0.8 and held:
            cookie = chance.choice(sorted(held))
            driver.park(held[cookie], cookie)
            parked[cookie] = held[cookie]
        elif choice < 0.86 and parked:
            cookie = chance.choice(sorted(parked))
            driver.resume(parked.pop(cookie), cookie)
        elif choice < 0.9 and len(workers) < 4:
            workers.append(driver.worker(chance.randrange(2, 6)))
        elif choice < 0.92 and workers:
            gone = workers.pop(chance.randrange(len(workers)))
            driver.disconnect(gone)
            held = {cookie: worker for cookie, worker in held.items() if worker is not gone}
            parked = {cookie: worker for cookie, worker in parked.items() if worker is not gone}
        elif choice < 0.95 and cookies:
            driver.cancel(clients[0], chance.choice(cookies))
        elif choice < 0.96:
            driver.configure(chance.choice([rules, Scheduling(slots={"light": 2}), Scheduling()]))
        elif choice < 0.98 and workers:
            worker = chance.choice(workers)
            driver.congest(worker)
            driver.unblock(worker)
        else:
            driver.advance(0.1)
        for worker in workers:
            held |= dict.fromkeys(ran(worker), worker)
    driver.configure(rules)
    workers.append(driver.worker(5))
    run_out(driver, workers, held, len(cookies))
    assert not any(worker_of(worker).busy or worker_of(worker).set_aside for worker in workers)
