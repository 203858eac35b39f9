"""Whose a job is: a RESULT counts from its holder alone, a CANCEL from its owner's principal alone."""

import pytest

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import NO_COOKIE, Code, Dialect, PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

BOTH = (Dialect.BINARY, Dialect.JSON)


def dropped(driver: SwitchboardDriver) -> int:
    return driver.switchboard.counters.results_dropped


def running(dialect: Dialect = Dialect.BINARY) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    """A driver, a client, a worker that holds its job, and the cookie."""
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(dialect=dialect)
    cookie = driver.run(client)
    worker.take_one(PacketType.RUN)
    return driver, client, worker, cookie


# RESULT


@pytest.mark.parametrize("dialect", BOTH)
def test_row_13_a_result_from_a_worker_that_does_not_hold_the_job_is_dropped_and_counted(dialect: Dialect) -> None:
    driver, client, worker, cookie = running()
    driver.result(driver.worker(dialect=dialect), cookie, b"not yours")
    assert (client.take(), dropped(driver), driver.switchboard.jobs) == ([], 1, 1)
    driver.result(worker, cookie, b"mine")
    assert client.take_one(PacketType.RESULT).payload == b"mine"


@pytest.mark.parametrize("dialect", BOTH)
def test_row_13_a_result_with_an_unknown_cookie_is_dropped_and_counted(dialect: Dialect) -> None:
    driver, client, worker, _ = running(dialect)
    driver.result(worker, driver.new_cookie())
    driver.result(worker, NO_COOKIE)
    assert (client.take(), worker.take(), worker.closed, dropped(driver)) == ([], [], False, 2)


@pytest.mark.parametrize("dialect", BOTH)
def test_row_13_a_second_result_is_dropped_and_counted(dialect: Dialect) -> None:
    driver, client, worker, cookie = running(dialect)
    for payload in (b"first", b"second"):
        driver.result(worker, cookie, payload)
    assert client.take_one(PacketType.RESULT).payload == b"first"
    assert (dropped(driver), driver.switchboard.free_slots("p")) == (1, dialect == Dialect.BINARY)


def test_row_13_a_result_of_a_job_that_still_waits_is_dropped_and_counted() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(1, ["other"])
    cookie = driver.run(client)
    client.take()
    driver.result(worker, cookie)
    assert (client.take(), dropped(driver), driver.switchboard.waiting) == ([], 1, 1)


def test_row_13_a_result_from_a_worker_that_has_not_registered_is_dropped_and_counted() -> None:
    driver, client, worker, cookie = running()
    stranger = driver.connect(worker.role)
    driver.greet(stranger)
    driver.result(stranger, cookie)
    assert (client.take(), stranger.take(), stranger.closed, dropped(driver)) == ([], [], False, 1)


@pytest.mark.parametrize("attempt", [0, 2, 65535])
def test_row_13_a_result_of_another_attempt_is_dropped_and_counted(attempt: int) -> None:
    driver, client, worker, cookie = running()
    driver.result(worker, cookie, attempt=attempt)
    assert (client.take(), dropped(driver), driver.switchboard.free_slots("p")) == ([], 1, 0)
    driver.result(worker, cookie)
    assert client.take_one(PacketType.RESULT).code == Code.OK


def test_a_json_workers_result_counts_for_the_attempt_that_it_holds() -> None:
    driver, client, worker, cookie = running(Dialect.JSON)
    driver.fail(worker, cookie, Code.PROCESSOR_EXCEPTION, "failed")
    outcome = client.take_one(PacketType.RESULT)
    assert (outcome.code, outcome.attempt, outcome.number) == (Code.PROCESSOR_EXCEPTION, 1, 0)


@pytest.mark.parametrize("code", [10, 31, Code.NO_CAPACITY, Code.QUEUED, 128, 255])
def test_a_result_with_a_code_that_is_no_outcome_becomes_an_exception_that_names_it(code: int) -> None:
    driver, client, worker, cookie = running()
    driver.send(worker, encode(PacketType.RESULT, code=code, attempt=1, cookie=cookie))
    outcome = client.take_one(PacketType.RESULT)
    assert outcome.code == Code.EXCEPTION
    assert str(int(code)).encode() in outcome.payload
    assert driver.switchboard.jobs == 0


@pytest.mark.parametrize("code", [code for code in Code if code < 32])
def test_a_worker_may_end_a_job_with_any_outcome(code: Code) -> None:
    driver, client, worker, cookie = running()
    driver.send(worker, encode(PacketType.RESULT, code=code, attempt=1, cookie=cookie))
    assert client.take_one(PacketType.RESULT).code == code


