"""Jobs that are ended before they end themselves: by request, by time, given up."""

from typing import Any

import pytest

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.routing.timers import TimerKind
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

from .scenes import driven, inside, kinds, outcome, ran, results


def running(**options: Any) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, **options)
    client.take()
    worker.take()
    return driver, client, worker, cookie


def told(worker: FakeLink) -> list[tuple[bool, str]]:
    metas = [schemas.cancel_meta(packet.meta) for packet in worker.take_kinds(PacketType.CANCEL)]
    return [(meta.now, meta.why) for meta in metas]


# By request


def test_a_job_that_waits_never_runs_and_its_result_comes_before_the_reply() -> None:
    driver = driven()
    client = driver.client()
    cookie = driver.run(client)
    client.take()
    driver.cancel(client, cookie, why="no")
    result, reply = client.take()
    assert (result.code, schemas.result_meta(result.meta).ran) == (Code.CANCELLED, False)
    assert "no" in schemas.failure(result.payload).error
    assert (reply.kind, reply.code) == (PacketType.REPLY, Code.OK)
    assert ran(driver.worker()) == []


def test_the_worker_is_asked_then_told_then_the_job_is_given_up() -> None:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie, why="no")
    assert driver.switchboard.counters.cancelled == 1
    assert told(worker) == [(False, "no")]
    driver.advance(4.1)
    assert told(worker) == [(True, "the cancel grace is over")]
    client.take()
    driver.advance(2.1)
    assert outcome(client)[:2] == (Code.CANCELLED, True)
    assert driver.switchboard.free_slots("p") == 0
    driver.result(worker, cookie)
    assert (client.take(), driver.switchboard.free_slots("p")) == ([], 1)


def test_a_result_that_was_quicker_is_the_outcome() -> None:
    driver, client, worker, cookie = running()
    driver.cancel(client, cookie)
    client.take()
    driver.result(worker, cookie)
    assert results(client) == [(cookie, Code.OK)]
    driver.advance(10.0)
    assert kinds(worker.take()) == [PacketType.CANCEL]


def test_cancelled_twice_it_is_asked_once_and_at_once_if_the_second_says_so() -> None:
    driver, client, worker, cookie = running()
    for at_once in (False, False, True, True):
        driver.cancel(client, cookie, at_once=at_once)
    assert [now for now, _ in told(worker)] == [False, True]
    assert [packet.code for packet in client.take()] == [Code.CANCELLING] * 4


def test_the_owner_is_told_when_somebody_else_cancels_once() -> None:
    driver, client, _, cookie = running()
    other = driver.client()
    driver.cancel(other, cookie, number=3)
    driver.cancel(other, cookie, number=4)
    notice = client.take_one(PacketType.REPLY)
    assert (notice.code, notice.number, notice.cookie) == (Code.CANCELLING, 0, cookie)
    assert schemas.reply_meta(notice.meta).to == PacketType.CANCEL
    assert [(packet.code, packet.number) for packet in other.take()] == [(Code.CANCELLING, 3), (Code.CANCELLING, 4)]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_owner_of_a_job_that_ends_at_once_gets_its_result_and_no_notice(dialect: Dialect) -> None:
    driver = driven()
    client, other = driver.client(dialect, queues=True), driver.client()
    cookie = driver.run(client)
    client.take()
    driver.cancel(other, cookie)
    assert [packet.code for packet in client.take()] == [Code.CANCELLED]


def test_a_job_on_a_json_worker_is_over_at_once_and_its_slot_stays_taken() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(dialect=Dialect.JSON)
    cookie = driver.run(client)
    worker.take()
    driver.cancel(client, cookie)
    result, reply = client.take()
    assert (result.code, schemas.result_meta(result.meta).ran, reply.code) == (Code.CANCELLED, True, Code.OK)
    assert (worker.take(), driver.switchboard.free_slots("p", as_json=True)) == ([], 0)
    driver.result(worker, cookie)
    assert driver.switchboard.free_slots("p", as_json=True) == 1


def test_what_is_over_cannot_be_cancelled() -> None:
    driver, client, worker, cookie = running()
    driver.result(worker, cookie)
    client.take()
    driver.cancel(client, cookie)
    assert client.take_reply()[0] is Code.COOKIE_NOT_FOUND


# By time


def test_the_queue_limit_ends_a_job_that_waits_too_long() -> None:
    driver = driven()
    client = driver.client()
    driver.run(client, qlim=2_000)
    client.take()
    driver.advance(1.9)
    assert client.take() == []
    driver.advance(0.2)
    assert outcome(client)[:2] == (Code.QUEUE_TIMEOUT, False)


def test_the_queue_limit_counts_for_each_wait_anew() -> None:
    driver = driven()
    client = driver.client()
    driver.run(client, qlim=2_000, att=2, back=0)
    driver.advance(1.5)
    worker = driver.worker()
    driver.advance(5.0)
    client.take()
    driver.disconnect(worker)
    driver.advance(1.9)
    assert client.take() == []
    driver.advance(0.2)
    assert outcome(client)[:2] == (Code.QUEUE_TIMEOUT, True)


