"""Workers' slots: who takes a freed one, which rest, which are withheld, which are lent out."""

import pytest

from reasonchip_broker.protocol.codes import Code, Dialect, JobState, PacketType, Waiting
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

from .scenes import driven, inside, kinds, outcome, ran, results


def parked(capacity: int = 1) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    """A job that has lent its slot out."""
    driver = driven()
    client, worker = driver.client(), driver.worker(capacity, name="w")
    cookie = driver.run(client)
    worker.take()
    driver.park(worker, cookie)
    return driver, client, worker, cookie


def test_a_lent_slot_goes_to_the_oldest_job_that_waits() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie, first, _ = (driver.run(client) for _ in range(3))
    client.take()
    worker.take()
    driver.park(worker, cookie)
    assert (ran(worker), client.take()) == ([(first, 1)], [])
    assert driver.status(client, cookie).state == JobState.PARKED


def test_asked_back_a_free_slot_is_given_at_once() -> None:
    driver, _, worker, cookie = parked()
    driver.resume(worker, cookie)
    resume = worker.take_one(PacketType.RESUME)
    assert (resume.cookie, resume.attempt) == (cookie, 1)
    assert driver.switchboard.free_slots("p") == 0


def test_asked_back_a_slot_is_given_before_all_that_wait() -> None:
    driver, client, worker, cookie = parked()
    running, waiting = driver.run(client), driver.run(client)
    assert ran(worker) == [(running, 1)]
    driver.resume(worker, cookie)
    assert worker.take() == []
    driver.result(worker, running)
    assert worker.take_one(PacketType.RESUME).cookie == cookie
    driver.result(worker, cookie)
    assert ran(worker) == [(waiting, 1)]


def test_those_that_ask_are_served_in_their_order_and_once() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2)
    cookies = [driver.run(client) for _ in range(2)]
    for cookie in cookies:
        driver.park(worker, cookie)
    running = [driver.run(client) for _ in range(2)]
    for cookie in (cookies[1], cookies[0], cookies[1]):
        driver.resume(worker, cookie)
    worker.take()
    for cookie in running:
        driver.result(worker, cookie)
    assert [packet.cookie for packet in worker.take()] == [cookies[1], cookies[0]]


def test_asking_back_a_slot_that_was_not_lent_is_answered_and_parking_twice_changes_nothing() -> None:
    driver, _, worker, cookie = parked(2)
    driver.park(worker, cookie)
    assert driver.switchboard.free_slots("p") == 2
    for _ in range(2):
        driver.resume(worker, cookie)
        assert kinds(worker.take()) == [PacketType.RESUME]
    assert driver.switchboard.free_slots("p") == 1


def test_park_and_resume_of_what_is_not_held_change_nothing_and_are_counted() -> None:
    driver, _, worker, cookie = parked()
    other = driver.worker(1, ("q",))
    for link, asked, attempt in ((other, cookie, 1), (worker, cookie, 2), (worker, b"unknown".ljust(16), 1)):
        driver.resume(link, asked, attempt)
        driver.park(link, asked, attempt)
        assert link.take() == []
    assert inside(driver).counters.parking_dropped == 6


def test_park_and_resume_of_a_job_that_is_over_are_counted_and_of_one_that_is_parked_are_not() -> None:
    driver, _, worker, cookie = parked()
    driver.park(worker, cookie)
    driver.resume(worker, cookie)
    assert inside(driver).counters.parking_dropped == 0
    late = driver.run(driver.client(), left_ms=10)
    driver.advance(0.1)
    driver.park(worker, late)
    driver.resume(worker, late)
    assert inside(driver).counters.parking_dropped == 2


@pytest.mark.parametrize("asked_back", [False, True])
def test_a_parked_job_may_end_whenever_it_likes(asked_back: bool) -> None:
    driver, client, worker, cookie = parked()
    running = driver.run(client)
    if asked_back:
        driver.resume(worker, cookie)
    client.take()
    driver.result(worker, cookie)
    assert results(client) == [(cookie, Code.OK)]
    worker.take()
    driver.result(worker, running)
    assert driver.switchboard.free_slots("p") == 1
    assert worker.take() == []


def test_a_parked_job_is_told_to_stop_like_any_other_and_given_up_takes_no_slot() -> None:
    driver, client, worker, cookie = parked()
    driver.cancel(client, cookie)
    driver.resume(worker, cookie)
    assert kinds(worker.take()) == [PacketType.CANCEL, PacketType.RESUME]
    driver.park(worker, cookie)
    client.take()
    driver.advance(7.0)
    assert outcome(client)[0] is Code.CANCELLED
    assert driver.switchboard.free_slots("p") == 1
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] is Code.COOKIE_COLLISION
    driver.result(worker, cookie)
    assert (client.take(), len(inside(driver).slots.reserved)) == ([], 0)


def test_the_deadline_of_a_parked_job_passes() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, left_ms=1_000)
    driver.park(worker, cookie)
    driver.run(client)
    driver.resume(worker, cookie)
    client.take()
    driver.advance(1.1)
    assert outcome(client)[0] is Code.DEADLINE_EXCEEDED
    driver.result(worker, cookie)
    assert not inside(driver).slots.reserved


def test_a_parked_job_is_lost_with_its_worker() -> None:
    driver, client, worker, cookie = parked()
    driver.resume(worker, cookie)
    driver.disconnect(worker)
    assert outcome(client)[0] is Code.WORKER_WENT_AWAY


@pytest.mark.parametrize("by", ["itself", "an operator", "the broker"])
def test_a_worker_that_drains_gets_no_job_for_a_lent_slot_but_may_have_it_back(by: str) -> None:
    driver, client, worker, cookie = parked()
    if by == "the broker":
        driver.drain()
    else:
        driver.drain_worker(worker if by == "itself" else client, "" if by == "itself" else "w")
    driver.run(client)
    worker.take()
    driver.resume(worker, cookie)
    assert kinds(worker.take()) == [PacketType.RESUME]
    driver.park(worker, cookie)
    assert worker.take() == []


def test_a_congested_worker_gets_no_job_for_a_lent_slot_until_it_reads_again() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie, waiting = driver.run(client), driver.run(client)
    driver.congest(worker)
    worker.take()
    driver.park(worker, cookie)
    assert worker.take() == []
    driver.unblock(worker)
    assert ran(worker) == [(waiting, 1)]


def test_any_number_may_be_parked() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    for _ in range(20):
        driver.park(worker, driver.run(client))
    assert len(inside(driver).roster.pools) == 1
    assert driver.switchboard.free_slots("p") == 1
    driver.disconnect(worker)
    assert driver.switchboard.jobs == 0


def test_one_that_waits_to_be_parked_says_so() -> None:
    driver, client, _, cookie = parked()
    assert driver.status(client, cookie).why == Waiting.SLOT_LENT_OUT


def test_a_withheld_slot_is_free_when_its_worker_reports() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, left_ms=1_000)
    waiting = driver.run(client)
    driver.advance(1.1)
    assert kinds(worker.take()) == [PacketType.RUN, PacketType.CANCEL]
    driver.fail(worker, cookie, Code.CANCELLED)
    assert ran(worker) == [(waiting, 1)]


def test_the_slots_of_a_json_worker_rest() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2, dialect=Dialect.JSON)
    driver.result(worker, driver.run(client))
    assert driver.switchboard.free_slots("p", as_json=True) == 1
    driver.advance(0.03)
    assert driver.switchboard.free_slots("p", as_json=True) == 2
