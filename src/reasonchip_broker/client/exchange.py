"""The jobs and requests of one client, over whatever connection there is at the moment.

`Link` says when a connection is up, how it flows and what it received; this decides what is sent on it, and what becomes of
each job.

- A job that can't be sent is *held*, first in first out: while there is no connection (for the connect timeout, then it fails
  with ConnectError), while the connection has more than it takes, and while the broker has as many of our jobs as it takes from
  one connection.
- A job that was sent belongs to that connection. When the connection ends, nobody can say what becomes of it, and it fails at
  once with BrokerWentAway, may have run. (Attaching to it again over the next connection is one decision, in `_interrupted`.)

All of it happens in the loop's thread, without a lock and without a task.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from reasonchip_broker.client.job import Answer, Job, JobState
from reasonchip_broker.errors import (
    FAILURES_BY_CODE,
    REFUSALS_BY_CODE,
    BrokerWentAway,
    ConnectError,
    ConnectionLost,
    CookieCollision,
    DeadlineExceeded,
    JobCancelled,
    ReasonChipError,
    RemoteProtocolError,
    RequestRefused,
    TooLarge,
)
from reasonchip_broker.peer.payloads import check_size
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import NUMBER_MAX, code_of, meta_of, number_of
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType
from reasonchip_broker.protocol.frames import LENGTH_MIN, Frame

if TYPE_CHECKING:
    from reasonchip_broker.transports.connection import Connection

METAS_MAX = 1024
METAS_BYTES_MAX = 256
"""Metas of RESULTs and REPLYs that are kept decoded: the broker and its workers say the same few over and over."""

BURST_BYTES = 256 * 1024
"""After this much has been sent, the connection gets to say whether it takes more."""

_RESULT = PacketType.RESULT
_REPLY = PacketType.REPLY

Refusal: TypeAlias = Callable[[], ReasonChipError]
"""Makes the exception of whoever asks for something now: one for each, since an exception collects the stacks that it was raised in."""


def _not_connected() -> ReasonChipError:
    return ConnectError("the client is not connected: use it as `async with Client(...)`, or await connect() first")


class Exchange:
    """What a client has under way. `url` is for messages; `connect_timeout_s` is how long a job waits for a connection."""

    def __init__(self, url: str, connect_timeout_s: float) -> None:
        self.loop: asyncio.AbstractEventLoop
        """Whose thread this belongs to, once it was started."""
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._refusal: Refusal | None = _not_connected
        self._connection: Connection | None = None
        self._flowing = False
        self._frame_bytes_max = 0
        self._body_bytes_max = 0
        self._burst_bytes = 0
        self._window = 0
        self._jobs: dict[bytes, Job] = {}
        self._held: deque[Job] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        self._requests: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._results: dict[bytes, schemas.ResultMeta] = {}
        self._replies: dict[bytes, schemas.ReplyMeta] = {}
        self._last_error: ReasonChipError | None = None

    # What the link says

    def started(self, loop: asyncio.AbstractEventLoop) -> None:
        """A connection is going to be made: from now on jobs are taken."""
        self.loop = loop
        self._refusal = None

    def up(self, connection: "Connection", welcome: schemas.WelcomeMeta) -> None:
        """The broker took this connection, with these limits."""
        self._connection = connection
        self._frame_bytes_max = welcome.frame
        self._body_bytes_max = welcome.frame - LENGTH_MIN
        self._window = max(1, welcome.jobs)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self.flow(True)

    def flow(self, flowing: bool) -> None:
        """The connection takes more, or has enough for now."""
        self._flowing = flowing and self._connection is not None
        self._send_held()

    def down(self, error: ReasonChipError) -> None:
        """There is no connection, and why. Another attempt will be made."""
        self._connection = None
        self._flowing = False
        self._last_error = error
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            self._interrupted(job, error)
        requests, self._requests = self._requests, {}
        for request in requests.values():
            if not request.done():
                request.set_exception(ConnectionLost(f"the connection ended before the broker answered: {error}"))
        if self._expiry is None:
            self._date_held()

    def ended(self, error: ReasonChipError, refusal: Refusal) -> None:
        """There will be no other connection: what is under way fails, and nothing more is taken."""
        self.down(error)
        self._refusal = refusal
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        while self._held:
            job = self._held.popleft()
            if job.state is JobState.HELD:
                job._finish(None, self._never_sent(error))

    def received(self, frames: list[Frame]) -> None:
        """What the broker says to a client. Raises RemoteProtocolError for what can't be understood."""
        jobs, results = self._jobs, self._results
        for each in frames:
            kind, cookie, frame = each[0], each[1], each[2]
            if kind == _RESULT:
                raw = meta_of(frame)
                meta = results.get(raw) or self._learn_result(raw)
                job = jobs.pop(cookie, None)
                if job is not None:
                    job._finish((frame, meta))
            elif kind == _REPLY:
                self._reply(cookie, frame)
            else:
                self._oversized(cookie, frame)
        if self._held:
            self._send_held()

    # What the application says

    def check_open(self) -> None:
        """Raise ConnectError, or ConnectionLost, if nothing is taken: not connected yet, given up, or closed."""
        if self._refusal is not None:
            raise self._refusal()

    def post(self, job: Job, timeout: float | None, deadline_s: float | None) -> None:
        """Take a new job: send it, or hold it until that is possible."""
        if self._refusal is not None:
            job._finish(None, self._refusal())
            return
        if timeout is not None:
            self._time(job, timeout, self._overdue, timeout)
        if deadline_s is not None:
            job._deadline_at = self.loop.time() + deadline_s
        if self._flowing and not self._held and len(self._jobs) < self._window:
            self._send(job)
        else:
            self._hold(job)

    def abandon(self, job: Job, error: BaseException) -> None:
        """A job's outcome is wanted no more: it gets `error` for one, and the broker is told to cancel it. A detached one is let go."""
        if job.state is JobState.OVER:
            return
        if self._jobs.get(job._cookie) is job:
            del self._jobs[job._cookie]
            if self._connection is not None and not job._detach:
                self._connection.send(packets.cancel(job._cookie, why=str(error)))
        job._finish(None, error)

    async def cancel_job(self, job: Job, at_once: bool, why: str) -> Answer:
        """Cancel a job of this client; its outcome, unless it was never sent, comes as a RESULT. Raises ConnectionLost."""
        if job.state is JobState.OVER and not (job._detach and job._error is None):
            return Answer(Code.COOKIE_NOT_FOUND, "the job is over")
        if job.state is JobState.HELD:
            job._finish(None, JobCancelled("cancelled before it was sent" + (f": {why}" if why else ""), may_have_run=False))
            return Answer(Code.OK, "the job was cancelled before it was sent")
        return await self.cancel(job._cookie, at_once, why)

    async def cancel(self, cookie: bytes, at_once: bool, why: str) -> Answer:
        """Send a CANCEL and wait for the answer. Raises ConnectError without a connection, ConnectionLost if it ends meanwhile."""
        self.check_open()
        if self._connection is None:
            raise ConnectError(f"there is no connection to {self._url}: {self._last_error}")
        number = self._number = self._number % NUMBER_MAX + 1
        request = self._requests[number] = self.loop.create_future()
        self._connection.send(packets.cancel(cookie, at_once=at_once, why=why, number=number))
        try:
            answer: Answer = await request
            return answer
        finally:
            self._requests.pop(number, None)

    # Sending

    def _send(self, job: Job) -> None:
        connection, cookie, meta, payload = self._connection, job._cookie, job._meta, job._payload
        left_ms = 0
        if job._deadline_at or cookie in self._jobs or len(meta) + len(payload) > self._body_bytes_max:
            left_ms = min(NUMBER_MAX, math.ceil((job._deadline_at - self.loop.time()) * 1000)) if job._deadline_at else 0
            error = self._objection(job, left_ms)
            if error is not None:
                job._finish(None, error)
                return
        if connection is not None:
            self._jobs[cookie] = job
            job.state = JobState.SENT
            job._payload = b""
            frame = packets.run(cookie, meta, payload, left_ms)
            connection.send(frame)
            self._burst_bytes += len(frame)
            if self._burst_bytes > BURST_BYTES:
                # What is sent in one turn of the loop is written at its end; only then is it known whether it was too much.
                self._burst_bytes = 0
                connection.flush()

    def _objection(self, job: Job, left_ms: int) -> ReasonChipError | None:
        """Why a job can't be sent, if it can't."""
        if job._deadline_at and left_ms <= 0:
            return DeadlineExceeded("the deadline passed before the job was sent", may_have_run=False)
        if job._cookie in self._jobs:
            return CookieCollision(f"a job of this client has the cookie {job.cookie} already")
        try:
            check_size(len(job._meta), len(job._payload), self._frame_bytes_max)
        except TooLarge as error:
            return error
        return None

    def _send_held(self) -> None:
        held = self._held
        while held and self._flowing and len(self._jobs) < self._window:
            job = held.popleft()
            if job.state is JobState.HELD:
                self._send(job)

    def _hold(self, job: Job) -> None:
        self._held.append(job)
        if job._deadline_at:
            self._time(job, job._deadline_at - self.loop.time(), self._overdue_held, 0.0)
        if self._connection is None:
            job._held_until = self.loop.time() + self._connect_timeout_s
            if self._expiry is None:
                self._expiry = self.loop.call_at(job._held_until, self._expire)

    def _date_held(self) -> None:
        """Held jobs wait for the next connection for as long as one that is submitted now."""
        until = self.loop.time() + self._connect_timeout_s
        for job in self._held:
            job._held_until = until
        if self._held:
            self._expiry = self.loop.call_at(until, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        held, now = self._held, self.loop.time()
        while held and (held[0].state is not JobState.HELD or held[0]._held_until <= now):
            job = held.popleft()
            if job.state is JobState.HELD:
                job._finish(None, self._never_sent(self._last_error))
        if held:
            self._expiry = self.loop.call_at(held[0]._held_until, self._expire)

    def _never_sent(self, why: ReasonChipError | None) -> ConnectError:
        error = ConnectError(f"the job was not sent; there is no connection to {self._url}: {why or 'no answer yet'}")
        error.__cause__ = why
        return error

    # Endings

    def _time(self, job: Job, seconds: float, callback: Callable[[Job, float], None], argument: float) -> None:
        timer = self.loop.call_later(seconds, callback, job, argument)
        if job._timers is None:
            job._timers = [timer]
        else:
            job._timers.append(timer)

    def _overdue(self, job: Job, timeout: float) -> None:
        self.abandon(job, TimeoutError(f"the job was not over within {timeout:g} s, and was cancelled"))

    def _overdue_held(self, job: Job, _: float) -> None:
        if job.state is JobState.HELD:
            job._finish(None, DeadlineExceeded("the deadline passed before the job was sent", may_have_run=False))

    def _interrupted(self, job: Job, why: ReasonChipError) -> None:
        """The connection that a job was sent on has ended. Whoever learns to attach to it over the next one begins here."""
        error = BrokerWentAway(f"the connection to {self._url} ended while the job was under way: {why}", may_have_run=True)
        error.__cause__ = why
        job._finish(None, error)

    def _reply(self, cookie: bytes, frame: bytes) -> None:
        raw, code = meta_of(frame), code_of(frame)
        meta = self._replies.get(raw) or self._learn_reply(raw)
        if meta.to != PacketType.RUN:
            request = self._requests.get(number_of(frame))
            if request is not None and not request.done():
                request.set_result(Answer(_code(code), meta.msg))
            return
        job = self._jobs.get(cookie)
        if job is None:
            return
        if code >= Code.QUEUED:
            if code == Code.QUEUED:
                job.state = JobState.QUEUED
            if job._detach:
                del self._jobs[cookie]
                job._finish(None)
            return
        del self._jobs[cookie]
        job._finish(None, _refused(code, meta))

    def _oversized(self, cookie: bytes, frame: bytes) -> None:
        job = self._jobs.pop(cookie, None)
        if job is not None:
            sentence = f"the RESULT of {int.from_bytes(frame[:4], 'big')} bytes is over this client's own frame limit"
            job._finish(None, TooLarge(sentence))

    def _learn_result(self, raw: bytes) -> schemas.ResultMeta:
        try:
            meta = schemas.result_meta(raw)
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            raise RemoteProtocolError(f"RESULT: {error}", CloseReason.PROTOCOL_ERROR) from error
        if len(raw) <= METAS_BYTES_MAX:
            if len(self._results) >= METAS_MAX:
                self._results.clear()
            self._results[raw] = meta
        return meta

    def _learn_reply(self, raw: bytes) -> schemas.ReplyMeta:
        try:
            meta = schemas.reply_meta(raw)
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            raise RemoteProtocolError(f"REPLY: {error}", CloseReason.PROTOCOL_ERROR) from error
        if len(raw) <= METAS_BYTES_MAX:
            if len(self._replies) >= METAS_MAX:
                self._replies.clear()
            self._replies[raw] = meta
        return meta


def _code(code: int) -> Code:
    try:
        return Code(code)
    except ValueError:
        raise RemoteProtocolError(f"REPLY: {code} is no answer", CloseReason.PROTOCOL_ERROR) from None


def _refused(code: int, meta: schemas.ReplyMeta) -> ReasonChipError:
    """The exception of a RUN that was refused. A job that is refused for its size is TooLarge, as one that ends for it."""
    if code in FAILURES_BY_CODE:
        return FAILURES_BY_CODE[code](meta.msg, may_have_run=False)
    return REFUSALS_BY_CODE.get(code, RequestRefused)(meta.msg, retry_after_s=meta.retry / 1000 if meta.retry else None)
