"""The client for code that is not asynchronous: scripts, notebooks, threads."""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, Unpack
from uuid import UUID

from reasonchip_broker.client.client import CONNECT_TIMEOUT_S, DEFAULT_URL, Client
from reasonchip_broker.client.engine import EXIT_S, Engine
from reasonchip_broker.client.job import Answer, Job, JobState
from reasonchip_broker.client.options import Options
from reasonchip_broker.client.submitter import IN_FLIGHT, JobMaker, OptionChanges
from reasonchip_broker.errors import BrokerWentAway, ConnectionLost, JobCancelled
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import ENCODING_MSGPACK, CloseReason


class BlockingJob:
    """A job that was submitted, for any thread to wait for. See `Job` for what it may end with."""

    __slots__ = ("_engine", "_job", "_landed", "_owner")

    def __init__(self, owner: "BlockingClient", engine: Engine, job: Job) -> None:
        self._owner = owner  # As long as somebody holds the job, the client is not garbage.
        self._engine = engine
        self._job = job
        self._landed: Future[None] = Future()
        job._wait_with(self._landed)

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
            try:
                self._landed.result(timeout)
            except TimeoutError:
                raise TimeoutError(f"the job was not over within {timeout:g} s; it goes on") from None
        return self._job._value()

    def cancel(self, at_once: bool = False, why: str = "") -> Answer:
        """Ask the broker to cancel the job, politely or at once, and return what it said. The outcome comes by itself (see
        `Job.cancel`).

        Raises ConnectionLost if the connection ends before the broker has answered.
        """
        return self._engine.call(lambda: self._job.cancel(at_once, why))

    def __repr__(self) -> str:
        return f"<BlockingJob {self.cookie} {self.state.value}>"

    def _abandon(self, why: str) -> None:
        """Nobody is interested any more: the broker is told to cancel it."""
        if not self.done():
            try:
                self._engine.hand_over(self._job._abandon, JobCancelled(why))
            except ConnectionLost:
                pass  # The client is being closed; that ends the job here as well.


class BlockingSubmitter:
    """Submits jobs, all with the same options; may be used from any number of threads at once. See `Submitter`."""

    def __init__(self, owner: "BlockingClient", options: Options) -> None:
        self.options = options
        """The options that jobs are submitted with."""
        self._owner = owner
        self._made_for: tuple[Engine, JobMaker] | None = None

    def with_options(self, **changes: Unpack[OptionChanges]) -> "BlockingSubmitter":
        """The same client with other options; see `Options` for what there is. Raises ValueError and TypeError as that does."""
        return BlockingSubmitter(self._owner, replace(self.options, **changes))

    def submit(self, pipeline: str, variables: Any = None, /, **named: Any) -> BlockingJob:
        """Submit a job and return at once. Raises what `Submitter.submit` does; ConnectError if there is no connection yet and
        none can be made, ConnectionLost if the client is closed.
        """
        return self._submit(pipeline, variables, named)

    def run(self, pipeline: str, variables: Any = None, /, **named: Any) -> Any:
        """Run a job and return its result. Raises what `submit` does, and what the job ends with. If the wait is interrupted
        (Ctrl-C), the job is cancelled.
        """
        job = self._submit(pipeline, variables, named)
        try:
            return job.result()
        except BaseException:
            job._abandon("the wait for the job was interrupted")
            raise

    def map(
        self, pipeline: str, variables: Iterable[Any], *, in_flight: int = IN_FLIGHT, return_exceptions: bool = False
    ) -> Iterator[Any]:
        """Run a job for each of `variables`, and iterate over the results, in order; as `Submitter.map`."""
        _require_room(in_flight)
        return self._map(pipeline, variables, in_flight, return_exceptions)

    def _map(self, pipeline: str, variables: Iterable[Any], in_flight: int, return_exceptions: bool) -> Iterator[Any]:
        jobs: deque[BlockingJob] = deque()
        try:
            for item in variables:
                jobs.append(self._submit(pipeline, item, {}))
                if len(jobs) >= in_flight:
                    yield _settled(jobs, return_exceptions)
            while jobs:
                yield _settled(jobs, return_exceptions)
        finally:
            for job in jobs:
                job._abandon("the iteration that the job belonged to has ended")

    def as_completed(
        self, pipeline: str, variables: Iterable[Any], *, in_flight: int = IN_FLIGHT
    ) -> Iterator[tuple[Any, BlockingJob]]:
        """Run a job for each of `variables`, and iterate over pairs of variables and their finished jobs, as they finish."""
        _require_room(in_flight)
        return self._as_completed(pipeline, variables, in_flight)

    def _as_completed(self, pipeline: str, variables: Iterable[Any], in_flight: int) -> Iterator[tuple[Any, BlockingJob]]:
        landed: SimpleQueue[tuple[Any, BlockingJob]] = SimpleQueue()
        aboard: dict[BlockingJob, None] = {}

        def take() -> tuple[Any, BlockingJob]:
            entry = landed.get()
            del aboard[entry[1]]
            return entry

        try:
            for item in variables:
                job = self._submit(pipeline, item, {})
                aboard[job] = None
                job._landed.add_done_callback(partial(_put, landed, (item, job)))
                if len(aboard) >= in_flight:
                    yield take()
            while aboard:
                yield take()
        finally:
            for job in aboard:
                job._abandon("the iteration that the job belonged to has ended")

    def _submit(self, pipeline: str, variables: Any, named: dict[str, Any]) -> BlockingJob:
        engine = self._owner._running()
        if self._made_for is None or self._made_for[0] is not engine:
            self._made_for = engine, engine.client._maker.with_options(self.options)
        maker = self._made_for[1]
        job = BlockingJob(self._owner, engine, maker.make(pipeline, variables, named))
        engine.hand_over(maker.post, job._job)
        return job