def test_dropped_results_are_logged_when_routes_are() -> None:
    driver, _, worker, _ = running()
    driver.logs.clear()
    driver.result(worker, b"k" * 16)
    assert driver.logs == []
    driver.switchboard.effects.log_routes = True
    driver.result(worker, b"k" * 16)
    assert driver.logs == [
        ("debug", "result dropped", {"cookie": (b"k" * 16).hex(), "connection": worker.id.hex()}),
    ]


# CANCEL


@pytest.mark.parametrize("dialect", BOTH)
def test_whoever_knows_the_cookie_may_cancel_from_another_connection_of_the_principal(dialect: Dialect) -> None:
    driver, client, worker, cookie = running()
    driver.cancel(driver.client(dialect), cookie)
    worker.take_one(PacketType.CANCEL)
    told = client.take_one(PacketType.REPLY)
    assert (told.code, told.cookie, told.number) == (Code.CANCELLING, cookie, 0)
    assert schemas.reply_meta(told.meta).to == PacketType.CANCEL
    driver.fail(worker, cookie, Code.CANCELLED)
    assert client.take_one(PacketType.RESULT).code == Code.CANCELLED


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("queued", [False, True])
def test_row_14_cancelling_a_foreign_job_is_answered_like_an_unknown_one_byte_for_byte(dialect: Dialect, queued: bool) -> None:
    driver = SwitchboardDriver()
    client, stranger = driver.client(), driver.client(dialect, principal="somebody else")
    cookie = driver.new_cookie()
    driver.cancel(stranger, cookie)
    unknown = stranger.unread[:]
    stranger.take()
    worker = driver.worker(1, ["none"] if queued else ["p"])
    driver.run(client, cookie=cookie)
    client.take()
    worker.take()
    driver.cancel(stranger, cookie)
    assert stranger.unread == unknown
    assert (client.take(), worker.take(), driver.switchboard.jobs) == ([], [], 1)


def test_row_14_a_job_that_is_over_is_answered_like_an_unknown_one_byte_for_byte() -> None:
    driver, client, worker, cookie = running()
    driver.result(worker, cookie)
    client.take()
    driver.cancel(client, cookie)
    over = client.unread[:]
    fresh = SwitchboardDriver()
    other = fresh.client()
    fresh.cancel(other, cookie)
    assert other.unread == over
    assert other.take_reply() == (Code.COOKIE_NOT_FOUND, "No such cookie")


def test_a_principal_keeps_its_jobs_apart_even_from_one_without_a_name() -> None:
    driver = SwitchboardDriver()
    named, nameless = driver.client(principal="a"), driver.client()
    cookie = driver.run(named)
    driver.cancel(nameless, cookie)
    assert nameless.take_reply()[0] == Code.COOKIE_NOT_FOUND
    driver.cancel(driver.client(principal="a"), cookie)
    assert named.take_codes() == [(PacketType.REPLY, Code.QUEUED), (PacketType.RESULT, Code.CANCELLED)]


def test_the_owner_keeps_its_principal_after_its_connection_is_gone() -> None:
    driver = SwitchboardDriver()
    client = driver.client(principal="a")
    cookie = driver.run(client)
    driver.disconnect(client)
    stranger, heir = driver.client(principal="b"), driver.client(principal="a")
    driver.cancel(stranger, cookie)
    driver.cancel(heir, cookie)
    assert (stranger.take_reply()[0], heir.take_reply()[0]) == (Code.COOKIE_NOT_FOUND, Code.OK)


def test_outcomes_go_to_the_connection_that_asked_for_the_job_and_to_no_other() -> None:
    driver = SwitchboardDriver()
    clients = [driver.client() for _ in range(3)]
    worker = driver.worker(3)
    cookies = [driver.run(client) for client in clients]
    for cookie in reversed(cookies):
        driver.result(worker, cookie, cookie)
    assert [client.take_one(PacketType.RESULT).payload for client in clients] == cookies


def test_the_end_of_one_client_leaves_the_jobs_of_others_alone() -> None:
    driver = SwitchboardDriver()
    leaver, stayer, worker = driver.client(), driver.client(), driver.worker(2)
    gone, kept = driver.run(leaver), driver.run(stayer)
    driver.disconnect(leaver)
    driver.result(worker, gone)
    driver.result(worker, kept)
    assert stayer.take_one(PacketType.RESULT).cookie == kept
    assert driver.switchboard.counters.results_unheard == 1
