"""What is said about jobs on a connection: acknowledgements, progress and its credit, input, attaching, cancelling, status."""

import asyncio
import uuid
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer.inflow import Gap
from reasonchip_broker.peer.job import Job, JobState
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.unit.client.ends import soon
from tests.unit.peer.paper import LOST, Paper, attached, chunk, frames, ok, post, start, up

COOKIE = b"f" * 16


def credits(paper: Paper) -> list[int]:
    return [packet.number for packet in paper.take_packets() if packet.kind == PacketType.CREDIT]


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Progress


async def test_chunks_are_credited_as_they_are_taken() -> None:
    exchange = start()
    paper = up(exchange, credit=4)
    job = post(exchange, follow=True)
    exchange.received(frames(*(chunk(job, number) for number in (1, 2, 3, 4))))
    assert credits(paper) == []
    reader = job.chunks()
    assert [await soon(anext(reader)) for _ in range(3)] == [1, 2, 3]
    assert credits(paper) == [1, 1, 1]
    assert job.last_chunk == 3


async def test_a_job_that_is_followed_and_only_awaited_never_blocks_its_handler() -> None:
    exchange = start()
    paper = up(exchange, credit=4)
    job = post(exchange, follow=True)
    exchange.received(frames(chunk(job, 1), chunk(job, 2)))
    waiting = asyncio.create_task(job.result())
    await turns()
    assert credits(paper) == [1, 1], "those that were here already too"
    exchange.received(frames(*(chunk(job, number) for number in range(3, 11))))
    assert len(credits(paper)) == 8
    exchange.received(frames(ok(job)))
    assert await soon(waiting) == 1
    assert [item async for item in job] == [Gap(1, 6), 7, 8, 9, 10]


async def test_whoever_stops_iterating_and_awaits_the_job_does_not_block_its_handler() -> None:
    exchange = start()
    paper = up(exchange, credit=4)
    job = post(exchange, follow=True)
    exchange.received(frames(*(chunk(job, number) for number in range(1, 5))))
    async for item in job:
        assert item == 1
        break
    assert sum(credits(paper)) == 1
    waiting = asyncio.create_task(job.result())
    await turns()
    assert sum(credits(paper)) == 3
    exchange.received(frames(ok(job)))
    assert await soon(waiting) == 1


async def test_who_awaits_a_job_beside_who_iterates_over_it_takes_nothing_away() -> None:
    exchange = start()
    paper = up(exchange, credit=4)
    job = post(exchange, follow=True)
    reader = job.chunks()
    waiting = asyncio.create_task(job.result())
    await turns()
    exchange.received(frames(*(chunk(job, number) for number in range(1, 5))))
    assert credits(paper) == []
    exchange.received(frames(ok(job)))
    assert [item async for item in reader] == [1, 2, 3, 4]
    assert await waiting == 1


async def test_iterating_asks_for_progress_that_was_not_asked_for() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange)
    reader = job.chunks()
    assert [packet.kind for packet in paper.sent] == [PacketType.RUN, PacketType.ATTACH]
    assert schemas.attach_meta(paper.sent[1].meta) == schemas.AttachMeta(first=1, take=True)
    exchange.received(frames(attached(paper), chunk(job, 1), ok(job)))
    assert [item async for item in reader] == [1]
    held = start()
    job = post(held)
    reader = job.chunks()
    assert [packet.kind for packet in up(held).sent] == [PacketType.RUN, PacketType.ATTACH]


async def test_a_result_that_overtakes_the_question_for_progress_waits_for_the_answer() -> None:
    exchange = start()
    paper = up(exchange)
    for code in (Code.OK, Code.OUTCOME_GONE):
        job = post(exchange)
        reader = job.chunks()
        exchange.received(frames(ok(job, b"\x03")))
        assert not job.done()
        if code is Code.OK:
            exchange.received(frames(attached(paper, state="over"), chunk(job, 1), ok(job, b"\x03")))
            assert [item async for item in reader] == [1]
        else:
            exchange.received(frames(attached(paper, code)))
            assert [item async for item in reader] == []
        assert await job == 3


async def test_progress_that_can_not_be_had_is_an_error_of_the_iteration_alone() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange)
    reader = job.chunks()
    exchange.received(frames(attached(paper, Code.NOT_ALLOWED)))
    with pytest.raises(errors.NotAllowed):
        await soon(anext(reader))
    exchange.received(frames(ok(job)))
    assert await job == 1


async def test_progress_that_nobody_wants_any_more_is_credited() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange, follow=True)
    exchange.abandon(job, errors.JobCancelled("enough"))
    exchange.received(frames(chunk(job, 1), chunk(job, 2)))
    assert credits(paper) == [1, 1]


