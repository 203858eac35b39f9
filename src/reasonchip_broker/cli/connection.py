"""A client for commands that wait for a job, for however long that takes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from reasonchip_broker.cli.command import Seconds
from reasonchip_broker.cli.output import note
from reasonchip_broker.cli.text import duration
from reasonchip_broker.client import Client, Job, JobState
from reasonchip_broker.errors import ReasonChipError
from reasonchip_broker.protocol.codes import ENCODING_JSON
from reasonchip_broker.protocol.codes import JobState as Place

PATIENCE_S = 60.0
QUEUED_NOTE_S = 1.0
"""Whoever waits for longer than this is told what for."""

LOOK_S = 0.25
"""How often it is seen whether the connection still stands, to tell of it."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def patience_option(function: Decorated) -> Decorated:
    """`--patience`: how long a lost broker is looked for."""
    return click.option(
        "--patience",
        "patience_s",
        type=Seconds(zero=True),
        metavar="SECONDS",
        default=PATIENCE_S,
        help=f"If the connection is lost, how long to look for the broker again. [default: {PATIENCE_S:g}]",
    )(function)


@asynccontextmanager
async def kept_connection(url: str, patience_s: float, encoding: str = ENCODING_JSON) -> AsyncIterator[Client]:
    """A client whose first connection is made at once or not at all, since an address may be wrong; a later one is looked for.

    Raises ConnectError, EndpointError.
    """
    client = Client(url, reconnect=patience_s > 0, patience_s=patience_s, encoding=encoding)
    await client.connect(once=True)
    async with client:
        watch = asyncio.create_task(_tell_of_breaks(client, patience_s))
        try:
            yield client
        finally:
            watch.cancel()


@asynccontextmanager
async def reason_told(job: Job) -> AsyncIterator[None]:
    """Whoever waits in this block for a job that waits itself is told why, or for its time until when, after a moment."""
    telling = asyncio.create_task(_tell_why_it_waits(job))
    try:
        yield
    finally:
        telling.cancel()


async def _tell_why_it_waits(job: Job) -> None:
    await asyncio.sleep(QUEUED_NOTE_S)
    while job.state in (JobState.SCHEDULED, JobState.QUEUED):
        try:
            status = await job.status()
        except ReasonChipError:
            return
        # It may have left the queue, or its time have come: only of that the client is not told by itself.
        if status.due_s is not None:
            note(f"job {job.cookie} is scheduled: {start_of(status.due_s, datetime.now().astimezone())}")
            await asyncio.sleep(status.due_s + QUEUED_NOTE_S)
            continue
        if status.state == Place.QUEUED:
            note(f"job {job.cookie} waits: {status.sentence}")
        return


def start_of(due_s: float, now: datetime) -> str:
    """When a job starts, for people: how long from now, and at what time of the day here."""
    at = now + timedelta(seconds=due_s)
    return f"it starts in {duration(due_s)}, at {at:%Y-%m-%d %H:%M:%S %z}"


async def _tell_of_breaks(client: Client, patience_s: float) -> None:
    connected = True
    while True:
        await asyncio.sleep(LOOK_S)
        if client.connected is not connected:
            connected = client.connected
            if connected:
                note("connected again")
            elif patience_s:
                note(f"the connection is lost; looking for the broker for {duration(patience_s)}")
