"""`reasonchip-broker cancel`."""

from uuid import UUID

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, broker_option, json_option
from reasonchip_broker.cli.exits import Exit, Fault
from reasonchip_broker.cli.output import emit, emit_json
from reasonchip_broker.client import Answer, Client
from reasonchip_broker.protocol.codes import REFUSALS

WHY = "reasonchip-broker cancel"
_SAID = {"OK": "cancelled", "CANCELLING": "cancelling"}


@click.command(
    "cancel",
    cls=Command,
    examples=[
        ("reasonchip-broker cancel 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52", "ask politely: the worker may clean up first"),
        ("reasonchip-broker cancel 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52 --now", "don't wait for that"),
        ("reasonchip-broker cancel --batch 9e107d9d-372b-4b68-8b4a-7a3f7d1c5a10", "every job of a batch"),
    ],
)
@click.argument("cookie", type=click.UUID, metavar="[COOKIE]", required=False)
@click.option("--batch", type=click.UUID, metavar="UUID", help="Cancel all jobs of this batch, instead of one by its cookie.")
@click.option("--now", is_flag=True, help="Tell the worker to stop at once.")
@broker_option
@json_option
def command(cookie: UUID | None, batch: UUID | None, now: bool, broker: str, as_json: bool) -> Exit:
    """Cancel a job by its cookie, or all jobs of a batch.

    Prints `cancelled` for a job that is over with that, because it had not begun, and `cancelling` for one whose worker was asked to
    stop; for a batch, how many jobs it was. The exit code is 4 if there is no such job, or not any more.
    """
    if (cookie is None) == (batch is None):
        raise click.UsageError("Name one job by its COOKIE, or a batch with --batch.")
    answer = loop.run(_cancel(broker, cookie, batch, now))
    refused = answer.code in REFUSALS
    if as_json:
        facts = {"refused" if refused else "answer": answer.code.name, "message": answer.message}
        emit_json({"cookie": cookie, **facts} if cookie else {"batch": batch, **facts, "jobs": answer.jobs})
    elif refused:
        what = f"job {cookie}" if cookie else f"batch {batch}"
        raise Fault(f"{what} was not cancelled ({answer.code.name}): {answer.message}", Exit.REFUSED)
    elif cookie:
        emit(_SAID.get(answer.code.name, answer.code.name.lower()))
    else:
        emit(f"{answer.jobs:,} jobs are cancelled or cancelling" if answer.jobs != 1 else "1 job is cancelled or cancelling")
    return Exit.REFUSED if refused else Exit.OK


async def _cancel(broker: str, cookie: UUID | None, batch: UUID | None, now: bool) -> Answer:
    async with Client(broker, reconnect=False) as client:
        if cookie is not None:
            return await client.cancel(cookie, at_once=now, why=WHY)
        return await client.cancel_batch(batch or UUID(int=0), at_once=now, why=WHY)
