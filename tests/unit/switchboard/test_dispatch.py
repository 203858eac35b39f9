"""Which worker gets a job: one that serves it, the least loaded of those, in turn where they tie, never the last that came back."""

from collections import Counter

import pytest

from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver


def runs(*workers: FakeLink) -> list[int]:
    """How many RUNs each worker was sent since the last time."""
    return [len(worker.take()) for worker in workers]


def send_jobs(driver: SwitchboardDriver, client: FakeLink, count: int, pipeline: str = "p") -> list[bytes]:
    return [driver.run(client, pipeline) for _ in range(count)]


# Load


def test_each_job_goes_to_the_least_loaded_worker() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [driver.worker(4) for _ in range(3)]
    for expected in ([1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]):
        send_jobs(driver, client, 3)
        assert runs(*workers) == expected
    driver.run(client)
    assert client.take_reply()[0] == Code.QUEUED


def test_load_is_the_share_of_a_workers_slots_and_not_their_number() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    small, large = driver.worker(2), driver.worker(8)
    for _ in range(2):
        send_jobs(driver, client, 5)
        assert runs(small, large) == [1, 4]


@pytest.mark.parametrize("jobs", [10, 55, 111])
def test_workers_of_any_capacities_are_filled_evenly(jobs: int) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    capacities = (1, 2, 3, 5, 100)
    workers = [driver.worker(capacity) for capacity in capacities]
    send_jobs(driver, client, jobs)
    loads = [count / capacity for count, capacity in zip(runs(*workers), capacities, strict=True)]
    # No worker could have a job less, and another one more, without the pair being less even than it is.
    for load, capacity in zip(loads, capacities, strict=True):
        assert load - 1 / capacity <= min(loads) + 1 / 64


def test_a_worker_whose_jobs_are_done_is_the_least_loaded_again() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    busy, idle = driver.worker(4), driver.worker(4)
    cookies = send_jobs(driver, client, 6)
    for cookie in cookies:
        if cookie in {packet.cookie for packet in idle.take()}:
            driver.result(idle, cookie)
    busy.take()
    held = [cookie for cookie in cookies if cookie not in {packet.cookie for packet in client.take()}]
    for cookie in held:
        driver.result(idle, cookie)
    send_jobs(driver, client, 3)
    assert runs(busy, idle) == [0, 3]


# Turns


def test_equally_loaded_workers_take_turns() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [driver.worker(2) for _ in range(4)]
    turns: list[int] = []
    for _ in range(12):
        cookie = driver.run(client)
        turns += [number for number, worker in enumerate(workers) if worker.take()]
        driver.result(workers[turns[-1]], cookie)
    assert turns == [0, 1, 2, 3] * 3


@pytest.mark.parametrize("capacity", [1, 2, 64, 1000])
def test_the_worker_that_was_free_last_is_not_chosen_first(capacity: int) -> None:
    """Never last-in-first-out: a worker that fails fast would attract every job."""
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [driver.worker(capacity) for _ in range(3)]
    previous = None
    for _ in range(30):
        cookie = driver.run(client)
        chosen = next(worker for worker in workers if worker.take())
        assert chosen is not previous
        driver.result(chosen, cookie)
        previous = chosen


@pytest.mark.parametrize(
    "dialects", [(Dialect.BINARY, Dialect.BINARY), (Dialect.BINARY, Dialect.JSON), (Dialect.JSON, Dialect.BINARY)]
)
def test_workers_of_different_kinds_take_turns_as_well(dialects: tuple[Dialect, Dialect]) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [driver.worker(1, ["p"], dialect) for dialect in dialects] + [driver.worker(1, ["p*"])]
    turns: list[int] = []
    for _ in range(9):
        cookie = driver.run(client)
        turns += [number for number, worker in enumerate(workers) if worker.take()]
        driver.result(workers[turns[-1]], cookie)
    assert all(turn != previous for turn, previous in zip(turns[1:], turns, strict=False))
    assert min(Counter(turns)[number] for number in range(3)) >= 2


@pytest.mark.parametrize("serves", [(["p"], ["p"]), (["p"], ["*"]), (["p", "q"], ["p"])])
def test_workers_with_different_offers_share_the_jobs_that_both_serve(serves: tuple[list[str], list[str]]) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [driver.worker(4, offer) for offer in serves]
    send_jobs(driver, client, 8)
    assert runs(*workers) == [4, 4]