class BlockingClient(BlockingSubmitter):
    """A connection to a broker, for code that is not asynchronous. Everything is as in `Client`, except that it waits.

    ```python
    with BlockingClient("tcp://127.0.0.1:51500") as client:
        print(client.run("greet", name="Ada"))
    ```

    It may be used from any thread, in a notebook (whose own event loop is not touched), and without `with`: it connects when it
    is first used, and disconnects when it is closed, garbage, or the process ends. In a forked child it connects anew.
    Parameters and what they raise are those of `Client`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        encoding: str = ENCODING_MSGPACK,
        limits: Limits | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        reconnect: bool = True,
        name: str | None = None,
    ) -> None:
        def make() -> Client:
            return Client(
                url,
                token=token,
                encoding=encoding,
                limits=limits,
                connect_timeout_s=connect_timeout_s,
                reconnect=reconnect,
                name=name,
            )

        client = make()
        super().__init__(self, client.options)
        self.url = client.url
        """Where the broker is."""
        self._make: Callable[[], Client] = make
        self._starting = threading.Lock()
        self._engine: Engine | None = None
        self._closed = False
        _clients.add(self)

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        engine = self._engine
        return engine is not None and engine.client.connected

    def connect(self) -> None:
        """Connect, if that has not been done. Raises ConnectError as `Client.connect` does, ConnectionLost if the client is closed."""
        self._running()

    def close(self) -> None:
        """Disconnect, once the broker has taken what was sent. Jobs that are not over go on there, and are BrokerWentAway here."""
        self._closed = True
        engine = self._engine
        if engine is not None:
            engine.close()

    def cancel(self, cookie: UUID, *, at_once: bool = False, why: str = "") -> Answer:
        """Ask the broker to cancel a job, whoever submitted it, and return what it said.

        Raises ConnectError without a connection, ConnectionLost if it ends before the broker has answered.
        """
        engine = self._running()
        return engine.call(lambda: engine.client.cancel(cookie, at_once=at_once, why=why))

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _running(self) -> Engine:
        """The engine of this process, connected. Raises ConnectError, ConnectionLost."""
        engine = self._engine
        if engine is not None:
            return engine
        with self._starting:
            # Whoever comes while another thread connects waits for that one, and shares what comes of it.
            if self._engine is None:
                if self._closed:
                    raise ConnectionLost("the client is closed", CloseReason.NORMAL)
                engine = Engine(self._make())
                try:
                    engine.call(engine.client.connect)
                except BaseException:
                    engine.close()
                    raise
                weakref.finalize(self, engine.close, EXIT_S)
                self._engine = engine
                if self._closed:
                    engine.close()  # It was closed while it connected; what is asked for now is refused.
            return self._engine

    def _forked(self) -> None:
        self._starting = threading.Lock()
        if self._engine is not None:
            self._engine.forget()
            self._engine = None


_clients: "weakref.WeakSet[BlockingClient]" = weakref.WeakSet()


def _forget_parents() -> None:
    for client in list(_clients):
        client._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)


def _require_room(in_flight: int) -> None:
    if in_flight < 1:
        raise ValueError(f"in_flight must be at least 1, not {in_flight}")


def _put(landed: "SimpleQueue[tuple[Any, BlockingJob]]", entry: tuple[Any, BlockingJob], _: "Future[None]") -> None:
    landed.put(entry)


def _settled(jobs: deque[BlockingJob], return_exceptions: bool) -> Any:
    """The outcome of the first of the jobs, which is taken off them once it is there."""
    try:
        value = jobs[0].result()
    except Exception as error:
        if not return_exceptions:
            raise
        value = error
    jobs.popleft()
    return value
