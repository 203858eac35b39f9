"""What a handler knows of its job, from whatever thread it asks."""

import asyncio
import contextvars
import threading
import time
from uuid import UUID

import pytest

from reasonchip_broker.errors import JobCancelled, TooLarge
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.worker import JobContext, current_job
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker.channel import Channel, Terms

COOKIE = bytes(range(16))


def test_a_context_names_its_job() -> None:
    context = JobContext(COOKIE, "reports.daily", attempt=2)
    assert context.cookie == UUID(bytes=COOKIE)
    assert (context.pipeline, context.attempt, context.deadline, context.remaining_s) == ("reports.daily", 2, None, None)
    assert context.attempts == 1
    assert repr(context) == f"<JobContext 'reports.daily' {UUID(bytes=COOKIE)} attempt 2>"


def test_what_remains_until_the_deadline_never_is_negative() -> None:
    assert JobContext(COOKIE, "p", deadline=time.monotonic() - 5).remaining_s == 0.0
    remaining_s = JobContext(COOKIE, "p", deadline=time.monotonic() + 60).remaining_s
    assert remaining_s is not None
    assert 50 < remaining_s <= 60


def test_cancelled_is_seen_only_by_who_looks_after_it_was_set() -> None:
    context = JobContext(COOKIE, "p")
    assert not context.cancelled
    context.check()
    assert not contexts.has_seen(context)
    contexts.cancel(context)
    assert contexts.was_told(context)
    assert not contexts.has_seen(context)
    assert context.cancelled
    assert contexts.has_seen(context)
    with pytest.raises(JobCancelled):
        context.check()


def test_waiting_for_a_cancellation_ends_in_time_or_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Semaphore(0)

    class Event(threading.Event):
        """One that says that it is waited for."""

        def wait(self, timeout: float | None = None) -> bool:
            waiting.release()
            return super().wait(timeout)

    context = JobContext(COOKIE, "p")
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Event", Event)
        assert context.wait_cancelled(0.0) is False
    assert waiting.acquire(timeout=20)
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.append(context.wait_cancelled(3600)), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=20)
    assert seen == []
    contexts.cancel(context)
    for thread in threads:
        thread.join(20)
    assert seen == [True, True]
    assert context.wait_cancelled() is True


def test_who_waits_after_the_cancellation_does_not_wait() -> None:
    context = JobContext(COOKIE, "p")
    contexts.cancel(context)
    assert context.wait_cancelled() is True


def test_there_is_no_current_job_where_none_runs() -> None:
    with pytest.raises(LookupError, match="where no job runs"):
        contextvars.Context().run(current_job)


async def test_the_current_job_is_found_in_threads_that_a_handler_starts() -> None:
    context = JobContext(COOKIE, "p")
    contexts.enter(context)
    assert current_job() is context
    assert await asyncio.to_thread(current_job) is context


def test_what_remains_is_until_the_deadline_or_the_run_limit_whichever_is_sooner() -> None:
    now = time.monotonic()
    context = JobContext(COOKIE, "p", deadline=now + 60, run_until=now + 30)
    assert 20 < (context.remaining_s or 0) <= 30
    context = JobContext(COOKIE, "p", deadline=now + 30, run_until=now + 60, attempts=3)
    assert 20 < (context.remaining_s or 0) <= 30
    assert context.attempts == 3


def test_more_time_moves_the_run_limit_but_never_beyond_the_deadline() -> None:
    said: list[bytes] = []
    now = time.monotonic()

    def context_of(deadline: float | None = None, run_until: float | None = None) -> JobContext:
        channel = Channel(COOKIE, 1, "", said.append, 1, 1, 4096)
        return JobContext(COOKIE, "p", deadline=deadline, run_until=run_until, channel=channel)

    context = context_of(deadline=now + 60, run_until=now + 1)
    context.extend(30)
    assert 20 < (context.remaining_s or 0) <= 30
    context.extend(1000)
    assert 50 < (context.remaining_s or 0) <= 60
    assert [decode(frame).number for frame in said] == [30_000, 1_000_000]
    said.clear()
    context_of().extend(5)
    assert said == [], "there is no limit to move"
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds over 0"):
            context.extend(seconds)


def test_a_context_that_no_worker_made_has_nobody_to_talk_to() -> None:
    context = JobContext(COOKIE, "p")
    for call in (lambda: context.progress(1), context.inputs, context.parked, lambda: context.extend(1)):
        with pytest.raises(RuntimeError, match="was not made by a worker"):
            call()


async def test_a_coroutine_does_not_block_until_it_is_cancelled() -> None:
    with pytest.raises(RuntimeError, match="only a thread"):
        JobContext(COOKIE, "p").wait_cancelled(1)


async def test_a_handler_whose_inputs_ended_because_it_is_to_stop_has_seen_that() -> None:
    context = JobContext(COOKIE, "p", channel=Channel(COOKIE, 1, "", lambda frame: None, 1, 1, 4096))
    contexts.cancel(context)
    assert not contexts.has_seen(context)
    assert await asyncio.to_thread(list, context.inputs()) == []
    assert contexts.has_seen(context)
    assert [item async for item in context.inputs()] == []


# ── The channel, which is made by the first who needs it ─────────────────────────────────────────────────────────────────


def speaking(said: list[bytes], frames: int = 2) -> JobContext:
    return JobContext(COOKIE, "p", 3, terms=Terms(said.append, (frames, 1000), 4096), encoding="json")


async def test_what_a_job_says_first_is_said_on_a_channel_of_its_own() -> None:
    said: list[bytes] = []
    context = speaking(said)
    await context.progress({"a": 1})
    context.extend(1)
    await context.progress(2)
    frames = [decode(frame) for frame in said]
    assert [(frame.cookie, frame.attempt, frame.number, frame.payload) for frame in frames] == [
        (COOKIE, 3, 1, b'{"a":1}'),
        (COOKIE, 3, 2, b"2"),
    ]
    with pytest.raises(TooLarge):
        context.progress("x" * 4096)


def test_two_threads_get_the_same_channel() -> None:
    context = speaking([])
    together = threading.Barrier(8)
    found: list[Channel | None] = []

    def ask() -> None:
        together.wait()
        found.append(contexts.channel_of(context))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is not None
    assert found == [found[0]] * 8


async def test_a_job_that_was_told_to_stop_before_it_said_anything_has_no_inputs() -> None:
    context = speaking([])
    contexts.cancel(context)
    assert [item async for item in context.inputs()] == []


def test_a_job_that_ended_before_it_said_anything_says_nothing() -> None:
    said: list[bytes] = []
    context = speaking(said)
    contexts.end(context)
    with pytest.raises(RuntimeError, match="the job is over"):
        context.progress(1)
    assert said == []


async def test_a_job_without_a_connection_waits_with_what_it_says_first() -> None:
    said: list[bytes] = []
    context = speaking(said)
    contexts.suspend(context)
    saying = asyncio.ensure_future(context.progress(1))
    await asyncio.sleep(0)
    assert said == []
    contexts.restart(context, 5, 1000)
    await saying
    assert len(said) == 1


def test_what_may_be_said_first_is_what_the_present_connection_allows() -> None:
    said: list[bytes] = []
    context = speaking(said, frames=1)
    contexts.suspend(context)
    contexts.restart(context, 3, 1000)
    for number in range(3):
        context.progress(number)
    assert len(said) == 3