def test_a_worker_that_joins_gets_the_next_jobs() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    old = driver.worker(10)
    send_jobs(driver, client, 5)
    new = driver.worker(10)
    old.take()
    send_jobs(driver, client, 4)
    assert runs(old, new) == [0, 4]


def test_a_full_worker_gets_nothing_however_many_slots_the_others_lack() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [driver.worker(1), driver.worker(3)]
    send_jobs(driver, client, 4)
    assert runs(*workers) == [1, 3]
    assert driver.switchboard.free_slots("p") == 0


def test_ten_thousand_slots_of_one_worker_are_all_used() -> None:
    driver = SwitchboardDriver(checks=False)
    client, worker = driver.client(), driver.worker(10_000)
    cookies = send_jobs(driver, client, 10_001)
    assert len(worker.take()) == 10_000
    for cookie in cookies:
        driver.result(worker, cookie)
    assert driver.switchboard.free_slots("p") == 10_000
    driver.switchboard.invariants()


# Eligibility


@pytest.mark.parametrize(
    ("serves", "pipeline", "eligible"),
    [
        (["a"], "a", True),
        (["a"], "A", False),
        (["a"], "ab", False),
        (["a"], "a\u0301", False),
        (["*"], "anything.at.all", True),
        (["a.*"], "a.b", True),
        (["a.*"], "a.b.c", True),
        (["a.*"], "a", False),
        (["a.?"], "a.b", True),
        (["a.?"], "a.bc", False),
        (["[ab]x"], "bx", True),
        (["[ab]x"], "cx", False),
        (["[!ab]x"], "cx", True),
        (["a", "b*"], "bc", True),
        (["a", "b*"], "a", True),
        (["a", "b*"], "ab", False),
        (["[a"], "[a", True),
        (["[a"], "a", False),
        (["a.c"], "abc", False),
        (["(a|b)+"], "a", False),
        (["*\U0001f600*"], "x\U0001f600y", True),
    ],
)
def test_a_worker_is_given_what_it_serves_by_name_or_glob_and_nothing_else(
    serves: list[str], pipeline: str, eligible: bool
) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(1, serves)
    driver.run(client, pipeline)
    assert (runs(worker), driver.switchboard.waiting) == (([1], 0) if eligible else ([0], 1))


def test_a_pipeline_that_is_known_finds_workers_that_came_later() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.cancel(client, driver.run(client, "known"))
    workers = [driver.worker(1, ["known"]), driver.worker(1, ["k*"]), driver.worker(1, ["other"])]
    send_jobs(driver, client, 3, "known")
    assert runs(*workers) == [1, 1, 0]


def test_a_pipeline_that_is_known_forgets_workers_that_left() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(1, ["known"])
    driver.result(worker, driver.run(client, "known"))
    driver.disconnect(worker)
    client.take()
    driver.run(client, "known", queue=False)
    assert client.take_reply()[0] == Code.NOT_SERVED
    worker = driver.worker(1, ["known"])
    driver.run(client, "known", queue=False)
    assert runs(worker) == [1]


@pytest.mark.parametrize("encoding", ["msgpack", "bytes", "text", "", "JSON", "json2"])
def test_json_workers_get_only_variables_that_are_json_text(encoding: str) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(dialect=Dialect.JSON)
    driver.run(client, encoding=encoding)
    assert (runs(worker), driver.switchboard.waiting) == ([0], 1)
    driver.run(client, encoding="json")
    assert (runs(worker), driver.switchboard.waiting) == ([1], 1)
    other = driver.worker()
    assert other.take_one(PacketType.RUN).attempt == 1


def test_a_json_worker_serves_every_pipeline() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(4, dialect=Dialect.JSON)
    for pipeline in ("a", "b.c", "\U0001f600"):
        driver.run(client, pipeline)
    assert runs(worker) == [3]


def test_the_same_offer_in_another_order_is_the_same_offer() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [driver.worker(3, ["a", "b"]), driver.worker(3, ["b", "a", "a"])]
    send_jobs(driver, client, 4, "a")
    assert runs(*workers) == [2, 2]


def test_a_cookie_runs_once_even_if_many_workers_could_take_it() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    cookies = send_jobs(driver, client, 5)
    workers = [driver.worker(2, offer) for offer in (["p"], ["*"], ["p*"], ["?"])]
    got = Counter(packet.cookie for worker in workers for packet in worker.take())
    assert got == Counter(cookies)
