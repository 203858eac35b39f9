"""Cancel tells the truth: before dispatch the job never runs; after it the worker is asked, then told, then given up."""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, Dialect, PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

LIMITS = Limits(cancel_grace_s=4.0, kill_grace_s=2.0, heartbeat_s=1000.0, lease_s=2000.0, retention_s=50.0)
BOTH = (Dialect.BINARY, Dialect.JSON)


def running(
    dialect: Dialect = Dialect.BINARY, *, json_cancel: bool = False, detach: bool = False
) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    """A driver, a client, a worker of capacity 1 that holds its job, and the cookie."""
    driver = SwitchboardDriver(LIMITS, json_cancel=json_cancel)
    client, worker = driver.client(), driver.worker(1, dialect=dialect)
    cookie = driver.run(client, detach=detach)
    worker.take()
    return driver, client, worker, cookie


def told_to_stop(worker: FakeLink) -> list[tuple[bool, str]]:
    """Each CANCEL that a worker was sent: at once or not, and why."""
    told = []
    for packet in worker.take():
        assert (packet.kind, packet.attempt) == (PacketType.CANCEL, 1)
        meta = schemas.cancel_meta(packet.meta)
        told.append((meta.now, meta.why))
    return told


def outcome_of(client: FakeLink) -> tuple[Code, bool, str]:
    """Code of the one RESULT, whether the job may have run, and the error."""
    packet = client.take_one(PacketType.RESULT)
    return Code(packet.code), schemas.result_meta(packet.meta).ran, schemas.failure(packet.payload).error


# Requests


@pytest.mark.parametrize("dialect", BOTH)
def test_cancelling_an_unknown_job_is_answered_so(dialect: Dialect) -> None:
    driver = SwitchboardDriver()
    client = driver.client(dialect)
    cookie = driver.new_cookie()
    driver.cancel(client, cookie, number=9)
    packet = client.take_one(PacketType.REPLY)
    assert (packet.code, packet.cookie) == (Code.COOKIE_NOT_FOUND, cookie)
    assert packet.number == (9 if dialect == Dialect.BINARY else 0)
    assert schemas.reply_meta(packet.meta).to == PacketType.CANCEL


@pytest.mark.parametrize("dialect", BOTH)
def test_cancelling_nothing_is_a_bad_packet(dialect: Dialect) -> None:
    driver = SwitchboardDriver()
    client = driver.client(dialect)
    driver.cancel(client, NO_COOKIE)
    assert client.take_reply() == (Code.BAD_PACKET, "Missing cookie")


@pytest.mark.parametrize("meta", [b"\x81\xa3now\x01", b"\x81\xa3why\x01", b"\x81\xa3why\xda\x10\x01" + b"x" * 4097])
def test_a_cancel_that_makes_no_sense_is_a_bad_packet_and_cancels_nothing(meta: bytes) -> None:
    driver, client, worker, cookie = running()
    driver.send(client, encode(PacketType.CANCEL, cookie=cookie, number=3, meta=meta))
    packet = client.take_one(PacketType.REPLY)
    assert (packet.code, packet.cookie, packet.number) == (Code.BAD_PACKET, cookie, 3)
    assert (worker.take(), driver.switchboard.jobs) == ([], 1)


def test_a_cancel_that_does_not_decode_ends_the_connection() -> None:
    driver, client, _, cookie = running()
    driver.send(client, encode(PacketType.CANCEL, cookie=cookie, meta=b"\xc1"))
    assert client.close_reason == CloseReason.PROTOCOL_ERROR
    assert driver.switchboard.jobs == 1


def test_a_cancel_without_options_is_polite() -> None:
    driver, client, worker, cookie = running()
    driver.send(client, encode(PacketType.CANCEL, cookie=cookie))
    assert told_to_stop(worker) == [(False, "")]
    assert client.take_reply()[0] == Code.CANCELLING


# Before dispatch


