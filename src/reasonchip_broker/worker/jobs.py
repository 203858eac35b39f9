"""One job that this worker holds, and the calling of its handler."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol.codes import ENCODING_JSON
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker import outcomes
from reasonchip_broker.worker.binding import InvalidVariables
from reasonchip_broker.worker.channel import Channel, Slot, Terms
from reasonchip_broker.worker.context import JobContext
from reasonchip_broker.worker.kindred import Kin
from reasonchip_broker.worker.pipelines import Pipeline

_HELD = Slot.HELD


class Job:
    """A RUN that was taken.

    It is *claimed* once, by whoever is to run it or by whoever cancels it before that; so a cancelled job that has not begun
    never does. `frame_bytes_max` is the limit for its RESULT. `channel` is where its handler speaks; with `terms` one is made when it
    does, with neither that is in another process.
    """

    __slots__ = (
        "_unclaimed",
        "allowance",
        "attempt",
        "context",
        "cookie",
        "early",
        "encoding",
        "extended_until",
        "frame_bytes_max",
        "payload",
        "pipeline",
        "silenced",
        "slot",
        "suspended",
        "task",
        "why",
    )

    def __init__(
        self,
        cookie: bytes,
        attempt: int,
        pipeline: Pipeline,
        name: str,
        encoding: str,
        payload: bytes,
        frame_bytes_max: int,
        deadline: float | None = None,
        *,
        attempts: int = 1,
        run_until: float | None = None,
        allowance: tuple[int, int] = (0, 0),
        channel: Channel | None = None,
        terms: Terms | None = None,
        kin: Kin | None = None,
    ) -> None:
        self.cookie = cookie
        self.attempt = attempt
        self.pipeline = pipeline
        self.encoding = encoding
        self.payload = payload
        self.frame_bytes_max = frame_bytes_max
        self.allowance = allowance
        """How many frames and bytes of progress it may send at first."""
        self.context = JobContext(
            cookie,
            name,
            attempt,
            deadline,
            attempts=attempts,
            run_until=run_until,
            channel=channel,
            terms=terms,
            encoding=encoding,
            kin=kin,
        )
        self.task: asyncio.Task[None] | None = None
        self.why = ""
        """Why it is cancelled, for its owner."""
        self.silenced = False
        """Its worker is stopping and took it back: unless it is done after all, the broker is to count it as lost, not as
        cancelled."""
        self.slot = _HELD
        """Its hold on a slot, as the connection's thread knows it."""
        self.suspended = False
        """It runs, and its connection is gone; a session may bring it back."""
        self.extended_until = 0.0
        """How much time it asked for while it was suspended, of `time.monotonic()`."""
        self.early: tuple[Any, ...] = ()
        """What a process is to be told of it as soon as it has the job itself."""
        self._unclaimed = threading.Lock()

    def claim(self) -> bool:
        """Take the job, from any thread. Returns False if somebody has."""
        return self._unclaimed.acquire(False)

    @property
    def claimed(self) -> bool:
        """Whether it has begun, or will never begin."""
        return self._unclaimed.locked()

    @property
    def channel(self) -> Channel | None:
        """Where its handler speaks, made if it is not there yet; None if that is in another process."""
        return contexts.channel_of(self.context)

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """The arguments for the handler; the payload is let go. Raises InvalidVariables."""
        payload, self.payload = self.payload, b""
        try:
            variables = payloads.decode(payload, self.encoding)
        except ValueError as error:
            raise InvalidVariables(f"the variables can't be read: {error}") from error
        return self.pipeline.binding.bind(variables, self.context, from_json=self.encoding == ENCODING_JSON)

    def hush(self) -> None:
        """Its handler has ended: what is left of it (a task, a thread) says nothing after the RESULT."""
        contexts.end(self.context)

    def returned(self, value: Any) -> bytes:
        """The RESULT of a handler that returned."""
        if value is None and contexts.has_seen(self.context):
            # It knew that it was to stop, and has nothing to show: it stopped.
            return self.cancelled("cancelled while it ran")
        return outcomes.returned(self.cookie, self.attempt, value, self.encoding, self.frame_bytes_max)

    def raised(self, error: BaseException) -> bytes:
        """The RESULT of a call that ended with an exception."""
        if contexts.was_told(self.context) and isinstance(error, asyncio.CancelledError | JobCancelled):
            return self.cancelled("cancelled while it ran")
        return outcomes.raised(self.cookie, self.attempt, error, self.frame_bytes_max)

    def cancelled(self, sentence: str, *, may_have_run: bool = True) -> bytes:
        """The RESULT of a job that was cancelled, and why it was."""
        if self.why:
            sentence = f"{sentence}: {self.why}"
        return outcomes.cancelled(self.cookie, self.attempt, sentence, may_have_run=may_have_run)


def perform(job: Job, call: Callable[..., Any] | None = None) -> bytes:
    """Call the handler (or `call`) in this thread and return the RESULT. Raises nothing."""
    contexts.enter(job.context)
    try:
        positional, named = job.arguments()
        value = (call or job.pipeline.handler)(*positional, **named)
    except BaseException as error:
        # SystemExit and KeyboardInterrupt too: whatever a handler does to itself is its own job's outcome.
        job.hush()
        return job.raised(error)
    job.hush()
    return job.returned(value)


async def perform_async(job: Job) -> bytes:
    """Await the handler in this task and return the RESULT. Raises nothing."""
    contexts.enter(job.context)
    try:
        positional, named = job.arguments()
        value = await job.pipeline.handler(*positional, **named)
    except BaseException as error:
        job.hush()
        return job.raised(error)
    job.hush()
    return job.returned(value)
