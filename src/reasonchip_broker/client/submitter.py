"""What both the client and its views with other options can do: ask for jobs."""

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, Unpack
from uuid import uuid4

from reasonchip_broker.client.batch import Batch
from reasonchip_broker.client.fanout import CompletedJobs, OrderedResults
from reasonchip_broker.peer.exchange import Exchange
from reasonchip_broker.peer.job import Job
from reasonchip_broker.peer.maker import JobMaker
from reasonchip_broker.peer.options import OptionChanges, Options, changed
from reasonchip_broker.peer.views import Views

IN_FLIGHT = 64
"""Jobs of one `map` that are under way at once, unless it says otherwise."""

BATCH_IN_FLIGHT = 256
"""The same of one batch."""


class Submitter:
    """Submits jobs.

    The variables of a job are one value, of any kind that the encoding knows: for most pipelines a map of names to values; `None`
    for none. Every keyword is an option (see `Options`), so that the two can't be mistaken for each other: of this one job or,
    said to `with_options`, of all that are submitted by the view that it returns.
    """

    def __init__(self, exchange: Exchange, maker: JobMaker) -> None:
        self._exchange = exchange
        self._maker = maker
        self._makers: Views[JobMaker] = Views()

    @property
    def options(self) -> Options:
        """The options that jobs are submitted with."""
        return self._maker.options

    def with_options(self, **changes: Unpack[OptionChanges]) -> "Submitter":
        """The same client with other options; see `Options` for what there is. Raises ValueError and TypeError as that does, and
        TypeError for a name that is no option.
        """
        return Submitter(self._exchange, self._maker.with_options(changed(self.options, changes)))

    def submit(self, pipeline: str, variables: Any = None, **options: Unpack[OptionChanges]) -> Job:
        """Submit a job and return at once. It is sent in the next turn of the loop, or held until that is possible.

        Raises TypeError and ValueError for variables that can't be encoded, names that no pipeline can have, and options as
        `with_options` does; ConnectError if the client was never connected, ConnectionLost if it is closed, RuntimeError in
        another event loop than the client's.
        """
        self._check_here()
        maker = self._makers.of(options, self._changed) if options else self._maker
        job = maker.make(pipeline, variables)
        maker.post(job)
        return job

    def _changed(self, changes: Mapping[str, Any]) -> JobMaker:
        return self._maker.with_options(changed(self.options, changes))

    def _check_here(self) -> None:
        """Raise what `submit` raises where nothing may be asked for."""
        self._exchange.check_open()
        if asyncio.get_running_loop() is not self._exchange.loop:
            raise RuntimeError("this client belongs to another event loop; a BlockingClient may be used from everywhere")

    async def run(self, pipeline: str, variables: Any = None, **options: Unpack[OptionChanges]) -> Any:
        """Run a job and return its result. Raises what `submit` does, and what the job ends with (see `Job`).

        If the task that awaits this is cancelled, so is the job.
        """
        return await self.submit(pipeline, variables, **options).result()

    def map(
        self,
        pipeline: str,
        variables: Iterable[Any] | AsyncIterable[Any],
        *,
        in_flight: int = IN_FLIGHT,
        return_exceptions: bool = False,
        **options: Unpack[OptionChanges],
    ) -> OrderedResults:
        """Run a job for each of `variables`, and iterate over the results, in order, with `async for`.

        At most `in_flight` jobs are under way or wait to be taken: `variables` may be endless, and is read as results are. The
        first failure is raised, unless `return_exceptions` puts it in its place. Whenever the iteration ends early (a failure,
        `break`, a cancelled task), the jobs that are left are cancelled. Raises TypeError for the variables of one job
        (a map, a text), ValueError for an `in_flight` below 1 and for the option `cookie`, which names one job, and what `with_options`
        raises.
        """
        view = self._for_many(variables, options)
        return OrderedResults(lambda item: view.submit(pipeline, item), variables, in_flight, return_exceptions)

    def as_completed(
        self,
        pipeline: str,
        variables: Iterable[Any] | AsyncIterable[Any],
        *,
        in_flight: int = IN_FLIGHT,
        **options: Unpack[OptionChanges],
    ) -> CompletedJobs:
        """Run a job for each of `variables`, and iterate over pairs of variables and their finished `Job`, as they finish.

        `await job` then returns, or raises, at once. Otherwise as `map`.
        """
        view = self._for_many(variables, options)
        return CompletedJobs(lambda item: view.submit(pipeline, item), variables, in_flight)

    def submit_many(
        self,
        pipeline: str,
        variables: Iterable[Any] | AsyncIterable[Any],
        *,
        in_flight: int = BATCH_IN_FLIGHT,
        **options: Unpack[OptionChanges],
    ) -> Batch:
        """A batch of jobs, one for each of `variables`: to iterate over as they finish, or over their results in order.

        At most `in_flight` jobs are under way or wait to be taken. All carry one id (the option `batch`, a random one unless it is
        given), by which the broker cancels them at one word. Raises as `map` does.
        """
        view = self._for_many(variables, options)
        identity = view.options.batch or uuid4()
        view = view.with_options(batch=identity)
        return Batch(self._exchange, identity, lambda item: view.submit(pipeline, item), variables, in_flight)

    def _for_many(self, variables: object, options: OptionChanges) -> "Submitter":
        view = self.with_options(**options) if options else self
        require_many(variables, view.options)
        return view


def require_many(variables: object, options: Options) -> None:
    """Raise TypeError where the variables of one job would be taken for those of many, ValueError where one cookie would be."""
    if isinstance(variables, Mapping | str | bytes | bytearray):
        raise TypeError(
            f"the variables of many jobs are an iterable that has those of each, not one {type(variables).__name__}"
        )
    if options.cookie is not None:
        raise ValueError("a cookie names one job: leave the option out for many")
