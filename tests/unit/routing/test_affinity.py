"""Affinity: jobs that name the same key go to the same worker, as long as that costs nobody much."""

import random
from collections import Counter

import pytest

from reasonchip_broker.protocol.codes import ENCODING_BYTES, Code, Dialect
from reasonchip_broker.routing import affinity
from reasonchip_broker.routing.affinity import Ring
from reasonchip_broker.scheduling import Limit, Scheduling
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver
from tests.unit.routing.scenes import inside
from tests.unit.switchboard.limiting import ran, run_out, worker_of
from tests.unit.switchboard.test_labels import labelled


def sticking(**rules: object) -> SwitchboardDriver:
    return SwitchboardDriver(scheduling=Scheduling(**rules))  # type: ignore[arg-type]


def give(driver: SwitchboardDriver, client: FakeLink, workers: list[FakeLink], key: str) -> FakeLink:
    """Run a job of a key, at once and to its end; returns which worker had it."""
    cookie = driver.run(client, aff=key, encoding=ENCODING_BYTES)
    (worker,) = (worker for worker in workers if cookie in ran(worker))
    driver.result(worker, cookie)
    return worker


def hold(driver: SwitchboardDriver, client: FakeLink, workers: list[FakeLink], key: str = "") -> tuple[bytes, FakeLink]:
    """A job that goes on running, and which worker has it."""
    cookie = driver.run(client, aff=key)
    (worker,) = (worker for worker in workers if cookie in ran(worker))
    return cookie, worker


def why(driver: SwitchboardDriver, client: FakeLink, cookie: bytes) -> str:
    client.unread.clear()
    return driver.status(client, cookie).why


# Where a key goes


def test_jobs_of_a_key_go_to_the_worker_that_had_the_last_of_them() -> None:
    driver = SwitchboardDriver()
    client, workers = driver.client(), [driver.worker(4, name=f"w{number}") for number in range(8)]
    homes = {key: give(driver, client, workers, key) for key in "abcdefgh"}
    for _ in range(3):
        assert {key: give(driver, client, workers, key) for key in homes} == homes


def test_whoever_served_a_key_last_keeps_it() -> None:
    driver = sticking(affinity_imbalance=0.0)
    client, workers = driver.client(principal="somebody"), [driver.worker(4, name=f"w{number}") for number in range(2)]
    first = give(driver, client, workers, "a")
    (other,) = (worker for worker in workers if worker is not first)
    running, at = hold(driver, client, workers, "a")
    assert at is first
    assert give(driver, client, workers, "a") is other, "the first one is more loaded"
    driver.result(first, running)
    assert give(driver, client, workers, "a") is other, "though both are equally loaded now"


def test_new_keys_are_spread_over_the_workers_the_same_way_in_each_run_of_the_broker() -> None:
    spread: list[dict[int, int]] = []
    for order in (range(200), reversed(range(200))):
        driver = SwitchboardDriver()
        client, workers = driver.client(), [driver.worker(4, name=f"w{number}") for number in range(10)]
        spread.append({number: workers.index(give(driver, client, workers, f"key{number}")) for number in order})
    assert spread[0] == spread[1]
    counts = Counter(spread[0].values())
    assert len(counts) == 10
    assert max(counts.values()) <= 2 * 200 / 10


def test_of_200_keys_over_20_workers_at_most_a_tenth_moves_when_one_is_restarted_and_nobody_is_overloaded() -> None:
    """Goal of the affinity of keys. All jobs of a round run at the same time, so that loads matter, too."""
    driver = SwitchboardDriver()
    client = driver.client()
    workers = {f"w{number}": driver.worker(20, name=f"w{number}") for number in range(20)}

    def a_round() -> dict[str, str]:
        homes, running = {}, []
        for number in range(200):
            least = min(worker_of(link).busy for link in workers.values())
            cookie, link = hold(driver, client, list(workers.values()), f"key{number}")
            assert worker_of(link).busy - 1 <= least + 10, "more loaded than the least loaded one by over a half of its slots"
            running.append((cookie, link))
            homes[f"key{number}"] = next(name for name, other in workers.items() if other is link)
        for cookie, link in running:
            driver.result(link, cookie)
        return homes

    before = a_round()
    assert a_round() == before
    driver.disconnect(workers.pop("w7"))
    without = a_round()
    workers["w7"] = driver.worker(20, name="w7")
    after = a_round()
    assert [key for key in before if without[key] != before[key]] == [key for key in before if before[key] == "w7"]
    moved = sum(after[key] != before[key] for key in before)
    assert 0 < moved <= 20


