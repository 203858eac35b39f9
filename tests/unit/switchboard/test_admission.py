"""The seam for durability: a job is the switchboard's only when it is admitted, and its cookie is taken from the first moment."""

import pytest

from reasonchip_broker.limits import PIPELINES_KNOWN_MAX, Limits
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

LIMITS = Limits(retention_s=1.0)


def make(capacity: int = 0, dialect: Dialect = Dialect.BINARY) -> tuple[SwitchboardDriver, FakeLink, FakeLink | None]:
    driver = SwitchboardDriver(LIMITS, admits=True)
    worker = driver.worker(capacity) if capacity else None
    return driver, driver.client(dialect), worker


def test_a_job_runs_only_when_it_is_admitted() -> None:
    driver, client, worker = make(1)
    assert worker is not None
    cookie = driver.run(client)
    assert ([asked for asked, _ in driver.admissions], client.take(), worker.take()) == ([cookie], [], [])
    assert (driver.switchboard.jobs, driver.switchboard.waiting) == (1, 0)
    driver.admit(cookie)
    run = worker.take_one(PacketType.RUN)
    driver.result(worker, run.cookie)
    assert client.take_one(PacketType.RESULT).code == Code.OK


def test_a_job_that_is_admitted_when_no_slot_is_free_waits_and_its_client_is_told() -> None:
    driver, client, _ = make()
    cookie = driver.run(client)
    driver.admit(cookie)
    assert client.take_reply()[0] == Code.QUEUED
    assert driver.worker().take_one(PacketType.RUN).cookie == cookie


@pytest.mark.parametrize("detach", [False, True])
def test_a_job_that_asked_for_a_reply_gets_it_when_it_is_dispatched(detach: bool) -> None:
    driver, client, _ = make(1)
    cookie = driver.run(client, reply=True, detach=detach)
    assert client.take() == []
    driver.admit(cookie)
    assert client.take_reply()[0] == Code.DISPATCHED


@pytest.mark.parametrize("detach", [False, True])
def test_a_job_that_is_rejected_is_refused_and_leaves_no_trace(detach: bool) -> None:
    driver, client, worker = make(1)
    cookie = driver.run(client, left_ms=1000, detach=detach)
    driver.reject(cookie, Code.OVERLOADED, "the disk is full")
    packet = client.take_one(PacketType.REPLY)
    assert (packet.code, packet.cookie, schemas.reply_meta(packet.meta).msg) == (Code.OVERLOADED, cookie, "the disk is full")
    board = driver.switchboard
    assert (board.jobs, len(board.timers), board.counters.finished, board.counters.refused) == (0, 2, 0, 1)
    driver.run(client, cookie=cookie)
    driver.admit(cookie)
    assert worker is not None
    worker.take_one(PacketType.RUN)


def test_a_cookie_is_taken_while_its_job_is_being_admitted() -> None:
    driver, client, _ = make(1)
    cookie = driver.run(client)
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] == Code.COOKIE_COLLISION
    assert [asked for asked, _ in driver.admissions] == [cookie]


@pytest.mark.parametrize("verdict", ["admitted", "rejected"])
def test_a_job_that_is_cancelled_while_it_is_being_admitted_never_runs(verdict: str) -> None:
    driver, client, worker = make(1)
    assert worker is not None
    cookie = driver.run(client)
    driver.cancel(client, cookie)
    outcome, reply = client.take()
    assert (outcome.code, schemas.result_meta(outcome.meta).ran, reply.code) == (Code.CANCELLED, False, Code.OK)
    if verdict == "admitted":
        driver.admit(cookie)
    else:
        driver.reject(cookie)
    assert (client.take(), worker.take(), driver.switchboard.jobs) == ([], [], 0)


