"""What a broker says to a client about its jobs, sense and nonsense, over a connection on paper."""

import asyncio

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer.job import JobState
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.unit.client.ends import soon
from tests.unit.peer.paper import LOST, chunk, frames, ok, post, runs, start, up


async def test_queued_is_a_state_and_dispatched_changes_nothing() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange)
    exchange.received(frames(packets.reply(PacketType.RUN, Code.DISPATCHED, "", cookie=job._cookie)))
    states = [job.state]
    exchange.received(frames(packets.reply(PacketType.RUN, Code.QUEUED, "", cookie=job._cookie)))
    states.append(job.state)
    assert states == [JobState.SENT, JobState.QUEUED]


async def test_scheduled_is_a_state_until_it_is_seen_to_run() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange, delay_s=5.0, follow=True)
    exchange.received(frames(packets.reply(PacketType.RUN, Code.SCHEDULED, "", cookie=job._cookie)))
    states = [job.state]
    exchange.received(frames(chunk(job, 1)))
    states.append(job.state)
    assert states == [JobState.SCHEDULED, JobState.SENT]


async def test_a_detached_job_is_done_with_once_it_is_scheduled() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange, delay_s=5.0, detach=True)
    exchange.received(frames(packets.reply(PacketType.RUN, Code.SCHEDULED, "", cookie=job._cookie)))
    assert await job is None


async def test_a_refusal_ends_the_job_with_the_hint_when_to_try_again() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange)
    exchange.received(frames(packets.reply(PacketType.RUN, Code.DRAINING, "going", cookie=job._cookie, retry_ms=250)))
    with pytest.raises(errors.Draining, match="going") as caught:
        await job
    assert caught.value.retry_after_s == 0.25


async def test_a_refusal_for_its_size_is_too_large_and_never_ran() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange)
    exchange.received(frames(packets.reply(PacketType.RUN, Code.TOO_LARGE, "big", cookie=job._cookie)))
    with pytest.raises(errors.TooLarge) as caught:
        await job
    assert not caught.value.may_have_run


async def test_a_refusal_that_is_not_known_here_is_still_a_refusal() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange)
    meta = schemas.encode_meta(schemas.ReplyMeta(to=PacketType.RUN, msg="new"))
    exchange.received(frames(encode(PacketType.REPLY, code=60, cookie=job._cookie, meta=meta)))
    with pytest.raises(errors.RequestRefused, match="new"):
        await job


@pytest.mark.parametrize(
    "stray",
    [
        packets.result(b"s" * 16, 1, b"\x01", "msgpack"),
        packets.reply(PacketType.RUN, Code.OVERLOADED, "", cookie=b"s" * 16),
        packets.reply(PacketType.CANCEL, Code.OK, "", number=77),
        packets.reply(PacketType.REPLY, Code.UNSUPPORTED_PACKET_TYPE, ""),
        packets.reply(99, Code.UNSUPPORTED_PACKET_TYPE, "", number=0),
    ],
)
async def test_what_concerns_no_job_of_ours_changes_nothing(stray: bytes) -> None:
    exchange = start()
    up(exchange)
    job = post(exchange)
    exchange.received(frames(stray))
    assert job.state is JobState.SENT


async def test_an_answer_to_a_cancel_that_is_none_is_the_brokers_error() -> None:
    exchange = start()
    paper = up(exchange)
    asking = asyncio.create_task(exchange.cancel(b"c" * 16, False, ""))
    await asyncio.sleep(0)
    meta = schemas.encode_meta(schemas.ReplyMeta(to=PacketType.CANCEL))
    with pytest.raises(errors.RemoteProtocolError, match="77 is no answer"):
        exchange.received(frames(encode(PacketType.REPLY, code=77, number=paper.sent[0].number, meta=meta)))
    exchange.down(LOST)
    with pytest.raises(errors.ConnectionLost):
        await soon(asking)


@pytest.mark.parametrize(("code", "said"), [(Code.COOKIE_NOT_FOUND, Code.OK), (Code.NOT_ALLOWED, Code.NOT_ALLOWED)])
async def test_a_batch_of_which_nothing_was_sent_is_cancelled_though_the_broker_knows_none_of_it(
    code: Code, said: Code
) -> None:
    exchange = start()
    paper = up(exchange, jobs=1)
    batch = b"b" * 16
    post(exchange)
    held = post(exchange, meta=schemas.encode_meta(schemas.RunOptions(p="p", batch=batch)))
    cancelling = asyncio.create_task(exchange.cancel_batch(batch, False, "enough"))
    await asyncio.sleep(0)
    exchange.received(frames(packets.reply(PacketType.CANCEL, code, "", number=paper.sent[-1].number)))
    answer = await soon(cancelling)
    assert (answer.code, answer.jobs) == (said, 1)
    with pytest.raises(errors.JobCancelled, match="enough"):
        await held


@pytest.mark.parametrize(
    "broken",
    [
        encode(PacketType.RESULT, cookie=b"j" * 16, meta=b"\xc1"),
        encode(PacketType.RESULT, cookie=b"j" * 16, meta=b"\x81\xa3enc\x01"),
        encode(PacketType.RESULT, cookie=b"j" * 16, meta=b"\x93\x01\x02\x03"),
        encode(PacketType.REPLY, cookie=b"j" * 16, meta=b"\xc1"),
        encode(PacketType.REPLY, cookie=b"j" * 16),
    ],
)
async def test_meta_that_makes_no_sense_is_the_brokers_error_and_ends_no_job_by_itself(broken: bytes) -> None:
    exchange = start()
    up(exchange)
    job = post(exchange, cookie=b"j" * 16)
    with pytest.raises(errors.RemoteProtocolError, match=r"RESULT|REPLY"):
        exchange.received(frames(broken))
    assert job.state is JobState.SENT, "the connection is closed for it, and that is what the job hears"


async def test_metas_made_up_as_one_goes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasonchip_broker.peer.metas.METAS_MAX", 10)
    exchange = start()
    up(exchange)
    for number in range(50):
        exchange.received(
            frames(
                packets.result(b"s" * 16, 1, b"", f"e{number}"),
                packets.reply(PacketType.RUN, Code.QUEUED, f"{number}", cookie=b"s" * 16),
                packets.reply(PacketType.RUN, Code.QUEUED, "x" * 1000, cookie=b"s" * 16),
            )
        )
    assert len(exchange._results.known) <= 10
    assert len(exchange._replies.known) <= 10
    assert all(len(meta) < 300 for meta in exchange._replies.known)


async def test_two_jobs_of_one_cookie_are_not_mixed_up() -> None:
    exchange = start()
    paper = up(exchange)
    first = post(exchange, cookie=b"j" * 16)
    second = post(exchange, cookie=b"j" * 16)
    with pytest.raises(errors.CookieCollision):
        await second
    assert paper.take() == runs(first)
    exchange.received(frames(ok(first)))
    third = post(exchange, cookie=b"j" * 16)
    assert paper.take() == runs(third), "the broker has the last word on a cookie that is used again"


async def test_an_exchange_knows_its_frames_from_those_of_a_worker_that_shares_its_connection() -> None:
    exchange = start()
    up(exchange)
    job = post(exchange)
    ours = frames(ok(job), packets.reply(PacketType.RUN, Code.QUEUED, ""), packets.credit(job._cookie, 0, 1))
    others = frames(packets.reply(PacketType.REGISTER, Code.OK, ""), packets.credit(b"o" * 16, 1, 1), packets.cancel(b"o" * 16))
    assert [exchange.takes(frame) for frame in ours + others] == [True] * 3 + [False] * 3