def test_a_worker_that_comes_back_under_its_name_has_its_keys_again() -> None:
    driver = SwitchboardDriver()
    client, workers = driver.client(), [driver.worker(4, name=f"w{number}") for number in range(5)]
    home = give(driver, client, workers, "a")
    number = workers.index(home)
    driver.disconnect(home)
    workers[number] = driver.worker(4, name=f"w{number}")
    assert give(driver, client, workers, "a") is workers[number]


def test_keys_of_two_principals_have_nothing_to_do_with_each_other() -> None:
    driver = sticking(affinity_imbalance=1.0)
    clients = [driver.client(principal=name) for name in "ab"]
    workers = [driver.worker(4, name=f"w{number}") for number in range(16)]
    homes = [[[give(driver, client, workers, f"k{number}") for number in range(20)] for client in clients] for _ in range(2)]
    assert homes[0] == homes[1]
    assert homes[0][0] != homes[0][1]


def test_a_key_goes_only_to_workers_that_serve_the_pipeline() -> None:
    driver = SwitchboardDriver()
    client, other, serving = driver.client(), driver.worker(4, ["q"]), driver.worker(1, ["p"])
    cookie = driver.run(client, "q", aff="a")
    assert ran(other) == [cookie]
    cookie = driver.run(client, "p", aff="a")
    assert ran(serving) == [cookie]


def test_keys_that_came_up_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "AFFINITY_KEYS_MAX", 3)
    driver = SwitchboardDriver()
    client, workers = driver.client(), [driver.worker(4)]
    for key in "abcad":
        give(driver, client, workers, key)
    assert [key for _, key in inside(driver).affinity._served] == ["c", "a", "d"]


def test_a_new_key_prefers_the_labels_that_its_job_likes() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [labelled(driver, 4, gpu="a100"), labelled(driver, 4, gpu="h200")]
    for number in range(10):
        cookie = driver.run(client, aff=f"k{number}", like={"gpu": "h200"})
        assert cookie in ran(workers[1])
        driver.result(workers[1], cookie)


def test_a_new_key_of_a_heavy_job_goes_to_a_worker_that_has_the_slots() -> None:
    driver = sticking(affinity_imbalance=1.0, slots={"heavy": 3})
    client, full = driver.client(), driver.worker(4, name="full")
    for _ in range(2):
        driver.run(client)
    free = driver.worker(4, name="free")
    for number in range(20):
        cookie = driver.run(client, "heavy", aff=f"k{number}")
        assert cookie in ran(free)
        driver.result(free, cookie)
    assert worker_of(full).busy == 2


# Load wins


@pytest.mark.parametrize(("imbalance", "taken"), [(0.0, 1), (0.25, 2), (0.5, 3), (1.0, 4)])
def test_load_wins_over_affinity_when_the_worker_is_more_loaded_by_more_than_is_allowed(imbalance: float, taken: int) -> None:
    driver = sticking(affinity_imbalance=imbalance, affinity_wait_s=0.0)
    client, workers = driver.client(), [driver.worker(4, name=f"w{number}") for number in range(2)]
    home = give(driver, client, workers, "a")
    at = [hold(driver, client, workers, "a")[1] for _ in range(5)]
    assert [link is home for link in at[:taken]] == [True] * taken
    assert at[taken] is not home


# Waiting for the worker


def test_a_job_waits_for_its_worker_for_a_bounded_time_and_then_for_any() -> None:
    driver = sticking(affinity_wait_s=2.0, affinity_imbalance=1.0)
    client, workers = driver.client(), [driver.worker(1, name=f"w{number}") for number in range(2)]
    running, home = hold(driver, client, workers, "a")
    waiting = driver.run(client, aff="a", reply=True)
    sentence = "the worker that served this affinity key last has no slot free; for a while the job waits for that one"
    assert client.take_reply() == (Code.QUEUED, sentence)
    assert why(driver, client, waiting) == "preferred_worker_busy"
    driver.advance(1.99)
    assert [ran(worker) for worker in workers] == [[], []]
    driver.advance(0.02)
    (other,) = (worker for worker in workers if worker is not home)
    assert ran(other) == [waiting]
    assert home.peer.worker is not None
    driver.result(home, running)