async def test_a_chunk_over_the_own_limit_is_a_gap() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange, follow=True)
    [(kind, *rest)] = frames(chunk(job, 1))
    exchange.received([(kind + 256, *rest), *frames(chunk(job, 2), ok(job))])  # type: ignore[list-item]
    assert [item async for item in job] == [Gap(1, 1), 2]


async def test_the_end_of_a_job_that_failed_is_raised_after_its_chunks() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange, follow=True)
    exchange.received(frames(chunk(job, 1), packets.failed(job._cookie, 1, Code.EXCEPTION, "broke")))
    reader = job.chunks()
    assert await soon(anext(reader)) == 1
    with pytest.raises(errors.JobException, match="broke"):
        await soon(anext(reader))
    with pytest.raises(StopAsyncIteration):
        await soon(anext(reader))


async def test_a_job_that_was_over_before_anybody_followed_it_says_so() -> None:
    exchange = start()
    up(exchange)
    well, ill = post(exchange), post(exchange)
    exchange.received(frames(ok(well), packets.failed(ill._cookie, 1, Code.EXCEPTION, "broke")))
    with pytest.raises(errors.OutcomeGone, match="follow=True"):
        await anext(well.chunks())
    with pytest.raises(errors.JobException, match="broke"):
        await anext(ill.chunks())


async def test_marks_can_be_left_out() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange, follow=True)
    exchange.received(frames(chunk(job, 1), chunk(job, 3, attempt=2), ok(job)))
    assert [item async for item in job.chunks(marks=False)] == [1, 3]


async def test_cancelling_the_task_that_iterates_cancels_the_job_unless_somebody_awaits_it() -> None:
    exchange = start()
    paper = up(exchange)
    for awaited in (False, True):
        job = post(exchange, follow=True)
        reader = job.chunks()
        iterating = asyncio.ensure_future(anext(reader))
        waiting = asyncio.create_task(job.result()) if awaited else None
        await turns()
        iterating.cancel()
        await turns()
        cancelled = [packet.cookie for packet in paper.take_packets() if packet.kind == PacketType.CANCEL]
        assert cancelled == ([] if awaited else [job._cookie])
        assert job.done() is not awaited
        if waiting is not None:
            exchange.received(frames(ok(job)))
            assert await soon(waiting) == 1


async def test_items_are_taken_many_at_a_time_and_none_is_lost_to_an_error() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange, follow=True)
    broken = packets.progress(job._cookie, 1, 3, b"\xc1", "msgpack")
    exchange.received(frames(chunk(job, 1), chunk(job, 2), broken, chunk(job, 4), ok(job)))
    reader = job.chunks()
    assert await soon(reader.take(10)) == [1, 2]
    with pytest.raises(errors.RemoteProtocolError):
        await soon(reader.take(10))
    assert await soon(reader.take(10)) == [4]
    assert await soon(reader.take(10)) == []


# Input


async def test_input_waits_for_credit_and_for_the_job_to_be_sent() -> None:
    exchange = start()
    job = post(exchange)
    sending = [asyncio.create_task(job.send(number)) for number in range(6)]
    await turns()
    paper = up(exchange, credit=4)
    await turns()
    assert [packet.kind for packet in paper.take_packets()] == [PacketType.RUN] + [PacketType.INPUT] * 4
    assert [task.done() for task in sending] == [True] * 4 + [False] * 2
    exchange.received(frames(packets.credit(job._cookie, 0, 2)))
    await turns()
    assert [(packet.number, packet.payload) for packet in paper.sent] == [(5, b"\x04"), (6, b"\x05")]
    assert all(task.done() for task in sending)


async def test_input_keeps_off_a_connection_that_is_full() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange)
    exchange.flow(False)
    sending = asyncio.create_task(job.send(1))
    await turns()
    assert [packet.kind for packet in paper.take_packets()] == [PacketType.RUN]
    exchange.flow(True)
    await soon(sending)
    assert [packet.kind for packet in paper.take_packets()] == [PacketType.INPUT]


async def test_input_to_a_job_that_is_over_is_refused_with_what_became_of_it() -> None:
    exchange = start()
    up(exchange, credit=1)
    job = post(exchange)
    await soon(job.send(1))
    waiting = asyncio.create_task(job.send(2))
    await turns()
    exchange.received(frames(packets.failed(job._cookie, 1, Code.WORKER_WENT_AWAY, "gone")))
    for sending in (waiting, job.send(3)):
        with pytest.raises(errors.CookieNotFound) as caught:
            await soon(sending)
        assert isinstance(caught.value.__cause__, errors.WorkerWentAway)


