"""Jobs that a handler submits, and what it may ask of them.

A child travels over its worker's own connection, whose `Exchange` (that of the client library) belongs to the connection's thread. A
handler is elsewhere: in the main loop, in a thread, in another process. So it says what it wants to its `Kin`, which is either
the `Family` in the connection's thread, or a stand-in at the other end of a process's pipe (`pipe_kin`), and gets a future.

Who waits for a child has lent its slot out meanwhile, so that a tree that is deeper than there are slots comes to its end.
"""

import asyncio
import os
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, wait
from typing import Any, NamedTuple, Unpack
from uuid import UUID

from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.peer.cookies import new_cookie
from reasonchip_broker.peer.exchange import Exchange
from reasonchip_broker.peer.inflow import Chunks
from reasonchip_broker.peer.job import Job
from reasonchip_broker.peer.options import ChildOptions, Options, RunMetas, changed, delay_s
from reasonchip_broker.peer.payloads import encode_tagged
from reasonchip_broker.peer.views import Views
from reasonchip_broker.protocol import schemas
from reasonchip_broker.worker.channel import Channel, Parked
from reasonchip_broker.worker.kindred import Kin
from reasonchip_broker.worker.waiting import in_loop, require_thread

PARK_AFTER_S = 0.1
"""How long a handler waits for a child's next chunk before it lends its slot out: each time costs a wait for another."""

SOON_S = 0.01
"""How long it waits for a result before it does so: one that is there already is had in less."""

_NONCE = os.urandom(16)
"""Names this process among those that submit."""


class Submission(NamedTuple):
    """A child, ready to be sent."""

    cookie: bytes
    meta: bytes
    payload: bytes
    options: Options


def submission_of(pipeline: str, variables: Any, options: Options, metas: RunMetas | None = None) -> Submission:
    """A child of the job that the options name; `metas` are those of these options, if there are some already. Raises TypeError and
    ValueError for what can't be asked for.
    """
    payload, encoding = encode_tagged(variables, options.encoding)
    meta = (metas or RunMetas(options, _NONCE)).of(pipeline, encoding)
    cookie = new_cookie() if options.cookie is None else options.cookie.bytes
    return Submission(cookie, meta, payload, options)


class ChildSubmitter:
    """Submits jobs that are part of one job, all with the same options; what `JobContext.with_options` returns."""

    __slots__ = ("_channel", "_kin", "_metas", "_views", "options")

    def __init__(self, kin: Kin, channel: Channel, options: Options) -> None:
        self._kin = kin
        self._channel = channel
        self._metas = RunMetas(options, _NONCE)
        self._views: Views[ChildSubmitter] = Views()
        self.options = options
        """The options that jobs are submitted with."""

    def with_options(self, **changes: Unpack[ChildOptions]) -> "ChildSubmitter":
        """The same with other options; as `JobContext.with_options`."""
        return self._changed(changes)

    def _changed(self, changes: Mapping[str, Any]) -> "ChildSubmitter":
        if "parent" in changes:
            raise TypeError("the parent of a job that a handler submits is the handler's own")
        return ChildSubmitter(self._kin, self._channel, changed(self.options, changes))

    def submit(self, pipeline: str, variables: Any = None, **options: Unpack[ChildOptions]) -> "ChildJob":
        """Submit a job, and go on; as `JobContext.submit`."""
        view = self._views.of(options, self._changed) if options else self
        return ChildJob(self._kin, self._channel, submission_of(pipeline, variables, view.options, view._metas))

    def run(self, pipeline: str, variables: Any = None, **options: Unpack[ChildOptions]) -> Any:
        """Submit a job, and wait for its result; as `JobContext.run`."""
        return self.submit(pipeline, variables, **options).result()


