"""Sending the demo's jobs: a bounded number at a time, each until it has a result; every one is written down in the ledger.

A job that is lost with its worker may have run, and the broker does not run it again by itself. These jobs only read, so this client
sends them again, as new jobs under new cookies.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from reasonchip_broker.cli.demo.ledger import OK, Ledger
from reasonchip_broker.client import Client, Job
from reasonchip_broker.errors import JobFailed, WorkerWentAway
from reasonchip_broker.protocol.codes import Code

IN_FLIGHT = 24
"""Jobs under way at once: more than the workers have slots, so that some always wait in the broker."""

TRIES = 5
"""A job that cost five workers their life is not sent a sixth time."""

Item = TypeVar("Item")
Answer = TypeVar("Answer", bound=msgspec.Struct)


class Crew:
    """Sends jobs over one client and keeps the ledger."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self.ledger = ledger
        self.lost_at: list[float] = []
        """When we were told that a worker went away with a job of ours, by `time.monotonic()`."""
        self.loss = asyncio.Event()
        """Set when that happens."""
        self._client = client

    def submit(self, kind: str, pipeline: str, variables: dict[str, Any], repeats: UUID | None = None) -> Job:
        """Send one job. Its outcome is to be heard with `outcome`."""
        job = self._client.submit(pipeline, variables)
        self.ledger.sent(job.cookie, kind, repeats)
        return job

    async def outcome(self, job: Job) -> Any:
        """Wait for a job and write down what became of it. Raises JobFailed as the client does."""
        try:
            value = await job
        except JobFailed as error:
            self.ledger.over(job.cookie, Code(error.code).name)
            raise
        self.ledger.over(job.cookie, OK)
        return value

    async def run(self, kind: str, pipeline: str, variables: dict[str, Any]) -> Any:
        """Have a job done, however many workers go away meanwhile. Raises JobFailed if it fails in any other way, or too often."""
        repeats: UUID | None = None
        for turn in range(1, TRIES + 1):
            job = self.submit(kind, pipeline, variables, repeats)
            try:
                return await self.outcome(job)
            except WorkerWentAway:
                self.lost_at.append(time.monotonic())
                self.loss.set()
                if turn == TRIES:
                    self.ledger.given_up += 1
                    raise
                repeats = job.cookie
        raise AssertionError("the last turn returns or raises")

    async def run_as(self, kind: str, pipeline: str, variables: dict[str, Any], answer: type[Answer]) -> Answer:
        """`run`, for a job whose result is a struct."""
        return msgspec.convert(await self.run(kind, pipeline, variables), answer)

    async def for_each(
        self, items: Iterable[Item], act: Callable[[Item], Any], until: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[Any]:
        """Do something with each of the items, `IN_FLIGHT` at a time, and yield what comes of it as it comes.

        No more are begun once `until` says so.
        """
        source = iter(items)
        running: set[asyncio.Task[Any]] = set()
        try:
            while True:
                running |= {asyncio.ensure_future(act(item)) for item in _take(source, IN_FLIGHT - len(running), until)}
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def _take(source: Iterator[Item], most: int, until: Callable[[], bool]) -> Iterator[Item]:
    while most > 0 and not until():
        try:
            yield next(source)
        except StopIteration:
            return
        most -= 1
