"""The jobs of a client over a connection that only writes down what is sent: what is sent when, held how long, and ends how."""

import asyncio
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer.job import Answer, JobState
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.unit.client.ends import soon
from tests.unit.peer.paper import LOST, META, Paper, attached, frames, ok, post, runs, start, up
from tests.wire_peers import until


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Sending and holding


async def test_jobs_are_sent_at_once_and_their_results_are_theirs_whatever_the_order() -> None:
    exchange = start()
    paper = up(exchange)
    first, second = post(exchange), post(exchange)
    assert paper.take() == runs(first, second)
    exchange.received(frames(ok(second, b"\x02"), ok(first, b"\x01")))
    assert (await first, await second) == (1, 2)


async def test_jobs_wait_for_the_connection_and_go_in_order() -> None:
    exchange = start()
    jobs = [post(exchange) for _ in range(3)]
    assert {job.state for job in jobs} == {JobState.HELD}
    assert up(exchange).take() == runs(*jobs)
    assert {job.state for job in jobs} == {JobState.SENT}


async def test_nothing_waits_for_a_connection_for_longer_than_the_connect_timeout() -> None:
    exchange = start(connect_timeout_s=0.01)
    exchange.down(errors.ConnectError("nobody there"))
    job = post(exchange)
    with pytest.raises(errors.ConnectError, match=r"not sent.*nobody there"):
        await soon(job)
    later = post(exchange)
    with pytest.raises(errors.ConnectError):
        await soon(later)
    assert up(exchange).take() == []


async def test_each_job_waits_for_a_connection_for_its_own_time() -> None:
    exchange = start(connect_timeout_s=0.05)
    first = post(exchange)
    pause = exchange.loop.create_future()
    exchange.loop.call_later(0.02, pause.set_result, None)
    await soon(pause)
    second = post(exchange)
    with pytest.raises(errors.ConnectError):
        await soon(first)
    assert not second.done()
    with pytest.raises(errors.ConnectError):
        await soon(second)


async def test_a_job_that_a_connection_came_for_in_time_outlives_the_connect_timeout() -> None:
    exchange = start(connect_timeout_s=0.02)
    first, second = post(exchange), post(exchange)
    clock = exchange.loop.create_future()
    exchange.loop.call_later(0.04, clock.set_result, None)
    paper = up(exchange, jobs=1)
    await soon(clock)
    exchange.received(frames(ok(first)))
    assert paper.take() == runs(first, second)


async def test_failed_attempts_do_not_prolong_the_wait() -> None:
    exchange = start(connect_timeout_s=0.05)
    job = post(exchange)
    began = exchange.loop.time()

    def attempt() -> None:
        if not job.done():
            exchange.down(errors.ConnectError("again"))
            exchange.loop.call_later(0.01, attempt)

    attempt()
    with pytest.raises(errors.ConnectError, match="again"):
        await soon(job)
    assert exchange.loop.time() - began < 2.0


async def test_what_the_connection_does_not_take_waits_until_it_does() -> None:
    exchange = start()
    paper = up(exchange)
    exchange.flow(False)
    jobs = [post(exchange) for _ in range(2)]
    assert paper.take() == []
    exchange.flow(True)
    later = post(exchange)
    assert paper.take() == runs(*jobs, later)


async def test_the_connection_is_asked_now_and_then_within_one_turn_of_the_loop() -> None:
    exchange = start()
    paper = up(exchange)
    for _ in range(60):
        post(exchange, b"x" * 9000)
    assert paper.flushed == 2


async def test_what_waits_because_the_connection_is_full_outlives_the_connect_timeout() -> None:
    exchange = start(connect_timeout_s=0.001)
    paper = up(exchange)
    exchange.flow(False)
    job, clock = post(exchange), post(exchange, timeout=0.05)
    with pytest.raises(TimeoutError):
        await soon(clock)
    assert not job.done()
    exchange.flow(True)
    assert paper.take() == runs(job)


async def test_no_more_jobs_are_sent_than_the_broker_takes_of_one_client() -> None:
    exchange = start()
    paper = up(exchange, jobs=2)
    jobs = [post(exchange) for _ in range(4)]
    assert paper.take() == runs(*jobs[:2])
    exchange.received(frames(ok(jobs[1])))
    assert paper.take() == runs(jobs[2])
    exchange.received(frames(ok(jobs[0]), ok(jobs[2])))
    assert paper.take() == runs(jobs[3])