def test_a_deadline_that_passes_while_a_job_is_being_admitted_ends_it() -> None:
    driver, client, worker = make(1)
    assert worker is not None
    cookie = driver.run(client, left_ms=100)
    driver.advance(1)
    outcome = client.take_one(PacketType.RESULT)
    assert (outcome.code, schemas.result_meta(outcome.meta).ran) == (Code.DEADLINE_EXCEEDED, False)
    driver.admit(cookie)
    assert worker.take() == []


@pytest.mark.parametrize("ended_by", ["a cancel", "its deadline"])
@pytest.mark.parametrize("verdict", ["admitted", "rejected"])
def test_a_verdict_is_of_the_job_that_it_was_asked_for_and_not_of_the_next_with_its_cookie(ended_by: str, verdict: str) -> None:
    driver, client, worker = make(1)
    assert worker is not None
    cookie = driver.run(client, left_ms=100, variables=b"first")
    if ended_by == "a cancel":
        driver.cancel(client, cookie)
    else:
        driver.advance(1)
    driver.advance(3 * LIMITS.retention_s)  # the cookie is free again
    driver.run(client, cookie=cookie, variables=b"second")
    client.take()
    (_, first), (_, second) = driver.admissions
    if verdict == "admitted":
        driver.admit(cookie, first)
    else:
        driver.reject(cookie, number=first)
    assert (client.take(), worker.take(), driver.switchboard.jobs) == ([], [], 1)
    driver.admit(cookie, second)
    assert worker.take_one(PacketType.RUN).payload == b"second"


@pytest.mark.parametrize("capacity", [0, 1])
def test_a_job_whose_owner_left_before_the_verdict_is_admitted_all_the_same(capacity: int) -> None:
    driver, client, worker = make(capacity)
    cookie = driver.run(client, reply=True)
    driver.disconnect(client)
    driver.admit(cookie)
    worker = worker or driver.worker()
    worker.take_one(PacketType.RUN)
    driver.result(worker, cookie)
    assert (driver.switchboard.jobs, driver.switchboard.counters.results_unheard) == (0, 1)


def test_a_job_whose_owner_left_may_still_be_rejected() -> None:
    driver, client, _ = make(1)
    cookie = driver.run(client)
    driver.disconnect(client)
    driver.reject(cookie)
    assert driver.switchboard.jobs == 0


@pytest.mark.parametrize("dialect", [Dialect.BINARY, Dialect.JSON])
@pytest.mark.parametrize("take", [False, True])
@pytest.mark.parametrize("owner_stays", [False, True])
def test_whoever_attached_to_a_job_that_is_rejected_is_refused_as_its_owner_is(
    dialect: Dialect, take: bool, owner_stays: bool
) -> None:
    driver, client, _ = make(1, dialect)
    cookie, links = driver.run(client), [client, driver.client()]
    driver.attach(links[1], cookie, first=1, take=take)
    links[1].take()
    if not owner_stays:
        driver.disconnect(links.pop(0))
    driver.reject(cookie, Code.OVERLOADED, "the disk is full")
    for link in links:
        answer = link.take_one(PacketType.REPLY)
        meta = schemas.reply_meta(answer.meta)
        assert (answer.code, answer.cookie, answer.number) == (Code.OVERLOADED, cookie, 0)
        assert (meta.to, meta.msg) == (PacketType.RUN, "the disk is full")
    assert (driver.switchboard.jobs, driver.switchboard.counters.refused) == (0, 1)


def test_so_they_are_when_a_job_that_is_not_to_wait_finds_no_slot() -> None:
    driver, client, _ = make(1)
    looker = driver.client()
    first, second = driver.run(client, queue=False), driver.run(client, queue=False)
    driver.attach(looker, second, take=False)
    looker.take()
    driver.admit(first)
    driver.admit(second)
    assert looker.take_reply() == (Code.NO_CAPACITY, "No capacity available")


