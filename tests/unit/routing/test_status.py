"""Where a job is and, if it waits, why: one test for each state and each reason."""

from typing import Any

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, Dialect, JobState, PacketType, Waiting
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

from .scenes import driven, session


def told(driver: SwitchboardDriver, cookie: bytes) -> tuple[str, str, str]:
    """State, reason and sentence."""
    client = driver.client()
    driver.send(client, packets.status(cookie, number=3))
    reply = client.take_one(PacketType.REPLY)
    meta = schemas.reply_meta(reply.meta)
    assert (reply.code, reply.number, reply.cookie, meta.to) == (Code.OK, 3, cookie, PacketType.STATUS)
    assert meta.job is not None
    return meta.job.state, meta.job.why, meta.msg


def running(**options: Any) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    driver = driven()
    client, worker = driver.client(), session(driver)
    cookie = driver.run(client, **options)
    client.take()
    worker.take()
    return driver, client, worker, cookie


def test_one_that_is_not_admitted() -> None:
    driver = SwitchboardDriver(admits=True)
    cookie = driver.run(driver.client())
    assert told(driver, cookie)[:2] == (JobState.ADMITTING, Waiting.NOT_ADMITTED)


def test_one_that_nobody_serves() -> None:
    driver = driven()
    driver.worker(1, ("q",))
    cookie = driver.run(driver.client())
    assert told(driver, cookie) == (JobState.QUEUED, Waiting.NOT_SERVED, "no connected worker serves this pipeline")


def test_one_for_which_every_slot_is_taken() -> None:
    driver, client, _, _ = running()
    cookie = driver.run(client)
    assert told(driver, cookie) == (JobState.QUEUED, Waiting.NO_FREE_SLOT, "the one slot that serves this pipeline is taken")


def test_one_that_waits_for_slots_that_are_not_free_for_other_reasons_is_told_which() -> None:
    driver = driven()
    client = driver.client()
    slow, draining, withheld = (driver.worker() for _ in range(3))
    resting = driver.worker(2, dialect=Dialect.JSON)
    limited = [driver.run(client, left_ms=1_000) for _ in range(5)]
    driver.advance(1.1)
    for link in (slow, draining):
        for cookie in limited:
            driver.fail(link, cookie, Code.CANCELLED)
    driver.congest(slow)
    driver.drain_worker(draining)
    for cookie in limited:
        driver.result(resting, cookie)
    assert withheld.take()
    state, why, sentence = told(driver, driver.run(client))
    assert (state, why) == (JobState.QUEUED, Waiting.NO_FREE_SLOT)
    assert sentence == (
        "all 5 slots that serve this pipeline are taken "
        "(1 withheld until their worker reports, 2 resting, 1 of draining workers, 1 of workers that are too slow)"
    )


def test_one_whose_workers_are_leaving() -> None:
    driver, client, worker, _ = running()
    driver.drain_worker(worker)
    cookie = driver.run(client)
    assert told(driver, cookie)[:2] == (JobState.QUEUED, Waiting.WORKERS_DRAINING)


def test_one_that_runs() -> None:
    driver, client, _, cookie = running(att=3, left_ms=10_000)
    driver.advance(1.0)
    assert told(driver, cookie) == (JobState.RUNNING, "", "a worker has it")
    status = driver.status(client, cookie)
    assert (status.pipe, status.att, status.of, status.age, status.left, status.worker) == ("p", 1, 3, 1_000, 9_000, "w")
    assert (status.prog, status.inp, status.out, status.kids) == (0, 0, None, [])


def test_one_that_is_parked_and_one_that_is_to_stop() -> None:
    driver, client, worker, cookie = running()
    driver.park(worker, cookie)
    assert told(driver, cookie)[:2] == (JobState.PARKED, Waiting.SLOT_LENT_OUT)
    driver.cancel(client, cookie)
    assert told(driver, cookie) == (JobState.CANCELLING, "", "the job was asked to stop")


