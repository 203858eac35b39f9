"""What becomes of jobs whose connection ends: they are asked after on the next one, and nobody waits for ever."""

import asyncio

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer.adrift import METAS_MAX
from reasonchip_broker.peer.job import Job, JobState
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.unit.client.ends import soon
from tests.unit.peer.paper import BROKER, LOST, META, OTHER_BROKER, attached, chunk, frames, ok, post, runs, start, up

HOUR_S = 3600.0


async def test_a_job_outlives_its_connection_without_a_line_of_code() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = post(exchange, b"payload")
    waiting = asyncio.create_task(job.result())
    await asyncio.sleep(0)
    exchange.down(LOST)
    assert job.state is JobState.ADRIFT
    [run] = up(exchange, broker=OTHER_BROKER).sent
    options = schemas.run_options(run.meta)
    assert (run.kind, run.cookie, run.payload) == (PacketType.RUN, job._cookie, b"payload")
    assert (options.p, options.at) == ("p", BROKER), "the instance that it was first sent to"
    exchange.received(frames(ok(job, b"\x07")))
    assert await soon(waiting) == 7


async def test_the_nonce_is_the_same_and_the_deadline_what_is_left_of_it() -> None:
    exchange = start(patience_s=60)
    first = up(exchange)
    meta = schemas.encode_meta(schemas.RunOptions(p="p", nonce=b"n" * 16, att=3))
    post(exchange, deadline_s=50.0, meta=meta)
    exchange.down(LOST)
    [run] = up(exchange).sent
    options = schemas.run_options(run.meta)
    assert (options.nonce, options.att) == (b"n" * 16, 3)
    assert 0 < run.number <= first.sent[0].number <= 50_000


async def test_the_time_that_it_waits_for_stays_the_same() -> None:
    exchange = start(patience_s=60)
    first = up(exchange)
    job = post(exchange, delay_s=50.0)
    exchange.received(frames(packets.reply(PacketType.RUN, Code.SCHEDULED, "", cookie=job._cookie)))
    assert job.state is JobState.SCHEDULED
    exchange.down(LOST)
    job._due_at -= 20.0
    again = up(exchange)
    delays = [schemas.run_options(paper.sent[0].meta).delay for paper in (first, again)]
    assert 49_000 < delays[0] <= 50_000
    assert 29_000 < delays[1] <= 30_000
    status = schemas.JobStatus(state="scheduled", why="not_due", due=30_000)
    exchange.received(frames(packets.reply(PacketType.RUN, Code.SCHEDULED, "", cookie=job._cookie, job=status)))
    assert job.state is JobState.SCHEDULED


async def test_a_job_keeps_the_instance_it_was_first_sent_to_over_many_connections() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    post(exchange)
    for broker in (b"1" * 16, b"2" * 16):
        exchange.down(LOST)
        [run] = up(exchange, broker=broker).sent
        assert schemas.run_options(run.meta).at == BROKER


async def test_a_job_that_was_never_on_a_wire_is_a_plain_new_one() -> None:
    exchange = start(patience_s=60)
    up(exchange, jobs=1)
    sent, held = post(exchange), post(exchange)
    exchange.down(LOST)
    paper = up(exchange, jobs=2)
    assert [packet.cookie for packet in paper.sent] == [sent._cookie, held._cookie], "what is adrift goes first"
    assert paper.sent[1].meta == META


async def test_a_thousand_equal_jobs_are_sent_again_with_the_same_bytes() -> None:
    exchange = start(patience_s=60)
    up(exchange, jobs=1000)
    for _ in range(1000):
        post(exchange)
    exchange.down(LOST)
    paper = up(exchange, jobs=600)
    assert len(paper.sent) == 600, "no more than the broker takes"
    assert len({packet.meta for packet in paper.sent}) == 1


async def test_the_broker_says_what_became_of_it() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    over, gone, lost, queued = (post(exchange) for _ in range(4))
    exchange.down(LOST)
    up(exchange, broker=OTHER_BROKER)
    exchange.received(
        frames(
            ok(over),
            packets.reply(
                PacketType.RUN, Code.OUTCOME_GONE, "gone", cookie=gone._cookie, job=schemas.JobStatus(state="over", out=3)
            ),
            packets.failed(lost._cookie, 0, Code.BROKER_WENT_AWAY, "another run of the broker"),
            packets.reply(PacketType.RUN, Code.QUEUED, "", cookie=queued._cookie, job=schemas.JobStatus(state="queued")),
        )
    )
    assert await over == 1
    with pytest.raises(errors.OutcomeGone) as gone_error:
        await gone
    assert gone_error.value.outcome == Code.CANCELLED
    with pytest.raises(errors.BrokerWentAway) as lost_error:
        await lost
    assert lost_error.value.may_have_run
    assert queued.state is JobState.QUEUED