class Family:
    """Every child of a worker's jobs, in the loop of its connection. What is asked from elsewhere is done there."""

    def __init__(self, exchange: Callable[[], Exchange], loop: asyncio.AbstractEventLoop) -> None:
        self._exchange = exchange
        self._loop = loop
        self._children: dict[bytes, Job] = {}
        self._readers: dict[bytes, Chunks] = {}
        self._verbs: dict[str, Callable[..., Any]] = {
            "result": self._result,
            "chunk": self._chunk,
            "send": self._send,
            "flush": self._flush,
            "cancel": self._cancel,
            "status": self._status,
        }

    # From any thread

    def submit(self, submission: Submission) -> None:
        """Send a child."""
        self._call(self._post, submission)

    def ask(self, verb: str, cookie: bytes, *arguments: Any) -> "Future[Any]":
        """Ask something of a child."""
        answer = self._verbs[verb](cookie, *arguments)
        try:
            return asyncio.run_coroutine_threadsafe(answer, self._loop)
        except RuntimeError:
            answer.close()
            refused: Future[Any] = Future()
            refused.set_exception(JobCancelled("the worker has left its broker"))
            return refused

    def release(self, cookie: bytes) -> None:
        """Nobody will ask for this child again."""
        self._call(self._forget, cookie)

    def _call(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            pass  # The loop is closed: the worker has left.

    # In the connection's thread

    def _post(self, submission: Submission) -> None:
        cookie, meta, payload, options = submission
        exchange = self._exchange()
        job = self._children[cookie] = Job(exchange, cookie, meta, payload, options.detach, options.encoding)
        if options.follow:
            stream = job._stream = exchange.inflow(cookie)
            stream.by_run = True
        exchange.post(job, options.timeout, options.deadline_s, delay_s(options.not_before))

    def _forget(self, cookie: bytes) -> None:
        self._children.pop(cookie, None)
        self._readers.pop(cookie, None)

    async def _result(self, cookie: bytes) -> tuple[BaseException | None, tuple[bytes, schemas.ResultMeta] | None]:
        """What a child ended with, as it came: whoever asked for it makes a value of it, not this thread."""
        job = self._children[cookie]
        if not job.done():
            waiter: asyncio.Future[None] = self._loop.create_future()
            job._wait_with(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not job._leave(waiter) and not job.done() and not job._is_read():
                    job._abandon(JobCancelled("the handler that waited for the job waits no more"))
                raise
        return job._error, job._outcome

    async def _chunk(self, cookie: bytes) -> Any:
        """The next of a child's chunks, if there is one."""
        reader = self._readers.get(cookie)
        if reader is None:
            reader = self._readers[cookie] = self._children[cookie].chunks()
        try:
            return (await anext(reader),)
        except StopAsyncIteration:
            self._readers.pop(cookie, None)
            return ()

    async def _send(self, cookie: bytes, item: Any) -> None:
        await self._children[cookie].send(item)

    async def _flush(self, cookie: bytes) -> None:
        await self._children[cookie].flush()

    async def _status(self, cookie: bytes, tree: bool) -> Any:
        return await self._children[cookie].status(tree)

    async def _cancel(self, cookie: bytes, at_once: bool, why: str) -> Any:
        return await self._children[cookie].cancel(at_once, why)


class ChildJob:
    """A job that a handler has submitted. `await child` in a coroutine, `child.result()` in a thread: its result, or what it ended
    with, as an exception, as a client has it. `async for chunk in child`, `for` in a thread: its progress, as it comes, best with
    the option `follow`; there may be a `Gap` or a `NewAttempt` among it.

    Whoever waits for the result, or long for a chunk, lends the slot of its own job out meanwhile.
    """

    __slots__ = ("_channel", "_cookie", "_detach", "_kin")

    def __init__(self, kin: Kin, channel: Channel, submission: Submission) -> None:
        self._kin = kin
        self._channel = channel
        self._cookie = submission.cookie
        self._detach = submission.options.detach
        kin.submit(submission)

    def __del__(self) -> None:
        self._kin.release(self._cookie)

    def __repr__(self) -> str:
        return f"<ChildJob {self.cookie}>"

    @property
    def cookie(self) -> UUID:
        """The job's name, everywhere."""
        return UUID(bytes=self._cookie)

    def result(self) -> Any:
        """Wait for the result: to be awaited in a coroutine, while in a thread it is returned. Raises what the child ended with,
        and JobCancelled from a thread whose job is to stop. If the wait is cancelled, the child is cancelled too.
        """
        future = self._kin.ask("result", self._cookie)
        return self._result_later(future) if in_loop() else self._value(self._block(future, SOON_S))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result_later(self._kin.ask("result", self._cookie)).__await__()

    def __aiter__(self) -> "ChildJob":
        return self

    async def __anext__(self) -> Any:
        found = await self._wait(self._kin.ask("chunk", self._cookie), PARK_AFTER_S)
        if not found:
            raise StopAsyncIteration
        return found[0]

    def __iter__(self) -> "ChildJob":
        return self

    def __next__(self) -> Any:
        require_thread("async for chunk in child")
        found = self._block(self._kin.ask("chunk", self._cookie), PARK_AFTER_S)
        if not found:
            raise StopIteration
        return found[0]

    def send(self, item: Any) -> Any:
        """Send an item to the running child, whose handler takes it with `context.inputs()`: to be awaited in a coroutine. Raises
        as a client's `Job.send` does.
        """
        return self._ask("send", item)

    def flush(self) -> Any:
        """Wait until the broker has all that was sent: to be awaited in a coroutine. Raises as a client's `Job.flush` does."""
        return self._ask("flush")

    def status(self, tree: bool = False) -> Any:
        """Ask where the child is, and why (a `JobStatus`); `tree`: and its own children. To be awaited in a coroutine. Raises
        CookieNotFound, ConnectError and ConnectionLost.
        """
        return self._ask("status", tree)

    def cancel(self, at_once: bool = False, why: str = "") -> Any:
        """Ask the broker to cancel the child, and return what it said (an `Answer`): to be awaited in a coroutine. Its outcome comes
        by itself. Raises ConnectError and ConnectionLost.
        """
        return self._ask("cancel", at_once, why)

    def _ask(self, verb: str, *arguments: Any) -> Any:
        future = self._kin.ask(verb, self._cookie, *arguments)
        return asyncio.wrap_future(future) if in_loop() else self._block(future)

    async def _result_later(self, future: "Future[Any]") -> Any:
        return self._value(await self._wait(future, SOON_S))

    async def _wait(self, future: "Future[Any]", park_after_s: float) -> Any:
        """Wait in a task; the slot is lent out if that takes longer than so many seconds."""
        waited = asyncio.wrap_future(future)
        try:
            if not future.done():
                await asyncio.wait((waited,), timeout=park_after_s)
            if not future.done():
                async with Parked(self._channel):
                    return await waited
            return await waited
        except asyncio.CancelledError:
            waited.cancel()
            raise

    def _block(self, future: "Future[Any]", park_after_s: float | None = None) -> Any:
        """Wait in a thread; None never lends the slot out."""
        try:
            if park_after_s is not None and not _done_within(future, park_after_s):
                with Parked(self._channel):
                    self._channel.block_until_done(future)
            else:
                self._channel.block_until_done(future)
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def _value(self, ended: tuple[BaseException | None, tuple[bytes, schemas.ResultMeta] | None]) -> Any:
        # A job of nobody's, for the one thing that it knows: to make a value, or an exception, of an outcome.
        job = Job(None, self._cookie, b"", b"", self._detach)  # type: ignore[arg-type]
        job._error, job._outcome = ended
        return job._value()


def _done_within(future: "Future[Any]", seconds: float) -> bool:
    if not future.done():
        wait((future,), timeout=seconds)
    return future.done()