@pytest.mark.parametrize("is_parked", [False, True])
def test_one_whose_worker_is_away(is_parked: bool) -> None:
    driver, _, worker, cookie = running()
    if is_parked:
        driver.park(worker, cookie)
    driver.disconnect(worker)
    assert told(driver, cookie)[:2] == (JobState.SUSPENDED, Waiting.WORKER_DISCONNECTED)


def test_one_between_two_attempts_and_one_whose_last_attempt_is_not_gone() -> None:
    driver, client, worker, cookie = running(att=2, again=["*"], back=1_000)
    driver.fail(worker, cookie, Code.EXCEPTION)
    assert told(driver, cookie)[:2] == (JobState.BACKOFF, Waiting.BETWEEN_ATTEMPTS)
    driver.disconnect(worker)
    driver.worker(held=[(cookie, 1)])
    driver.advance(1.1)
    assert told(driver, cookie)[:2] == (JobState.BACKOFF, Waiting.STALE_ATTEMPT)
    assert driver.status(driver.client(), cookie).att == 1
    assert client.take() == []


@pytest.mark.parametrize("code", [Code.OK, Code.EXCEPTION])
def test_one_that_is_over_and_one_that_was_acknowledged(code: Code) -> None:
    driver, client, worker, cookie = running(left_ms=60_000, follow=True)
    driver.progress(worker, cookie, 1, 2)
    driver.fail(worker, cookie, code)
    assert told(driver, cookie) == (JobState.OVER, "", f"the job is over: {code.name}")
    results = len(client.take_kinds(PacketType.RESULT))
    status = driver.status(client, cookie)
    assert (status.out, status.left, status.prog, status.worker) == (code, 0, 2, "")
    driver.ack(client, results)
    assert driver.status(client, cookie) == schemas.JobStatus(state=JobState.OVER, out=code)


def test_numbers_of_progress_and_input() -> None:
    driver, client, worker, cookie = running()
    driver.progress(worker, cookie, 1, 2, 3)
    driver.input(client, cookie, 1, 2)
    client.take()
    status = driver.status(client, cookie)
    assert (status.prog, status.inp) == (3, 2)


def test_nothing_changes_by_asking() -> None:
    driver, client, worker, cookie = running(orphan=0)
    other = driver.client()
    driver.status(other, cookie)
    driver.disconnect(other)
    driver.result(worker, cookie)
    assert len(client.take()) == 1


def test_a_tree_shows_children_and_theirs_and_no_more_than_a_thousand() -> None:
    driver = driven()
    driver.checks = False
    client = driver.client()
    top = driver.run(client)
    middle = driver.run(client, parent=top)
    for _ in range(1_200):
        driver.run(client, parent=middle)
    client.take()
    plain, tree = driver.status(client, top), driver.status(client, top, tree=True)
    assert (plain.kids, tree.cookie) == ([], top)
    (kid,) = tree.kids
    assert (kid.cookie, kid.parent, kid.state, len(kid.kids)) == (middle, top, JobState.QUEUED, 999)


def test_an_unknown_one_is_not_found() -> None:
    driver = driven()
    client = driver.client()
    driver.send(client, packets.status(b"unknown".ljust(16), number=3))
    reply = client.take_one(PacketType.REPLY)
    assert (reply.code, reply.number) == (Code.COOKIE_NOT_FOUND, 3)


def test_a_sentence_stays_true_of_a_worker_without_a_name() -> None:
    driver = driven()
    client = driver.client()
    driver.worker()
    cookie = driver.run(client)
    assert driver.status(client, cookie).worker == ""


def test_whoever_waits_is_told_how_many_slots_its_own_jobs_take_and_nothing_of_whose_the_others_are() -> None:
    driver = SwitchboardDriver()
    ours, theirs = driver.client(principal="ours"), driver.client(principal="theirs")
    driver.worker(3)
    for client in (ours, theirs, theirs):
        driver.run(client)
    sentences = []
    for client in (ours, theirs):
        cookie = driver.run(client)
        client.take()
        driver.send(client, packets.status(cookie, number=1))
        sentences.append(client.take_reply()[1])
    assert sentences == [f"all 3 slots that serve this pipeline are taken ({own} by jobs of yours)" for own in (1, 2)]