@pytest.mark.parametrize("at_once", [False, True])
def test_a_job_that_waits_is_over_at_once_and_never_runs(at_once: bool) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    cookie = driver.run(client)
    client.take()
    driver.cancel(client, cookie, at_once=at_once, why="no need", number=4)
    outcome, reply = client.take()
    assert (outcome.kind, outcome.code, outcome.attempt) == (PacketType.RESULT, Code.CANCELLED, 0)
    assert not schemas.result_meta(outcome.meta).ran
    assert schemas.failure(outcome.payload).error == "cancelled before it ran: no need"
    assert (reply.kind, reply.code, reply.number) == (PacketType.REPLY, Code.OK, 4)
    assert driver.worker(5).take() == []
    driver.cancel(client, cookie)
    assert client.take_reply()[0] == Code.COOKIE_NOT_FOUND


def test_who_cancels_gets_the_reply_and_who_owns_gets_the_outcome() -> None:
    driver = SwitchboardDriver()
    owner, other = driver.client(), driver.client()
    cookie = driver.run(owner)
    owner.take()
    driver.cancel(other, cookie)
    assert other.take_codes() == [(PacketType.REPLY, Code.OK)]
    assert owner.take_codes() == [(PacketType.RESULT, Code.CANCELLED)]


# After dispatch


@pytest.mark.parametrize("at_once", [False, True])
def test_a_running_job_is_cancelled_by_its_worker(at_once: bool) -> None:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie, at_once=at_once, why="changed my mind")
    assert told_to_stop(worker) == [(at_once, "changed my mind")]
    assert client.take_reply() == (Code.CANCELLING, "the worker was asked to stop")
    driver.fail(worker, cookie, Code.CANCELLED, "stopped")
    assert outcome_of(client) == (Code.CANCELLED, True, "stopped")
    driver.advance(3 * LIMITS.retention_s)
    assert (driver.switchboard.free_slots("p"), len(driver.switchboard.timers)) == (1, 2)


@pytest.mark.parametrize("grace", ["asked", "told"])
def test_if_the_result_wins_the_race_the_owner_gets_the_result(grace: str) -> None:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie)
    client.take()
    driver.advance(1.0 if grace == "asked" else 5.0)
    driver.result(worker, cookie, b"in time")
    assert client.take_one(PacketType.RESULT).payload == b"in time"
    driver.advance(20)
    assert client.take() == []


def test_a_worker_that_does_not_report_is_told_to_stop_at_once_and_then_given_up() -> None:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie, why="politely")
    assert told_to_stop(worker) == [(False, "politely")]
    client.take()
    driver.advance(3.99)
    assert told_to_stop(worker) == []
    driver.advance(0.02)
    assert told_to_stop(worker) == [(True, "the cancel grace is over")]
    driver.advance(1.97)
    assert client.take() == []
    driver.advance(0.04)
    assert outcome_of(client) == (Code.CANCELLED, True, "cancelled; its worker has not confirmed that it stopped")
    assert driver.logs[-1] == (
        "warning",
        "slot withheld: worker did not stop",
        {"cookie": cookie.hex(), "worker": worker.id.hex()},
    )
    driver.advance(100)
    assert (told_to_stop(worker), client.take()) == ([], [])


def test_a_worker_that_is_told_to_stop_at_once_has_only_the_kill_grace() -> None:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie, at_once=True)
    client.take()
    driver.advance(1.99)
    assert client.take() == []
    driver.advance(0.02)
    assert outcome_of(client)[0] == Code.CANCELLED
    assert told_to_stop(worker) == [(True, "")]


def test_impatience_shortens_the_grace() -> None:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie)
    driver.advance(1)
    driver.cancel(client, cookie, at_once=True, why="now!")
    assert told_to_stop(worker) == [(False, ""), (True, "now!")]
    assert client.take_codes() == [(PacketType.REPLY, Code.CANCELLING)] * 2
    driver.advance(2.01)
    assert outcome_of(client)[0] == Code.CANCELLED


