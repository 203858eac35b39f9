"""One job, as its client sees it.

A job is made by `submit` and goes one way through its states. Its outcome arrives as bytes, and becomes a value, or an
exception, only when somebody asks for it. Whoever waits leaves a *waiter* with the job: an asyncio future, a future of a
thread, or a note to an iterator; the job costs no task, and no future as long as nobody waits.
"""

import asyncio
import uuid
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from reasonchip_broker.errors import FAILURES_BY_CODE, JobCancelled, JobFailed, PastAttempt, RemoteProtocolError
from reasonchip_broker.peer import payloads
from reasonchip_broker.peer.inflow import Chunks, Inflow
from reasonchip_broker.peer.outflow import Outflow, job_over
from reasonchip_broker.peer.status import JobStatus
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import code_of, payload_of
from reasonchip_broker.protocol.codes import ENCODING_MSGPACK, Code

if TYPE_CHECKING:
    from collections.abc import Generator

    from reasonchip_broker.peer.exchange import Exchange


class JobState(Enum):
    """How far this client knows a job to have come."""

    HELD = "held"
    """Not sent: there is no connection yet, or it, or the broker, has as much as it takes."""
    SENT = "sent"
    """The broker has it, or will have it in a moment; it probably runs."""
    SCHEDULED = "scheduled"
    """The broker said that it waits for its time (option `not_before`). It is not said when that has come."""
    QUEUED = "queued"
    """The broker said that it waits for a slot. It is not said when it leaves the queue."""
    CANCELLING = "cancelling"
    """Somebody has cancelled it, and its worker was asked to stop. Its outcome will come."""
    ADRIFT = "adrift"
    """The connection that it was sent on has ended; the broker will be asked about it on the next one."""
    OVER = "over"
    """It has its outcome, or nobody waits for that any more."""


_HELD: Final = JobState.HELD
_OVER: Final = JobState.OVER
_OK: Final = int(Code.OK)
"""What every job meets with: to look up a member of an enum costs as much as ten steps of ordinary code."""


class Answer(NamedTuple):
    """What the broker said to a CANCEL, and a sentence for people; of a batch, to how many jobs it went.

    OK: the job was not running, and is over. CANCELLING: its worker was asked to stop; the outcome tells whether it did.
    COOKIE_NOT_FOUND: there is no such job, or not any more.
    """

    code: Code
    message: str
    jobs: int = 1

    @property
    def is_over(self) -> bool:
        """Whether the job did not run when it was cancelled, and never will."""
        return self.code == Code.OK

    @property
    def is_stopping(self) -> bool:
        """Whether the job's worker was asked to stop."""
        return self.code == Code.CANCELLING


class Waiter(Protocol):
    """Who waits for a job: told once, in the loop's thread. asyncio's and concurrent's futures are waiters."""

    def done(self) -> bool:
        """Whether it has stopped waiting."""

    def set_result(self, result: None, /) -> None:
        """The job is over."""


