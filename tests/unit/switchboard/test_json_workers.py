"""Existing (JSON) workers: a slot that was just freed rests, and who waits only for that is waited for."""

import pytest

from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, json_packet


def make(capacity: int, *, rest_ms: int | None = None) -> tuple[SwitchboardDriver, FakeLink, FakeLink]:
    driver = SwitchboardDriver(json_slot_rest_ms=rest_ms)
    return driver, driver.client(Dialect.JSON), driver.worker(capacity, dialect=Dialect.JSON)


def fill(driver: SwitchboardDriver, client: FakeLink, worker: FakeLink, capacity: int) -> list[bytes]:
    cookies = [driver.run(client) for _ in range(capacity)]
    worker.take()
    return cookies


# Rest


@pytest.mark.parametrize(
    ("capacity", "rest_ms", "seconds"),
    [
        (2, None, 0.025),
        (4, None, 0.025),
        (5, None, 0.025),
        (6, None, 0.030),
        (32, None, 0.160),
        (3, 400, 0.400),
        (64, 7, 0.007),
    ],
)
def test_a_freed_slot_rests_for_as_long_as_the_worker_needs(capacity: int, rest_ms: int | None, seconds: float) -> None:
    driver, client, worker = make(capacity, rest_ms=rest_ms)
    cookies = fill(driver, client, worker, capacity)
    driver.result(worker, cookies[0])
    driver.advance(seconds - 0.001)
    assert driver.switchboard.free_slots("p", as_json=True) == 0
    driver.advance(0.007)
    assert driver.switchboard.free_slots("p", as_json=True) == 1


@pytest.mark.parametrize(("capacity", "rest_ms"), [(1, None), (1, 500), (4, 0)])
def test_a_worker_of_one_slot_needs_no_rest_and_none_is_taken_where_it_is_set_to_none(
    capacity: int, rest_ms: int | None
) -> None:
    driver, client, worker = make(capacity, rest_ms=rest_ms)
    cookies = fill(driver, client, worker, capacity)
    driver.result(worker, cookies[0])
    assert driver.switchboard.free_slots("p", as_json=True) == 1
    driver.run(client)
    worker.take_one(PacketType.RUN)


def test_the_other_slots_of_a_worker_are_not_touched_by_a_rest() -> None:
    driver, client, worker = make(3)
    cookie = driver.run(client)
    driver.result(worker, cookie)
    assert driver.switchboard.free_slots("p", as_json=True) == 2
    for _ in range(2):
        driver.run(client)
    assert len(worker.take()) == 3


def test_a_rested_slot_gets_the_oldest_job_that_waits() -> None:
    driver, client, worker = make(2)
    cookies = fill(driver, client, worker, 2)
    binary = driver.client()
    waiting = [driver.run(binary) for _ in range(2)]
    driver.result(worker, cookies[0])
    assert worker.take() == []
    driver.advance(0.04)
    assert worker.take_one(PacketType.RUN).cookie == waiting[0]


def test_a_withheld_slot_rests_as_well_when_its_worker_reports() -> None:
    driver, client, worker = make(2)
    cookies = fill(driver, client, worker, 2)
    driver.cancel(client, cookies[0])
    driver.result(worker, cookies[0])
    assert driver.switchboard.free_slots("p", as_json=True) == 0
    driver.advance(0.04)
    assert driver.switchboard.free_slots("p", as_json=True) == 1


def test_the_cookie_of_a_resting_slot_is_free() -> None:
    driver, client, worker = make(2)
    cookie = driver.run(client)
    driver.result(worker, cookie)
    worker.take()
    driver.run(client, cookie=cookie)
    assert worker.take_one(PacketType.RUN).cookie == cookie


def test_many_slots_rest_each_for_itself() -> None:
    driver, client, worker = make(3, rest_ms=100)
    cookies = fill(driver, client, worker, 3)
    for cookie in cookies:
        driver.result(worker, cookie)
        driver.advance(0.05)
    assert driver.switchboard.free_slots("p", as_json=True) == 1
    driver.advance(0.05)
    assert driver.switchboard.free_slots("p", as_json=True) == 2
    driver.advance(0.05)
    assert driver.switchboard.free_slots("p", as_json=True) == 3