def test_a_follower_of_a_rejected_job_has_nothing_more_to_do_with_it() -> None:
    driver, client, worker = make(1)
    assert worker is not None
    looker = driver.client()
    cookie = driver.run(client, follow=True)
    driver.attach(looker, cookie, take=False)
    driver.reject(cookie)
    driver.run(client, cookie=cookie)
    driver.admit(cookie)
    looker.take()
    driver.result(worker, cookie)
    assert looker.take() == []


def test_a_verdict_on_what_is_not_being_admitted_changes_nothing() -> None:
    driver, client, worker = make(1)
    assert worker is not None
    cookie = driver.run(client)
    for _ in range(2):
        driver.admit(cookie)
    driver.reject(cookie)
    driver.admit(b"k" * 16)
    driver.reject(b"k" * 16)
    worker.take_one(PacketType.RUN)
    assert (client.take(), driver.switchboard.jobs) == ([], 1)


def test_drain_gives_back_jobs_that_are_being_admitted() -> None:
    driver, client, worker = make(1)
    assert worker is not None
    cookie = driver.run(client)
    driver.drain()
    outcome = client.take_one(PacketType.RESULT)
    assert (outcome.code, schemas.result_meta(outcome.meta).ran) == (Code.BROKER_WENT_AWAY, False)
    driver.admit(cookie)
    assert [packet.kind for packet in worker.take()] == [PacketType.DRAIN]


def test_what_is_refused_anyway_is_not_put_up_for_admission() -> None:
    driver = SwitchboardDriver(Limits(backlog_jobs_max=1, client_jobs_max=2), admits=True)
    client = driver.client()
    driver.run(client, queue=False)
    assert (client.take_reply()[0], driver.admissions) == (Code.NOT_SERVED, [])


def test_jobs_wait_in_the_order_in_which_they_were_admitted() -> None:
    driver, client, _ = make()
    cookies = [driver.run(client) for _ in range(3)]
    order = [cookies[1], cookies[2], cookies[0]]
    for cookie in order:
        driver.admit(cookie)
    assert [packet.cookie for packet in driver.worker(3).take()] == order


@pytest.mark.parametrize("dialect", [Dialect.BINARY, Dialect.JSON])
def test_a_job_that_is_not_to_wait_is_refused_if_its_slot_is_taken_when_it_is_admitted(dialect: Dialect) -> None:
    driver, client, worker = make(1, dialect)
    assert worker is not None
    first, second = driver.run(client, queue=False), driver.run(client, queue=False)
    driver.admit(first)
    driver.admit(second)
    answer = client.take_one(PacketType.REPLY)
    assert (answer.code, answer.cookie) == (Code.NO_CAPACITY, second)
    assert (worker.take_one(PacketType.RUN).cookie, driver.switchboard.jobs) == (first, 1)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_whatever_attempt_a_client_claims_the_first_one_is_number_1(encoding: str) -> None:
    driver, client, worker = make(1)
    assert worker is not None
    cookie = driver.run(client, attempt=7, encoding=encoding)
    driver.admit(cookie)
    assert worker.take_one(PacketType.RUN).attempt == 1
    driver.result(worker, cookie)
    assert client.take_one(PacketType.RESULT).code == Code.OK


def test_a_pipeline_that_is_forgotten_while_a_job_of_it_is_being_admitted_is_found_again() -> None:
    driver = SwitchboardDriver(admits=True, checks=False)
    client = driver.client()
    cookie = driver.run(client, "the.one")
    for number in range(PIPELINES_KNOWN_MAX + 1):
        driver.cancel(client, driver.run(client, f"other.{number}"))
    client.take()
    worker = driver.worker(1, ["the.one"])
    driver.admit(cookie)
    driver.switchboard.invariants()
    assert worker.take_one(PacketType.RUN).cookie == cookie


def test_time_spent_in_admission_counts_against_the_deadline() -> None:
    driver, client, worker = make(1)
    assert worker is not None
    cookie = driver.run(client, left_ms=10_000)
    driver.advance(4)
    driver.admit(cookie)
    assert worker.take_one(PacketType.RUN).number == 6000
