"""The client for code that is not asynchronous: scripts, notebooks, threads."""

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import takewhile
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, Unpack
from uuid import UUID, uuid4

from reasonchip_broker.client.blocking_job import BlockingJob
from reasonchip_broker.client.client import CONNECT_TIMEOUT_S, DEFAULT_URL, Client
from reasonchip_broker.client.engine import EXIT_S, Engine
from reasonchip_broker.client.submitter import BATCH_IN_FLIGHT, IN_FLIGHT, require_many
from reasonchip_broker.errors import ConnectionLost
from reasonchip_broker.limits import QUEUE_ROWS, Limits
from reasonchip_broker.peer.exchange import PATIENCE_S
from reasonchip_broker.peer.job import Answer
from reasonchip_broker.peer.maker import JobMaker
from reasonchip_broker.peer.options import OptionChanges, Options, changed
from reasonchip_broker.peer.queue import QueueReport
from reasonchip_broker.peer.status import JobStatus
from reasonchip_broker.peer.turned_away import OVERLOAD_PATIENCE_S
from reasonchip_broker.peer.views import Views
from reasonchip_broker.protocol.codes import ENCODING_MSGPACK, CloseReason


class _Choice:
    """Options, and what makes jobs with them on the present connection's engine."""

    __slots__ = ("_made_for", "options")

    def __init__(self, options: Options) -> None:
        self.options = options
        self._made_for: tuple[Engine, JobMaker] | None = None

    def maker(self, engine: Engine) -> JobMaker:
        made_for = self._made_for
        if made_for is None or made_for[0] is not engine:
            made_for = self._made_for = engine, engine.client._maker.with_options(self.options)
        return made_for[1]


class BlockingSubmitter:
    """Submits jobs; may be used from any number of threads at once. See `Submitter`."""

    def __init__(self, owner: "BlockingClient", options: Options) -> None:
        self.options = options
        """The options that jobs are submitted with."""
        self._owner = owner
        self._choice = _Choice(options)
        self._choices: Views[_Choice] = Views()

    def with_options(self, **changes: Unpack[OptionChanges]) -> "BlockingSubmitter":
        """The same client with other options; as `Submitter.with_options`."""
        return BlockingSubmitter(self._owner, changed(self.options, changes))

    def submit(self, pipeline: str, variables: Any = None, **options: Unpack[OptionChanges]) -> BlockingJob:
        """Submit a job and return at once. Raises what `Submitter.submit` does; ConnectError if there is no connection yet and
        none can be made, ConnectionLost if the client is closed.
        """
        choice = self._choices.of(options, self._changed) if options else self._choice
        return self._submit(pipeline, variables, choice)

    def _changed(self, changes: Mapping[str, Any]) -> _Choice:
        return _Choice(changed(self.options, changes))

    def run(self, pipeline: str, variables: Any = None, **options: Unpack[OptionChanges]) -> Any:
        """Run a job and return its result. Raises what `submit` does, and what the job ends with. If the wait is interrupted
        (Ctrl-C), the job is cancelled.
        """
        job = self.submit(pipeline, variables, **options)
        try:
            return job.result()
        except BaseException:
            job._abandon("the wait for the job was interrupted")
            raise

    def map(
        self,
        pipeline: str,
        variables: Iterable[Any],
        *,
        in_flight: int = IN_FLIGHT,
        return_exceptions: bool = False,
        **options: Unpack[OptionChanges],
    ) -> Iterator[Any]:
        """Run a job for each of `variables`, and iterate over the results, in order; as `Submitter.map`."""
        return self._for_many(variables, options, in_flight)._map(pipeline, variables, in_flight, return_exceptions)

    def _map(self, pipeline: str, variables: Iterable[Any], in_flight: int, return_exceptions: bool) -> Iterator[Any]:
        jobs: deque[BlockingJob] = deque()
        try:
            for item in variables:
                jobs.append(self._submit(pipeline, item))
                if len(jobs) >= in_flight:
                    yield _settled(jobs, return_exceptions)
            while jobs:
                yield _settled(jobs, return_exceptions)
        finally:
            for job in jobs:
                job._abandon("the iteration that the job belonged to has ended")

    def as_completed(
        self, pipeline: str, variables: Iterable[Any], *, in_flight: int = IN_FLIGHT, **options: Unpack[OptionChanges]
    ) -> Iterator[tuple[Any, BlockingJob]]:
        """Run a job for each of `variables`, and iterate over pairs of variables and their finished jobs, as they finish."""
        return self._for_many(variables, options, in_flight)._as_completed(pipeline, variables, in_flight)

    def _as_completed(self, pipeline: str, variables: Iterable[Any], in_flight: int) -> Iterator[tuple[Any, BlockingJob]]:
        landed: SimpleQueue[tuple[Any, BlockingJob]] = SimpleQueue()
        aboard: dict[BlockingJob, None] = {}

        def take() -> tuple[Any, BlockingJob]:
            entry = landed.get()
            del aboard[entry[1]]
            return entry

        try:
            for item in variables:
                job = self._submit(pipeline, item)
                job._wait()
                aboard[job] = None
                job._landed.add_done_callback(partial(_put, landed, (item, job)))
                if len(aboard) >= in_flight:
                    yield take()
            while aboard:
                yield take()
        finally:
            for job in aboard:
                job._abandon("the iteration that the job belonged to has ended")

    def submit_many(
        self, pipeline: str, variables: Iterable[Any], *, in_flight: int = BATCH_IN_FLIGHT, **options: Unpack[OptionChanges]
    ) -> "BlockingBatch":
        """A batch of jobs, one for each of `variables`; as `Submitter.submit_many`."""
        view = self._for_many(variables, options, in_flight)
        identity = view.options.batch or uuid4()
        return BlockingBatch(self._owner, view.with_options(batch=identity), identity, pipeline, variables, in_flight)

    def _for_many(self, variables: object, options: OptionChanges, in_flight: int) -> "BlockingSubmitter":
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        view = self.with_options(**options) if options else self
        require_many(variables, view.options)
        return view

    def _submit(self, pipeline: str, variables: Any, choice: _Choice | None = None) -> BlockingJob:
        engine = self._owner._running()
        maker = (choice or self._choice).maker(engine)
        job = BlockingJob(self._owner, engine, maker.make(pipeline, variables))
        engine.hand_over(maker.post, job._job)
        return job