def test_a_rest_that_ends_while_the_worker_is_congested_frees_the_slot_for_later() -> None:
    driver, client, worker = make(2)
    cookie = driver.run(client)
    driver.result(worker, cookie)
    driver.congest(worker)
    driver.advance(1)
    assert driver.switchboard.free_slots("p", as_json=True) == 0
    driver.unblock(worker)
    assert driver.switchboard.free_slots("p", as_json=True) == 2


# Who is waited for


def refused(client: FakeLink) -> int:
    """How many RUNs were refused since the last time, all of them with NO_CAPACITY."""
    told = [packet for packet in client.take_json() if packet["rc"] != "OK"]
    assert {packet["rc"] for packet in told} <= {"NO_CAPACITY"}
    return len(told)


def test_a_slot_that_only_rests_is_waited_for() -> None:
    driver, client, worker = make(2)
    cookies = fill(driver, client, worker, 2)
    driver.result(worker, cookies[0])
    cookie = driver.run(client)
    assert (refused(client), worker.take()) == (0, [])
    driver.advance(0.04)
    assert worker.take_one(PacketType.RUN).cookie == cookie


@pytest.mark.parametrize("pipelines", ["pppp", "ppqq", "pqrs"])
def test_as_many_jobs_are_waited_for_as_slots_rest_and_no_more_whatever_their_pipelines(pipelines: str) -> None:
    driver, client, worker = make(3)
    cookies = fill(driver, client, worker, 3)
    for cookie in cookies[:2]:
        driver.result(worker, cookie)
    client.take()
    for pipeline in pipelines:
        driver.run(client, pipeline)
    assert refused(client) == 2
    driver.advance(0.04)
    assert len(worker.take()) == 2
    assert driver.switchboard.waiting == 0


def test_a_busy_slot_is_not_waited_for() -> None:
    driver, client, worker = make(2)
    fill(driver, client, worker, 2)
    driver.run(client)
    assert refused(client) == 1


def test_a_binary_client_that_does_not_want_to_wait_does_not_wait_for_a_rest_either() -> None:
    driver, client, worker = make(2)
    cookies = fill(driver, client, worker, 2)
    driver.result(worker, cookies[0])
    other = driver.client()
    driver.run(other, queue=False)
    assert other.take_reply()[0] == Code.NO_CAPACITY


# What they are told


def test_a_registered_json_worker_is_never_sent_an_answer_since_it_would_exit() -> None:
    driver, client, worker = make(2)
    driver.run(client)
    worker.take()
    driver.send_json(
        worker,
        json_packet("RUN", b"k" * 16, pipeline="p"),
        json_packet("NONSENSE"),
        b"{}",
        json_packet("CANCEL", b"k" * 16),
        json_packet("RESULT", b"k" * 16, rc="WHAT"),
        json_packet("RESULT", b"k" * 16, rc="OK"),
        json_packet("REGISTER", capacity=5),
    )
    assert (worker.take_json(), worker.closed, driver.switchboard.jobs) == ([], False, 1)


def test_a_json_worker_that_registers_hears_nothing_and_one_that_may_not_is_told_why() -> None:
    driver = SwitchboardDriver()
    good = driver.worker(2, dialect=Dialect.JSON)
    assert good.take_json() == []
    bad = driver.connect(good.role, Dialect.JSON)
    driver.send_json(bad, json_packet("REGISTER", capacity=0))
    assert [told["rc"] for told in bad.take_json()] == ["BAD_PACKET"]


def test_nothing_that_a_json_peer_cannot_parse_is_ever_sent_to_it() -> None:
    """The driver checks each packet; here is every way in which one comes about."""
    driver, client, worker = make(2)
    driver.advance(1000)
    driver.run(client, detach=True)
    driver.cancel(client, driver.run(client))
    driver.drain()
    driver.stop()
    assert {told["packet_type"] for told in client.take_json()} <= {"RESULT"}
    assert {told["packet_type"] for told in worker.take_json()} == {"RUN", "SHUTDOWN"}
