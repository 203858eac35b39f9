"""Who follows a job: its owner, who attaches to it, who sends its RUN again, and what becomes of it when they leave."""

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_BYTES, CloseReason, Code, Dialect, JobState, PacketType
from reasonchip_broker.testing.switchboard_driver import INSTANCE, FakeLink, SwitchboardDriver

from .scenes import chunks, driven, inside, kinds, outcome, ran, results, session

UNKNOWN = b"unknown".ljust(16)


def running(**options: object) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, **options)  # type: ignore[arg-type]
    client.take()
    worker.take()
    return driver, client, worker, cookie


# ATTACH


def test_attached_to_a_job_that_lives_one_learns_where_it_is_and_gets_its_result() -> None:
    driver, client, worker, cookie = running()
    other = driver.client()
    driver.attach(other, cookie, number=5)
    reply = other.take_one(PacketType.REPLY)
    meta = schemas.reply_meta(reply.meta)
    assert (reply.code, reply.number, reply.cookie, meta.to) == (Code.OK, 5, cookie, PacketType.ATTACH)
    assert meta.job is not None
    assert meta.job.state == JobState.RUNNING
    driver.result(worker, cookie)
    assert results(other) == [(cookie, Code.OK)]
    assert results(client) == [(cookie, Code.OK)]


def test_attached_to_a_job_that_is_over_one_gets_its_progress_and_result_at_once_every_time() -> None:
    driver, client, worker, cookie = running(follow=True)
    driver.progress(worker, cookie, 1, 2, 3)
    driver.result(worker, cookie)
    for link, first, numbers in ((driver.client(), 2, [(2,), (3,)]), (client, 0, []), (driver.client(), 9, [])):
        link.take()
        driver.attach(link, cookie, first=first)
        taken = link.take()
        assert (taken[0].kind, taken[-1].kind, chunks(taken)) == (PacketType.REPLY, PacketType.RESULT, numbers)


def test_of_an_acknowledged_job_one_learns_how_it_ended() -> None:
    driver, client, worker, cookie = running()
    driver.fail(worker, cookie, Code.EXCEPTION)
    client.take()
    driver.ack(client, 1)
    driver.attach(client, cookie)
    reply = client.take_one(PacketType.REPLY)
    job = schemas.reply_meta(reply.meta).job
    assert (reply.code, job) == (Code.OUTCOME_GONE, schemas.JobStatus(state=JobState.OVER, out=Code.EXCEPTION))


@pytest.mark.parametrize("state", ["runs", "is over", "was acknowledged"])
def test_row_14_anothers_job_looks_exactly_like_none(state: str) -> None:
    driver, client, worker, cookie = running(batch=b"b" * 16)
    if state != "runs":
        driver.result(worker, cookie)
    if state == "was acknowledged":
        client.take()
        driver.ack(client, 1)
    stranger = driver.client(principal="another")
    for frame in (
        packets.attach(cookie, number=1),
        packets.attach(cookie, number=1, first=1, take=False),
        packets.status(cookie, number=1),
        packets.cancel(cookie, number=1),
        packets.input_chunk(cookie, 1, b"", ""),
        packets.cancel_batch(b"b" * 16, number=1),
    ):
        driver.send(stranger, frame, frame.replace(cookie, UNKNOWN).replace(b"b" * 16, b"c" * 16))
        known, unknown = stranger.unread
        stranger.unread.clear()
        assert known == unknown.replace(UNKNOWN, cookie)
    driver.run(stranger, parent=cookie)
    assert stranger.take_reply()[0] is Code.COOKIE_NOT_FOUND


def test_whose_job_it_is_matters_and_not_which_connection() -> None:
    driver = driven()
    client, other = driver.client(principal="p"), driver.client(principal="p")
    cookie = driver.run(client)
    driver.attach(other, cookie)
    assert other.take()[0].code == Code.OK


def test_the_owner_is_who_took_it_over_last_and_the_one_before_still_gets_the_result() -> None:
    driver, client, worker, cookie = running()
    other = driver.client()
    driver.attach(other, cookie)
    other.take()
    assert (client.peer.unfinished, other.peer.unfinished) == (0, 1)
    driver.disconnect(client)
    driver.result(worker, cookie)
    assert results(other) == [(cookie, Code.OK)]
    driver.ack(other, 1)
    assert inside(driver).outcomes.count == 0