def test_a_worker_that_becomes_free_takes_the_job_that_waits_for_it() -> None:
    driver = sticking(affinity_imbalance=1.0)
    client, workers = driver.client(), [driver.worker(1, name=f"w{number}") for number in range(2)]
    running, home = hold(driver, client, workers, "a")
    waiting = [driver.run(client, aff="a") for _ in range(2)]
    driver.result(home, running)
    assert ran(home) == waiting[:1]
    driver.result(home, waiting[0])
    assert ran(home) == waiting[1:]
    assert [ran(worker) for worker in workers] == [[], []]
    assert worker_of(home).pool.turns.levels == 0, "nobody asks any more who waits"


def test_who_waits_for_one_worker_and_who_waits_for_any_take_turns_by_priority_and_share() -> None:
    driver = sticking(affinity_wait_s=20.0)
    client, worker = driver.client(), driver.worker(1)
    first = driver.run(client, aff="a", key="one")
    driver.advance(1.0)
    own = driver.run(client, aff="a", key="one")
    other = driver.run(client, key="two")
    urgent = driver.run(client, aff="a", key="one", prio=9)
    order = [first]
    for _ in range(3):
        driver.result(worker, order[-1])
        order += ran(worker)[-1:]
    assert order == [first, urgent, other, own]


@pytest.mark.parametrize("leave", ["disconnect", "drain"])
def test_nobody_waits_for_a_worker_that_leaves(leave: str) -> None:
    driver = sticking(affinity_wait_s=20.0, affinity_imbalance=1.0)
    client, workers = driver.client(), [driver.worker(1, name=f"w{number}") for number in range(2)]
    _, home = hold(driver, client, workers, "a")
    waiting = driver.run(client, aff="a")
    if leave == "disconnect":
        driver.disconnect(home)
    else:
        driver.drain_worker(client, home.peer.name)
    (other,) = (worker for worker in workers if worker is not home)
    assert waiting in ran(other)


def test_nobody_waits_for_a_worker_that_does_not_read() -> None:
    driver = sticking(affinity_imbalance=1.0)
    client, workers = driver.client(), [driver.worker(2, name=f"w{number}") for number in range(2)]
    home = give(driver, client, workers, "a")
    driver.congest(home)
    assert give(driver, client, workers, "a") is not home


def test_shares_of_keys_that_wait_for_one_worker_are_counted_on_when_all_are_counted_anew() -> None:
    driver = sticking(half_life_s=0.01, affinity_wait_s=20.0)
    client, worker = driver.client(), driver.worker(1)
    driver.advance(3.8)
    used = driver.run(client, key="first", aff="a")
    driver.advance(0.1)
    driver.result(worker, used)
    held = driver.run(client, key="second", aff="a")
    waiting = driver.run(client, key="first", aff="a")
    driver.advance(0.11)
    driver.run(client, key="second", aff="a")
    ran(worker)
    driver.result(worker, held)
    assert ran(worker) == [waiting]


def test_a_job_that_is_not_to_wait_goes_to_any_worker_that_is_free() -> None:
    driver = sticking(affinity_imbalance=1.0)
    client, workers = driver.client(), [driver.worker(1, name=f"w{number}") for number in range(2)]
    _, home = hold(driver, client, workers, "a")
    cookie = driver.run(client, aff="a", queue=False)
    assert [cookie in ran(worker) for worker in workers] == [worker is not home for worker in workers]


def test_a_job_that_waits_for_its_worker_can_be_cancelled_and_ends_at_its_queue_limit() -> None:
    driver = sticking(affinity_wait_s=10.0, affinity_imbalance=1.0)
    client, workers = driver.client(), [driver.worker(1, name=f"w{number}") for number in range(2)]
    running, home = hold(driver, client, workers, "a")
    timers = len(driver.switchboard.timers)
    cookies = [driver.run(client, aff="a"), driver.run(client, aff="a", qlim=500), driver.run(client, aff="a")]
    driver.cancel(client, cookies[0])
    driver.advance(0.51)
    driver.result(home, running)
    assert ran(home) == cookies[2:]
    assert len(driver.switchboard.timers) == timers + 1, "that of the first outcome's retention"


def test_a_limit_that_is_reached_sends_who_waited_for_one_worker_to_any() -> None:
    driver = sticking(
        affinity_wait_s=20.0, affinity_imbalance=1.0, limits=(Limit(name="some", pipelines=("p",), concurrency=2),)
    )
    client, workers = driver.client(), [driver.worker(1, name=f"w{number}") for number in range(2)]
    running, home = hold(driver, client, workers, "a")
    waiting = driver.run(client, aff="a")
    other, at = hold(driver, client, workers)
    driver.run(client, "other")
    assert at is not home
    driver.cancel(client, running)
    driver.advance(driver.limits.cancel_grace_s + driver.limits.kill_grace_s + 1)
    assert why(driver, client, waiting) in ("limit_reached", "preferred_worker_busy")
    driver.result(at, other)
    assert [waiting in ran(worker) for worker in workers].count(True) <= 1
    driver.switchboard.invariants()