@pytest.mark.parametrize("first", [False, True])
def test_asking_again_politely_changes_nothing(first: bool) -> None:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie, at_once=first)
    for _ in range(3):
        driver.advance(0.5)
        driver.cancel(client, cookie)
    assert told_to_stop(worker) == [(first, "")]
    assert client.take_codes() == [(PacketType.REPLY, Code.CANCELLING)] * 4
    driver.advance(0.51 if first else 4.51)
    assert outcome_of(client)[0] == Code.CANCELLED


def test_repeated_impatience_does_not_put_off_the_end() -> None:
    driver, client, _, cookie = running()
    for _ in range(3):
        driver.cancel(client, cookie, at_once=True)
        driver.advance(0.9)
    assert (PacketType.RESULT, Code.CANCELLED) in client.take_codes()


# Withheld slots


def given_up() -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie, at_once=True)
    driver.advance(2.01)
    client.take()
    worker.take()
    return driver, client, worker, cookie


def test_the_slot_of_a_job_that_was_given_up_stays_withheld() -> None:
    driver, client, worker, _ = given_up()
    driver.run(client)
    assert client.take_reply()[0] == Code.QUEUED
    driver.advance(1000)
    assert (worker.take_codes(), driver.switchboard.free_slots("p")) == ([(PacketType.PING, Code.OK)], 0)


@pytest.mark.parametrize("code", [Code.OK, Code.CANCELLED])
def test_a_withheld_slot_is_free_when_its_worker_reports_and_the_report_is_discarded(code: Code) -> None:
    driver, client, worker, cookie = given_up()
    driver.run(client)
    client.take()
    driver.fail(worker, cookie, code)
    assert worker.take_codes() == [(PacketType.RUN, Code.OK)]
    assert (client.take(), driver.switchboard.counters.results_dropped) == ([], 0)


def test_a_withheld_cookie_is_reserved_until_the_worker_reports() -> None:
    driver, client, worker, cookie = given_up()
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] == Code.COOKIE_COLLISION
    driver.cancel(client, cookie)
    assert client.take_reply()[0] == Code.COOKIE_NOT_FOUND
    driver.advance(3 * LIMITS.retention_s)
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] == Code.COOKIE_COLLISION
    driver.result(worker, cookie)
    driver.run(client, cookie=cookie)
    assert worker.take_codes() == [(PacketType.RUN, Code.OK)]


def test_the_cookie_of_a_job_that_was_given_up_is_taken_while_its_outcome_is_kept_though_its_worker_has_reported() -> None:
    driver, client, worker, cookie = given_up()
    driver.result(worker, cookie)
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] == Code.COOKIE_COLLISION


def test_a_withheld_cookie_is_free_when_its_worker_is_gone() -> None:
    driver, client, worker, cookie = given_up()
    driver.advance(3 * LIMITS.retention_s)
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] == Code.COOKIE_COLLISION
    driver.disconnect(worker)
    assert client.take() == []
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] == Code.QUEUED


def test_a_withheld_slot_needs_the_right_attempt_to_be_free() -> None:
    driver, _, worker, cookie = given_up()
    driver.result(worker, cookie, attempt=2)
    assert (driver.switchboard.free_slots("p"), driver.switchboard.counters.results_dropped) == (0, 1)


# JSON workers


def test_a_json_worker_is_not_told_and_the_owner_is_answered_so() -> None:
    driver, client, worker, cookie = running(Dialect.JSON)
    driver.cancel(client, cookie, why="w")
    outcome, reply = client.take()
    assert (outcome.code, schemas.result_meta(outcome.meta).ran) == (Code.CANCELLED, True)
    assert schemas.failure(outcome.payload).error == "cancelled; its worker can't be told, and may still finish it: w"
    assert (reply.kind, reply.code) == (PacketType.REPLY, Code.OK)
    assert (worker.take(), driver.switchboard.free_slots("p", as_json=True)) == ([], 0)
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] == Code.COOKIE_COLLISION
    driver.result(worker, cookie)
    assert (client.take(), driver.switchboard.free_slots("p", as_json=True)) == ([], 1)


