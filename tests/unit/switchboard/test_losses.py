"""Connections that break: whoever waits is told at once, and nothing is left behind."""

from random import Random

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

BOTH = (Dialect.BINARY, Dialect.JSON)
LIMITS = Limits(cancel_grace_s=4.0, kill_grace_s=2.0, heartbeat_s=1e6, lease_s=2e6, retention_s=1.0)


def outcome_of(client: FakeLink) -> tuple[Code, bool, str]:
    packet = client.take_one(PacketType.RESULT)
    return Code(packet.code), schemas.result_meta(packet.meta).ran, schemas.failure(packet.payload).error


def is_empty(driver: SwitchboardDriver) -> bool:
    """Whether nothing is left of any job once its outcome is no longer kept: no job, no reserved cookie, no timer but those of
    connections, no slot taken."""
    board = driver.switchboard
    assert (board.jobs, board.waiting) == (0, 0)
    driver.advance(3 * LIMITS.retention_s)
    clocked = sum(peer.dialect == Dialect.BINARY for peer in board.peers.values())
    slots = sum(peer.worker.capacity for peer in board.peers.values() if peer.worker is not None)
    return (board.jobs, board.waiting, len(board.timers), board.free_slots("p", as_json=True)) == (0, 0, clocked, slots)


# Row 1: worker lost


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("reason", [CloseReason.PEER_CLOSED, CloseReason.CONNECTION_LOST, CloseReason.SLOW_CONSUMER])
def test_row_1_a_worker_lost_with_jobs_running_each_owner_is_told_in_that_very_step(
    dialect: Dialect, reason: CloseReason
) -> None:
    driver = SwitchboardDriver(LIMITS)
    clients = [driver.client() for _ in range(3)]
    worker = driver.worker(3, dialect=dialect)
    cookies = [driver.run(client) for client in clients]
    driver.disconnect(worker, reason)
    for client, cookie in zip(clients, cookies, strict=True):
        packet = client.take_one(PacketType.RESULT)
        assert (packet.cookie, packet.code, packet.attempt) == (cookie, Code.WORKER_WENT_AWAY, 1)
        assert schemas.result_meta(packet.meta).ran
        assert reason.name in schemas.failure(packet.payload).error
    assert is_empty(driver)


def test_row_1_a_worker_lost_while_idle_costs_nothing() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker(3)
    driver.disconnect(worker)
    assert (client.take(), driver.switchboard.free_slots("p")) == ([], 0)


def test_row_1_a_worker_lost_before_it_registered_costs_nothing() -> None:
    driver = SwitchboardDriver(LIMITS)
    worker = driver.connect(Role.WORKER)
    driver.greet(worker)
    driver.disconnect(worker)
    assert is_empty(driver)


@pytest.mark.parametrize("asked", ["politely", "at once", "cancel grace over"])
def test_row_1_a_worker_lost_while_cancelling_gives_cancelled(asked: str) -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.cancel(client, cookie, at_once=asked == "at once")
    driver.advance(5.0 if asked == "cancel grace over" else 0.0)
    client.take()
    driver.disconnect(worker)
    assert outcome_of(client) == (Code.CANCELLED, True, "cancelled; its worker went away without a word of it")
    assert is_empty(driver)


def test_row_1_a_worker_lost_with_a_withheld_slot_tells_nobody_anything() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker()
    driver.run(client, left_ms=100)
    driver.advance(1)
    client.take()
    driver.disconnect(worker)
    assert client.take() == []
    assert is_empty(driver)


def test_row_1_a_worker_lost_with_a_resting_slot_tells_nobody_anything() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker(2, dialect=Dialect.JSON)
    driver.result(worker, driver.run(client))
    client.take()
    driver.disconnect(worker)
    driver.advance(1)
    assert client.take() == []
    assert is_empty(driver)


def test_row_1_a_worker_lost_leaves_waiting_jobs_waiting() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker()
    driver.run(client)
    waiting = driver.run(client)
    client.take()
    driver.disconnect(worker)
    assert client.take_one(PacketType.RESULT).code == Code.WORKER_WENT_AWAY
    assert driver.worker().take_one(PacketType.RUN).cookie == waiting


def test_row_1_a_lost_workers_cookies_may_be_used_again_once_their_outcomes_are_not_kept_any_more() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker, other = driver.client(), driver.worker(1, ["a"]), driver.worker(1, ["b"])
    cookie = driver.run(client, "a")
    driver.disconnect(worker)
    driver.run(client, "b", cookie=cookie)
    assert client.take_codes() == [(PacketType.RESULT, Code.WORKER_WENT_AWAY), (PacketType.REPLY, Code.COOKIE_COLLISION)]
    driver.advance(3 * LIMITS.retention_s)
    driver.run(client, "b", cookie=cookie)
    assert other.take_one(PacketType.RUN).cookie == cookie