def test_other_rules_send_who_waited_for_one_worker_to_any() -> None:
    driver = sticking(affinity_wait_s=20.0, affinity_imbalance=1.0)
    client, workers = driver.client(), [driver.worker(1, name=f"w{number}") for number in range(2)]
    _, home = hold(driver, client, workers, "a")
    waiting = driver.run(client, aff="a")
    driver.configure(Scheduling(affinity_wait_s=0.0))
    assert [waiting in ran(worker) for worker in workers] == [worker is not home for worker in workers]


# The ring


def test_points_of_workers_that_are_gone_are_passed_by_and_swept() -> None:
    driver = SwitchboardDriver()
    client, workers = driver.client(), [driver.worker(4) for _ in range(6)]
    give(driver, client, workers, "a")
    (ring,) = inside(driver).affinity._rings.values()
    for _ in range(5):
        driver.disconnect(workers.pop())
    assert {give(driver, client, workers, f"k{number}") for number in range(20)} == set(workers)
    assert len(ring._points) <= 2 * 32
    workers += [driver.worker(4) for _ in range(3)]
    assert {give(driver, client, workers, f"more{number}") for number in range(60)} == set(workers)
    for worker in workers:
        driver.disconnect(worker)
    assert inside(driver).affinity._rings == {}
    assert list(Ring().after(1)) == []


def test_a_slot_that_rests_is_spoken_for_by_a_job_that_waits_for_its_worker_alone() -> None:
    driver = SwitchboardDriver()
    client, old, worker = driver.client(), driver.client(Dialect.JSON), driver.worker(2, dialect=Dialect.JSON)
    first, second = (driver.run(client, aff="chat") for _ in range(2))
    driver.result(worker, first)
    waiting = driver.run(client, aff="chat")
    assert why(driver, client, waiting) == "preferred_worker_busy"
    driver.run(old)
    assert [told["rc"] for told in old.take_json()] == ["NO_CAPACITY"]
    driver.result(worker, second)
    driver.run(old)
    assert old.take_json() == [], "the other slot rests too, and is good for this one"


@pytest.mark.parametrize("seed", range(12))
def test_affinity_never_loses_a_job_nor_leaves_a_slot_idle_for_longer_than_its_wait(seed: int) -> None:
    """A walk; after each step `invariants` holds who waits for whom against who has a free slot."""
    chance = random.Random(seed)
    limits = (Limit(name="some", pipelines=("p",), concurrency=4),) if seed % 3 == 0 else ()
    slots = {"q": 2} if seed % 2 else {}
    rules = Scheduling(affinity_wait_s=0.3, affinity_imbalance=chance.choice([0.0, 0.5, 1.0]), limits=limits, slots=slots)
    driver = SwitchboardDriver(scheduling=rules)
    client = driver.client()
    workers: list[FakeLink] = []
    held: dict[bytes, FakeLink] = {}
    cookies: list[bytes] = []
    for step in range(400):
        choice = chance.random()
        if choice < 0.45:
            aff = chance.choice(["", "a", "b", "c"])
            cookies.append(
                driver.run(client, chance.choice("ppq"), aff=aff, key=chance.choice("xy"), prio=chance.choice([3, 4]))
            )
        elif choice < 0.75 and held:
            cookie = chance.choice(sorted(held))
            driver.result(held.pop(cookie), cookie)
        elif choice < 0.85:
            driver.advance(chance.random() / 4)
        elif choice < 0.9 and len(workers) < 4:
            workers.append(driver.worker(chance.randrange(1, 5), chance.choice([["*"], ["p"]]), name=f"w{step}"))
        elif choice < 0.92 and workers:
            gone = workers.pop(chance.randrange(len(workers)))
            driver.disconnect(gone)
            held = {cookie: worker for cookie, worker in held.items() if worker is not gone}
        elif choice < 0.95 and cookies:
            driver.cancel(client, chance.choice(cookies))
        elif choice < 0.96:
            driver.configure(rules)
        elif choice < 0.98 and workers:
            worker = chance.choice(workers)
            driver.congest(worker)
            driver.unblock(worker)
        for worker in workers:
            held |= dict.fromkeys(ran(worker), worker)
    workers.append(driver.worker(5))
    run_out(driver, workers, held, len(cookies))
    assert not inside(driver).backlog._sticky
