"""Gates: who is held back by a limit, and who goes on when there is room."""

import random

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_BYTES
from reasonchip_broker.routing import backlog, gates
from reasonchip_broker.scheduling import Limit, Per, Scheduling
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver
from tests.unit.routing.scenes import inside
from tests.unit.switchboard.limiting import limited, one, ran, run_out


def test_a_limit_shares_its_room_evenly_and_by_priority() -> None:
    driver = limited(one(concurrency=1))
    clients, worker = [driver.client() for _ in range(3)], driver.worker(10)
    order = [driver.run(clients[0])]
    waiting = {client.number: [driver.run(client) for _ in range(3)] for client in clients}
    urgent = driver.run(clients[0], prio=9)
    for _ in range(4):
        driver.advance(1.0)
        driver.result(worker, order[-1])
        order += ran(worker)[-1:]
    _, second, third = (waiting[client.number] for client in clients)
    assert order[1] == urgent
    assert sorted(order[2:4]) == sorted([second[0], third[0]])
    assert order[4] in (second[1], third[1]), "the first has used two turns"


def test_ten_thousand_keys_that_are_held_back_are_not_looked_at_again() -> None:
    driver = limited(one(per=Per.KEY, concurrency=1), checks=False)
    client, worker = driver.client(), driver.worker(10_000)
    for number in range(3000):
        for _ in range(2):
            driver.run(client, "limited", key=f"k{number}")
    cookies = ran(worker)
    assert len(cookies) == 3000
    pool = next(iter(inside(driver).roster.pools.values()))
    assert pool.turns.listings == {}
    driver.result(worker, cookies[7])
    assert len(ran(worker)) == 1
    driver.switchboard.invariants()


def test_counts_of_keys_that_are_idle_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "GATES_KNOWN_MAX", 50)
    driver = limited(one(per=Per.PIPELINE, concurrency=1), checks=False)
    client, worker = driver.client(), driver.worker(10)
    for number in range(300):
        cookies = [driver.run(client, f"p{number}") for _ in range(2)]
        for cookie in cookies:
            driver.result(worker, cookie)
    assert len(inside(driver).gates._gates) <= 50
    driver.switchboard.invariants()


def test_a_count_is_not_forgotten_while_a_job_waits_for_it_that_nobody_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "GATES_KNOWN_MAX", 50)
    driver = limited(one(per=Per.PIPELINE, concurrency=1))
    client, worker = driver.client(), driver.worker(10, ["p*"])
    driver.run(client, "slow", key="before")
    for number in range(100):
        driver.result(worker, driver.run(client, f"p{number}"))
    driver.run(client, "slow", key="after")
    assert len(ran(driver.worker(10, ["slow"]))) == 1


def test_where_several_may_pass_at_last_they_are_of_those_who_have_had_least() -> None:
    driver = limited(one(pipelines=("p",), concurrency=2))
    client, worker = driver.client(), driver.worker(3)
    first = [driver.run(client, key="a") for _ in range(2)]
    others = [driver.run(client, "other", prio=9) for _ in range(3)]
    waiting = [driver.run(client, key=key) for key in "aabbc"]
    for cookie in first:
        driver.result(worker, cookie)
    assert ran(worker) == [*first, *others]
    for cookie in others:
        driver.result(worker, cookie)
    assert ran(worker) == [waiting[2], waiting[4]]


def test_who_waited_goes_before_a_job_that_comes_in_the_same_read_in_which_there_is_room_again() -> None:
    driver = limited(one(pipelines=("p", "q"), concurrency=1))
    client, worker = driver.client(), driver.worker(2, ["q", "parent"])
    parent, running = driver.run(client, "parent"), driver.run(client, "q")
    other = driver.worker(1, ["p"])
    waiting, child = driver.run(client), driver.new_cookie()
    options = schemas.RunOptions(p="p", enc=ENCODING_BYTES, parent=parent)
    driver.send(
        worker, packets.result(running, 1, b"1", ENCODING_BYTES), packets.run(child, schemas.encode_meta(options), b"1")
    )
    assert sorted(ran(worker) + ran(other)) == sorted([parent, running, waiting])


