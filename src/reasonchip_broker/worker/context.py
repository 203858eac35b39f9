"""What a handler can know about the job that it runs."""

import threading
import time
from contextvars import ContextVar
from uuid import UUID

from reasonchip_broker.errors import JobCancelled

_current: ContextVar["JobContext"] = ContextVar("reasonchip_broker_job")
_event_lock = threading.Lock()
"""Held for the making of an event only: two threads of one job must wait for the same one."""


class JobContext:
    """One attempt of a job, as its handler sees it. A handler gets it by a parameter annotated `JobContext`, or named
    `context`.

    `pipeline` is the name that was asked for, which matters where the handler serves a glob; `attempt` counts from 1;
    `deadline` is a time of `time.monotonic()` in seconds, or None. All of it may be used from any thread.
    """

    __slots__ = ("_cancelled", "_cookie", "_event", "_seen", "_uuid", "attempt", "deadline", "pipeline")

    def __init__(self, cookie: bytes, pipeline: str, attempt: int = 1, deadline: float | None = None) -> None:
        self.pipeline = pipeline
        self.attempt = attempt
        self.deadline = deadline
        self._cookie = cookie
        self._uuid: UUID | None = None
        self._cancelled = False
        self._seen = False
        self._event: threading.Event | None = None

    def __repr__(self) -> str:
        return f"<JobContext {self.pipeline!r} {self.cookie} attempt {self.attempt}>"

    @property
    def cookie(self) -> UUID:
        """The job's name on the wire; the same for every attempt, so it serves as an idempotency key."""
        uuid = self._uuid
        if uuid is None:
            uuid = self._uuid = UUID(bytes=self._cookie)
        return uuid

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline, 0 once it has passed; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether the job is to stop: it was cancelled, its deadline passed, its worker is being stopped, or its broker is
        gone.

        A plain function that has seen this and returns None is reported as cancelled; one that returns a value is reported with
        it.
        """
        if self._cancelled:
            self._seen = True
        return self._cancelled

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Block this thread until the job is to stop, for at most `timeout` seconds. Returns `cancelled`. Not for `async
        def`."""
        with _event_lock:
            event = self._event
            if event is None:
                event = self._event = threading.Event()
        if not self._cancelled:
            event.wait(timeout)
        return self.cancelled

    def raise_if_cancelled(self) -> None:
        """Raises JobCancelled if the job is to stop: for a plain function to call where stopping is easy."""
        if self.cancelled:
            raise JobCancelled("cancelled")


def cancel(context: JobContext) -> None:
    """Set `cancelled`, and wake who waits for it."""
    context._cancelled = True
    # In this order: whoever makes an event after this line looks at the flag before waiting.
    event = context._event
    if event is not None:
        event.set()


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
