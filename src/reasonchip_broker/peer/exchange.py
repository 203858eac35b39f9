"""The jobs and requests of one peer that submits jobs, over whatever connection there is at the moment.

Whoever owns the connection (a client's link; a worker's, whose handlers submit children) says when one is up, how it flows and
what it received; this decides what is sent on it, and what becomes of each job.

- A job that can't be sent is *held*, first in first out: while there is no connection (for the connect timeout, then it fails
  with ConnectError), while the connection has more than it takes, and while the broker has as many of our jobs as it takes from
  one connection.
- A job that the broker has no room for is sent again when the broker said that there should be (`turned_away.py`).
- A job whose connection has ended is *adrift*: over the next connection, before anything else, the broker is asked what became of
  it (`adrift.py`). Its progress goes on after the last chunk that came, its input after the last that the broker has.

All of it happens in the loop's thread, without a lock and without a task.
"""

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import msgspec

from reasonchip_broker.errors import (
    BrokerWentAway,
    ConnectError,
    ConnectionLost,
    CookieCollision,
    CookieNotFound,
    DeadlineExceeded,
    JobCancelled,
    ReasonChipError,
    TooLarge,
)
from reasonchip_broker.peer.adrift import Adrift
from reasonchip_broker.peer.dialogue import Asked, Dialogue, Wire, refused
from reasonchip_broker.peer.held import Held
from reasonchip_broker.peer.inflow import Inflow
from reasonchip_broker.peer.job import Answer, Job, JobState
from reasonchip_broker.peer.outflow import job_over
from reasonchip_broker.peer.payloads import check_size
from reasonchip_broker.peer.queue import QueueReport, queue_report
from reasonchip_broker.peer.receipts import Receipts
from reasonchip_broker.peer.status import JobStatus, job_status
from reasonchip_broker.peer.turned_away import OVERLOAD_PATIENCE_S, TurnedAway
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import NUMBER_MAX
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.protocol.frames import LENGTH_MIN, Frame

PATIENCE_S = 60.0
"""How long jobs wait for the next connection, unless it is said."""

Refusal: TypeAlias = Callable[[], ReasonChipError]
"""Makes the exception of whoever asks for something now: one for each, since an exception collects the stacks that it was raised in."""


def _not_connected() -> ReasonChipError:
    return ConnectError("the client is not connected: use it as `async with Client(...)`, or await connect() first")