def test_a_job_whose_class_was_forgotten_meanwhile_keeps_to_the_limits_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "PIPELINES_KNOWN_MAX", 3)
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(10)
    running, later = driver.run(client, encoding=ENCODING_BYTES), driver.run(client, delay=1000)
    for number in range(10):
        driver.result(worker, driver.run(client, f"p{number}"))
    driver.configure(Scheduling(limits=(one(concurrency=1),)))
    driver.advance(1.006)
    client.unread.clear()
    assert driver.status(client, later).why == "limit_reached"
    driver.result(worker, running)
    client.unread.clear()
    assert driver.status(client, later).why == ""


def test_shares_of_keys_that_are_held_back_are_counted_on_when_all_are_counted_anew() -> None:
    driver = SwitchboardDriver(scheduling=Scheduling(half_life_s=0.01, limits=(one(pipelines=("p",), concurrency=1),)))
    client, worker = driver.client(), driver.worker(10)
    holder = driver.run(client, key="holder")
    driver.advance(3.8)
    used = driver.run(client, "other", key="first")
    driver.advance(0.1)
    driver.result(worker, used)
    waiting = driver.run(client, key="first")
    driver.advance(0.11)
    used = driver.run(client, "other", key="second")
    driver.advance(0.01)
    driver.result(worker, used)
    driver.run(client, key="second")
    ran(worker)
    driver.result(worker, holder)
    assert ran(worker) == [waiting]


LIMITS = (
    Limit(name="all", concurrency=5),
    Limit(name="rate", pipelines=("a", "b"), rate=20, burst=2, per=Per.PIPELINE),
    Limit(name="each", per=Per.KEY, concurrency=2),
    Limit(name="b", pipelines=("b",), concurrency=2, rate=50, burst=3),
)


@pytest.mark.parametrize("seed", range(12))
def test_limits_are_kept_and_nothing_waits_without_one_whatever_happens(seed: int) -> None:
    """A walk; `invariants`, after each step, has no eligible job beside a free slot."""
    chance = random.Random(seed)
    driver = limited(*LIMITS)
    clients = [driver.client() for _ in range(2)]
    workers: list[FakeLink] = []
    held: dict[bytes, FakeLink] = {}
    what: dict[bytes, tuple[str, str]] = {}
    for _ in range(400):
        choice = chance.random()
        if choice < 0.4:
            key, pipeline = chance.choice("xyz"), chance.choice("abc")
            cookie = driver.run(chance.choice(clients), pipeline, key=key, prio=chance.randrange(10))
            what[cookie] = pipeline, key
        elif choice < 0.7 and held:
            cookie = chance.choice(sorted(held))
            driver.result(held.pop(cookie), cookie)
        elif choice < 0.8:
            driver.advance(chance.random() / 5)
        elif choice < 0.85 and len(workers) < 4:
            workers.append(driver.worker(chance.randrange(1, 5), chance.choice([["*"], ["a", "b"], ["c"]])))
        elif choice < 0.87 and workers:
            gone = workers.pop(chance.randrange(len(workers)))
            driver.disconnect(gone)
            held = {cookie: worker for cookie, worker in held.items() if worker is not gone}
        elif choice < 0.9 and what:
            driver.cancel(clients[0], chance.choice(sorted(what)))
        elif choice < 0.92:
            driver.configure(Scheduling(limits=LIMITS if chance.random() < 0.7 else LIMITS[:2], ageing_s=chance.choice([0, 1])))
        for worker in workers:
            held |= dict.fromkeys(ran(worker), worker)
        assert len(held) <= 5
    driver.configure(Scheduling(limits=LIMITS))
    workers.append(driver.worker(5))
    run_out(driver, workers, held, 300)
