"""The exceptions of the project. Whose fault it was is in the first level of the tree:

    ReasonChipError
    ├── RemoteProtocolError        a peer sent what the protocol forbids: it gets a code and a sentence
    ├── InternalError              we broke a rule of our own: a bug, never a peer's doing
    ├── TransportError             the network, or the address that was given for it
    │   ├── EndpointError          a URL that names no endpoint
    │   ├── ListenError            a listener that can't be bound
    │   └── ConnectError           a broker that can't be reached
    ├── ConnectionLost             the connection to the broker ended, and why
    ├── RequestRefused             the broker refused a request: no job exists, the cookie is free
    │   ├── BadPacket              NoCapacity, Overloaded, Draining, NotServed, NotAllowed, CookieNotFound, CookieCollision,
    │   └── …                      UnsupportedPacketType, OutcomeGone, WorkerNotFound: one for each refusal code
    └── JobFailed                  a job ended otherwise than OK: it has an outcome, and says whether it may have run
        ├── PipelineFailed         the pipeline itself failed (PROCESSOR_EXCEPTION)
        └── …                      JobException, JobCancelled, DeadlineExceeded, QueueTimeout, WorkerWentAway,
                                   BrokerWentAway, DeadLettered, TooLarge: one for each outcome code

The codes themselves, as numbers, are in `protocol.codes`; this module imports nothing, so each class names its code.
"""

from typing import ClassVar, NamedTuple


class ReasonChipError(Exception):
    """Whatever this package raises on purpose."""


class InternalError(ReasonChipError):
    """A rule of our own was broken: a bug of ours."""


class RemoteProtocolError(ReasonChipError):
    """A peer sent what the protocol forbids. `reason` is the number of the `CloseReason` that it is told."""

    def __init__(self, message: str, reason: int = 129) -> None:
        super().__init__(message)
        self.reason = reason


class TransportError(ReasonChipError):
    """The network said no, or was asked for what it can't do."""


class EndpointError(TransportError):
    """A URL that names no endpoint: `str()` of it is one line that says what is wrong and what would be right."""


class ListenError(TransportError):
    """A listener could not be bound."""


class ConnectError(TransportError):
    """No connection could be made, or the other end is no broker."""


class ConnectionLost(ReasonChipError):
    """The connection to the broker ended. `reason` is the number of a `CloseReason`."""

    def __init__(self, message: str, reason: int = 193) -> None:
        super().__init__(message)
        self.reason = reason


class RequestRefused(ReasonChipError):
    """The broker refused: there is no job, and the same cookie may be used again. `retry_after_s` is its hint, or None."""

    code: ClassVar[int] = 32

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadPacket(RequestRefused):
    """The request made no sense."""

    code = 32


class UnsupportedPacketType(RequestRefused):
    """The broker does not know, or does not take from this role, what was sent."""

    code = 33


class NoCapacity(RequestRefused):
    """No slot is free, and the job was not to wait for one."""

    code = 34


class CookieNotFound(RequestRefused):
    """There is no such job, or it is somebody else's."""

    code = 35


class CookieCollision(RequestRefused):
    """The cookie belongs to another job."""

    code = 36


class Overloaded(RequestRefused):
    """A limit of the broker is reached; try again later."""

    code = 37


class NotAllowed(RequestRefused):
    """This principal may not do that."""

    code = 38


class Draining(RequestRefused):
    """The broker is stopping and takes no more jobs."""

    code = 39


class NotServed(RequestRefused):
    """No connected worker serves this pipeline, and the job was not to wait for one."""

    code = 40


class OutcomeGone(RequestRefused):
    """The job is over, and its outcome is no longer kept: it was received by its client, or its retention has ended.

    `outcome` is the number of the code that it ended with, or None if that is not known any more either.
    """

    code = 41

    def __init__(self, message: str, *, retry_after_s: float | None = None, outcome: int | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.outcome = outcome


class WorkerNotFound(RequestRefused):
    """No connected worker has this name."""

    code = 42


class PastAttempt(NamedTuple):
    """What became of one attempt of a job: its number, the worker's name, how it ended, and after how many seconds."""

    attempt: int
    worker: str
    end: str
    ran_s: float


class JobFailed(ReasonChipError):
    """A job ended otherwise than OK.

    `error_type` is the name of the exception on the worker, "" where there was none; `stack` its stack trace, line by line;
    `may_have_run` is False only where it is certain that no worker began the job; `history` is what became of each attempt, of a
    job that might have several.
    """

    code: ClassVar[int] = 2

    def __init__(
        self,
        message: str,
        *,
        error_type: str = "",
        stack: tuple[str, ...] = (),
        may_have_run: bool = True,
        history: tuple[PastAttempt, ...] = (),
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.stack = stack
        self.may_have_run = may_have_run
        self.history = history

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        head = f"{self.error_type}: {message}" if self.error_type and message else self.error_type or message
        return "\n".join((head, "remote stack trace:", *self.stack)) if self.stack else head


class PipelineFailed(JobFailed):
    """The pipeline failed by itself (PROCESSOR_EXCEPTION)."""

    code = 1


class JobException(JobFailed):
    """The handler raised (EXCEPTION)."""

    code = 2


class JobCancelled(JobFailed):
    """The job was cancelled."""

    code = 3


class DeadlineExceeded(JobFailed):
    """The job's deadline passed before it was done."""

    code = 4


class QueueTimeout(JobFailed):
    """The job waited for a slot for longer than it was to."""

    code = 5


class WorkerWentAway(JobFailed):
    """The worker that ran the job is gone."""

    code = 6


class BrokerWentAway(JobFailed):
    """The broker, or the connection to it, is gone; nobody can say what became of the job beyond `may_have_run`."""

    code = 7


class DeadLettered(JobFailed):
    """Each attempt cost a worker its life; `history` tells which, and when."""

    code = 8


class TooLarge(JobFailed):
    """A frame of the job was over the frame limit."""

    code = 9


REFUSALS_BY_CODE: dict[int, type[RequestRefused]] = {
    refusal.code: refusal
    for refusal in (
        BadPacket,
        UnsupportedPacketType,
        NoCapacity,
        CookieNotFound,
        CookieCollision,
        Overloaded,
        NotAllowed,
        Draining,
        NotServed,
        OutcomeGone,
        WorkerNotFound,
    )
}

FAILURES_BY_CODE: dict[int, type[JobFailed]] = {
    failure.code: failure
    for failure in (
        PipelineFailed,
        JobException,
        JobCancelled,
        DeadlineExceeded,
        QueueTimeout,
        WorkerWentAway,
        BrokerWentAway,
        DeadLettered,
        TooLarge,
    )
}