@pytest.mark.parametrize("encoding", ["json", ENCODING_BYTES])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_plain_job_that_was_taken_over_may_lose_either(dialect: Dialect, encoding: str) -> None:
    for leaver in (0, 1, 2):
        driver = driven()
        client, worker, other = driver.client(dialect), driver.worker(), driver.client()
        driver.result(worker, driver.run(client, encoding=encoding))
        cookie = driver.run(client, encoding=encoding)
        driver.attach(other, cookie)
        client.take()
        other.take()
        if leaver < 2:
            driver.disconnect((client, other)[leaver])
        driver.result(worker, cookie)
        assert [len(link.take()) for link in (client, other)] == [leaver != 0, leaver != 1]


def test_who_only_looks_on_does_not_become_the_owner() -> None:
    driver, client, worker, cookie = running(orphan=0)
    looker = driver.client()
    driver.attach(looker, cookie, take=False)
    driver.disconnect(looker)
    driver.result(worker, cookie)
    assert results(client) == [(cookie, Code.OK)]
    assert client.peer.unfinished == looker.peer.unfinished == 0


def test_attached_again_a_connection_is_the_same_follower_elsewhere_with_new_credit() -> None:
    driver = driven(credit_frames=2)
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, follow=True)
    for number in (1, 2, 3, 4):
        driver.progress(worker, cookie, number)
    assert chunks(client.take()) == [(1,), (2,)]
    driver.attach(client, cookie, first=1)
    assert chunks(client.take()) == [(1,), (2,)]
    driver.result(worker, cookie)
    assert chunks(client.take()) == [(3,), (4,)]


def test_the_lossy_follower_is_told_of_each_gap_and_gets_the_rest_before_the_result() -> None:
    driver = driven(ring_chunks_max=3, credit_frames=2)
    client, worker, looker = driver.client(), driver.worker(), driver.client()
    cookie = driver.run(client)
    driver.attach(looker, cookie, first=1, take=False)
    for number in range(1, 11):
        driver.progress(worker, cookie, number)
    assert chunks(looker.take()) == [(1,), (2,)]
    driver.credit(looker, cookie, 1)
    driver.progress(worker, cookie, 11)
    driver.result(worker, cookie)
    taken = looker.take()
    assert (chunks(taken), kinds(taken)[-1]) == ([(3, 7), (8, 8), (9,), (10,), (11,)], PacketType.RESULT)


def test_who_attaches_late_gets_a_gap_for_what_is_no_longer_kept() -> None:
    driver = driven(ring_chunks_max=3)
    client, worker, other = driver.client(), driver.worker(), driver.client()
    cookie = driver.run(client)
    for number in range(1, 6):
        driver.progress(worker, cookie, number)
    driver.attach(other, cookie, first=2)
    taken = other.take()
    assert (taken[0].kind, chunks(taken)) == (PacketType.REPLY, [(2, 2), (3,), (4,), (5,)])


@pytest.mark.parametrize(("first", "second"), [(2, 3), (7, 7)])
def test_who_names_a_chunk_that_is_still_to_come_waits_for_the_next(first: int, second: int) -> None:
    driver, _, worker, cookie = running()
    other, another = driver.client(), driver.client()
    driver.attach(other, cookie, first=first)
    driver.progress(worker, cookie, 1)
    driver.attach(another, cookie, first=second)
    driver.progress(worker, cookie, 2)
    assert (chunks(other.take()), chunks(another.take())) == ([(1,), (2,)], [(2,)])
    counters = driver.switchboard.counters
    assert (counters.progress, counters.progress_dropped) == (2, 0)


def test_a_detached_job_says_nothing_unless_somebody_attaches() -> None:
    driver, client, worker, cookie = running(detach=True)
    other = driver.client()
    driver.attach(other, cookie)
    other.take()
    driver.result(worker, cookie)
    assert results(other) == [(cookie, Code.OK)]
    driver, client, worker, cookie = running(detach=True)
    driver.result(worker, cookie)
    assert client.take() == []
    driver.attach(client, cookie)
    assert kinds(client.take()) == [PacketType.REPLY, PacketType.RESULT]


def test_a_worker_connection_that_follows_the_job_that_it_runs_may_be_lost() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2)
    parent = driver.run(client)
    child = driver.run(worker, parent=parent, follow=True)
    driver.congest(worker)
    driver.progress(worker, child, 1)
    driver.attach(worker, parent, first=1, take=False)
    driver.disconnect(worker)
    client.take()
    assert driver.switchboard.jobs == 0


# RUN again


