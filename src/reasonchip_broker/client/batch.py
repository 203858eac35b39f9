"""Many jobs under one id: how many there are of them, what comes of them, and an end to all of them at one word."""

from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any
from uuid import UUID

from reasonchip_broker.client.fanout import CompletedJobs, Flight, OrderedResults, ended
from reasonchip_broker.peer.exchange import Exchange
from reasonchip_broker.peer.job import Answer, Job, JobState
from reasonchip_broker.protocol import packets


class Batch:
    """Jobs of one batch; what `submit_many` returns. Iterate over it once, in one of three ways; jobs are submitted as that goes on:

    - `async for variables, job in batch`: each job as it finishes;
    - `async for result in batch.results()`: results in the order of their variables;
    - `await batch.finish()`: no more than the counts.

    If the iteration ends early (`break`, a failure, a cancelled task), the jobs that are left are cancelled.
    """

    def __init__(
        self,
        exchange: Exchange,
        identity: UUID,
        submit: Callable[[Any], Job],
        variables: Iterable[Any] | AsyncIterable[Any],
        in_flight: int,
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        self.id = identity
        """What the jobs have in common: the option `batch` of each."""
        self.submitted = 0
        """How many jobs were submitted so far."""
        self.succeeded = 0
        """How many of them ended with a result."""
        self.failed = 0
        """How many of them ended otherwise."""
        self._exchange = exchange
        self._submit_one = submit
        self._variables = variables
        self._in_flight = in_flight
        self._flight: Flight | None = None
        # Not the iterator: when the application drops that, it is to be gone, which ends the flight.

    @property
    def done(self) -> int:
        """How many jobs are over."""
        return self.succeeded + self.failed

    def __aiter__(self) -> CompletedJobs:
        self._require_first()
        iteration = CompletedJobs(self._submit, self._variables, self._in_flight, self._abandon)
        self._flight = iteration.flight
        return iteration

    def results(self, *, return_exceptions: bool = False) -> OrderedResults:
        """Iterate over the results in order. The first failure is raised, unless `return_exceptions` puts it in its place.

        Raises RuntimeError if the batch is iterated over already.
        """
        self._require_first()
        iteration = OrderedResults(self._submit, self._variables, self._in_flight, return_exceptions, self._abandon)
        self._flight = iteration.flight
        return iteration

    async def finish(self) -> "Batch":
        """Submit all jobs and wait until they are over, however they end; what they return is not kept. Returns the batch itself.

        Raises RuntimeError if the batch is iterated over already, and what the source of the variables raises.
        """
        async for _ in self:
            pass
        return self

    async def cancel(self, at_once: bool = False, why: str = "") -> Answer:
        """Submit no more jobs, and have the broker cancel those that are not over; the answer's `jobs` says how many that were. The
        iteration goes on until all have their outcome. Raises ConnectError without a connection, ConnectionLost if it ends meanwhile.
        """
        if self._flight is not None:
            self._flight.stop()
        return await self._exchange.cancel_batch(self.id.bytes, at_once, why)

    def __repr__(self) -> str:
        return f"<Batch {self.id}: {self.submitted} submitted, {self.succeeded} succeeded, {self.failed} failed>"

    def _require_first(self) -> None:
        if self._flight is not None:
            raise RuntimeError("a batch is iterated over once")

    def _submit(self, variables: Any) -> Job:
        job = self._submit_one(variables)
        self.submitted += 1
        counter = _Counter(self, job)
        if job.done():
            counter.set_result(None)
        else:
            job._watch_with(counter)
        return job

    def _abandon(self, jobs: Iterable[Job]) -> None:
        """Let the broker cancel all of them at one word, rather than at one each."""
        left = [job for job in jobs if not job.done()]
        if any(job.state is not JobState.HELD for job in left):
            self._exchange.put(packets.cancel_batch(self.id.bytes, why=str(ended())))
        for job in left:
            self._exchange.abandon(job, ended(), tell=job.state is JobState.ADRIFT)


class _Counter:
    """A watcher that counts a job's end."""

    __slots__ = ("_batch", "_job")

    def __init__(self, batch: Batch, job: Job) -> None:
        self._batch = batch
        self._job = job

    def done(self) -> bool:
        return False

    def set_result(self, result: None, /) -> None:
        if self._job._failure() is None:
            self._batch.succeeded += 1
        else:
            self._batch.failed += 1