async def test_newcomers_do_not_overtake() -> None:
    exchange = start()
    paper = up(exchange, jobs=1)
    first, second = post(exchange), post(exchange)
    exchange.flow(False)
    exchange.received(frames(ok(first)))
    third = post(exchange)
    exchange.flow(True)
    exchange.received(frames(ok(second)))
    assert paper.take() == runs(first, second, third)


async def test_the_frame_limit_is_the_one_of_the_broker_that_it_is_sent_to() -> None:
    exchange = start()
    job = post(exchange, b"x" * 200)
    assert up(exchange, frame=28 + len(META) + 199).take() == []
    with pytest.raises(errors.TooLarge):
        await job
    exact = post(exchange, b"x" * 199)
    assert exact.state is JobState.SENT


# Deadlines and timeouts


async def test_a_deadline_counts_from_submission_while_the_job_is_held() -> None:
    exchange = start()
    job = post(exchange, deadline_s=60.0)
    paper = up(exchange)
    assert 0 < paper.sent[0].number <= 60_000
    exchange.down(LOST)
    assert job.done()


async def test_a_deadline_that_passes_before_the_job_is_sent_ends_it() -> None:
    exchange = start()
    job = post(exchange, deadline_s=0.005)
    with pytest.raises(errors.DeadlineExceeded, match="before the job was sent") as caught:
        await soon(job)
    assert not caught.value.may_have_run
    assert up(exchange).take() == []


async def test_a_deadline_that_is_over_when_the_job_is_sent_ends_it() -> None:
    exchange = start()
    paper = up(exchange)
    with pytest.raises(errors.DeadlineExceeded):
        await post(exchange, deadline_s=1e-9)
    assert paper.take() == []


async def test_a_deadline_and_a_timeout_of_one_job_do_not_get_in_each_others_way() -> None:
    exchange = start()
    job = post(exchange, deadline_s=0.005, timeout=1000.0)
    timers = list(job._timers or ())
    assert len(timers) == 2
    with pytest.raises(errors.DeadlineExceeded):
        await soon(job)
    assert all(timer.cancelled() or timer.when() <= exchange.loop.time() for timer in timers)


async def test_without_a_deadline_the_header_says_none() -> None:
    exchange = start()
    paper = up(exchange)
    post(exchange)
    assert paper.sent[0].number == 0


async def test_a_timeout_fires_whether_the_job_was_sent_or_not_and_a_sent_one_is_cancelled() -> None:
    exchange = start()
    held = post(exchange, timeout=0.005)
    with pytest.raises(TimeoutError):
        await soon(held)
    paper = up(exchange)
    sent = post(exchange, timeout=0.005)
    with pytest.raises(TimeoutError):
        await soon(sent)
    assert paper.take() == [(PacketType.RUN, sent._cookie), (PacketType.CANCEL, sent._cookie)]
    exchange.received(frames(ok(sent)))


async def test_a_job_that_is_over_leaves_no_timer() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange, timeout=1000.0)
    timers = list(job._timers or ())
    exchange.received(frames(ok(job)))
    assert [timer.cancelled() for timer in timers] == [True]


# Endings


async def test_when_the_connection_ends_sent_jobs_fail_at_once_and_held_ones_go_out_on_the_next() -> None:
    exchange = start()
    up(exchange, jobs=1)
    sent, held = post(exchange), post(exchange)
    exchange.down(LOST)
    assert sent.done()
    with pytest.raises(errors.BrokerWentAway, match="it broke") as caught:
        await sent
    assert caught.value.may_have_run
    assert caught.value.__cause__ is LOST
    assert up(exchange).take() == runs(held)


async def test_requests_do_not_outlive_their_connection() -> None:
    exchange = start()
    paper = up(exchange)
    asking = asyncio.create_task(exchange.cancel(b"c" * 16, False, ""))
    await asyncio.sleep(0)
    assert paper.take() == [(PacketType.CANCEL, b"c" * 16)]
    exchange.down(LOST)
    with pytest.raises(errors.ConnectionLost, match="it broke"):
        await soon(asking)
    with pytest.raises(errors.ConnectError, match="it broke"):
        await exchange.cancel(b"c" * 16, False, "")