async def test_input_that_can_not_be_sent_is_refused_where_it_is_given() -> None:
    exchange = start()
    paper = up(exchange, frame=200)
    job = post(exchange)
    with pytest.raises(TypeError):
        await job.send(object())
    with pytest.raises(errors.TooLarge):
        await job.send("x" * 300)
    await soon(job.send(b"raw", encoding="bytes"))
    [sent] = [packet for packet in paper.take_packets() if packet.kind == PacketType.INPUT]
    assert (sent.number, sent.payload, schemas.chunk_meta(sent.meta).enc) == (1, b"raw", "bytes")


async def test_a_refusal_of_input_is_raised_by_the_next_send() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange)
    await soon(job.send(1))
    exchange.received(frames(packets.reply(PacketType.INPUT, Code.NOT_ALLOWED, "JSON", cookie=job._cookie, number=1)))
    with pytest.raises(errors.NotAllowed, match="JSON"):
        await soon(job.send(2))
    assert job.state is JobState.SENT


async def test_input_that_the_broker_had_no_room_for_is_sent_again() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange)
    await soon(job.send(1))
    paper.take_packets()
    refusal = packets.reply(PacketType.INPUT, Code.OVERLOADED, "", cookie=job._cookie, number=1, retry_ms=1)
    exchange.received(frames(refusal))
    tick = exchange.loop.create_future()
    exchange.loop.call_later(0.002, tick.set_result, None)
    await soon(tick)
    assert [(packet.kind, packet.number) for packet in paper.take_packets()] == [(PacketType.INPUT, 1)]


# Attaching


def fetch(exchange: Any, first: int = 0, take: bool = True) -> Job:
    job = exchange.attach(COOKIE, "msgpack", first, take)
    assert isinstance(job, Job)
    return job


async def test_a_job_is_fetched_by_its_cookie() -> None:
    exchange = start(patience_s=60)
    job = fetch(exchange, first=4, take=False)
    paper = up(exchange)
    assert schemas.attach_meta(paper.sent[0].meta) == schemas.AttachMeta(first=4, take=False)
    exchange.received(frames(attached(paper, state="queued")))
    assert job.state is JobState.QUEUED
    exchange.received(frames(chunk(job, 4), ok(job, b"\x09")))
    assert [item async for item in job] == [4]
    assert await job == 9


@pytest.mark.parametrize(
    ("code", "kind"), [(Code.COOKIE_NOT_FOUND, errors.CookieNotFound), (Code.OUTCOME_GONE, errors.OutcomeGone)]
)
async def test_a_job_that_can_not_be_fetched_says_why(code: Code, kind: type[errors.RequestRefused]) -> None:
    exchange = start()
    paper = up(exchange)
    job = fetch(exchange, first=1)
    exchange.received(frames(attached(paper, code)))
    with pytest.raises(kind):
        await job
    with pytest.raises(kind):
        await anext(job.chunks())


async def test_a_fetched_job_is_asked_for_again_after_a_reconnect() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = fetch(exchange)
    exchange.down(LOST)
    paper = up(exchange)
    exchange.received(frames(attached(paper)))
    exchange.down(LOST)
    paper = up(exchange)
    exchange.received(frames(attached(paper, Code.COOKIE_NOT_FOUND)))
    with pytest.raises(errors.BrokerWentAway):
        await job


async def test_numbers_of_input_go_on_where_the_job_is() -> None:
    exchange = start()
    paper = up(exchange)
    job = fetch(exchange)
    sending = asyncio.create_task(job.send("x"))
    await turns()
    exchange.received(frames(attached(paper, inp=7)))
    await soon(sending)
    assert [(packet.kind, packet.number) for packet in paper.sent] == [(PacketType.INPUT, 8)]


async def test_a_job_of_this_client_is_attached_to_as_what_it_is() -> None:
    exchange = start(patience_s=60)
    held = post(exchange)
    assert exchange.attach(held._cookie, "msgpack", 0, True) is held
    paper = up(exchange)
    assert exchange.attach(held._cookie, "msgpack", 1, True) is held
    assert [packet.kind for packet in paper.take_packets()] == [PacketType.RUN, PacketType.ATTACH]
    exchange.down(LOST)
    assert exchange.attach(held._cookie, "msgpack", 0, True) is held


async def test_who_lets_go_of_a_fetched_job_does_not_cancel_it() -> None:
    exchange = start()
    paper = up(exchange)
    job = fetch(exchange)
    waiting = asyncio.create_task(job.result())
    await turns()
    waiting.cancel()
    await turns()
    assert job.done()
    assert [packet.kind for packet in paper.take_packets()] == [PacketType.ATTACH]


# Cancelling, status


