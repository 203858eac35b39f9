"""Jobs that the broker had no room for: they are sent again when it said so, in order, and not for ever."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer.exchange import Exchange
from reasonchip_broker.peer.job import Job, JobState
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.unit.peer.paper import Paper, frames, ok, post, up

RUN = PacketType.RUN


class Timer:
    def __init__(self, at: float, callback: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self.at = at
        self.cancelled = False
        self._call = callback, arguments

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.cancelled = True

    def go(self) -> None:
        callback, arguments = self._call
        callback(*arguments)


class SlowLoop:
    """A loop whose time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[..., object], *arguments: object) -> Timer:
        timer = Timer(at, callback, arguments)
        self.timers.append(timer)
        return timer

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: object) -> Timer:
        return self.call_at(self.now + seconds, callback, *arguments)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= until and not timer.cancelled]:
            timer = min(due, key=Timer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.go()
        self.now = until

    @property
    def waiting(self) -> int:
        return sum(not timer.cancelled for timer in self.timers)


def begin(patience_s: float = 60.0) -> tuple[Exchange, SlowLoop, Paper]:
    exchange, loop = Exchange("memory://x", 10.0, 60.0, patience_s), SlowLoop()
    exchange.started(loop)  # type: ignore[arg-type]
    return exchange, loop, up(exchange)


def refuse(exchange: Exchange, *jobs: Job, retry_ms: int = 2000, code: Code = Code.OVERLOADED) -> None:
    for job in jobs:
        exchange.received(frames(packets.reply(RUN, code, "full", cookie=job._cookie, retry_ms=retry_ms)))


def runs(paper: Paper) -> list[bytes]:
    return [cookie for kind, cookie in paper.take() if kind == RUN]


async def test_a_job_is_sent_again_when_the_broker_said_that_there_should_be_room() -> None:
    exchange, loop, paper = begin()
    job = post(exchange)
    refuse(exchange, job)
    assert (job.state, runs(paper)) == (JobState.HELD, [job._cookie])
    loop.advance(1.99)
    assert runs(paper) == []
    loop.advance(0.01)
    assert (job.state, runs(paper)) == (JobState.SENT, [job._cookie])
    exchange.received(frames(ok(job)))
    assert await job == 1


async def test_many_come_again_in_their_order_with_one_timer() -> None:
    exchange, loop, paper = begin()
    jobs = [post(exchange) for _ in range(50)]
    for number, job in enumerate(jobs):
        refuse(exchange, job, retry_ms=5000 - number)
    runs(paper)
    assert loop.waiting == 1
    loop.advance(4.9515)
    assert runs(paper) == [jobs[-1]._cookie]
    loop.advance(0.1)
    assert runs(paper) == [job._cookie for job in reversed(jobs[:-1])]
    assert loop.waiting == 0


async def test_others_are_sent_meanwhile() -> None:
    exchange, _, paper = begin()
    refuse(exchange, post(exchange))
    other = post(exchange)
    assert runs(paper)[1:] == [other._cookie]


async def test_a_job_that_is_refused_for_longer_than_the_patience_fails_with_its_refusal() -> None:
    exchange, loop, _ = begin(patience_s=5.0)
    job = post(exchange)
    for _ in range(2):
        refuse(exchange, job, retry_ms=2000)
        loop.advance(2.0)
        assert job.state is JobState.SENT
    refuse(exchange, job, retry_ms=2000)
    with pytest.raises(errors.Overloaded, match="full") as caught:
        await job
    assert caught.value.retry_after_s == 2.0


@pytest.mark.parametrize(
    ("patience_s", "options", "code"),
    [
        (0.0, {}, Code.OVERLOADED),
        (60.0, {"queue": False}, Code.OVERLOADED),
        (60.0, {"qlim": 1500}, Code.OVERLOADED),
        (60.0, {}, Code.NO_CAPACITY),
        (60.0, {}, Code.DRAINING),
    ],
)
async def test_who_does_not_want_to_wait_or_is_refused_otherwise_is_told_at_once(
    patience_s: float, options: dict[str, Any], code: Code
) -> None:
    exchange, _, _ = begin(patience_s)
    job = post(exchange, meta=schemas.encode_meta(schemas.RunOptions(p="p", **options)))
    refuse(exchange, job, code=code)
    with pytest.raises(errors.REFUSALS_BY_CODE[code]):
        await job


async def test_a_job_whose_deadline_comes_first_is_told_at_once_and_one_that_has_time_gets_what_is_left_of_it() -> None:
    exchange, loop, paper = begin()
    late, job = post(exchange, deadline_s=1.5), post(exchange, deadline_s=10.0)
    refuse(exchange, late, job)
    with pytest.raises(errors.Overloaded):
        await late
    paper.take()
    loop.advance(2.0)
    (packet,) = paper.take_packets()
    assert (packet.cookie, packet.number) == (job._cookie, 8000)
    refuse(exchange, job, retry_ms=7900)
    exchange.flow(False)
    loop.advance(8.0)
    with pytest.raises(errors.DeadlineExceeded, match="before the job was sent"):
        await job


async def test_a_job_is_cancelled_without_a_word_to_the_broker_and_never_sent_again() -> None:
    exchange, loop, paper = begin()
    jobs = [post(exchange) for _ in range(2)]
    refuse(exchange, *jobs)
    paper.take()
    assert (await exchange.cancel_job(jobs[0], False, "")).is_over
    loop.advance(3.0)
    assert runs(paper) == [jobs[1]._cookie]
    with pytest.raises(errors.JobCancelled):
        await jobs[0]


async def test_a_cancelled_batch_takes_those_along_that_were_to_come_again() -> None:
    exchange, loop, paper = begin()
    batch = b"b" * 16
    job = post(exchange, meta=schemas.encode_meta(schemas.RunOptions(p="p", batch=batch)))
    refuse(exchange, job)
    paper.take()
    asking = asyncio.ensure_future(exchange.cancel_batch(batch, False, ""))
    await asyncio.sleep(0)
    (packet,) = paper.take_packets()
    exchange.received(frames(packets.reply(PacketType.CANCEL, Code.COOKIE_NOT_FOUND, "", number=packet.number)))
    assert (await asking).jobs == 1
    loop.advance(3.0)
    assert paper.take() == []


async def test_it_is_found_by_its_cookie() -> None:
    exchange, _, _ = begin()
    job = post(exchange)
    refuse(exchange, job)
    assert exchange.find(job._cookie) is job


async def test_when_the_connection_ends_it_goes_over_the_next_one() -> None:
    exchange, loop, _ = begin()
    jobs = [post(exchange) for _ in range(2)]
    refuse(exchange, *jobs)
    exchange.down(errors.ConnectionLost("gone"))
    paper = up(exchange)
    assert runs(paper) == [job._cookie for job in jobs]
    assert loop.waiting == 0
    exchange.down(errors.ConnectionLost("gone"))


async def test_when_there_is_no_next_connection_it_was_never_sent() -> None:
    exchange, loop, _ = begin()
    job = post(exchange)
    refuse(exchange, job)
    exchange.down(errors.ConnectionLost("gone"))
    loop.advance(11.0)
    with pytest.raises(errors.ConnectError, match="was not sent"):
        await job


async def test_progress_and_input_begin_anew_when_it_is_sent_again() -> None:
    exchange, loop, paper = begin()
    job = post(exchange, follow=True)
    sending = asyncio.ensure_future(exchange.send_input(job, b"1", "json"))
    await asyncio.sleep(0)
    refuse(exchange, job)
    (number,) = [packet.number for packet in paper.take_packets() if packet.kind == PacketType.INPUT]
    exchange.received(frames(packets.reply(PacketType.INPUT, Code.COOKIE_NOT_FOUND, "", cookie=job._cookie, number=number)))
    later = asyncio.ensure_future(exchange.send_input(job, b"2", "json"))
    await asyncio.sleep(0)
    assert paper.take() == []
    loop.advance(2.0)
    assert [kind for kind, _ in paper.take()] == [RUN, PacketType.INPUT, PacketType.INPUT]
    await asyncio.gather(sending, later)