async def test_after_the_end_everything_fails_at_once() -> None:
    exchange = start()
    up(exchange, jobs=1)
    sent, held = post(exchange), post(exchange)
    exchange.ended(LOST, lambda: errors.ConnectError("given up"))
    late = post(exchange)
    for job, kind in ((sent, errors.BrokerWentAway), (held, errors.ConnectError), (late, errors.ConnectError)):
        assert job.done()
        with pytest.raises(kind):
            await job
    with pytest.raises(errors.ConnectError, match="given up"):
        exchange.check_open()


async def test_an_abandoned_job_is_cancelled_at_the_broker_and_its_late_result_is_nobodys() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange)
    exchange.abandon(job, errors.JobCancelled("enough"))
    exchange.abandon(job, errors.JobCancelled("twice"))
    assert paper.take() == [(PacketType.RUN, job._cookie), (PacketType.CANCEL, job._cookie)]
    exchange.received(frames(ok(job)))
    with pytest.raises(errors.JobCancelled, match="enough"):
        await job


async def test_an_abandoned_job_that_was_held_is_never_sent() -> None:
    exchange = start()
    job = post(exchange)
    exchange.abandon(job, errors.JobCancelled("enough"))
    assert up(exchange).take() == []


async def test_an_abandoned_detached_job_is_let_go_not_cancelled() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange, detach=True)
    exchange.abandon(job, errors.JobCancelled("enough"))
    assert paper.take() == runs(job)


async def test_cancelling_a_held_job_needs_no_broker() -> None:
    exchange = start()
    job = post(exchange)
    assert (await job.cancel(why="never mind")).code is Code.OK
    with pytest.raises(errors.JobCancelled, match="never mind") as caught:
        await job
    assert not caught.value.may_have_run
    assert up(exchange).take() == []


async def test_a_cancel_is_answered_by_its_number() -> None:
    exchange = start()
    paper = up(exchange)
    one, other = (asyncio.create_task(exchange.cancel(cookie * 16, False, "")) for cookie in (b"1", b"2"))
    await asyncio.sleep(0)
    numbers = [packet.number for packet in paper.sent]
    assert len(set(numbers)) == 2
    assert 0 not in numbers
    replies = [packets.reply(PacketType.CANCEL, Code.CANCELLING, f"number {number}", number=number) for number in numbers]
    exchange.received(frames(replies[1], replies[0]))
    assert await soon(one) == Answer(Code.CANCELLING, f"number {numbers[0]}")
    assert await soon(other) == Answer(Code.CANCELLING, f"number {numbers[1]}")


async def test_the_number_of_a_request_wraps_and_is_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = start()
    paper = up(exchange)
    exchange._number = 0xFFFFFFFE
    asking = [asyncio.create_task(exchange.cancel(b"c" * 16, False, "")) for _ in range(2)]
    await asyncio.sleep(0)
    assert [packet.number for packet in paper.sent] == [0xFFFFFFFF, 1]
    exchange.down(LOST)
    await asyncio.gather(*asking, return_exceptions=True)


async def test_a_detached_job_takes_input_from_who_attaches_to_it() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange, detach=True)
    exchange.received(frames(packets.reply(PacketType.RUN, Code.DISPATCHED, "", cookie=job._cookie)))
    with pytest.raises(errors.CookieNotFound, match="who attaches to it"):
        await soon(job.send(1))
    paper.take_packets()
    attached_to = exchange.attach(job._cookie, "msgpack", 0, False)
    exchange.received(frames(attached(paper)))
    await soon(attached_to.send(1))


# Whether the broker has what was sent to a job


async def flushing(exchange: Any, job: Any) -> "tuple[asyncio.Task[None], Paper]":
    """A flush that waits, on the paper of a connection."""
    paper = up(exchange)
    await soon(job.send(1))
    flush = asyncio.create_task(job.flush())
    await turns()
    return flush, paper


def has_heard(paper: Paper) -> bytes:
    """What the broker answers when it is asked, after all that was sent before."""
    [status] = [packet for packet in paper.take_packets() if packet.kind == PacketType.STATUS]
    return packets.reply(PacketType.STATUS, Code.OK, "", cookie=status.cookie, number=status.number)


async def test_nothing_sent_is_nothing_to_wait_for() -> None:
    exchange = start()
    job = post(exchange)
    await soon(job.flush())
    up(exchange)
    await soon(job.flush())
    await soon(exchange.attach(bytes(16), "msgpack", 0, False).flush())


async def test_flush_waits_until_the_broker_has_heard_all_of_it() -> None:
    exchange = start()
    job = post(exchange)
    flush, paper = await flushing(exchange, job)
    assert not flush.done()
    exchange.received(frames(has_heard(paper)))
    await soon(flush)


