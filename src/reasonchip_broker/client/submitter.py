"""What both the client and its views with other options can do: ask for jobs."""

import asyncio
from collections.abc import AsyncIterable, Iterable
from dataclasses import replace
from typing import Any, TypedDict, Unpack
from uuid import UUID, uuid4

from reasonchip_broker.client.batch import Batch
from reasonchip_broker.client.fanout import CompletedJobs, OrderedResults
from reasonchip_broker.peer.exchange import Exchange
from reasonchip_broker.peer.job import Job
from reasonchip_broker.peer.maker import JobMaker
from reasonchip_broker.peer.options import Disconnect, Options

IN_FLIGHT = 64
"""Jobs of one `map` that are under way at once, unless it says otherwise."""

BATCH_IN_FLIGHT = 256
"""The same of one batch."""


class OptionChanges(TypedDict, total=False):
    """The options that `with_options` takes; see `Options`."""

    timeout: float | None
    deadline_s: float | None
    queue: bool
    cookie: UUID | None
    encoding: str
    detach: bool
    follow: bool
    attempts: int
    backoff_s: float
    retry_on: str | type[BaseException] | Iterable[str | type[BaseException]]
    on_disconnect: Disconnect
    retention_s: float | None
    queue_limit_s: float | None
    run_limit_s: float | None
    parent: UUID | None
    batch: UUID | None


class Submitter:
    """Submits jobs, all with the same options.

    The variables of a job are given by name, whatever the names, or as one value of any kind that the encoding knows (`None`
    for none). Everything else about a job is an option, and options are set with `with_options`, so that the two can't be
    mistaken for each other.
    """

    def __init__(self, exchange: Exchange, maker: JobMaker) -> None:
        self._exchange = exchange
        self._maker = maker

    @property
    def options(self) -> Options:
        """The options that jobs are submitted with."""
        return self._maker.options

    def with_options(self, **changes: Unpack[OptionChanges]) -> "Submitter":
        """The same client with other options; see `Options` for what there is. Raises ValueError and TypeError as that does."""
        return Submitter(self._exchange, self._maker.with_options(replace(self.options, **changes)))

    def submit(self, pipeline: str, variables: Any = None, /, **named: Any) -> Job:
        """Submit a job and return at once. It is sent in the next turn of the loop, or held until that is possible.

        Raises TypeError and ValueError for variables that can't be encoded and names that no pipeline can have, ConnectError if
        the client was never connected, ConnectionLost if it is closed, RuntimeError in another event loop than the client's.
        """
        self._check_here()
        job = self._maker.make(pipeline, variables, named)
        self._maker.post(job)
        return job

    def _check_here(self) -> None:
        """Raise what `submit` raises where nothing may be asked for."""
        self._exchange.check_open()
        if asyncio.get_running_loop() is not self._exchange.loop:
            raise RuntimeError("this client belongs to another event loop; a BlockingClient may be used from everywhere")

    async def run(self, pipeline: str, variables: Any = None, /, **named: Any) -> Any:
        """Run a job and return its result. Raises what `submit` does, and what the job ends with (see `Job`).

        If the task that awaits this is cancelled, so is the job.
        """
        return await self.submit(pipeline, variables, **named).result()

    def map(
        self,
        pipeline: str,
        variables: Iterable[Any] | AsyncIterable[Any],
        *,
        in_flight: int = IN_FLIGHT,
        return_exceptions: bool = False,
    ) -> OrderedResults:
        """Run a job for each of `variables`, and iterate over the results, in order, with `async for`.

        At most `in_flight` jobs are under way or wait to be taken: `variables` may be endless, and is read as results are. The
        first failure is raised, unless `return_exceptions` puts it in its place. Whenever the iteration ends early (a failure,
        `break`, a cancelled task), the jobs that are left are cancelled. Raises ValueError for an `in_flight` below 1.
        """
        return OrderedResults(lambda item: self.submit(pipeline, item), variables, in_flight, return_exceptions)

    def as_completed(
        self, pipeline: str, variables: Iterable[Any] | AsyncIterable[Any], *, in_flight: int = IN_FLIGHT
    ) -> CompletedJobs:
        """Run a job for each of `variables`, and iterate over pairs of variables and their finished `Job`, as they finish.

        `await job` then returns, or raises, at once. Otherwise as `map`.
        """
        return CompletedJobs(lambda item: self.submit(pipeline, item), variables, in_flight)

    def submit_many(
        self,
        pipeline: str,
        variables: Iterable[Any] | AsyncIterable[Any],
        *,
        batch: UUID | None = None,
        in_flight: int = BATCH_IN_FLIGHT,
    ) -> Batch:
        """A batch of jobs, one for each of `variables`: to iterate over as they finish, or over their results in order.

        At most `in_flight` jobs are under way or wait to be taken. All carry the id `batch` (a random one unless it is given), by
        which the broker cancels them at one word. Raises ValueError for an `in_flight` below 1.
        """
        identity = batch or uuid4()
        view = self.with_options(batch=identity)
        return Batch(self._exchange, identity, lambda item: view.submit(pipeline, item), variables, in_flight)