async def test_a_broker_that_stays_away_for_longer_than_the_patience_fails_the_jobs() -> None:
    exchange = start(patience_s=0.01)
    up(exchange)
    job = post(exchange)
    exchange.down(LOST)
    exchange.down(errors.ConnectError("again"))
    with pytest.raises(errors.BrokerWentAway, match="it broke") as caught:
        await soon(job)
    assert caught.value.may_have_run
    assert caught.value.__cause__ is LOST
    assert up(exchange).take() == []


async def test_failed_attempts_do_not_prolong_the_patience_and_a_connection_ends_the_wait() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = post(exchange)
    exchange.down(LOST)
    timer = exchange._adrift._timer
    exchange.down(errors.ConnectError("again"))
    assert exchange._adrift._timer is timer
    up(exchange)
    assert exchange._adrift._timer is None
    assert job.state is JobState.SENT


async def test_when_there_will_be_no_connection_nobody_waits_for_one() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = post(exchange)
    exchange.ended(LOST, lambda: errors.ConnectError("given up"))
    with pytest.raises(errors.BrokerWentAway):
        await soon(job)


async def test_nothing_is_timed_once_all_is_given_up() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    post(exchange)
    exchange.down(LOST)
    timer = exchange._adrift._timer
    assert timer is not None
    exchange.ended(LOST, lambda: errors.ConnectError("given up"))
    assert (timer.cancelled(), exchange._adrift._timer) == (True, None)


async def test_what_the_options_of_many_jobs_mean_is_looked_up_once_and_kept_for_so_many() -> None:
    exchange = start()
    adrift = exchange._adrift
    metas = [schemas.encode_meta(schemas.RunOptions(p=f"p{number}")) for number in range(METAS_MAX + 2)]
    for number, meta in enumerate(metas, 1):
        job = Job(exchange, b"k" * 16, meta, b"", False)
        job._at = BROKER
        again = adrift.meta_again(job)
        assert schemas.run_options(again) == schemas.RunOptions(p=f"p{number - 1}", at=BROKER)
        assert adrift.options_of(meta) is adrift.options_of(meta)
        assert len(adrift._options) == len(adrift._again) == (number if number <= METAS_MAX else number - METAS_MAX)


async def test_a_job_given_up_while_adrift_is_cancelled_over_the_next_connection() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job, detached = post(exchange), post(exchange, detach=True)
    exchange.down(LOST)
    for each in (job, detached):
        exchange.abandon(each, errors.JobCancelled("enough"))
    assert up(exchange).take() == [(PacketType.CANCEL, job._cookie)]


# After an outage in which the broker may have forgotten the outcome


@pytest.mark.parametrize(("retain_s", "keep"), [(60, None), (100_000, 60_000)])
async def test_a_job_that_the_broker_may_have_forgotten_is_only_asked_for(retain_s: int, keep: int | None) -> None:
    exchange = start(patience_s=60)
    up(exchange, retain_s=retain_s)
    meta = schemas.encode_meta(schemas.RunOptions(p="p", keep=keep))
    unknown, known = post(exchange, meta=meta), post(exchange, meta=meta)
    exchange.down(LOST, exchange.loop.time() - HOUR_S)
    paper = up(exchange)
    first, second = paper.take_packets()
    assert [first.kind, second.kind] == [PacketType.ATTACH] * 2
    assert schemas.attach_meta(first.meta) == schemas.AttachMeta(first=0, take=True)
    exchange.received(
        frames(
            packets.reply(PacketType.ATTACH, Code.COOKIE_NOT_FOUND, "", cookie=unknown._cookie, number=first.number),
            packets.reply(
                PacketType.ATTACH, Code.OK, "", cookie=known._cookie, number=second.number, job=schemas.JobStatus(state="over")
            ),
            ok(known),
        )
    )
    with pytest.raises(errors.BrokerWentAway) as caught:
        await unknown
    assert caught.value.may_have_run
    assert await known == 1
    assert paper.take() == []