async def test_flush_waits_for_what_could_not_be_sent_yet() -> None:
    exchange = start()
    job = post(exchange)
    sending = asyncio.create_task(job.send(1))
    await turns()
    flush = asyncio.create_task(job.flush())
    await turns()
    paper = up(exchange)
    await soon(sending)
    await turns()
    assert not flush.done()
    exchange.received(frames(has_heard(paper)))
    await soon(flush)


async def test_flush_waits_for_what_there_is_no_credit_for() -> None:
    exchange = start()
    paper = up(exchange, credit=1)
    job = post(exchange)
    sending = [asyncio.create_task(job.send(number)) for number in range(2)]
    await turns()
    flush = asyncio.create_task(job.flush())
    await turns()
    assert PacketType.STATUS not in [packet.kind for packet in paper.sent]
    exchange.received(frames(packets.credit(job._cookie, 0, 1)))
    await soon(asyncio.gather(*sending))
    await turns()
    exchange.received(frames(has_heard(paper)))
    await soon(flush)


async def test_flush_goes_on_over_a_connection_that_breaks() -> None:
    exchange = start(patience_s=60)
    job = post(exchange)
    flush, _ = await flushing(exchange, job)
    exchange.down(LOST)
    await turns()
    paper = up(exchange)
    exchange.received(frames(attached(paper)))
    await turns()
    assert [packet.number for packet in paper.sent if packet.kind == PacketType.INPUT] == [1], "the broker had nothing of it"
    exchange.received(frames(has_heard(paper)))
    await soon(flush)


async def test_flush_waits_for_what_the_broker_had_no_room_for() -> None:
    exchange = start()
    job = post(exchange)
    flush, paper = await flushing(exchange, job)
    refusal = packets.reply(PacketType.INPUT, Code.OVERLOADED, "", cookie=job._cookie, number=1, retry_ms=1)
    exchange.received(frames(refusal, has_heard(paper)))
    await until(lambda: PacketType.STATUS in [packet.kind for packet in paper.sent])
    assert not flush.done()
    exchange.received(frames(has_heard(paper)))
    await soon(flush)


async def test_flush_raises_what_was_refused_and_so_does_the_next_one() -> None:
    exchange = start()
    job = post(exchange)
    flush, paper = await flushing(exchange, job)
    refusal = packets.reply(PacketType.INPUT, Code.NOT_ALLOWED, "JSON", cookie=job._cookie, number=1)
    exchange.received(frames(refusal, has_heard(paper)))
    for waiting in (flush, job.flush()):
        with pytest.raises(errors.NotAllowed, match="JSON"):
            await soon(waiting)


async def test_flush_tells_that_the_job_ended_without_the_last_of_it() -> None:
    exchange = start()
    job = post(exchange)
    flush, paper = await flushing(exchange, job)
    await soon(job.send(2))
    exchange.received(frames(packets.failed(job._cookie, 1, Code.WORKER_WENT_AWAY, "gone"), has_heard(paper)))
    for waiting in (flush, job.flush()):
        with pytest.raises(errors.CookieNotFound, match="may not have got the last 2") as caught:
            await soon(waiting)
        assert isinstance(caught.value.__cause__, errors.WorkerWentAway)


async def test_a_job_that_ended_after_it_got_all_of_it_has_got_it() -> None:
    exchange = start()
    job = post(exchange)
    flush, paper = await flushing(exchange, job)
    exchange.received(frames(packets.credit(job._cookie, 0, 1), ok(job), has_heard(paper)))
    await soon(flush)
    await soon(job.flush())


async def test_who_sends_no_longer_holds_no_flush_up() -> None:
    exchange = start()
    job = post(exchange)
    paper = up(exchange, credit=1)
    await soon(job.send(1))
    sending = asyncio.create_task(job.send(2))
    await turns()
    flush = asyncio.create_task(job.flush())
    await turns()
    sending.cancel()
    await turns()
    exchange.received(frames(has_heard(paper)))
    await soon(flush)


async def test_flush_ends_when_the_client_does() -> None:
    exchange = start()
    job = post(exchange)
    flush, _ = await flushing(exchange, job)
    exchange.ended(LOST, lambda: LOST)
    with pytest.raises(errors.CookieNotFound, match="may not have got the last 1") as caught:
        await soon(flush)
    assert isinstance(caught.value.__cause__, errors.BrokerWentAway)