@pytest.mark.parametrize("follow", [False, True])
def test_a_run_sent_again_with_its_nonce_takes_its_job_over(follow: bool) -> None:
    driver, client, worker, cookie = running(nonce=b"n", follow=follow)
    driver.progress(worker, cookie, 1)
    driver.disconnect(client)
    back = driver.client()
    driver.run(back, cookie=cookie, nonce=b"n", follow=follow, at=INSTANCE)
    reply, *rest = back.take()
    assert (reply.kind, reply.code, reply.number, reply.cookie) == (PacketType.REPLY, Code.DISPATCHED, 0, cookie)
    job = schemas.reply_meta(reply.meta).job
    assert job is not None
    assert (job.state, job.att, job.prog) == (JobState.RUNNING, 1, 1)
    assert chunks(rest) == ([(1,)] if follow else [])
    driver.result(worker, cookie)
    assert results(back) == [(cookie, Code.OK)]
    assert worker.take_kinds(PacketType.RUN) == []
    driver.ack(back, 1)
    assert inside(driver).outcomes.count == 0, "the word of who took it over counts"


def test_a_job_that_waits_is_answered_as_queued_and_one_that_is_over_by_its_result() -> None:
    driver = driven()
    client = driver.client()
    cookie = driver.run(client, nonce=b"n")
    client.take()
    driver.run(client, cookie=cookie, nonce=b"n")
    assert client.take_reply()[0] is Code.QUEUED
    worker = driver.worker()
    driver.result(worker, cookie)
    assert results(client) == [(cookie, Code.OK)]
    driver.run(driver.client(), cookie=cookie, nonce=b"n")
    assert results(driver.links[-1]) == [(cookie, Code.OK)]


def test_over_and_detached_it_is_answered_by_its_result_all_the_same() -> None:
    driver, client, worker, cookie = running(nonce=b"n", detach=True)
    driver.run(client, cookie=cookie, nonce=b"n", detach=True)
    client.take()
    driver.result(worker, cookie)
    assert client.take() == []
    driver.run(client, cookie=cookie, nonce=b"n", detach=True)
    assert results(client) == [(cookie, Code.OK)]


def test_row_12_of_an_acknowledged_job_it_is_told_that_the_outcome_is_gone() -> None:
    driver, client, worker, cookie = running(nonce=b"n")
    driver.result(worker, cookie)
    driver.ack(client, 1)
    client.take()
    driver.run(client, cookie=cookie, nonce=b"n")
    reply = client.take_one(PacketType.REPLY)
    job = schemas.reply_meta(reply.meta).job
    assert (reply.code, job) == (Code.OUTCOME_GONE, schemas.JobStatus(state=JobState.OVER, out=Code.OK))
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] is Code.COOKIE_COLLISION


@pytest.mark.parametrize(("first", "again"), [(b"n", b"m"), (b"n", b""), (b"", b"n"), (b"", b"")])
@pytest.mark.parametrize("over", [False, True])
def test_row_12_a_run_with_the_cookie_of_another_is_a_collision(first: bytes, again: bytes, over: bool) -> None:
    driver, _, worker, cookie = running(nonce=first)
    if over:
        driver.result(worker, cookie)
    other = driver.client()
    driver.run(other, cookie=cookie, nonce=again)
    assert other.take_reply()[0] is Code.COOKIE_COLLISION
    assert ran(worker) == []


def test_row_12_so_is_anothers_with_the_same_nonce() -> None:
    driver, _, _, cookie = running(nonce=b"n")
    stranger = driver.client(principal="another")
    driver.run(stranger, cookie=cookie, nonce=b"n")
    assert stranger.take_reply()[0] is Code.COOKIE_COLLISION


def test_row_3_a_run_that_another_run_of_the_broker_was_sent_may_have_run() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, nonce=b"n", at=b"another instance")
    packet = client.take_one(PacketType.RESULT)
    assert (packet.code, packet.attempt, packet.cookie) == (Code.BROKER_WENT_AWAY, 0, cookie)
    assert schemas.result_meta(packet.meta).ran
    assert ran(worker) == []
    driver.run(client, cookie=cookie, nonce=b"n", at=INSTANCE)
    assert ran(worker) == [(cookie, 1)]


def test_a_broker_that_drains_still_answers_for_the_jobs_that_it_has() -> None:
    driver, _, worker, cookie = running(nonce=b"n")
    driver.drain()
    back = driver.client()
    driver.run(back, cookie=cookie, nonce=b"n")
    assert back.take_reply()[0] is Code.DISPATCHED
    driver.result(worker, cookie)
    assert results(back) == [(cookie, Code.OK)]


def test_a_run_that_finds_its_own_job_is_not_asked_for_its_parent() -> None:
    driver = driven()
    client, worker = driver.client(), session(driver, 2)
    parent = driver.run(client)
    child = driver.run(worker, parent=parent, nonce=b"n", loose=True)
    driver.result(worker, parent)
    driver.disconnect(worker)
    worker = session(driver, 2, held=[(child, 1)])
    driver.run(worker, cookie=child, parent=parent, nonce=b"n", loose=True)
    assert worker.take_reply()[0] is Code.DISPATCHED


