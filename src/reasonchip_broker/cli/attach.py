"""`reasonchip-broker attach`."""

from uuid import UUID

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, broker_option, json_option
from reasonchip_broker.cli.connection import kept_connection, patience_option, reason_told
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.follow import follow
from reasonchip_broker.cli.outcome import tell_failure, tell_result
from reasonchip_broker.errors import JobFailed, RequestRefused


@click.command(
    "attach",
    cls=Command,
    examples=[
        ("reasonchip-broker attach 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52", "wait for its outcome, or fetch it"),
        (
            "reasonchip-broker attach 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52 --follow",
            "and print the progress that the broker still has",
        ),
        ("reasonchip-broker attach 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52 --from 41", "the same from item 41 on"),
        (
            "reasonchip-broker attach 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52 --follow --watch",
            "look on while it belongs to somebody else",
        ),
    ],
)
@click.argument("cookie", type=click.UUID, metavar="COOKIE")
@click.option("--follow", "following", is_flag=True, help="Print the job's progress as it comes, one item a line.")
@click.option("--from", "first", type=click.IntRange(min=1), metavar="N", help="Follow from item N on. [default: 1]")
@click.option(
    "--watch",
    is_flag=True,
    help="Look on only: the job stays its owner's, and does not wait for this end to take its progress.",
)
@patience_option
@broker_option
@json_option
def command(
    cookie: UUID, following: bool, first: int | None, watch: bool, patience_s: float, broker: str, as_json: bool
) -> Exit:
    """Wait for a job by its cookie, or fetch its outcome, whoever ran it.

    Prints what `run` prints, and has its exit codes; 4 if the broker knows no such job, or keeps its outcome no longer. Ctrl-C leaves,
    and the job goes on.

    The job is taken over: its `--on-disconnect` is now about this command. With --watch it is not.
    """
    return loop.run(_attach(cookie, first or (1 if following else None), watch, patience_s, broker, as_json))


async def _attach(cookie: UUID, first: int | None, watch: bool, patience_s: float, broker: str, as_json: bool) -> Exit:
    async with kept_connection(broker, patience_s) as client:
        job = client.attach(cookie, follow=first is not None, first=first or 1, take=not watch)
        try:
            async with reason_told(job):
                if first is not None:
                    await follow(job, first=first, as_json=as_json)
                value = await job
        except (JobFailed, RequestRefused) as error:
            return tell_failure(cookie, error, as_json=as_json)
        tell_result(cookie, value, as_json=as_json)
        return Exit.OK
