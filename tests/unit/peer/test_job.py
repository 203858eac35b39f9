"""One job, without a broker: what its outcome becomes, and who hears of it."""

import asyncio
import uuid
from typing import Any, cast

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer import payloads
from reasonchip_broker.peer.exchange import Exchange
from reasonchip_broker.peer.job import Job, JobState, failed
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.unit.peer.paper import chunk, frames, ok, post, start, up

COOKIE = bytes(range(16))
JOIN_S = 10.0


class StubExchange:
    """As much of an exchange as a job needs: a loop, and an ear."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.abandoned: list[tuple[Job, BaseException]] = []

    def abandon(self, job: Job, error: BaseException) -> None:
        self.abandoned.append((job, error))


def make() -> tuple[Job, StubExchange]:
    exchange = StubExchange()
    return Job(cast(Exchange, exchange), COOKIE, b"", b"", False), exchange


def result(value: object, encoding: str = "msgpack") -> tuple[bytes, schemas.ResultMeta]:
    frame = packets.result(COOKIE, 1, payloads.encode(value, encoding), encoding)
    return frame, schemas.result_meta(decode(frame).meta)


async def test_a_job_over_gives_its_result_to_everyone_who_asks_and_as_often() -> None:
    job, _ = make()
    waiting = [asyncio.create_task(job.result()) for _ in range(3)]
    await asyncio.sleep(0)
    job._finish(result([1, 2]))
    values = [*await asyncio.gather(*waiting), await job, await job.result(timeout=1)]
    assert values == [[1, 2]] * 5
    assert values[0] is not values[1], "what one does to its copy is nobody else's concern"


async def test_what_is_known_of_a_job_is_told() -> None:
    job, _ = make()
    assert job.cookie == uuid.UUID(bytes=COOKIE)
    assert (job.done(), job.state) == (False, JobState.HELD)
    assert str(job.cookie) in repr(job)
    job._finish(result(None))
    assert (job.done(), job.state) == (True, JobState.OVER)


async def test_an_error_is_raised_for_everyone_and_unheard_ones_make_no_noise() -> None:
    job, _ = make()
    job._finish(None, errors.BrokerWentAway("gone"))
    for _ in range(2):
        with pytest.raises(errors.BrokerWentAway):
            await job
    unheard, _ = make()
    unheard._finish(None, errors.BrokerWentAway("gone"))


async def test_who_stops_waiting_is_not_told_and_the_job_is_told_only_by_the_last() -> None:
    job, exchange = make()
    first, last = (asyncio.create_task(job.result()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first}, timeout=JOIN_S)
    assert exchange.abandoned == []
    last.cancel()
    await asyncio.wait({last}, timeout=JOIN_S)
    [(abandoned, error)] = exchange.abandoned
    assert abandoned is job
    assert isinstance(error, errors.JobCancelled)
    assert first.cancelled()
    assert last.cancelled()


async def test_who_is_cancelled_in_the_moment_that_the_job_is_over_harms_nobody() -> None:
    job, exchange = make()
    first, other = (asyncio.create_task(job.result()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    job._finish(result("just in time"))
    assert await other == "just in time"
    assert first.cancelled()
    assert exchange.abandoned == []


async def test_a_timeout_of_the_wait_is_no_cancel() -> None:
    job, exchange = make()
    with pytest.raises(TimeoutError, match=r"0\.001 s; it goes on"):
        await job.result(timeout=0.001)
    assert exchange.abandoned == []
    job._finish(result("late"))
    assert await job == "late"


@pytest.mark.parametrize("code", [*errors.FAILURES_BY_CODE])
def test_each_outcome_has_its_class(code: int) -> None:
    frame = decode(packets.failed(COOKIE, 1, Code(code), "why", error_type="KeyError", stack=["a", "b"], may_have_run=False))
    error = failed(code, frame.payload, may_have_run=False)
    assert type(error) is errors.FAILURES_BY_CODE[code]
    assert (error.args[0], error.error_type, error.stack, error.may_have_run) == ("why", "KeyError", ("a", "b"), False)


def test_a_dead_letter_tells_what_became_of_each_attempt() -> None:
    history = [schemas.AttemptRecord(1, "gpu-7", "WORKER_WENT_AWAY", 1500), schemas.AttemptRecord(2, "", "EXCEPTION", 0)]
    frame = decode(packets.failed(COOKIE, 2, Code.DEAD_LETTERED, "twice", history=history))
    error = failed(frame.code, frame.payload, may_have_run=True)
    assert isinstance(error, errors.DeadLettered)
    assert error.history == (
        errors.PastAttempt(1, "gpu-7", "WORKER_WENT_AWAY", 1.5),
        errors.PastAttempt(2, "", "EXCEPTION", 0.0),
    )
    assert errors.DeadLettered("x").history == ()


def test_an_outcome_that_is_not_known_here_is_still_a_failure() -> None:
    error = failed(27, schemas.encode_meta(schemas.Failure(error="new")), may_have_run=True)
    assert type(error) is errors.JobFailed
    assert "27" in str(error)
    assert "new" in str(error)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"just text", b"\xff\xfe", payloads.encode([1], "msgpack")])
def test_a_failure_that_says_nothing_of_use_is_still_a_failure(payload: bytes) -> None:
    assert isinstance(failed(2, payload, may_have_run=True), errors.JobException)


@pytest.mark.parametrize(("payload", "encoding"), [(b"\xc1", "msgpack"), (b"{", "json"), (b"x", "pickle"), (b"\xff", "text")])
async def test_a_result_that_can_not_be_read_is_an_error_of_the_other_end(payload: bytes, encoding: str) -> None:
    job, _ = make()
    job._finish((packets.result(COOKIE, 1, payload, encoding), schemas.ResultMeta(enc=encoding)))
    with pytest.raises(errors.RemoteProtocolError, match="result can't be read"):
        await job


@pytest.mark.parametrize("value", [0, "", [], {}, False, None])
async def test_falsy_results_stay_what_they_are(value: Any) -> None:
    job, _ = make()
    job._finish(result(value))
    back = await job
    assert back == value
    assert type(back) is type(value)


async def test_who_stops_waiting_leaves_the_job_to_who_iterates_over_it() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange, follow=True)
    reader = job.chunks()
    waiting = asyncio.create_task(job.result())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting}, timeout=JOIN_S)
    assert not job.done()
    exchange.received(frames(chunk(job, 1), ok(job)))
    assert [item async for item in reader] == [1]
    assert [packet.kind for packet in paper.take_packets()] == [PacketType.RUN], "no CANCEL"