async def test_the_outage_is_counted_from_when_the_broker_last_knew_the_job() -> None:
    exchange = start(patience_s=60)
    up(exchange, retain_s=60)
    asked, confirmed = post(exchange), post(exchange)
    exchange.down(LOST, exchange.loop.time() - 50)
    up(exchange)
    exchange.received(frames(packets.reply(PacketType.RUN, Code.DISPATCHED, "", cookie=confirmed._cookie)))
    later = exchange.loop.time() + 50
    for job in (asked, confirmed):
        assert bool(job._forgotten_at) is (job is asked)
        if job._forgotten_at:
            assert job._forgotten_at < later
    exchange.down(LOST)
    assert asked._forgotten_at < confirmed._forgotten_at


async def test_a_job_whose_deadline_passed_meanwhile_is_not_run_again() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = post(exchange, deadline_s=50.0)
    exchange.down(LOST)
    job._deadline_at = exchange.loop.time() - 1
    assert up(exchange).take() == [(PacketType.ATTACH, job._cookie)]


# Progress and input go on


async def test_progress_goes_on_after_the_last_chunk_that_came() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = post(exchange, follow=True)
    reader = job.chunks()
    exchange.received(frames(chunk(job, 1), chunk(job, 2)))
    assert await soon(anext(reader)) == 1
    exchange.down(LOST)
    paper = up(exchange)
    [attach] = paper.sent
    assert schemas.attach_meta(attach.meta) == schemas.AttachMeta(first=3, take=True)
    exchange.received(
        frames(attached(paper, prog=5), chunk(job, 3), packets.gap(PacketType.PROGRESS, job._cookie, 1, 4, 5), ok(job))
    )
    rest = [item async for item in reader]
    assert rest[:2] == [2, 3]
    assert (rest[2].first, rest[2].last) == (4, 5)
    assert await job == 1


async def test_a_followed_job_that_the_broker_never_got_is_sent_again() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = post(exchange, follow=True)
    exchange.down(LOST)
    paper = up(exchange)
    exchange.received(frames(attached(paper, Code.COOKIE_NOT_FOUND)))
    [run] = paper.sent
    assert (run.kind, schemas.run_options(run.meta).at) == (PacketType.RUN, BROKER)
    exchange.received(frames(chunk(job, 1), ok(job)))
    assert [item async for item in job] == [1]


async def test_input_goes_on_after_the_last_that_the_broker_has() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = post(exchange)
    for item in (1, 2, 3):
        await soon(job.send(item))
    exchange.down(LOST)
    waiting = asyncio.create_task(job.send(4))
    await asyncio.sleep(0)
    paper = up(exchange)
    exchange.received(frames(attached(paper, inp=1)))
    assert [(packet.number, packet.payload) for packet in paper.sent] == [(2, b"\x02"), (3, b"\x03"), (4, b"\x04")]
    await soon(waiting)


async def test_no_input_is_sent_before_the_broker_has_said_what_it_has() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = post(exchange)
    await soon(job.send(1))
    exchange.down(LOST)
    paper = up(exchange)
    sending = asyncio.create_task(job.send(2))
    await asyncio.sleep(0)
    exchange.flow(True)
    assert [packet.kind for packet in paper.sent] == [PacketType.ATTACH]
    exchange.received(frames(attached(paper, inp=1)))
    assert [(packet.kind, packet.number) for packet in paper.sent] == [(PacketType.INPUT, 2)]
    await soon(sending)


async def test_those_for_which_there_was_no_room_are_asked_after_as_room_comes() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    jobs = [post(exchange) for _ in range(3)]
    exchange.down(LOST)
    paper = up(exchange, jobs=1)
    for number, job in enumerate(jobs, 1):
        assert [packet.cookie for packet in paper.take_packets()] == [job._cookie], number
        exchange.received(frames(ok(job)))


async def test_an_outcome_that_was_here_when_the_connection_broke_counts() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    job = post(exchange)
    reader = job.chunks()
    exchange.received(frames(ok(job, b"\x05")))
    assert not job.done()
    exchange.down(LOST)
    assert await job == 5
    assert [item async for item in reader] == []
    assert up(exchange).take() == []


async def test_jobs_that_are_over_are_not_asked_after() -> None:
    exchange = start(patience_s=60)
    up(exchange)
    over, open_ = post(exchange), post(exchange)
    exchange.received(frames(ok(over)))
    exchange.down(LOST)
    assert up(exchange).take() == runs(open_)
