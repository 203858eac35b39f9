"""One job and the calling of its handler: claimed once, told truly."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from reasonchip_broker.limits import MIB
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.worker import JobContext, current_job
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker.jobs import Job, perform, perform_async
from reasonchip_broker.worker.pipelines import Pipeline
from tests.unit.worker.harness import Outcome

COOKIE = bytes(range(16))


def job_of(handler: Callable[..., Any], variables: Any = None, encoding: str = "msgpack", payload: bytes | None = None) -> Job:
    if payload is None:
        payload = payloads.encode(variables, encoding)
    return Job(COOKIE, 2, Pipeline("p.*", handler), "p.one", encoding, payload, MIB)


async def test_a_handler_is_called_with_its_variables_and_its_job() -> None:
    async def handler(n: int, context: JobContext) -> Any:
        assert current_job() is context
        return [n, context.pipeline, context.attempt]

    outcome = Outcome(await perform_async(job_of(handler, {"n": 1})))
    assert (outcome.code, outcome.attempt, outcome.value) == (Code.OK, 2, [1, "p.one", 2])

    def plain(n: int, context: JobContext) -> Any:
        assert current_job() is context
        return n

    assert Outcome(perform(job_of(plain, {"n": 0}, "json"))).value == 0


@pytest.mark.parametrize(
    ("payload", "encoding"), [(b"\xc1", "msgpack"), (b"{", "json"), (b"\xff", "text"), (b"x", "cbor"), (b"x", "\n\x1b")]
)
def test_variables_that_cannot_be_read_are_told_and_the_handler_is_not_called(payload: bytes, encoding: str) -> None:
    called: list[Any] = []
    outcome = Outcome(perform(job_of(called.append, payload=payload, encoding=encoding)))
    assert (outcome.code, outcome.may_have_run) == (Code.EXCEPTION, False)
    assert outcome.failure.type == "InvalidVariables"
    assert outcome.failure.error.startswith("the variables can't be read: ")
    assert called == []


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_whatever_is_raised_is_the_jobs_outcome_row_29(error: type[BaseException]) -> None:
    def plain() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    for frame in (perform(job_of(plain)), await perform_async(job_of(coroutine))):
        outcome = Outcome(frame)
        assert (outcome.code, outcome.failure.type) == (Code.EXCEPTION, error.__name__)
        stack = outcome.failure.stack or []
        assert "worker/jobs.py" not in "".join(stack), "the library's own frames say nothing to the owner"
        assert "test_jobs.py" in stack[1]


def test_a_job_is_claimed_once() -> None:
    job = job_of(lambda: None)
    assert not job.claimed
    claims: list[bool] = []
    barrier = threading.Barrier(8)

    def claim() -> None:
        barrier.wait()
        claims.append(job.claim())

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claims) == [False] * 7 + [True]
    assert job.claimed


def test_a_handler_that_sees_its_cancellation_and_returns_nothing_was_cancelled() -> None:
    def polite(context: JobContext) -> None:
        contexts.cancel(context)
        assert context.cancelled

    def done(context: JobContext) -> str:
        polite(context)
        return "partial"

    def unaware(context: JobContext) -> None:
        contexts.cancel(context)

    job = job_of(polite)
    job.why = "enough"
    outcome = Outcome(perform(job))
    assert (outcome.code, outcome.failure.error) == (Code.CANCELLED, "cancelled while it ran: enough")
    assert Outcome(perform(job_of(done))).value == "partial"
    assert Outcome(perform(job_of(unaware))).code == Code.OK


def test_a_cancellation_that_is_raised_counts_only_if_the_job_was_cancelled() -> None:
    def plain(context: JobContext) -> None:
        contexts.cancel(context)
        context.check()

    def on_its_own() -> None:
        raise asyncio.CancelledError

    assert Outcome(perform(job_of(plain))).code == Code.CANCELLED
    assert Outcome(perform(job_of(on_its_own))).code == Code.EXCEPTION


def test_an_error_while_stopping_is_told_as_that() -> None:
    def clumsy(context: JobContext) -> None:
        contexts.cancel(context)
        assert context.cancelled
        raise OSError("the clean-up failed")

    assert Outcome(perform(job_of(clumsy))).failure.error == "the clean-up failed"