class Exchange(Dialogue):
    """What a peer has under way. `url` is for messages; `connect_timeout_s` is how long a job waits for a connection, `patience_s` how
    long one that was sent waits for the next, `overload_patience_s` how long one waits for a broker that is full.
    """

    def __init__(
        self,
        url: str,
        connect_timeout_s: float,
        patience_s: float = PATIENCE_S,
        overload_patience_s: float = OVERLOAD_PATIENCE_S,
    ) -> None:
        super().__init__(url)
        self._refusal: Refusal | None = _not_connected
        self._frame_bytes_max = 0
        self._window = 0
        self._held = Held(connect_timeout_s, self._never_sent)
        self._adrift = Adrift(patience_s, self._unknown)
        self._turned_away = TurnedAway(overload_patience_s, self._send_again)
        self._farewells: dict[bytes, str] = {}
        """Jobs given up while adrift, to be cancelled over the next connection, and why."""
        self._last_error: ReasonChipError | None = None
        self._lost: ReasonChipError | None = None
        """Why the last connection that was up has ended."""

    # What the owner of the connection says

    def started(self, loop: asyncio.AbstractEventLoop) -> None:
        """A connection is going to be made: from now on jobs are taken."""
        self.loop = loop
        self._refusal = None

    def up(self, connection: Wire, welcome: schemas.WelcomeMeta) -> None:
        """The broker took this connection, with these limits."""
        self._connection = connection
        self._welcome = welcome
        self._instance = welcome.broker
        self._frame_bytes_max = welcome.frame
        self._body_bytes_max = welcome.frame - LENGTH_MIN
        self._window = max(1, welcome.jobs)
        self._receipts = Receipts(connection.send, self.loop)
        self._held.connected()
        self._adrift.connected()
        farewells, self._farewells = self._farewells, {}
        for cookie, why in farewells.items():
            connection.send(packets.cancel(cookie, why=why))
        self.flow(True)

    def flow(self, flowing: bool) -> None:
        """The connection takes more, or has enough for now."""
        self._flowing = flowing and self._connection is not None
        self._send_waiting()
        if self._flowing and self._talkers:
            for job in list(self._talkers):
                self._pump(job)

    def down(self, error: ReasonChipError, heard_at: float | None = None) -> None:
        """There is no connection, and why. Another attempt will be made. `heard_at`: when the broker was last heard."""
        was_up, self._connection = self._connection is not None, None
        if self._receipts is not None:
            self._receipts.end()
            self._receipts = None
        self._flowing = False
        self._last_error = error
        jobs, self._jobs = self._jobs, {}
        self._attaches.clear()
        for job in self._talkers:
            if job._inputs is not None:
                job._inputs.shut()
        if was_up:
            self._lost = error
            unsure = [job for job in jobs.values() if not self._settled(job)]
            now = self.loop.time()
            self._adrift.add(unsure, now if heard_at is None else heard_at, self._welcome.retain / 1000, self.loop)
        requests, self._requests = self._requests, {}
        for request in requests.values():
            if not request.done():
                request.set_exception(ConnectionLost(f"the connection ended before the broker answered: {error}"))
        for job in self._turned_away.take_all():
            self._held.add(job, self.loop, connected=True)
        self._held.disconnected(self.loop)

    def ended(self, error: ReasonChipError, refusal: Refusal) -> None:
        """There will be no other connection: what is under way fails, and nothing more is taken."""
        self.acknowledge()
        self.down(error)
        self._refusal = refusal
        self._adrift.give_up()
        self._held.give_up()

    def received(self, frames: list[Frame]) -> None:
        """What the broker says to a client. Raises RemoteProtocolError for what can't be understood."""
        self._hear(frames)
        if self._held.jobs or self._adrift.jobs:
            self._send_waiting()

    # What the application says

    def check_open(self) -> None:
        """Raise ConnectError, or ConnectionLost, if nothing is taken: not connected yet, given up, or closed."""
        if self._refusal is not None:
            raise self._refusal()

    def post(self, job: Job, timeout: float | None, deadline_s: float | None, delay_s: float = 0.0) -> None:
        """Take a new job: send it, or hold it until that is possible. It is to run no sooner than `delay_s` seconds from now."""
        if self._refusal is not None:
            job._finish(None, self._refusal())
            return
        if timeout is not None:
            self._time(job, timeout, self._overdue, timeout)
        if deadline_s is not None:
            job._deadline_at = self.loop.time() + deadline_s
        if delay_s > 0:
            job._due_at = self.loop.time() + delay_s
        if self._flowing and not self._held.jobs and not self._adrift.jobs and len(self._jobs) < self._window:
            self._send(job)
            return
        self._held.add(job, self.loop, connected=self._connection is not None)
        if job._deadline_at:
            self._time(job, job._deadline_at - self.loop.time(), self._overdue_held, 0.0)

    def find(self, cookie: bytes) -> Job | None:
        """The job of that cookie, if this exchange has it under way."""
        job = self._jobs.get(cookie)
        if job is None:
            jobs = (*self._adrift.jobs, *self._held.jobs, *self._turned_away.jobs)
            waiting = (job for job in jobs if job._cookie == cookie and not job.done())
            job = next(waiting, None)
        return job

    def abandon(self, job: Job, error: BaseException, tell: bool = True) -> None:
        """A job's outcome is wanted no more: it gets `error` for one, and the broker is told to cancel it (or, being told otherwise,
        `tell` is False). A detached one, and one that was attached to, is let go.
        """
        if job.state is JobState.OVER:
            return
        tell = tell and not job._detach and bool(job._meta)
        if self._jobs.get(job._cookie) is job:
            del self._jobs[job._cookie]
            if self._connection is not None and tell:
                self._connection.send(packets.cancel(job._cookie, why=str(error)))
        elif job.state is JobState.ADRIFT and tell:
            self._farewells[job._cookie] = str(error)
        self._talkers.pop(job, None)
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
        code, meta = await self._request(lambda number: packets.cancel(cookie, at_once=at_once, why=why, number=number))
        return Answer(code, meta.msg)

    async def cancel_batch(self, batch: bytes, at_once: bool, why: str) -> Answer:
        """The same for every job of a batch; those that were not sent yet never are. `jobs` of the answer says how many there were."""
        held = [
            job
            for job in (*self._held.jobs, *self._turned_away.jobs)
            if not job.done() and job._meta and self._adrift.options_of(job._meta).batch == batch
        ]
        for job in held:
            job._finish(None, JobCancelled("cancelled before it was sent" + (f": {why}" if why else ""), may_have_run=False))
        code, meta = await self._request(lambda number: packets.cancel_batch(batch, at_once=at_once, why=why, number=number))
        if held and code == Code.COOKIE_NOT_FOUND:
            code = Code.OK
        return Answer(code, meta.msg, meta.n + len(held))

    async def status(self, cookie: bytes, tree: bool) -> JobStatus:
        """Ask where a job is. Raises CookieNotFound, and what `cancel` does."""
        code, meta = await self._request(lambda number: packets.status(cookie, tree=tree, number=number))
        if meta.job is None:
            raise refused(code, meta)
        return job_status(meta.job, cookie, meta.msg)

    async def queue(self, rows: int) -> QueueReport:
        """Ask who waits for what. Raises what `cancel` does, and UnsupportedPacketType at an older broker."""
        code, meta = await self._request(lambda number: packets.queue(rows, number))
        if meta.queue is None:
            raise refused(code, meta)
        return queue_report(meta.queue)

    async def drain(self, worker: str) -> None:
        """Have a worker get no more jobs. Raises WorkerNotFound, NotAllowed, and what `cancel` does."""
        code, meta = await self._request(lambda number: packets.drain(number, worker))
        if code != Code.OK:
            raise refused(code, meta)

    def attach(self, cookie: bytes, encoding: str, first: int, take: bool) -> Job:
        """A job that somebody sent, followed from chunk `first` on (0: not), to be posted. If it is under way here, it is that one."""
        job = self.find(cookie)
        if job is not None:
            if first and job._stream is None:
                self.follow(job)
            return job
        job = Job(self, cookie, b"", b"", False, encoding)
        job._take = take
        if first:
            job._stream = self.inflow(cookie, first)
        self.talk(job)
        self.post(job, None, None)
        return job

    def follow(self, job: Job) -> None:
        """From now on the progress of a job that is not over is wanted."""
        job._stream = self.inflow(job._cookie)
        if self._jobs.get(job._cookie) is job:
            self._attach(job, Asked.FOLLOW)

    def inflow(self, cookie: bytes, first: int = 1) -> Inflow:
        """The progress of a job that is to be followed, from a chunk of this number on."""
        return Inflow(partial(self._credit, cookie), first)

    async def send_input(self, job: Job, payload: bytes, encoding: str) -> None:
        """Send input to a job, as soon as that may be. Raises as `Job.send`."""
        if job.done():
            if job._detach and job._failure() is None:
                raise job_over(None, "the job was detached: who attaches to it by its cookie can send to it")
            raise job_over(job._failure())
        inputs = job._inputs
        if inputs is None:
            inputs = self.talk(job)
            if self._jobs.get(job._cookie) is job:
                inputs.opened(self._welcome.credit, self._welcome.window)
        if inputs.error is not None:
            raise inputs.error
        if self._frame_bytes_max:
            check_size(len(encoding) + 16, len(payload), self._frame_bytes_max)
        self._talkers[job] = None
        waiter: asyncio.Future[None] = self.loop.create_future()
        inputs.put(payload, encoding, waiter)
        self._pump(job)
        try:
            await waiter
        except asyncio.CancelledError:
            self._pump(job)  # Nobody else is to wait for it.
            raise

    async def flush_input(self, job: Job) -> None:
        """Wait until the broker has what was sent to a job. Raises as `Job.flush`."""
        inputs = job._inputs
        if inputs is None:
            return
        while inputs.pending:
            await inputs.gone_out(self.loop)
            if not inputs.pending:
                break
            try:
                # It is answered after whatever there is to be said of what was sent before it.
                await self._request(lambda number: packets.status(job._cookie, number=number))
            except (ConnectError, ConnectionLost):
                continue
            if inputs.is_out:
                break
        if inputs.error is None or not inputs.missed:
            return
        if isinstance(inputs.error, CookieNotFound):
            sentence = f"the job is over, and may not have got the last {inputs.missed} of what was sent to it"
            raise job_over(job._failure(), sentence)
        raise inputs.error

    def soon(self, callback: Callable[[], None]) -> None:
        """Call something in the loop's thread: now, if this is it. From the garbage collector it may be any."""
        if self.loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            here = False
        if here:
            callback()
        else:
            self.loop.call_soon_threadsafe(callback)

    # Sending

    def _present(self) -> Wire:
        self.check_open()
        if self._connection is None:
            raise ConnectError(f"there is no connection to {self._url}: {self._last_error}")
        return self._connection

    def _meta_again(self, job: Job) -> bytes:
        meta = self._adrift.meta_again(job)
        return self._meta_delayed(job, meta) if job._due_at else meta

    def _meta_delayed(self, job: Job, meta: bytes) -> bytes:
        left_ms = max(0, min(NUMBER_MAX, math.ceil((job._due_at - self.loop.time()) * 1000)))
        return schemas.encode_meta(msgspec.structs.replace(self._adrift.options_of(meta), delay=left_ms))

    def _send_waiting(self) -> None:
        while self._flowing and len(self._jobs) < self._window:
            job = self._adrift.next() or self._held.next()
            if job is None:
                return
            self._send(job)

    def _comes_again(self, job: Job, meta: schemas.ReplyMeta) -> bool:
        options = self._adrift.options_of(job._meta) if job._meta else None
        if options is None or not options.queue:
            return False
        retry_s = meta.retry / 1000 if meta.retry else None
        if not self._turned_away.takes(job, retry_s, options.qlim / 1000, self.loop):
            return False
        del self._jobs[job._cookie]
        job._at = b""
        self._talkers.pop(job, None)
        if job._inputs is not None:
            job._inputs.shut()
        if job._deadline_at:
            self._time(job, job._deadline_at - self.loop.time(), self._overdue_held, 0.0)
        return True

    def _send_again(self, jobs: list[Job]) -> None:
        """The broker should have room for these."""
        for job in jobs:
            self._held.add(job, self.loop, connected=self._connection is not None)
        self._send_waiting()

    def _objection(self, job: Job, left_ms: int) -> ReasonChipError | None:
        """Why a job can't be sent, if it can't. One that was sent before is beyond objection."""
        if job._at:
            return None
        if job._deadline_at and left_ms <= 0:
            return DeadlineExceeded("the deadline passed before the job was sent", may_have_run=False)
        if job._cookie in self._jobs:
            return CookieCollision(f"a job of this client has the cookie {job.cookie} already")
        try:
            check_size(len(job._meta), len(job._payload), self._frame_bytes_max)
        except TooLarge as error:
            return error
        return None

    # Endings

    def _settled(self, job: Job) -> bool:
        """Whether a job whose connection has ended is over."""
        stream = job._stream
        if stream is None or not stream.attaching:
            return False
        stream.attaching = False
        if stream.early is None:
            return False
        self._talkers.pop(job, None)
        job._finish(stream.early)
        return True

    def _never_sent(self) -> ConnectError:
        why = self._last_error
        error = ConnectError(f"the job was not sent; there is no connection to {self._url}: {why or 'no answer yet'}")
        error.__cause__ = why
        return error

    def _unknown(self) -> BrokerWentAway:
        error = BrokerWentAway(
            f"the connection to {self._url} ended while the job was under way: {self._lost}", may_have_run=True
        )
        error.__cause__ = self._lost
        return error

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
