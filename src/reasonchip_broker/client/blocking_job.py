"""A job of a blocking client, which any thread may wait for."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any
from uuid import UUID

from reasonchip_broker.client.engine import Engine
from reasonchip_broker.errors import BrokerWentAway, ConnectionLost, JobCancelled
from reasonchip_broker.peer.inflow import Chunks
from reasonchip_broker.peer.job import Answer, Job, JobState
from reasonchip_broker.peer.status import JobStatus

CHUNKS_AT_ONCE = 16
"""Chunks that are handed from the client's thread to the iterating one at a time, at most: a step between threads is slow."""


class BlockingJob:
    """A job that was submitted, for any thread to wait for. See `Job` for what it may end with."""

    __slots__ = ("_engine", "_job", "_landed", "_owner")

    def __init__(self, owner: object, engine: Engine, job: Job) -> None:
        self._owner = owner  # As long as somebody holds the job, the client is not garbage.
        self._engine = engine
        self._job = job
        self._landed: Future[None] = Future()
        if job.done():
            self._landed.set_result(None)
        else:
            job._watch_with(self._landed)

    @property
    def cookie(self) -> UUID:
        """The job's name, everywhere."""
        return self._job.cookie

    @property
    def state(self) -> JobState:
        """How far it has come, as far as is known here."""
        return self._job.state

    def done(self) -> bool:
        """Whether the job is over for this client: `result` returns, or raises, at once."""
        return self._landed.done()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result. Raises what the job ended with.

        With `timeout`, stops waiting after so many seconds and raises TimeoutError; the job goes on, and may be waited for
        again. Raises RuntimeError in the client's own thread, and BrokerWentAway in a process that was forked meanwhile: only
        the parent will know.
        """
        if not self._landed.done():
            self._engine.require_other_thread()
            if self._engine.forgotten:
                raise BrokerWentAway("the job belongs to the process that this one was forked from")
            waiter = self._wait()
            try:
                self._landed.result(timeout)
            except TimeoutError:
                self._soon(self._job._leave, waiter)
                raise TimeoutError(f"the job was not over within {timeout:g} s; it goes on") from None
        return self._job._value()

    def cancel(self, at_once: bool = False, why: str = "") -> Answer:
        """Ask the broker to cancel the job, politely or at once, and return what it said. The outcome comes by itself (see
        `Job.cancel`).

        Raises ConnectionLost if the connection ends before the broker has answered.
        """
        return self._engine.call(lambda: self._job.cancel(at_once, why))

    def status(self, tree: bool = False) -> JobStatus:
        """Ask the broker where the job is; as `Job.status`."""
        return self._engine.call(lambda: self._job.status(tree))

    def send(self, item: Any, *, encoding: str | None = None) -> None:
        """Send an item to the running job; as `Job.send`. If the wait is interrupted, an item that was not sent yet never is."""
        self._engine.call(lambda: self._job.send(item, encoding=encoding))

    def flush(self) -> None:
        """Wait until the broker has all that was sent with `send`; as `Job.flush`."""
        self._engine.call(self._job.flush)

    def chunks(self, marks: bool = True) -> Iterator[Any]:
        """Iterate over what the job's handler reports as progress; as `Job.chunks`. `for chunk in job` is the same."""

        async def begin() -> Chunks:
            return self._job.chunks(marks)

        chunks = self._engine.call(begin)
        try:
            while items := self._engine.call(lambda: chunks.take(CHUNKS_AT_ONCE)):
                yield from items
        finally:
            self._soon(chunks._leave)

    def __iter__(self) -> Iterator[Any]:
        return self.chunks()

    @property
    def last_chunk(self) -> int:
        """The number of the last chunk that was taken, 0 before the first."""
        return self._job.last_chunk

    def __repr__(self) -> str:
        return f"<BlockingJob {self.cookie} {self.state.value}>"

    def _wait(self) -> "Future[None]":
        """Be one who waits for the end: if nobody iterates over the chunks, they are not to hold the handler up."""
        waiter: Future[None] = Future()
        if self._job._stream is not None and not self.done():
            self._soon(self._job._wait_with, waiter)
        return waiter

    def _soon(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            self._engine.hand_over(callback, *arguments)
        except ConnectionLost:
            pass  # The client is being closed; that ends the job here as well.

    def _abandon(self, why: str) -> None:
        """Nobody is interested any more: the broker is told to cancel it."""
        if not self.done():
            self._soon(self._job._abandon, JobCancelled(why))
