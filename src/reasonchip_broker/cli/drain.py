"""`reasonchip-broker drain`."""

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, broker_option, json_option
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.outcome import code_name, request_refused
from reasonchip_broker.cli.output import emit, emit_json
from reasonchip_broker.client import Client
from reasonchip_broker.errors import RequestRefused
from reasonchip_broker.protocol import schemas


@click.command(
    "drain",
    cls=Command,
    examples=[
        ("reasonchip-broker drain gpu-1", "before its machine is restarted"),
        ("reasonchip-broker drain gpu-1 --json", "the broker's answer for a program"),
    ],
)
@click.argument("worker", metavar="WORKER")
@broker_option
@json_option
def command(worker: str, broker: str, as_json: bool) -> Exit:
    """Have a worker finish its jobs and leave.

    WORKER is its name, as its `--name` says. It gets no more jobs; its process ends when those that it has are over. Prints `draining`.
    The exit code is 4 if no worker of that name is connected.
    """
    try:
        schemas.drain_meta(schemas.encode_meta(schemas.DrainMeta(worker=worker)))
    except schemas.MetaInvalid as error:
        raise click.UsageError(f"{worker!r} can't be the name of a worker.") from error
    try:
        loop.run(_drain(broker, worker))
    except RequestRefused as error:
        sentence = f"worker {worker} was not drained ({code_name(error.code)}): {error}"
        return request_refused(error, sentence, as_json=as_json, worker=worker)
    if as_json:
        emit_json({"worker": worker, "answer": "OK"})
    else:
        emit("draining")
    return Exit.OK


async def _drain(broker: str, worker: str) -> None:
    async with Client(broker, reconnect=False) as client:
        await client.drain(worker)
