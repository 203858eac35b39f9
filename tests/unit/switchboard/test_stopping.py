"""How a broker ends: it drains, then stops; every job that was taken has an outcome, and every peer hears why."""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

BOTH = (Dialect.BINARY, Dialect.JSON)
LIMITS = Limits(cancel_grace_s=2.0, kill_grace_s=2.0, heartbeat_s=1e6, lease_s=2e6, retention_s=1.0)


def outcome_of(client: FakeLink) -> tuple[Code, bool, str]:
    packet = client.take_one(PacketType.RESULT)
    return Code(packet.code), schemas.result_meta(packet.meta).ran, schemas.failure(packet.payload).error


# Drain


def test_drain_gives_waiting_jobs_back_as_never_started() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.run(client)
    client.take()
    driver.drain()
    assert outcome_of(client) == (Code.BROKER_WENT_AWAY, False, "the broker is stopping; the job never started")
    assert driver.switchboard.jobs == 0


@pytest.mark.parametrize("dialect", BOTH)
def test_drain_lets_running_jobs_finish_and_their_owners_hear_of_it(dialect: Dialect) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(dialect), driver.worker(2, dialect=dialect)
    cookie = driver.run(client)
    driver.drain()
    assert (client.take(), client.closed, worker.closed) == ([], False, False)
    driver.result(worker, cookie, b"done")
    assert client.take_one(PacketType.RESULT).payload == b"done"
    assert driver.switchboard.jobs == 0


@pytest.mark.parametrize("dialect", BOTH)
def test_drain_tells_workers_and_gives_them_no_more_jobs(dialect: Dialect) -> None:
    driver = SwitchboardDriver()
    worker = driver.worker(3, dialect=dialect)
    driver.drain()
    if dialect == Dialect.JSON:
        assert [packet["packet_type"] for packet in worker.take_json()] == ["SHUTDOWN"]
    else:
        worker.take_one(PacketType.DRAIN)
    assert driver.switchboard.free_slots("p", as_json=True) == 0


def test_drain_refuses_runs_in_every_dialect() -> None:
    driver = SwitchboardDriver()
    clients = [driver.client(dialect) for dialect in BOTH]
    driver.worker(5)
    driver.drain()
    for client in clients:
        driver.run(client)
        assert client.take_reply()[0] == Code.DRAINING


def test_drain_says_nothing_to_clients_and_to_those_who_have_not_said_hello() -> None:
    driver = SwitchboardDriver()
    client, stranger = driver.client(), driver.connect(Role.WORKER)
    driver.drain()
    assert (client.take(), stranger.take()) == ([], [])


@pytest.mark.parametrize("dialect", BOTH)
def test_a_worker_that_registers_while_the_broker_drains_is_told_so_and_gets_nothing(dialect: Dialect) -> None:
    driver = SwitchboardDriver()
    driver.drain()
    worker = driver.worker(3, dialect=dialect)
    assert [packet.kind for packet in worker.take()] == [PacketType.DRAIN]
    assert driver.switchboard.free_slots("p", as_json=True) == 0


def test_a_worker_lost_while_the_broker_drains_ends_its_jobs() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    driver.run(client)
    driver.drain()
    driver.disconnect(worker)
    assert outcome_of(client)[0] == Code.WORKER_WENT_AWAY


def test_cancel_and_deadlines_work_while_the_broker_drains() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker(2)
    cancelled, timed = driver.run(client), driver.run(client, left_ms=100)
    driver.drain()
    driver.cancel(client, cancelled)
    assert client.take_reply()[0] == Code.CANCELLING
    driver.fail(worker, cancelled, Code.CANCELLED)
    assert client.take_one(PacketType.RESULT).cookie == cancelled
    driver.advance(1)
    outcome = client.take_one(PacketType.RESULT)
    assert (outcome.cookie, outcome.code) == (timed, Code.DEADLINE_EXCEEDED)


def test_draining_twice_is_draining_once_more() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.drain()
    driver.drain()
    driver.result(worker, cookie)
    assert client.take_one(PacketType.RESULT).code == Code.OK


# A worker that drains


def test_a_worker_that_drains_gets_no_more_jobs_and_finishes_what_it_has() -> None:
    driver = SwitchboardDriver()
    client, worker, other = driver.client(), driver.worker(2), driver.worker(1)
    running = driver.run(client)
    worker.take_one(PacketType.RUN)
    driver.send(worker, packets.drain(5))
    reply = worker.take_one(PacketType.REPLY)
    assert (reply.code, reply.number, schemas.reply_meta(reply.meta).to) == (Code.OK, 5, PacketType.DRAIN)
    driver.run(client)
    driver.run(client)
    assert (len(other.take()), driver.switchboard.waiting, driver.switchboard.free_slots("p")) == (1, 1, 0)
    client.take()
    driver.result(worker, running)
    assert (client.take_one(PacketType.RESULT).cookie, worker.take()) == (running, [])
    assert driver.switchboard.waiting == 1


def test_a_worker_that_drains_twice_is_answered_twice() -> None:
    driver = SwitchboardDriver()
    worker = driver.worker()
    driver.send(worker, packets.drain(1), packets.drain(2))
    assert [packet.number for packet in worker.take()] == [1, 2]
    assert [line[1] for line in driver.logs].count("worker draining") == 1


def test_a_worker_that_drains_while_congested_gets_nothing_when_it_is_not_congested_any_more() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    driver.congest(worker)
    driver.run(client)
    driver.send(worker, packets.drain(1))
    worker.take()
    driver.unblock(worker)
    assert worker.take() == []


# Stop


def test_stop_ends_every_job_and_says_whether_it_may_have_run() -> None:
    driver = SwitchboardDriver()
    owner, waiter = driver.client(), driver.client()
    driver.worker(1)
    driver.run(owner)
    driver.run(waiter)
    waiter.take()
    driver.stop()
    assert outcome_of(owner) == (Code.BROKER_WENT_AWAY, True, "the broker stopped while the job ran")
    assert outcome_of(waiter) == (Code.BROKER_WENT_AWAY, False, "the broker stopped; the job never started")


def test_stop_says_goodbye_to_everyone_whatever_they_are_at() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker(2)
    cookie = driver.run(client)
    driver.cancel(client, cookie)
    driver.run(client, left_ms=1000)
    links = [client, worker, driver.connect(Role.CLIENT), driver.client(Dialect.JSON), driver.worker(dialect=Dialect.JSON)]
    driver.stop()
    for link in links:
        assert link.close is not None
        assert (link.close.reason, link.close.sentence) == (CloseReason.SHUTTING_DOWN, "the broker is stopping")
    board = driver.switchboard
    assert (len(board.peers), board.jobs) == (0, 0)
    driver.advance(3 * LIMITS.retention_s)
    assert len(board.timers) == 0
    assert sum(packet.kind == PacketType.RESULT for packet in client.take()) == 2


def test_stop_after_drain_ends_what_has_not_finished() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.worker()
    driver.run(client)
    driver.drain()
    driver.stop()
    assert outcome_of(client)[:2] == (Code.BROKER_WENT_AWAY, True)


def test_stop_tells_a_withheld_jobs_owner_nothing_more() -> None:
    driver = SwitchboardDriver(LIMITS)
    client = driver.client()
    driver.worker()
    driver.run(client, left_ms=10)
    driver.advance(1)
    client.take()
    driver.stop()
    assert client.take() == []


def test_who_comes_after_the_stop_finds_a_draining_broker() -> None:
    driver = SwitchboardDriver()
    driver.stop()
    client = driver.client()
    driver.run(client)
    assert client.take_reply()[0] == Code.DRAINING
