"""One job, as its client sees it.

A job is made by `submit` and goes one way through its states. Its outcome arrives as bytes, and becomes a value, or an
exception, only when somebody asks for it. Whoever waits leaves a *waiter* with the job: an asyncio future, a future of a
thread, or a note to an iterator; the job costs no task, and no future as long as nobody waits.
"""

import asyncio
import uuid
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from reasonchip_broker.errors import FAILURES_BY_CODE, JobCancelled, JobFailed, RemoteProtocolError
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import code_of, payload_of
from reasonchip_broker.protocol.codes import Code

if TYPE_CHECKING:
    from collections.abc import Generator

    from reasonchip_broker.client.exchange import Exchange


class JobState(Enum):
    """How far this client knows a job to have come."""

    HELD = "held"
    """Not sent: there is no connection yet, or it has as much as it takes."""
    SENT = "sent"
    """The broker has it, or will have it in a moment; it probably runs."""
    QUEUED = "queued"
    """The broker said that it waits for a slot. It is not said when it leaves the queue."""
    OVER = "over"
    """It has its outcome, or nobody waits for that any more."""


class Answer(NamedTuple):
    """What the broker said to a CANCEL, and a sentence for people.

    OK: the job is over. CANCELLING: its worker was asked to stop; the outcome tells whether it did. COOKIE_NOT_FOUND: there is
    no such job, or not any more.
    """

    code: Code
    message: str


class Waiter(Protocol):
    """Who waits for a job: told once, in the loop's thread. asyncio's and concurrent's futures are waiters."""

    def done(self) -> bool:
        """Whether it has stopped waiting."""

    def set_result(self, result: None, /) -> None:
        """The job is over."""


class Job:
    """A job that was submitted. Await it for its result; cancelling the task that awaits it cancels the job.

    The outcomes other than a result are exceptions: a subclass of `RequestRefused` (there was no job), of `JobFailed` (it ended
    otherwise, with the remote stack trace and whether it may have run), `ConnectError` (it was never sent), TimeoutError
    (option `timeout`).
    """

    __slots__ = (
        "_cookie",
        "_deadline_at",
        "_detach",
        "_error",
        "_exchange",
        "_held_until",
        "_meta",
        "_outcome",
        "_payload",
        "_timers",
        "_waiters",
        "state",
    )

    def __init__(self, exchange: "Exchange", cookie: bytes, meta: bytes, payload: bytes, detach: bool) -> None:
        self.state = JobState.HELD
        """How far it has come, as far as is known here."""
        self._exchange = exchange
        self._cookie = cookie
        self._meta = meta
        self._payload = payload
        self._detach = detach
        self._deadline_at = 0.0
        self._held_until = 0.0
        self._timers: list[asyncio.TimerHandle] | None = None
        self._waiters: list[Waiter] | None = None
        self._error: BaseException | None = None
        self._outcome: tuple[bytes, schemas.ResultMeta] | None = None

    @property
    def cookie(self) -> uuid.UUID:
        """The job's name, everywhere."""
        return uuid.UUID(bytes=self._cookie)

    def done(self) -> bool:
        """Whether the job is over for this client: awaiting it returns, or raises, at once."""
        return self.state is JobState.OVER

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the result. Raises what the job ended with.

        With `timeout`, stops waiting after so many seconds and raises TimeoutError; the job goes on, and may be waited for
        again. If the waiting task is cancelled and nobody else waits, the job is cancelled too.
        """
        if self.state is not JobState.OVER:
            waiter: asyncio.Future[None] = self._exchange.loop.create_future()
            self._wait_with(waiter)
            try:
                if timeout is None:
                    await waiter
                else:
                    async with asyncio.timeout(timeout):
                        await waiter
            except asyncio.CancelledError:
                if not self._leave(waiter) and not self.done():
                    self._abandon(JobCancelled("the task that waited for the job was cancelled"))
                raise
            except TimeoutError:
                self._leave(waiter)
                raise TimeoutError(f"the job was not over within {timeout:g} s; it goes on") from None
        return self._value()

    def __await__(self) -> "Generator[Any, None, Any]":
        return self.result().__await__()

    async def cancel(self, at_once: bool = False, why: str = "") -> Answer:
        """Ask the broker to cancel the job, politely or at once, and return what it said. The job's outcome comes by itself,
        and may still be a result, if that was sooner. Raises ConnectionLost if the connection ends before the broker has
        answered.
        """
        return await self._exchange.cancel_job(self, at_once, why)

    def __repr__(self) -> str:
        return f"<Job {self.cookie} {self.state.value}>"

    # For the rooms beside this one

    def _wait_with(self, waiter: Waiter) -> None:
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)

    def _leave(self, waiter: Waiter) -> bool:
        """Stop waiting; returns whether somebody else waits."""
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)
        return bool(self._waiters)

    def _abandon(self, error: BaseException) -> None:
        """Nobody is interested any more: this is the outcome here, and the broker is told to cancel."""
        self._exchange.abandon(self, error)

    def _finish(self, outcome: tuple[bytes, schemas.ResultMeta] | None, error: BaseException | None = None) -> None:
        """The job is over, with a RESULT, an error, or (detached) nothing. To be called once, in the loop's thread."""
        self._outcome = outcome
        self._error = error
        self.state = JobState.OVER
        self._payload = b""
        if self._timers is not None:
            for timer in self._timers:
                timer.cancel()
            self._timers = None
        if self._waiters is not None:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters = None

    def _value(self) -> Any:
        """The result of a job that is over, or its error, raised."""
        if self._error is not None:
            raise self._error
        if self._outcome is None:
            return None
        frame, meta = self._outcome
        if code_of(frame) != Code.OK:
            raise failed(code_of(frame), payload_of(frame), may_have_run=meta.ran)
        try:
            return payloads.decode(payload_of(frame), meta.enc)
        except ValueError as error:
            raise RemoteProtocolError(f"the worker's result can't be read: {error}") from error


def failed(code: int, payload: bytes, *, may_have_run: bool) -> JobFailed:
    """The exception of an outcome that is not OK. `payload` is the RESULT's."""
    failure = schemas.failure(payload)
    kind = FAILURES_BY_CODE.get(code)
    message = failure.error if kind is not None else f"outcome {code}, which is not known here: {failure.error}"
    return (kind or JobFailed)(message, error_type=failure.type, stack=tuple(failure.stack or ()), may_have_run=may_have_run)