class BlockingClient(BlockingSubmitter):
    """A connection to a broker, for code that is not asynchronous. Everything is as in `Client`, except that it waits.

    ```python
    with BlockingClient("tcp://127.0.0.1:51500") as client:
        print(client.run("greet", {"name": "Ada"}))
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
        patience_s: float = PATIENCE_S,
        overload_patience_s: float = OVERLOAD_PATIENCE_S,
        reconnect: bool = True,
        name: str | None = None,
    ) -> None:
        self._make = partial(
            Client,
            url,
            token=token,
            encoding=encoding,
            limits=limits,
            connect_timeout_s=connect_timeout_s,
            patience_s=patience_s,
            overload_patience_s=overload_patience_s,
            reconnect=reconnect,
            name=name,
        )
        client = self._make()
        super().__init__(self, client.options)
        self.url = client.url
        """Where the broker is."""
        self._starting = threading.Lock()
        self._engine: Engine | None = None
        self._closed = False
        _clients.add(self)

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        engine = self._engine
        return engine is not None and engine.client.connected

    def connect(self, *, once: bool = False) -> None:
        """Connect, if that has not been done. Raises as `Client.connect` does, and ConnectionLost if the client is closed."""
        self._running(once)

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

    def cancel_batch(self, batch: UUID, *, at_once: bool = False, why: str = "") -> Answer:
        """Ask the broker to cancel every job of a batch; as `Client.cancel_batch`."""
        engine = self._running()
        return engine.call(lambda: engine.client.cancel_batch(batch, at_once=at_once, why=why))

    def status(self, cookie: UUID, *, tree: bool = False) -> JobStatus:
        """Ask the broker where a job is, and why; as `Client.status`."""
        engine = self._running()
        return engine.call(lambda: engine.client.status(cookie, tree=tree))

    def queue(self, *, rows: int = QUEUE_ROWS) -> QueueReport:
        """Ask the broker who waits for what; as `Client.queue`."""
        engine = self._running()
        return engine.call(lambda: engine.client.queue(rows=rows))

    def drain(self, worker: str) -> None:
        """Have a worker get no more jobs; as `Client.drain`."""
        engine = self._running()
        engine.call(lambda: engine.client.drain(worker))

    def attach(self, cookie: UUID, *, follow: bool = False, first: int = 1, take: bool = True) -> BlockingJob:
        """A job by its cookie, whoever submitted it; as `Client.attach`."""
        engine = self._running()

        async def attach() -> BlockingJob:
            return BlockingJob(self, engine, engine.client.attach(cookie, follow=follow, first=first, take=take))

        return engine.call(attach)

    def __repr__(self) -> str:
        return f"<BlockingClient of {self.url}, {'connected' if self.connected else 'not connected'}>"

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _running(self, once: bool = False) -> Engine:
        """The engine of this process, connected. Raises ConnectError, ConnectionLost."""
        engine = self._engine
        if engine is not None and not self._closed:
            return engine
        with self._starting:
            # Whoever comes while another thread connects waits for that one, and shares what comes of it.
            if self._closed:
                raise ConnectionLost("the client is closed", CloseReason.NORMAL)
            if self._engine is None:
                engine = Engine(self._make())
                try:
                    engine.call(partial(engine.client.connect, once=once))
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


class BlockingBatch:
    """Jobs of one batch; see `Batch`. `for variables, job in batch`, `batch.results()` or `batch.finish()`, once."""

    def __init__(
        self,
        owner: BlockingClient,
        submitter: BlockingSubmitter,
        identity: UUID,
        pipeline: str,
        variables: Iterable[Any],
        in_flight: int,
    ) -> None:
        self.id = identity
        """What the jobs have in common: the option `batch` of each."""
        self.submitted = 0
        """How many jobs were submitted so far."""
        self.succeeded = 0
        """How many of them ended with a result."""
        self.failed = 0
        """How many of them ended otherwise."""
        self._owner = owner
        self._submitter = _Counting(owner, submitter.options, self)
        self._pipeline = pipeline
        self._variables = variables
        self._in_flight = in_flight
        self._begun = False
        self._stopped = False

    @property
    def done(self) -> int:
        """How many jobs are over."""
        return self.succeeded + self.failed

    def __iter__(self) -> Iterator[tuple[Any, BlockingJob]]:
        return self._submitter.as_completed(self._pipeline, self._source(), in_flight=self._in_flight)

    def results(self, *, return_exceptions: bool = False) -> Iterator[Any]:
        """Iterate over the results in order; as `Batch.results`."""
        return self._submitter.map(
            self._pipeline, self._source(), in_flight=self._in_flight, return_exceptions=return_exceptions
        )

    def finish(self) -> "BlockingBatch":
        """Submit all jobs and wait until they are over; as `Batch.finish`."""
        for _ in self:
            pass
        return self

    def cancel(self, at_once: bool = False, why: str = "") -> Answer:
        """Submit no more jobs, and have the broker cancel those that are not over; as `Batch.cancel`. For another thread than the
        one that iterates, or between two of its steps.
        """
        self._stopped = True
        return self._owner.cancel_batch(self.id, at_once=at_once, why=why)

    def __repr__(self) -> str:
        return f"<BlockingBatch {self.id}: {self.submitted} submitted, {self.succeeded} succeeded, {self.failed} failed>"

    def _source(self) -> Iterator[Any]:
        """The variables, until the batch is cancelled. Raises RuntimeError if the batch is iterated over already."""
        if self._begun:
            raise RuntimeError("a batch is iterated over once")
        self._begun = True
        return takewhile(lambda _: not self._stopped, self._variables)

    def _count(self, job: BlockingJob) -> None:
        if job._job._failure() is None:
            self.succeeded += 1
        else:
            self.failed += 1


class _Counting(BlockingSubmitter):
    """Tells a batch of its jobs."""

    def __init__(self, owner: BlockingClient, options: Options, batch: BlockingBatch) -> None:
        super().__init__(owner, options)
        self._batch = batch

    def _submit(self, pipeline: str, variables: Any, choice: _Choice | None = None) -> BlockingJob:
        job = super()._submit(pipeline, variables, choice)
        self._batch.submitted += 1
        job._landed.add_done_callback(lambda _: self._batch._count(job))
        return job


_clients: "weakref.WeakSet[BlockingClient]" = weakref.WeakSet()


def _forget_parents() -> None:
    for client in list(_clients):
        client._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)


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