# Leaving


def test_by_default_a_job_goes_on_without_its_client() -> None:
    driver, client, worker, _ = running()
    driver.disconnect(client)
    driver.advance(1000.0)
    assert (worker.take(), driver.switchboard.jobs) == ([], 1)


def test_a_job_that_is_to_be_cancelled_without_its_client_is_at_once() -> None:
    driver, client, worker, cookie = running(orphan=0)
    queued = driver.run(client, orphan=0)
    driver.disconnect(client)
    cancel = worker.take_one(PacketType.CANCEL)
    assert (cancel.cookie, "client is gone" in schemas.cancel_meta(cancel.meta).why) == (cookie, True)
    driver.attach(driver.client(), queued)
    assert driver.links[-1].take()[1].code == Code.CANCELLED


def test_a_job_with_a_grace_is_cancelled_when_nobody_has_attached_in_time() -> None:
    driver, client, worker, _ = running(orphan=5_000)
    driver.disconnect(client)
    driver.advance(4.9)
    assert worker.take() == []
    driver.advance(0.2)
    assert kinds(worker.take()) == [PacketType.CANCEL]


@pytest.mark.parametrize("take", [False, True])
def test_whoever_attaches_ends_the_grace_and_begins_it_anew_by_leaving(take: bool) -> None:
    driver, client, worker, cookie = running(orphan=5_000)
    driver.disconnect(client)
    driver.advance(4.0)
    other = driver.client()
    driver.attach(other, cookie, take=take)
    driver.advance(100.0)
    assert worker.take() == []
    driver.disconnect(other)
    driver.advance(4.9)
    assert worker.take() == []
    driver.advance(0.2)
    assert kinds(worker.take()) == [PacketType.CANCEL]


def test_as_long_as_anybody_follows_a_job_it_is_no_orphan() -> None:
    driver, client, worker, cookie = running(orphan=0)
    looker = driver.client()
    driver.attach(looker, cookie, take=False)
    driver.disconnect(client)
    assert worker.take() == []
    driver.disconnect(looker)
    assert kinds(worker.take()) == [PacketType.CANCEL]


def test_a_run_sent_again_ends_the_grace_too() -> None:
    driver, client, worker, cookie = running(orphan=5_000, nonce=b"n")
    driver.disconnect(client)
    back = driver.client()
    driver.run(back, cookie=cookie, nonce=b"n")
    driver.advance(100.0)
    assert worker.take() == []


def test_the_grace_of_a_job_that_ends_meanwhile_leaves_no_timer() -> None:
    driver, client, worker, cookie = running(orphan=50_000)
    driver.disconnect(client, CloseReason.CONNECTION_LOST)
    driver.result(worker, cookie)
    driver.attach(driver.client(), cookie)
    assert kinds(driver.links[-1].take()) == [PacketType.REPLY, PacketType.RESULT]
    route = inside(driver).routes[cookie]
    assert route.extras is None or route.extras.orphan_timer is None


def test_a_child_whose_worker_is_lost_is_an_orphan_like_any_other() -> None:
    driver = driven()
    client, worker = driver.client(), session(driver, 1, serves=("p",))
    other = driver.worker(1, ("child",))
    parent = driver.run(client)
    child = driver.run(worker, "child", parent=parent, orphan=0)
    assert ran(other) == [(child, 1)]
    driver.disconnect(worker)
    assert kinds(other.take()) == [PacketType.CANCEL]
    driver.fail(other, child, Code.CANCELLED)
    assert driver.status(driver.client(), parent).state == JobState.SUSPENDED


def test_the_owner_that_came_last_hears_of_a_cancel_by_somebody_else() -> None:
    driver, client, _, cookie = running()
    owner, somebody = driver.client(), driver.client()
    driver.attach(owner, cookie)
    owner.take()
    driver.cancel(somebody, cookie)
    reply = owner.take_one(PacketType.REPLY)
    assert (reply.code, reply.number, reply.cookie) == (Code.CANCELLING, 0, cookie)
    assert client.take() == []


def test_every_follower_gets_one_result_when_the_broker_ends_the_job() -> None:
    driver, client, _, cookie = running(left_ms=1_000)
    looker = driver.client()
    driver.attach(looker, cookie, take=False)
    looker.take()
    driver.advance(1.1)
    assert outcome(client)[0] is Code.DEADLINE_EXCEEDED
    assert outcome(looker)[0] is Code.DEADLINE_EXCEEDED