def test_a_slot_that_is_free_in_the_same_moment_as_the_queue_limit_is_taken() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2, dialect=Dialect.JSON)
    first, second = driver.run(client), driver.run(client)
    driver.result(worker, first)
    waiting = driver.run(client, qlim=25)
    client.take()
    driver.advance(0.05)
    assert (client.take(), driver.status(client, waiting).state) == ([], "running")
    driver.result(worker, second)


def test_the_run_limit_ends_the_job_and_its_worker_is_told() -> None:
    driver, client, worker, cookie = running(rlim=2_000, att=3, again=["*"])
    driver.advance(1.9)
    assert (client.take(), worker.take()) == ([], [])
    driver.advance(0.2)
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run) == (Code.DEADLINE_EXCEEDED, True)
    assert [record.end for record in failure.hist] == ["DEADLINE_EXCEEDED"]
    assert [now for now, _ in told(worker)] == [False]
    driver.advance(4.1)
    assert [now for now, _ in told(worker)] == [True]
    assert driver.switchboard.free_slots("p") == 0
    driver.fail(worker, cookie, Code.CANCELLED)
    assert (client.take(), driver.switchboard.free_slots("p")) == ([], 1)


@pytest.mark.parametrize(("more_ms", "ends_s"), [(5_000, 6.0), (500, 1.5), (0, 2.0), (2**32 - 1, 20.0)])
def test_extend_moves_the_run_limit_later_or_sooner_and_never_beyond_the_deadline(more_ms: int, ends_s: float) -> None:
    driver, client, worker, cookie = running(rlim=2_000, left_ms=20_000)
    driver.advance(1.0)
    driver.extend(worker, cookie, more_ms)
    driver.advance(ends_s - 1.1)
    assert client.take() == []
    driver.advance(0.2)
    assert outcome(client)[0] is Code.DEADLINE_EXCEEDED


def test_extend_for_what_is_not_held_or_has_no_limit_or_is_to_stop_changes_nothing_and_the_first_is_counted() -> None:
    driver, client, worker, cookie = running(rlim=2_000)
    other = driver.worker()
    plain = driver.run(client)
    driver.extend(other, cookie, 9_000)
    driver.extend(worker, cookie, 9_000, attempt=2)
    driver.extend(other, plain, 1)
    assert inside(driver).counters.extends_dropped == 2
    driver.advance(1.9)
    assert client.take() == []
    driver.advance(0.2)
    assert results(client) == [(cookie, Code.DEADLINE_EXCEEDED)]
    driver.extend(worker, cookie, 9_000)
    assert inside(driver).counters.extends_dropped == 3
    driver.advance(4.1)
    assert [now for now, _ in told(worker)] == [False, True]


def test_each_attempt_has_the_whole_run_limit() -> None:
    driver, client, worker, cookie = running(rlim=2_000, att=2, again=["*"], back=0)
    driver.advance(1.5)
    driver.fail(worker, cookie, Code.EXCEPTION)
    driver.advance(1.9)
    assert client.take() == []
    driver.advance(0.2)
    assert outcome(client)[0] is Code.DEADLINE_EXCEEDED


def test_deadline_and_run_limit_in_one_moment_end_the_job_once_and_its_worker_is_asked_then_told() -> None:
    driver, client, worker, cookie = running(rlim=1_000, left_ms=1_000)
    driver.jump(1.5)
    assert results(client) == [(cookie, Code.DEADLINE_EXCEEDED)]
    assert [now for now, _ in told(worker)] == [False]
    driver.fail(worker, cookie, Code.CANCELLED)
    driver.advance(30.0)
    assert worker.take() == []


def test_the_worker_of_a_job_whose_run_limit_passes_while_it_is_to_stop_is_not_asked_again() -> None:
    driver, client, worker, cookie = running(left_ms=1_000)
    driver.cancel(client, cookie)
    client.take()
    worker.take()
    driver.advance(1.1)
    assert outcome(client)[0] is Code.DEADLINE_EXCEEDED
    assert worker.take() == []
    driver.advance(3.0)
    assert [now for now, _ in told(worker)] == [True]


def test_a_job_that_is_over_leaves_no_timer() -> None:
    driver, _, worker, cookie = running(rlim=50_000, left_ms=90_000, qlim=10_000, keep=0, orphan=10_000)

    def armed() -> list[TimerKind]:
        return sorted(timer.kind for slot in driver.switchboard.timers._slots.values() for timer in slot)

    leases = [TimerKind.LEASE] * 2
    assert armed() == [*leases, TimerKind.DEADLINE, TimerKind.RUN_LIMIT]
    driver.result(worker, cookie)
    assert armed() == [*leases, TimerKind.RETENTION]
    assert not list(inside(driver).routes)