class Job:
    """A job that was submitted, or attached to. Await it for its result, iterate over it for its progress (see `chunks`).

    Cancelling the last task that awaits it or iterates over it cancels a job that was submitted here, and lets go of one that was
    attached to. When the connection breaks, the job is found again over the next one, without anything to be done for it.

    The outcomes other than a result are exceptions: a subclass of `RequestRefused` (there was no job), of `JobFailed` (it ended
    otherwise, with the remote stack trace and whether it may have run), `ConnectError` (it was never sent), TimeoutError
    (option `timeout`).
    """

    __slots__ = (
        "_at",
        "_cookie",
        "_deadline_at",
        "_detach",
        "_due_at",
        "_encoding",
        "_error",
        "_exchange",
        "_forgotten_at",
        "_held_until",
        "_inputs",
        "_meta",
        "_outcome",
        "_payload",
        "_refused_at",
        "_stream",
        "_take",
        "_timers",
        "_waiters",
        "_watchers",
        "state",
    )

    def __init__(
        self,
        exchange: "Exchange",
        cookie: bytes,
        meta: bytes,
        payload: bytes,
        detach: bool,
        encoding: str = ENCODING_MSGPACK,
    ) -> None:
        self.state = _HELD
        """How far it has come, as far as is known here."""
        self._exchange = exchange
        self._cookie = cookie
        self._meta = meta
        self._payload = payload
        self._detach = detach
        self._encoding = encoding
        self._take = True
        self._at = b""
        """The broker's instance that has it, or that it was first sent to; empty until then."""
        self._forgotten_at = 0.0
        """When the broker may have forgotten its outcome, if it is not known that the broker still has it."""
        self._stream: Inflow | None = None
        self._inputs: Outflow | None = None
        self._deadline_at = 0.0
        self._due_at = 0.0
        self._held_until = 0.0
        self._refused_at = 0.0
        """When the broker had no room for it first."""
        self._timers: list[asyncio.TimerHandle] | None = None
        self._waiters: list[Waiter] | None = None
        self._watchers: list[Waiter] | None = None
        self._error: BaseException | None = None
        self._outcome: tuple[bytes, schemas.ResultMeta] | None = None

    @property
    def cookie(self) -> uuid.UUID:
        """The job's name, everywhere."""
        return uuid.UUID(bytes=self._cookie)

    def done(self) -> bool:
        """Whether the job is over for this client: awaiting it returns, or raises, at once."""
        return self.state is _OVER

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the result. Raises what the job ended with.

        With `timeout`, stops waiting after so many seconds and raises TimeoutError; the job goes on, and may be waited for
        again. If the waiting task is cancelled and nobody else waits, the job is cancelled too.
        """
        if self.state is not _OVER:
            waiter: asyncio.Future[None] = self._exchange.loop.create_future()
            self._wait_with(waiter)
            try:
                if timeout is None:
                    await waiter
                else:
                    async with asyncio.timeout(timeout):
                        await waiter
            except asyncio.CancelledError:
                if not self._leave(waiter) and not self.done() and not self._is_read():
                    self._abandon(JobCancelled("the task that waited for the job was cancelled"))
                raise
            except TimeoutError:
                self._leave(waiter)
                raise TimeoutError(f"the job was not over within {timeout:g} s; it goes on") from None
        return self._value()

    def __await__(self) -> "Generator[Any, None, Any]":
        return self.result().__await__()

    async def cancel(self, at_once: bool = False, why: str = "") -> Answer:
        """Ask the broker to cancel the job, politely or at once, and return what it said: the answer's `is_over` says that the job
        did not run any more, `is_stopping` that its worker was asked to stop (then `state` is CANCELLING). The job's outcome comes
        by itself, and may still be a result, if that was sooner.

        Raises ConnectError without a connection, ConnectionLost if it ends before the broker has answered.
        """
        return await self._exchange.cancel_job(self, at_once, why)

    async def status(self, tree: bool = False) -> JobStatus:
        """Ask the broker where the job is, and why; `tree`: and its children. Raises CookieNotFound if it knows no such job,
        ConnectError and ConnectionLost as `cancel` does.
        """
        return await self._exchange.status(self._cookie, tree)

    async def send(self, item: Any, *, encoding: str | None = None) -> None:
        """Send an item to the running job, whose handler takes it with `context.inputs()`. Waits while the job has as many as it
        may have ahead of it, or has not been sent yet, or there is no connection; items arrive in order, over broken connections
        too. `encoding` is that of the job's variables unless it is given.

        Raises TypeError and ValueError for what can't be encoded, TooLarge, CookieNotFound once the job is over (what became of it
        is the error's cause), NotAllowed if its worker is one that takes no input. An item that was sent may be refused later: that
        is raised by the next `send`, and by `flush`.
        """
        payload, tag = payloads.encode_tagged(item, encoding or self._encoding)
        await self._exchange.send_input(self, payload, tag)

    async def flush(self) -> None:
        """Wait until the broker has all that was sent with `send`; over broken connections too. Whether the handler takes it is for the
        handler to say.

        Raises what the broker refused an item with, as `send` does, and CookieNotFound if the job is over and may not have got all of
        it (what became of the job is the error's cause).
        """
        await self._exchange.flush_input(self)

    def chunks(self, marks: bool = True) -> Chunks:
        """Iterate, with `async for`, over what the job's handler reports as progress, in order; `async for chunk in job` is the same.

        Where chunks are missing, a `Gap` says which; where another attempt of the job begins, there is a `NewAttempt`. Without
        `marks` both are left out. After the last chunk a job that did not end well raises what it ended with, as awaiting it does.

        A handler is never more than a window of chunks (64, as the broker has it) ahead of who iterates. While nobody iterates and
        somebody awaits the job, the handler is not held up; the newest window of chunks is kept. Without the option `follow` progress
        is asked for by the first call of this, which must be before the job is over (OutcomeGone).
        """
        return Chunks(self, marks)

    def __aiter__(self) -> Chunks:
        return self.chunks()

    @property
    def last_chunk(self) -> int:
        """The number of the last chunk that was taken, 0 before the first; `attach` may go on after it."""
        return 0 if self._stream is None else self._stream.taken

    def __repr__(self) -> str:
        return f"<Job {self.cookie} {self.state.value}>"

    # For the rooms beside this one

    def _wait_with(self, waiter: Waiter) -> None:
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        if self._stream is not None:
            self._set_free()

    def _leave(self, waiter: Waiter) -> bool:
        """Stop waiting; returns whether somebody else waits."""
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)
            if self._stream is not None:
                self._set_free()
        return bool(self._waiters)

    def _watch_with(self, watcher: Waiter) -> None:
        """Be told of the end, once, without being one who waits for it."""
        if self._watchers is None:
            self._watchers = [watcher]
        else:
            self._watchers.append(watcher)

    def _read(self, readers: int) -> None:
        """So many more iterate over the chunks."""
        if self._stream is None and readers > 0 and self.state is not JobState.OVER:
            self._exchange.follow(self)
        if self._stream is not None:
            self._stream.readers += readers
            self._set_free()

    def _is_read(self) -> bool:
        return self._stream is not None and self._stream.readers > 0

    def _set_free(self) -> None:
        if self._stream is not None:
            self._stream.set_free(bool(self._waiters) and not self._stream.readers)

    async def _wait_for_chunk(self) -> None:
        stream = self._stream
        if stream is None:
            return
        try:
            await stream.wait(self._exchange.loop)
        except asyncio.CancelledError:
            if not self._waiters and stream.readers <= 1 and not self.done():
                self._abandon(JobCancelled("the task that iterated over the job's progress was cancelled"))
            raise

    def _abandon(self, error: BaseException) -> None:
        """Nobody is interested any more: this is the outcome here, and the broker is told to cancel."""
        self._exchange.abandon(self, error)

    def _finish(self, outcome: tuple[bytes, schemas.ResultMeta] | None, error: BaseException | None = None) -> None:
        """The job is over, with a RESULT, an error, or (detached) nothing. To be called once, in the loop's thread."""
        self._outcome = outcome
        self._error = error
        self.state = _OVER
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
        if self._watchers is not None:
            for watcher in self._watchers:
                if not watcher.done():
                    watcher.set_result(None)
            self._watchers = None
        if self._stream is not None:
            self._stream.ring()
        if self._inputs is not None:
            self._inputs.end(job_over(self._failure()))

    def _value(self) -> Any:
        """The result of a job that is over, or its error, raised."""
        if self._error is not None:
            raise self._error
        if self._outcome is None:
            return None
        frame, meta = self._outcome
        if code_of(frame) != _OK:
            raise failed(code_of(frame), payload_of(frame), may_have_run=meta.ran)
        if self._detach:
            return None
        try:
            return payloads.decode(payload_of(frame), meta.enc)
        except ValueError as error:
            raise RemoteProtocolError(f"the worker's result can't be read: {error}") from error

    def _failure(self) -> BaseException | None:
        """What a job that is over has ended with, unless it ended well."""
        if self._error is not None or self._outcome is None:
            return self._error
        frame, meta = self._outcome
        if code_of(frame) == Code.OK:
            return None
        return failed(code_of(frame), payload_of(frame), may_have_run=meta.ran)


def failed(code: int, payload: bytes, *, may_have_run: bool) -> JobFailed:
    """The exception of an outcome that is not OK. `payload` is the RESULT's."""
    failure = schemas.failure(payload)
    kind = FAILURES_BY_CODE.get(code)
    message = failure.error if kind is not None else f"outcome {code}, which is not known here: {failure.error}"
    return (kind or JobFailed)(
        message,
        error_type=failure.type,
        stack=tuple(failure.stack or ()),
        may_have_run=may_have_run,
        history=tuple(PastAttempt(each.attempt, each.worker, each.end, each.ran_ms / 1000) for each in failure.hist),
    )
