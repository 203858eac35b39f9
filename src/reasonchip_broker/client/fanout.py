"""Many jobs of one kind, a bounded number of them at a time.

An iterator that the application holds (`OrderedResults`, `CompletedJobs`) owns a `Flight`, which the jobs under way know. So
when the application drops the iterator, by `break` for example, it is gone at once though jobs still point to its flight, and
cancels them.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.peer.job import Job

_NOT_YET = object()
_END = object()

Entry = tuple[Any, Job]


class _Note:
    """A waiter that tells a flight which of its jobs is over."""

    __slots__ = ("_entry", "_flight")

    def __init__(self, flight: "Flight", entry: Entry) -> None:
        self._flight = flight
        self._entry = entry

    def done(self) -> bool:
        return self._flight.closed

    def set_result(self, result: None, /) -> None:
        self._flight.landed(self._entry)


class Flight:
    """Jobs under way, fed from a source of variables, at most `in_flight` at a time. Raises ValueError for an `in_flight` below 1."""

    def __init__(
        self,
        submit: Callable[[Any], Job],
        source: Iterable[Any] | AsyncIterable[Any],
        in_flight: int,
        in_order: bool,
        abandon: Callable[[Iterable[Job]], None] | None = None,
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        self.jobs: deque[Entry] = deque()
        """In order: jobs that were submitted and not taken. Otherwise: jobs that are over and not taken."""
        self.closed = False
        self._submit = submit
        # Once, since to ask that of an abstract class costs as much as a good part of a job.
        self._at_hand: Iterator[Any] | None = None if isinstance(source, AsyncIterable) else iter(source)
        self._source = aiter(source) if isinstance(source, AsyncIterable) else None
        self._in_flight = in_flight
        self._in_order = in_order
        self._abandon = abandon or _abandon
        self._aboard: dict[Job, None] = {}
        self._pull: asyncio.Task[Any] | None = None
        self._exhausted = False
        self._bell: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def over(self) -> bool:
        """Whether everything was submitted, is over, and was taken."""
        return self._exhausted and not self._aboard and not self.jobs

    @property
    def _untaken(self) -> int:
        """Jobs that are under way, or over and not taken."""
        return len(self.jobs) if self._in_order else len(self._aboard) + len(self.jobs)

    def fill(self) -> None:
        """Submit as many jobs as there is room for and the source has at hand. Raises what the source or `submit` raises."""
        while not self._exhausted and self._untaken < self._in_flight:
            variables = self._next()
            if variables is _NOT_YET:
                return
            if variables is _END:
                self._exhausted = True
                return
            job = self._submit(variables)
            entry = variables, job
            if self._in_order:
                self.jobs.append(entry)
            if job.done():
                self.landed(entry)
            else:
                self._aboard[job] = None
                job._wait_with(_Note(self, entry))

    def _next(self) -> Any:
        if self._at_hand is not None:
            return next(self._at_hand, _END)
        if self._pull is None and self._source is not None:
            self._pull = asyncio.ensure_future(_pull(self._source))
            self._pull.add_done_callback(self._pulled)
        if self._pull is None or not self._pull.done():
            return _NOT_YET
        pull, self._pull = self._pull, None
        return pull.result()

    def _pulled(self, pull: asyncio.Task[Any]) -> None:
        if self.closed and not pull.cancelled():
            pull.exception()  # Nobody asks for it any more, which is no reason to complain.
        self.ring()

    def landed(self, entry: Entry) -> None:
        """A job is over."""
        self._aboard.pop(entry[1], None)
        if not self._in_order:
            self.jobs.append(entry)
        elif entry[1] is not self.jobs[0][1]:
            return
        self.ring()

    def ring(self) -> None:
        """Wake whoever waits for something to happen."""
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def wait(self) -> None:
        """Wait until something happens."""
        self._bell = asyncio.get_running_loop().create_future()
        try:
            await self._bell
        finally:
            self._bell = None

    def drop(self) -> None:
        """Nobody holds the iterator any more; said by the garbage collector, in whatever thread."""
        if self.closed or self.over or self._loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self.close()
        else:
            self._loop.call_soon_threadsafe(self.close)

    def close(self) -> None:
        """Cancel what is under way, and take no more."""
        if self.closed:
            return
        self.closed = True
        self._exhausted = True
        if self._pull is not None:
            self._pull.cancel()
        aboard, self._aboard = self._aboard, {}
        self._abandon(aboard)
        self.jobs.clear()

    def stop(self) -> None:
        """Submit no more; what is under way goes on."""
        self._exhausted = True
        if self._pull is not None:
            self._pull.cancel()
            self._pull = None
        self.ring()


def _abandon(jobs: Iterable[Job]) -> None:
    for job in jobs:
        job._abandon(ended())


def ended() -> JobCancelled:
    """The outcome here of a job whose iteration was ended."""
    return JobCancelled("the iteration that the job belonged to has ended")


async def _pull(source: AsyncIterator[Any]) -> Any:
    return await anext(source, _END)


class _Iteration:
    """What both kinds of iterators share: they end their flight when they are closed, dropped, or fail."""

    __slots__ = ("_flight",)

    def __init__(self, flight: Flight) -> None:
        self._flight = flight

    @property
    def flight(self) -> Flight:
        """The jobs of this iteration. Whoever holds it does not hold the iteration."""
        return self._flight

    async def aclose(self) -> None:
        """End the iteration; jobs that are not over are cancelled."""
        self._flight.close()

    def __del__(self) -> None:
        flight = getattr(self, "_flight", None)
        if flight is not None:
            flight.drop()

    async def _landed(self, ready: Callable[[deque[Entry]], bool]) -> Entry:
        """The next entry. Raises StopAsyncIteration at the end; closes the flight on any other failure."""
        flight = self._flight
        try:
            while True:
                flight.fill()
                if flight.jobs and ready(flight.jobs):
                    return flight.jobs.popleft()
                if flight.over:
                    raise StopAsyncIteration
                await flight.wait()
        except BaseException:
            flight.close()
            raise


class OrderedResults(_Iteration):
    """Results in the order of their variables: what `map` returns."""

    __slots__ = ("_return_exceptions",)

    def __init__(
        self,
        submit: Callable[[Any], Job],
        source: Iterable[Any] | AsyncIterable[Any],
        in_flight: int,
        return_exceptions: bool,
        abandon: Callable[[Iterable[Job]], None] | None = None,
    ) -> None:
        super().__init__(Flight(submit, source, in_flight, True, abandon))
        self._return_exceptions = return_exceptions

    def __aiter__(self) -> "OrderedResults":
        return self

    async def __anext__(self) -> Any:
        _, job = await self._landed(_first_is_over)
        try:
            return job._value()
        except Exception as error:
            if self._return_exceptions:
                return error
            self._flight.close()
            raise


class CompletedJobs(_Iteration):
    """Pairs of variables and their finished jobs, as they finish: what `as_completed` returns."""

    __slots__ = ()

    def __init__(
        self,
        submit: Callable[[Any], Job],
        source: Iterable[Any] | AsyncIterable[Any],
        in_flight: int,
        abandon: Callable[[Iterable[Job]], None] | None = None,
    ) -> None:
        super().__init__(Flight(submit, source, in_flight, False, abandon))

    def __aiter__(self) -> "CompletedJobs":
        return self

    async def __anext__(self) -> Entry:
        return await self._landed(bool)


def _first_is_over(jobs: deque[Entry]) -> bool:
    return jobs[0][1].done()
