"""What a handler knows of its job, from whatever thread it asks."""

import asyncio
import contextvars
import threading
import time
from uuid import UUID

import pytest

from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.worker import JobContext, current_job
from reasonchip_broker.worker import context as contexts

COOKIE = bytes(range(16))


def test_a_context_names_its_job() -> None:
    context = JobContext(COOKIE, "reports.daily", attempt=2)
    assert context.cookie == UUID(bytes=COOKIE)
    assert (context.pipeline, context.attempt, context.deadline, context.remaining_s) == ("reports.daily", 2, None, None)
    assert repr(context) == f"<JobContext 'reports.daily' {UUID(bytes=COOKIE)} attempt 2>"


def test_what_remains_until_the_deadline_never_is_negative() -> None:
    assert JobContext(COOKIE, "p", deadline=time.monotonic() - 5).remaining_s == 0.0
    remaining_s = JobContext(COOKIE, "p", deadline=time.monotonic() + 60).remaining_s
    assert remaining_s is not None
    assert 50 < remaining_s <= 60


def test_cancelled_is_seen_only_by_who_looks_after_it_was_set() -> None:
    context = JobContext(COOKIE, "p")
    assert not context.cancelled
    context.raise_if_cancelled()
    assert not contexts.has_seen(context)
    contexts.cancel(context)
    assert contexts.was_told(context)
    assert not contexts.has_seen(context)
    assert context.cancelled
    assert contexts.has_seen(context)
    with pytest.raises(JobCancelled):
        context.raise_if_cancelled()


def test_waiting_for_a_cancellation_ends_in_time_or_with_it() -> None:
    context = JobContext(COOKIE, "p")
    assert context.wait_cancelled(0.0) is False
    waiting = threading.Barrier(3)
    seen: list[bool] = []

    def wait() -> None:
        waiting.wait()
        seen.append(context.wait_cancelled(20))

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    waiting.wait()
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
