"""What a handler can know about the job that it runs."""

import threading
import time
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.worker.channel import Channel, Inputs, Parked, Terms
from reasonchip_broker.worker.kindred import Kin
from reasonchip_broker.worker.waiting import in_loop

if TYPE_CHECKING:
    from reasonchip_broker.peer.options import ChildOptions
    from reasonchip_broker.worker.children import ChildJob, ChildSubmitter

_current: ContextVar["JobContext"] = ContextVar("reasonchip_broker_job")
_making = threading.Lock()
"""Held while an event or a channel is made, and while that is noted which a channel has to know from its beginning: two threads of one
job must get the same one, as it is to be. Of all jobs, since it is held for moments, and a lock for each would be made for nothing."""


class JobContext:
    """One attempt of a job, as its handler sees it. A handler gets it by a parameter annotated `JobContext`, or named
    `context`.

    `pipeline` is the name that was asked for, which matters where the handler serves a glob; `attempt` counts from 1 to
    `attempts`, which is how many the job may have; `deadline` and `run_until` are times of `time.monotonic()` in seconds, or
    None: by when the job, and by when this attempt, has to be over. All of it may be used from any thread; what waits is to be
    awaited in a coroutine, and blocks in a thread.
    """

    __slots__ = (
        "_cancelled",
        "_channel",
        "_cookie",
        "_encoding",
        "_event",
        "_kin",
        "_over",
        "_seen",
        "_submitter",
        "_suspended",
        "_terms",
        "_uuid",
        "attempt",
        "attempts",
        "deadline",
        "pipeline",
        "run_until",
    )

    def __init__(
        self,
        cookie: bytes,
        pipeline: str,
        attempt: int = 1,
        deadline: float | None = None,
        *,
        attempts: int = 1,
        run_until: float | None = None,
        channel: Channel | None = None,
        terms: Terms | None = None,
        encoding: str = "",
        kin: Kin | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.attempt = attempt
        self.attempts = attempts
        self.deadline = deadline
        self.run_until = run_until
        self._cookie = cookie
        self._uuid: UUID | None = None
        self._cancelled = False
        self._seen = False
        self._event: threading.Event | None = None
        self._channel = channel
        # Most jobs say nothing but their result: a channel is made for those that do, when they do.
        self._terms = terms
        self._encoding = encoding
        self._over = False
        self._suspended = False
        self._kin = kin
        self._submitter: ChildSubmitter | None = None

    def __repr__(self) -> str:
        return f"<JobContext {self.pipeline!r} {self.cookie} attempt {self.attempt}>"

    @property
    def cookie(self) -> UUID:
        """The job's name on the wire; the same for every attempt, so it serves as an idempotency key."""
        uuid = self._uuid
        if uuid is None:
            uuid = self._uuid = UUID(bytes=self._cookie)
        return uuid

    # Time

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline or the run limit, whichever is sooner; 0 once it has passed; None without either."""
        times = [at for at in (self.deadline, self.run_until) if at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def extend(self, seconds: float) -> None:
        """Let this attempt run for so many seconds from now, whatever was left of its run limit; never beyond the deadline.

        Without a run limit there is nothing to extend, and nothing is done. Raises ValueError for what is no time.
        """
        channel = self._own_channel()
        if not 0 < seconds < float("inf"):
            raise ValueError(f"extend takes a number of seconds over 0, not {seconds}")
        if self.run_until is not None:
            until = time.monotonic() + seconds
            self.run_until = until if self.deadline is None else min(until, self.deadline)
            channel.extend(seconds)

    # Progress and inputs

    def progress(self, chunk: Any) -> Awaitable[None]:
        """Send a chunk of progress to whoever follows the job: an object, text or bytes, encoded as the result will be.

        `await context.progress(chunk)` in a coroutine; in a thread or a plain function it is a call that may block. Either way
        it waits while the reader is too far behind. Raises TypeError or ValueError for what can't be encoded, TooLarge for what
        is over the broker's frame limit, JobCancelled from a thread that would have to wait in a job that is to stop, RuntimeError
        once the job is over.
        """
        return self._own_channel().progress(chunk)

    def inputs(self) -> Inputs:
        """What is sent to the job while it runs, in order: `async for item in context.inputs()` in a coroutine, `for` in a
        thread. It ends when the job is to stop.

        An item may be a `Gap`: inputs that the broker could not keep, which happens only if nobody takes them for long, or when
        an attempt is not the first. Raises ValueError for an input that can't be read, and goes on after it; RuntimeError for `for` in
        a coroutine.
        """
        return Inputs(self._own_channel(), self._notice)

    # Children

    def submit(self, pipeline: str, variables: Any = None, **options: "Unpack[ChildOptions]") -> "ChildJob":
        """Submit a job that is part of this one, and go on; `await child` (in a thread `child.result()`) waits for its result.

        It ends with this job: when that is cancelled, runs out of time, fails, or loses its worker, the child is cancelled, but for
        the option `loose`; it goes on if this job ends well. Its deadline is at most this job's. Variables and options are those of a
        client (`Client.submit`): `deadline_s`, `attempts`, `retry_on`, `queue_limit_s`, `encoding` and so on, but for `parent`, which
        is this job. Raises TypeError and ValueError for what can't be asked for.
        """
        return self._children().submit(pipeline, variables, **options)

    def run(self, pipeline: str, variables: Any = None, **options: "Unpack[ChildOptions]") -> Any:
        """Submit a job that is part of this one, and wait for its result: `await context.run(...)` in a coroutine, a call that
        blocks in a thread. This job's slot is lent out meanwhile. Raises as `submit` does, and what the child ended with.
        """
        return self._children().run(pipeline, variables, **options)

    def with_options(self, **changes: "Unpack[ChildOptions]") -> "ChildSubmitter":
        """What submits and runs jobs as this context does, with these options for each: as `Client.with_options`. Raises TypeError for
        a name that is no option and for `parent`, TypeError and ValueError for values that make no sense.
        """
        return self._children().with_options(**changes)

    def _children(self) -> "ChildSubmitter":
        submitter = self._submitter
        if submitter is not None:
            return submitter
        channel = self._own_channel()
        if self._kin is None:
            raise RuntimeError("this context was not made by a worker: there is nobody to submit to")
        # Loaded for the first child: most workers have none.
        from reasonchip_broker.peer.options import Options
        from reasonchip_broker.worker.children import ChildSubmitter

        submitter = self._submitter = ChildSubmitter(self._kin, channel, Options(parent=self.cookie))
        return submitter

    # The slot

    def parked(self) -> Parked:
        """Lend the job's slot out while it waits for something: `async with context.parked():` in a coroutine, `with` in a
        thread. Another job may run meanwhile; at the end the slot is asked for again, and had before any job that waits. Raises
        RuntimeError for `with` in a coroutine.
        """
        return Parked(self._own_channel())

    def _own_channel(self) -> Channel:
        channel = self._channel or channel_of(self)
        if channel is None:
            raise RuntimeError("this context was not made by a worker: there is nobody to talk to")
        return channel

    # Being stopped

    def _notice(self) -> None:
        if self._cancelled:
            self._seen = True

    @property
    def cancelled(self) -> bool:
        """Whether the job is to stop: it was cancelled, its deadline or its run limit passed, its worker is being stopped, or
        its broker is gone.

        A plain function that has seen this and returns None is reported as cancelled; one that returns a value is reported with
        it.
        """
        if self._cancelled:
            self._seen = True
        return self._cancelled

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Block this thread until the job is to stop, for at most `timeout` seconds. Returns `cancelled`. Raises RuntimeError in a
        coroutine, which is cancelled where it awaits.
        """
        if in_loop():
            raise RuntimeError("a coroutine is cancelled where it awaits: only a thread waits for that")
        with _making:
            event = self._event
            if event is None:
                event = self._event = threading.Event()
        if not self._cancelled:
            event.wait(timeout)
        return self.cancelled

    def check(self) -> None:
        """Raises JobCancelled if the job is to stop: for a plain function to call where stopping is easy."""
        if self.cancelled:
            raise JobCancelled("cancelled")


def cancel(context: JobContext) -> None:
    """Set `cancelled`, and wake who waits for it."""
    with _making:
        context._cancelled = True
        # Whoever makes an event after this looks at the flag before waiting.
        event, channel = context._event, context._channel
    if event is not None:
        event.set()
    if channel is not None:
        channel.cancel()


def channel_of(context: JobContext) -> Channel | None:
    """Where the job speaks, made if it is not there yet; None for one that speaks in another process, or was not made by a worker."""
    with _making:
        channel, terms = context._channel, context._terms
        if channel is None and terms is not None:
            channel = Channel(
                context._cookie, context.attempt, context._encoding, terms.send, *terms.allowance, terms.frame_bytes_max
            )
            if context._suspended:
                channel.suspend()
            if context._cancelled:
                channel.cancel()
            if context._over:
                channel.end()
            context._channel = channel
    return channel


def end(context: JobContext) -> None:
    """The handler has ended: what is left of it (a task, a thread) says nothing more."""
    with _making:
        context._over = True
        channel = context._channel
    if channel is not None:
        channel.end()


def suspend(context: JobContext) -> None:
    """There is no connection: the job is to send nothing until there is."""
    with _making:
        context._suspended = True
        if context._channel is not None:
            context._channel.suspend()


def restart(context: JobContext, credit: int, window: int) -> None:
    """There is a connection again, and so much may be sent on it at first."""
    with _making:
        context._suspended = False
        if context._channel is not None:
            context._channel.restart(credit, window)
        elif context._terms is not None:
            context._terms = context._terms._replace(allowance=(credit, window))


def was_told(context: JobContext) -> bool:
    """Whether the job was told to stop, seen or not."""
    return context._cancelled


def has_seen(context: JobContext) -> bool:
    """Whether the handler knows that it was told to stop."""
    return context._seen


def mark_seen(context: JobContext) -> None:
    """The handler was told in a way that it can't miss."""
    context._seen = True


def enter(context: JobContext) -> None:
    """Make this the current job of the calling thread's or task's context."""
    _current.set(context)


def current_job() -> JobContext:
    """The job that the calling handler runs, in whatever function, task or `asyncio.to_thread` of it.

    Raises LookupError where no job runs.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("current_job() was called where no job runs") from None