async def test_a_job_that_is_being_cancelled_says_so_whoever_did_it() -> None:
    exchange = start()
    paper = up(exchange)
    mine, other = post(exchange), post(exchange)
    cancelling = asyncio.create_task(mine.cancel())
    await turns()
    number = paper.sent[-1].number
    exchange.received(
        frames(
            packets.reply(PacketType.CANCEL, Code.CANCELLING, "asked", cookie=mine._cookie, number=number),
            packets.reply(PacketType.CANCEL, Code.CANCELLING, "asked", cookie=other._cookie),
        )
    )
    answer = await soon(cancelling)
    assert (answer.is_stopping, answer.is_over) == (True, False)
    assert (mine.state, other.state) == (JobState.CANCELLING, JobState.CANCELLING)
    held = post(start())
    assert (await held.cancel()).is_over


async def test_a_batch_is_cancelled_at_one_word_and_what_was_not_sent_never_is() -> None:
    exchange = start()
    paper = up(exchange, jobs=1)
    batch = uuid.uuid4().bytes
    meta = schemas.encode_meta(schemas.RunOptions(p="p", batch=batch))
    sent, held, other = post(exchange, meta=meta), post(exchange, meta=meta), post(exchange)
    cancelling = asyncio.create_task(exchange.cancel_batch(batch, False, "enough"))
    await turns()
    cancel = paper.sent[-1]
    assert (cancel.kind, schemas.cancel_meta(cancel.meta).batch) == (PacketType.CANCEL, batch)
    exchange.received(frames(packets.reply(PacketType.CANCEL, Code.OK, "", number=cancel.number, count=1)))
    assert (await soon(cancelling)).jobs == 2
    with pytest.raises(errors.JobCancelled, match="enough"):
        await held
    assert (sent.state, other.state) == (JobState.SENT, JobState.HELD)


async def test_status_is_told_and_a_job_that_is_unknown_is_not_found() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange)
    asking = [asyncio.create_task(job.status(tree=True)), asyncio.create_task(exchange.status(COOKIE, False))]
    await turns()
    first, second = (packet for packet in paper.take_packets() if packet.kind == PacketType.STATUS)
    assert schemas.status_meta(first.meta).tree
    told = schemas.JobStatus(state="queued", why="not_served", pipe="p")
    exchange.received(
        frames(
            packets.reply(PacketType.STATUS, Code.COOKIE_NOT_FOUND, "no such job", cookie=COOKIE, number=second.number),
            packets.reply(PacketType.STATUS, Code.OK, "nobody serves it", cookie=job._cookie, number=first.number, job=told),
        )
    )
    status = await soon(asking[0])
    assert (status.cookie, status.state, status.sentence) == (job.cookie, "queued", "nobody serves it")
    with pytest.raises(errors.CookieNotFound, match="no such job"):
        await soon(asking[1])


async def test_an_answer_to_another_request_of_the_same_number_is_nobodys() -> None:
    exchange = start()
    paper = up(exchange)
    asking = asyncio.create_task(exchange.cancel(COOKIE, False, ""))
    await turns()
    number = paper.sent[-1].number
    exchange.received(frames(packets.reply(PacketType.ACK, Code.UNSUPPORTED_PACKET_TYPE, "", number=number)))
    await turns()
    assert not asking.done()
    exchange.received(frames(packets.reply(PacketType.CANCEL, Code.OK, "", number=number)))
    assert (await soon(asking)).code is Code.OK


async def test_who_waits_for_what_is_asked_for_in_so_many_rows_and_an_old_broker_can_not_tell() -> None:
    exchange = start()
    paper = up(exchange)
    asking = asyncio.create_task(exchange.queue(7))
    await turns()
    [queue] = paper.take_packets()
    assert schemas.queue_meta(queue.meta).rows == 7
    told = schemas.QueueReport(wait=3)
    exchange.received(frames(packets.reply(PacketType.QUEUE, Code.OK, "3 jobs wait", number=queue.number, queue=told)))
    assert (await soon(asking)).waiting == 3
    asking = asyncio.create_task(exchange.queue(7))
    await turns()
    number = paper.take_packets()[0].number
    exchange.received(frames(packets.reply(PacketType.QUEUE, Code.UNSUPPORTED_PACKET_TYPE, "what?", number=number)))
    with pytest.raises(errors.UnsupportedPacketType):
        await soon(asking)


async def test_a_worker_is_drained_by_its_name() -> None:
    exchange = start()
    paper = up(exchange)
    for code in (Code.OK, Code.WORKER_NOT_FOUND):
        asking = asyncio.create_task(exchange.drain("gpu-7"))
        await turns()
        [drain] = paper.take_packets()
        assert schemas.drain_meta(drain.meta).worker == "gpu-7"
        exchange.received(frames(packets.reply(PacketType.DRAIN, code, "", number=drain.number)))
        if code is Code.OK:
            await soon(asking)
        else:
            with pytest.raises(errors.WorkerNotFound):
                await soon(asking)
