"""`reasonchip-broker send`."""

import asyncio
from typing import Any
from uuid import UUID

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, broker_option, json_option
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.outcome import code_name, request_refused
from reasonchip_broker.cli.output import emit, emit_json, note
from reasonchip_broker.cli.variables import value_of
from reasonchip_broker.client import Client
from reasonchip_broker.errors import BrokerWentAway, ConnectionLost, CookieNotFound, RequestRefused
from reasonchip_broker.protocol.codes import ENCODING_JSON

SLOW_NOTE_S = 1.0
"""Whoever waits for longer than this is told what for."""


@click.command(
    "send",
    cls=Command,
    examples=[
        ("reasonchip-broker send 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52 approved", "a text"),
        ("reasonchip-broker send 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52 '{\"approve\": true}' 17", "two items, both JSON"),
    ],
)
@click.argument("cookie", type=click.UUID, metavar="COOKIE")
@click.argument("items", nargs=-1, required=True, metavar="ITEM...")
@broker_option
@json_option
def command(cookie: UUID, items: tuple[str, ...], broker: str, as_json: bool) -> Exit:
    """Send input to a running job, whoever ran it.

    Each ITEM is JSON where it parses, else text. Prints `sent` when the broker has them all; the job takes them when it asks for them.
    The exit code is 4 if there is no such job, if it is over, or if its worker takes no input.
    """
    try:
        return loop.run(_send(cookie, [value_of(item) for item in items], broker, as_json))
    except RequestRefused as error:
        sentence = f"job {cookie} got no input ({code_name(error.code)}): {error}"
        return request_refused(error, sentence, as_json=as_json, cookie=cookie)


async def _send(cookie: UUID, items: list[Any], broker: str, as_json: bool) -> Exit:
    async with Client(broker, reconnect=False, encoding=ENCODING_JSON) as client:
        before = await client.status(cookie)
        if before.is_over:
            # Not attached to: that would fetch its outcome.
            raise CookieNotFound(before.sentence or "the job is over")
        # Without taking it over: it is still whose it was.
        job = client.attach(cookie, take=False)
        told = asyncio.get_running_loop().call_later(SLOW_NOTE_S, note, "the job has enough that it has not taken; waiting")
        try:
            for item in items:
                await job.send(item)
            await job.flush()
        except TypeError as error:
            raise click.UsageError(f"{error}.") from error
        except CookieNotFound as error:
            if isinstance(error.__cause__, BrokerWentAway):
                # The job is over for this end alone.
                raise ConnectionLost(str(error.__cause__)) from error
            raise
        finally:
            told.cancel()
        if as_json:
            emit_json({"cookie": cookie, "answer": "OK", "sent": len(items)})
        else:
            emit("sent")
        return Exit.OK