def test_a_json_client_that_cancels_gets_the_outcome_and_nothing_else_with_its_cookie() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(Dialect.JSON), driver.worker(dialect=Dialect.JSON)
    cookie = driver.run(client)
    driver.cancel(client, cookie)
    told = client.take_json()
    assert [(packet["packet_type"], packet["rc"]) for packet in told] == [("RESULT", "EXCEPTION")]
    assert told[0]["error"].startswith("CANCELLED: cancelled; its worker can't be told")
    driver.result(worker, cookie)
    assert client.take() == []


def test_a_json_client_hears_only_the_outcome_of_a_cancel_that_a_binary_worker_was_asked_for() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(Dialect.JSON), driver.worker()
    cookie = driver.run(client)
    driver.cancel(client, cookie)
    assert client.take_json() == []
    driver.fail(worker, cookie, Code.CANCELLED, "stopped")
    assert [(packet["rc"], packet["error"]) for packet in client.take_json()] == [("EXCEPTION", "CANCELLED: stopped")]


def test_with_json_cancel_a_json_worker_is_told_and_ends_with_all_its_jobs() -> None:
    driver = SwitchboardDriver(LIMITS, json_cancel=True)
    client, worker = driver.client(), driver.worker(2, dialect=Dialect.JSON)
    cookie, other = driver.run(client), driver.run(client)
    worker.take()
    driver.cancel(client, cookie)
    assert client.take_reply()[0] == Code.CANCELLING
    assert [packet["packet_type"] for packet in worker.take_json()] == ["CANCEL"]
    driver.disconnect(worker)
    outcomes = {packet.cookie: packet.code for packet in client.take()}
    assert outcomes == {cookie: Code.CANCELLED, other: Code.WORKER_WENT_AWAY}


# Both ends may be gone


def test_a_job_whose_owner_is_gone_can_be_cancelled_and_nobody_hears_of_it() -> None:
    driver, client, worker, cookie = running()
    driver.disconnect(client)
    other = driver.client()
    driver.cancel(other, cookie)
    assert other.take_reply()[0] == Code.CANCELLING
    driver.advance(10)
    assert (driver.switchboard.jobs, driver.switchboard.counters.results_unheard) == (0, 1)
    assert told_to_stop(worker) == [(False, ""), (True, "the cancel grace is over")]


def test_a_detached_job_can_be_cancelled_by_cookie() -> None:
    driver, client, worker, cookie = running(detach=True)
    driver.cancel(client, cookie)
    assert client.take_reply()[0] == Code.CANCELLING
    driver.fail(worker, cookie, Code.CANCELLED)
    assert (client.take(), driver.switchboard.jobs) == ([], 0)


def test_the_worker_that_is_gone_before_it_stopped_leaves_the_job_cancelled() -> None:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie)
    client.take()
    driver.disconnect(worker)
    assert outcome_of(client) == (Code.CANCELLED, True, "cancelled; its worker went away without a word of it")
    driver.advance(100)
    assert (client.take(), len(driver.switchboard.timers)) == ([], 1)


def test_a_worker_expired_and_a_grace_over_in_one_wake_up_do_not_meet() -> None:
    """The grace is that of a slot which is gone by then: nobody is to be told to stop, and nothing is withheld."""
    driver = SwitchboardDriver(Limits(heartbeat_s=1.0, lease_s=3.0, cancel_grace_s=1.0, kill_grace_s=1.0))
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.advance(2.1)
    driver.send(client, packets.ping())
    driver.cancel(client, cookie)
    worker.take()
    client.take()
    driver.advance(0.85)
    driver.jump(0.9)
    assert (worker.close_reason, told_to_stop(worker)) == (CloseReason.HEARTBEAT_TIMEOUT, [])
    assert (PacketType.RESULT, Code.CANCELLED) in client.take_codes()
    driver.send(client, packets.ping())
    driver.advance(2)
    assert [line for line in driver.logs if line[0] == "warning"] == []