def test_row_1_a_worker_that_says_goodbye_with_jobs_running_is_lost_like_any_other() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker()
    driver.run(client)
    driver.offend(worker, CloseReason.PROTOCOL_ERROR, "nonsense")
    assert "PROTOCOL_ERROR" in outcome_of(client)[2]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", BOTH)
def test_row_1_a_thousand_kills_at_any_moment_and_no_job_is_stuck(dialect: Dialect) -> None:
    random = Random(1)
    driver = SwitchboardDriver(LIMITS)
    client = driver.client()
    for _ in range(1000):
        worker = driver.worker(random.choice((1, 3)), dialect=dialect)
        cookies = [driver.run(client, left_ms=random.choice((0, 40))) for _ in range(random.randrange(5))]
        for cookie in cookies:
            step = random.randrange(5)
            if step == 0:
                driver.result(worker, cookie)
            elif step == 1:
                driver.cancel(client, cookie, at_once=random.random() < 0.5)
            elif step == 2:
                driver.advance(random.choice((0.001, 0.05, 3.0)))
        driver.disconnect(worker)
        for cookie in cookies:
            driver.cancel(client, cookie)
        outcomes = [packet.cookie for packet in client.take() if packet.kind == PacketType.RESULT]
        assert sorted(outcomes) == sorted(cookies)
        assert is_empty(driver)


# Row 2: client lost


@pytest.mark.parametrize("dialect", BOTH)
def test_row_2_the_job_of_a_client_that_is_gone_goes_on_and_its_slot_comes_back_with_the_result(dialect: Dialect) -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(dialect), driver.worker()
    cookie = driver.run(client)
    driver.disconnect(client)
    assert (driver.switchboard.jobs, driver.switchboard.free_slots("p")) == (1, 0)
    driver.result(worker, cookie)
    assert driver.switchboard.counters.results_unheard == 1
    assert is_empty(driver)


def test_row_2_the_waiting_job_of_a_client_that_is_gone_still_runs() -> None:
    driver = SwitchboardDriver(LIMITS)
    client = driver.client()
    cookie = driver.run(client)
    driver.disconnect(client)
    worker = driver.worker()
    assert worker.take_one(PacketType.RUN).cookie == cookie


def test_row_2_the_cookie_of_a_client_that_is_gone_stays_taken_while_its_job_lives() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, other, worker = driver.client(), driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.disconnect(client)
    driver.run(other, cookie=cookie)
    assert other.take_reply()[0] == Code.COOKIE_COLLISION
    driver.result(worker, cookie)
    assert other.take() == []


def test_row_2_a_detached_job_has_no_owner_from_the_start() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, detach=True)
    driver.result(worker, cookie)
    assert client.take() == []
    assert is_empty(driver)


def test_row_2_both_ends_lost_leave_nothing_in_either_order() -> None:
    for first in (0, 1):
        driver = SwitchboardDriver(LIMITS)
        ends = [driver.client(), driver.worker()]
        driver.run(ends[0])
        driver.disconnect(ends[first])
        driver.disconnect(ends[1 - first])
        assert is_empty(driver)


@pytest.mark.slow
def test_row_2_ten_thousand_clients_killed_at_any_step_leak_no_route_and_no_slot() -> None:
    random = Random(2)
    driver = SwitchboardDriver(LIMITS)
    workers = [driver.worker(capacity, dialect=dialect) for capacity, dialect in ((1, BOTH[0]), (4, BOTH[0]), (3, BOTH[1]))]
    held: dict[bytes, FakeLink] = {}
    kills = 0
    while kills < 10_000:
        # What leaks once is there for good: to look for it after each step would be most of the time.
        driver.checks = kills < 1_000 or not kills % 10
        client = driver.connect(Role.CLIENT, random.choice(BOTH), queues=random.random() < 0.5)
        if client.dialect == Dialect.BINARY and random.random() < 0.95:
            driver.greet(client)
        cookies = []
        for _ in range(random.randrange(4) if client.welcomed else 0):
            cookies.append(driver.run(client, left_ms=random.choice((0, 0, 30)), detach=random.random() < 0.1))
            if random.random() < 0.3:
                driver.cancel(client, random.choice(cookies))
        kills += 1
        driver.disconnect(client)
        for worker in workers:
            held |= dict.fromkeys((packet.cookie for packet in worker.take() if packet.kind == PacketType.RUN), worker)
        for cookie in [cookie for cookie in held if random.random() < 0.6]:
            driver.result(held.pop(cookie), cookie)
        driver.advance(random.choice((0.0, 0.01, 0.05)))
    driver.checks = True
    while driver.switchboard.jobs or held:
        for worker in workers:
            held |= dict.fromkeys((packet.cookie for packet in worker.take() if packet.kind == PacketType.RUN), worker)
        for cookie in list(held):
            driver.result(held.pop(cookie), cookie)
        driver.advance(0.1)
    driver.advance(10)
    assert is_empty(driver)
    assert len(driver.switchboard.peers) == len(workers)
