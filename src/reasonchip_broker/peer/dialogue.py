"""What is said about jobs on one connection to a broker: RUN, ATTACH, CREDIT, INPUT, and what comes back.

`Exchange` decides which jobs are sent when; here they are sent, and what the broker says of them gets to them. Requests have numbers,
so that a REPLY finds who asked; what it says of a RUN or an INPUT finds its job by the cookie.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from reasonchip_broker.errors import (
    FAILURES_BY_CODE,
    REFUSALS_BY_CODE,
    OutcomeGone,
    ReasonChipError,
    RemoteProtocolError,
    RequestRefused,
    TooLarge,
)
from reasonchip_broker.peer.job import Job, JobState
from reasonchip_broker.peer.metas import Metas
from reasonchip_broker.peer.outflow import Outflow
from reasonchip_broker.peer.receipts import Receipts
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import NUMBER_MAX, code_of, meta_of, number_of
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType
from reasonchip_broker.protocol.codes import JobState as Place
from reasonchip_broker.protocol.frames import OVERSIZED, Frame

INPUT_RETRY_S = 0.1
"""After what time an input is sent again that the broker had no room for, unless it says."""

BURST_BYTES = 256 * 1024
"""After this much has been sent, the connection gets to say whether it takes more."""

TYPE_AT = 4
"""Where a frame has its type."""

_SENT = JobState.SENT
_RESULT = int(PacketType.RESULT)
_REPLY = int(PacketType.REPLY)
_PROGRESS = int(PacketType.PROGRESS)
"""Those of the enums that every job meets with, since looking one up in its enum costs as much as ten steps of ordinary code."""
_OURS = frozenset({PacketType.RUN, PacketType.CANCEL, PacketType.STATUS, PacketType.ATTACH, PacketType.INPUT})
"""Requests that REPLYs to an exchange answer."""


class Asked(Enum):
    """What an ATTACH is for."""

    FETCH = "fetch"
    """A job that somebody else sent, for the first time."""
    FOLLOW = "follow"
    """The progress of a job that is on this connection already."""
    FIND = "find"
    """A job that is adrift. If the broker does not know it, nobody knows what became of it."""
    FIND_OR_RUN = "find or run"
    """The same, but if the broker does not know it, it is sent again."""


class Wire(Protocol):
    """As much of a connection as an exchange needs, whoever owns it. `transports.connection.Connection` is one."""

    def send(self, frame: bytes) -> None:
        """Queue a frame."""

    def flush(self) -> None:
        """Write what is queued, as far as it goes."""


class Dialogue(ABC):
    """Jobs and requests on the present connection, if there is one."""

    def __init__(self, url: str) -> None:
        self.loop: asyncio.AbstractEventLoop
        """Whose thread this belongs to, once it was started."""
        self._url = url
        self._connection: Wire | None = None
        self._flowing = False
        self._welcome: schemas.WelcomeMeta
        self._instance = b""
        self._body_bytes_max = 0
        self._burst_bytes = 0
        self._receipts: Receipts | None = None
        self._jobs: dict[bytes, Job] = {}
        self._talkers: dict[Job, None] = {}
        """Jobs with input: those that may have some to send."""
        self._requests: dict[tuple[int, int], asyncio.Future[tuple[Code, schemas.ReplyMeta]]] = {}
        """By the type and the number of the request."""
        self._attaches: dict[int, tuple[Job, Asked]] = {}
        self._number = 0
        self._results = Metas("RESULT", schemas.result_meta)
        self._replies = Metas("REPLY", schemas.reply_meta)
        self._chunks = Metas("PROGRESS", schemas.chunk_meta)

    # For Exchange to say

    @abstractmethod
    def _objection(self, job: Job, left_ms: int) -> ReasonChipError | None:
        """Why a job can't be sent, if it can't."""

    @abstractmethod
    def _meta_again(self, job: Job) -> bytes:
        """The meta of a RUN that is sent again."""

    @abstractmethod
    def _meta_delayed(self, job: Job, meta: bytes) -> bytes:
        """The meta of a RUN that is not to run yet, with the time that is left until then."""

    @abstractmethod
    def _unknown(self) -> ReasonChipError:
        """The error of a job of which nobody can say what became of it."""

    def takes(self, frame: Frame) -> bool:
        """Whether a frame is about what this exchange has under way. A worker's connection carries its own jobs' frames too."""
        kind = frame[0] & ~OVERSIZED
        if kind == _REPLY:
            return self._replies.of(meta_of(frame[2])).to in _OURS
        return kind in (_RESULT, _PROGRESS) or frame[1] in self._jobs

    def _hear(self, frames: list[Frame]) -> None:
        """Take what the broker says. Raises RemoteProtocolError for what can't be understood."""
        jobs, results, count, size = self._jobs, self._results.known, 0, 0
        for each in frames:
            kind, cookie, frame = each[0], each[1], each[2]
            if kind == _RESULT:
                raw = meta_of(frame)
                meta = results.get(raw) or self._results.learn(raw)
                count += 1
                size += len(frame)
                job = jobs.pop(cookie, None)
                if job is None:
                    continue
                if job._stream is not None and job._stream.attaching:
                    # It was sent before the broker knew that its chunks are wanted; it comes again after them.
                    job._stream.early = frame, meta
                    jobs[cookie] = job
                else:
                    if job._inputs is not None:
                        self._talkers.pop(job, None)
                    job._finish((frame, meta))
            elif kind == _REPLY:
                self._reply(cookie, frame)
            elif kind == _RESULT + OVERSIZED:
                count += 1
                self._oversized(cookie, frame)
            else:
                self._flowed(each)
        if count and self._receipts is not None:
            self._receipts.received(count, size)

    def acknowledge(self) -> None:
        """Tell the broker now which RESULTs have arrived: the connection is about to be closed, or something is asked of the broker,
        whose answer should not depend on how long ago that was."""
        if self._receipts is not None:
            self._receipts.acknowledge()

    # Requests

    async def _request(self, build: Callable[[int], bytes]) -> tuple[Code, schemas.ReplyMeta]:
        """Send a request under a number, and wait for what is replied. Raises ConnectError without a connection,
        ConnectionLost if it ends meanwhile."""
        connection = self._present()
        number = self._next_number()
        frame = build(number)
        key = frame[TYPE_AT], number
        request = self._requests[key] = self.loop.create_future()
        self.acknowledge()
        connection.send(frame)
        try:
            answer: tuple[Code, schemas.ReplyMeta] = await request
            return answer
        finally:
            self._requests.pop(key, None)

    @abstractmethod
    def _present(self) -> Wire:
        """The connection. Raises ConnectError if there is none."""

    def _next_number(self) -> int:
        self._number = self._number % NUMBER_MAX + 1
        return self._number

    # Jobs

    def _send(self, job: Job) -> None:
        connection, cookie, meta, payload = self._connection, job._cookie, job._meta, job._payload
        left_ms = 0
        if job._deadline_at or cookie in self._jobs or len(meta) + len(payload) > self._body_bytes_max:
            left_ms = min(NUMBER_MAX, math.ceil((job._deadline_at - self.loop.time()) * 1000)) if job._deadline_at else 0
            error = self._objection(job, left_ms)
            if error is not None:
                job._finish(None, error)
                return
        if connection is None:
            return
        self._jobs[cookie] = job
        job.state = _SENT
        if job._at or not meta:
            self._resume(job, left_ms)
            return
        job._at = self._instance
        frame = packets.run(cookie, self._meta_delayed(job, meta) if job._due_at else meta, payload, left_ms)
        connection.send(frame)
        self._burst_bytes += len(frame)
        if self._burst_bytes > BURST_BYTES:
            self._flush(connection)
        if job._stream is not None or job._inputs is not None:
            self._accompany(job)

    @abstractmethod
    def _comes_again(self, job: Job, meta: schemas.ReplyMeta) -> bool:
        """The broker has no room for a job. Returns whether it is sent again later."""

    def _flush(self, connection: Wire) -> None:
        """What is sent in one turn of the loop is written at its end; only then is it known whether it was too much."""
        self._burst_bytes = 0
        connection.flush()

    def _resume(self, job: Job, left_ms: int) -> None:
        """Ask after a job that was sent on another connection, or by somebody else."""
        if not job._at:
            self._attach(job, Asked.FETCH)
        elif not job._meta or self.loop.time() > job._forgotten_at or (job._deadline_at and left_ms <= 0):
            self._attach(job, Asked.FIND)
        elif job._stream is not None or job._inputs is not None:
            self._attach(job, Asked.FIND_OR_RUN)
        else:
            self._run_again(job)

    def _run_again(self, job: Job) -> None:
        left_ms = 0
        if job._deadline_at:
            left_ms = max(1, min(NUMBER_MAX, math.ceil((job._deadline_at - self.loop.time()) * 1000)))
        frame = packets.run(job._cookie, self._meta_again(job), job._payload, left_ms)
        if self._connection is not None:
            self._connection.send(frame)
            self._burst_bytes += len(frame)
            if self._burst_bytes > BURST_BYTES:
                self._flush(self._connection)
        self._accompany(job)

    def _accompany(self, job: Job) -> None:
        """What else there is to say about a job whose RUN was sent."""
        if job._stream is not None:
            if job._stream.by_run:
                job._stream.opened(self._welcome.credit)
            else:
                self._attach(job, Asked.FOLLOW)
        if job._inputs is not None:
            job._inputs.opened(self._welcome.credit, self._welcome.window)
            self._pump(job)

    def _attach(self, job: Job, asked: Asked) -> None:
        number, stream, first = self._next_number(), job._stream, 0
        self._attaches[number] = job, asked
        if stream is not None:
            stream.opened(self._welcome.credit)
            stream.attaching = True
            first = stream.last + 1
        self.acknowledge()
        self.put(packets.attach(job._cookie, first=first, take=job._take, number=number))

    def put(self, frame: bytes) -> None:
        """Send a frame, if there is a connection."""
        if self._connection is not None:
            self._connection.send(frame)

    def _credit(self, cookie: bytes, chunks: int) -> None:
        if cookie in self._jobs:
            self.put(packets.credit(cookie, 0, chunks))

    def talk(self, job: Job) -> Outflow:
        """Make a job one that has input."""
        inputs = job._inputs = Outflow(job._cookie, self.put)
        return inputs

    def _pump(self, job: Job) -> None:
        """Send a job's input, as far as that may be."""
        if job._inputs is not None and self._flowing:
            job._inputs.pump()

    def _end(self, job: Job, outcome: tuple[bytes, schemas.ResultMeta] | None, error: BaseException | None = None) -> None:
        self._jobs.pop(job._cookie, None)
        self._talkers.pop(job, None)
        job._finish(outcome, error)

    # What the broker says of them

    def _flowed(self, frame: Frame) -> None:
        """PROGRESS or CREDIT of a job."""
        kind, cookie = frame[0], frame[1]
        job = self._jobs.get(cookie)
        if kind == PacketType.CREDIT:
            if job is not None and job._inputs is not None:
                job._inputs.credited(frame[5])
                self._pump(job)
        elif kind & ~OVERSIZED == PacketType.PROGRESS:
            if job is None or job._stream is None:
                # Nobody wants it any more, which is no reason to hold the handler up.
                self.put(packets.credit(cookie, 0, 1))
            elif kind != PacketType.PROGRESS:
                job._stream.lost(frame[5], frame[4])
            else:
                if job.state in _WAITS:
                    job.state = JobState.SENT
                job._stream.received(frame[2], self._chunks.of(meta_of(frame[2])))

    def _reply(self, cookie: bytes, frame: bytes) -> None:
        meta, code, number = self._replies.of(meta_of(frame)), code_of(frame), number_of(frame)
        if meta.to == PacketType.RUN:
            job = self._jobs.get(cookie)
            if job is not None:
                self._answer_run(job, code, meta)
        elif meta.to == PacketType.ATTACH:
            asked = self._attaches.pop(number, None)
            if asked is not None:
                self._answer_attach(*asked, code, meta)
        elif meta.to == PacketType.INPUT:
            self._answer_input(cookie, number, code, meta)
        else:
            job = self._jobs.get(cookie)
            if job is not None and meta.to == PacketType.CANCEL and code == Code.CANCELLING:
                job.state = JobState.CANCELLING
            request = self._requests.get((meta.to, number))
            if request is not None and not request.done():
                request.set_result((_code(code), meta))

    def _answer_run(self, job: Job, code: int, meta: schemas.ReplyMeta) -> None:
        if code < Code.QUEUED:
            if code != Code.OVERLOADED or not self._comes_again(job, meta):
                self._end(job, None, refused(code, meta))
            return
        job._forgotten_at = 0.0
        if code == Code.QUEUED:
            job.state = JobState.QUEUED
        elif code == Code.SCHEDULED:
            job.state = JobState.SCHEDULED
        elif meta.job is not None and meta.job.state == Place.CANCELLING:
            job.state = JobState.CANCELLING
        if job._detach:
            self._end(job, None)

    def _answer_attach(self, job: Job, asked: Asked, code: int, meta: schemas.ReplyMeta) -> None:
        stream = job._stream
        if stream is not None:
            stream.attaching = False
        if self._jobs.get(job._cookie) is not job:
            return
        if code == Code.OK:
            job._at = self._instance
            job._forgotten_at = 0.0
            if meta.job is not None:
                job.state = _STATES.get(meta.job.state, JobState.SENT)
                if asked is not Asked.FOLLOW and job._inputs is not None:
                    job._inputs.opened(self._welcome.credit, self._welcome.window, meta.job.inp)
                    self._pump(job)
        elif stream is not None and stream.early is not None:
            self._end(job, stream.early)
        elif asked is Asked.FOLLOW:
            if stream is not None:
                stream.error = refused(code, meta)
                stream.ring()
        elif asked is Asked.FIND_OR_RUN and code == Code.COOKIE_NOT_FOUND:
            self._run_again(job)
        elif asked is not Asked.FETCH and code == Code.COOKIE_NOT_FOUND:
            self._end(job, None, self._unknown())
        else:
            self._end(job, None, refused(code, meta))

    def _answer_input(self, cookie: bytes, number: int, code: int, meta: schemas.ReplyMeta) -> None:
        job = self._jobs.get(cookie)
        if job is None or job._inputs is None or code == Code.OK or code >= Code.QUEUED:
            return
        if job._inputs.refused(code, number, meta):
            retry_s = meta.retry / 1000 if meta.retry else INPUT_RETRY_S
            self.loop.call_later(retry_s, self._retry_input, job, self._connection)

    def _retry_input(self, job: Job, connection: Wire | None) -> None:
        if connection is not None and connection is self._connection and job._inputs is not None:
            job._inputs.reopen()
            self._pump(job)

    def _oversized(self, cookie: bytes, frame: bytes) -> None:
        job = self._jobs.get(cookie)
        if job is not None:
            sentence = f"the RESULT of {int.from_bytes(frame[:4], 'big')} bytes is over this client's own frame limit"
            self._end(job, None, TooLarge(sentence))


_STATES: dict[str, JobState] = {
    Place.SCHEDULED: JobState.SCHEDULED,
    Place.QUEUED: JobState.QUEUED,
    Place.CANCELLING: JobState.CANCELLING,
}
_WAITS = frozenset({JobState.SCHEDULED, JobState.QUEUED})


def _code(code: int) -> Code:
    try:
        return Code(code)
    except ValueError:
        raise RemoteProtocolError(f"REPLY: {code} is no answer", CloseReason.PROTOCOL_ERROR) from None


def refused(code: int, meta: schemas.ReplyMeta) -> ReasonChipError:
    """The exception of a request that was refused. A job that is refused for its size is TooLarge, as one that ends for it."""
    if code in FAILURES_BY_CODE:
        return FAILURES_BY_CODE[code](meta.msg, may_have_run=False)
    retry_after_s = meta.retry / 1000 if meta.retry else None
    if code == Code.OUTCOME_GONE:
        return OutcomeGone(meta.msg, retry_after_s=retry_after_s, outcome=meta.job.out if meta.job is not None else None)
    return REFUSALS_BY_CODE.get(code, RequestRefused)(meta.msg, retry_after_s=retry_after_s)
