"""`reasonchip-broker cancel`."""

from uuid import UUID

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, broker_option, json_option
from reasonchip_broker.cli.exits import Exit, Fault
from reasonchip_broker.cli.output import emit, emit_json
from reasonchip_broker.client import Answer, Client
from reasonchip_broker.protocol.codes import REFUSALS

_SAID = {"OK": "cancelled", "CANCELLING": "cancelling"}


@click.command(
    "cancel",
    cls=Command,
    examples=[
        ("reasonchip-broker cancel 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52", "ask politely: the worker may clean up first"),
        ("reasonchip-broker cancel 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52 --now", "don't wait for that"),
    ],
)
@click.argument("cookie", type=click.UUID, metavar="COOKIE")
@click.option("--now", is_flag=True, help="Tell the worker to stop at once.")
@broker_option
@json_option
def command(cookie: UUID, now: bool, broker: str, as_json: bool) -> Exit:
    """Cancel a job by its cookie.

    Prints `cancelled` for a job that is over with that, because it had not begun, and `cancelling` for one whose worker was asked to
    stop. The exit code is 4 if there is no such job, or not any more.
    """
    answer = loop.run(_cancel(broker, cookie, now))
    refused = answer.code in REFUSALS
    if as_json:
        emit_json({"cookie": cookie, "refused" if refused else "answer": answer.code.name, "message": answer.message})
    elif refused:
        raise Fault(f"job {cookie} was not cancelled ({answer.code.name}): {answer.message}", Exit.REFUSED)
    else:
        emit(_SAID.get(answer.code.name, answer.code.name.lower()))
    return Exit.REFUSED if refused else Exit.OK


async def _cancel(broker: str, cookie: UUID, now: bool) -> Answer:
    async with Client(broker, reconnect=False) as client:
        return await client.cancel(cookie, at_once=now, why="reasonchip-broker cancel")
