"""`reasonchip-broker run`."""

import asyncio
import contextlib
import signal
from dataclasses import fields
from typing import Any

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, broker_option, json_option
from reasonchip_broker.cli.connection import kept_connection, patience_option, reason_told
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.follow import follow
from reasonchip_broker.cli.inputs import lines_of_stdin
from reasonchip_broker.cli.life import life_options, options_of
from reasonchip_broker.cli.outcome import tell_failure, tell_result
from reasonchip_broker.cli.output import emit, emit_json, note
from reasonchip_broker.cli.variables import STDIN, value_of, variables
from reasonchip_broker.client import Client, Job, Options
from reasonchip_broker.errors import JobCancelled, JobFailed, RequestRefused, TooLarge


@click.command(
    "run",
    cls=Command,
    examples=[
        ("reasonchip-broker run greet --set name=Ada", "one variable, a text"),
        ("reasonchip-broker run add --set a=2 --set b=3.5 --set 'tags=[\"x\"]'", "what parses as JSON is JSON"),
        ('echo \'{"name": "Ada"}\' | reasonchip-broker run greet --vars -', "variables from stdin"),
        ("reasonchip-broker run report --timeout 60 --json", "at most a minute; the outcome as JSON"),
        ("reasonchip-broker run story --follow", "print what it makes while it makes it"),
        ("reasonchip-broker run agent --follow --send-lines", "and send it what you type, line by line"),
        (
            "reasonchip-broker run train --attempts 3 --retry-on ModelOverloaded",
            "try again if a worker is lost, or for this error",
        ),
        ("reasonchip-broker run nightly --detach", "print the job's cookie, and don't wait for it"),
        ("reasonchip-broker run nightly --detach --not-before 2026-12-01T02:00+01:00", "and let it start then"),
    ],
)
@click.argument("pipeline")
@click.option(
    "--set", "pairs", metavar="NAME=VALUE", multiple=True, help="A variable: JSON where it parses, else text. May be repeated."
)
@click.option("--vars", "file", metavar="FILE", help="Variables from a file with a JSON object; - is stdin. --set wins.")
@click.option("--follow", "following", is_flag=True, help="Print the job's progress as it comes, one item a line.")
@click.option("--send-lines", is_flag=True, help="Send each line of stdin to the running job: JSON where it parses, else text.")
@click.option("--detach", is_flag=True, help="Print the job's cookie as soon as the broker has it, and don't wait.")
@click.option("--cookie", type=click.UUID, metavar="UUID", help="Name the job by this UUID. [default: a random one]")
@life_options
@click.option(
    "--encoding",
    type=click.Choice(["json", "msgpack"]),
    default="json",
    show_default=True,
    help="How variables travel. Existing ReasonChip workers know only json.",
)
@patience_option
@broker_option
@json_option
def command(
    pipeline: str,
    pairs: tuple[str, ...],
    file: str | None,
    following: bool,
    send_lines: bool,
    detach: bool,
    patience_s: float,
    broker: str,
    as_json: bool,
    **said: Any,
) -> Exit:
    """Run one job and print its result.

    A text is printed as it is, anything else as JSON. If the job fails, its error and the worker's stack trace go to stderr, and the
    exit code is 1; if the broker refuses it, 4; if there is no broker, 3. Ctrl-C cancels the job.

    With --json, the outcome is a line of JSON, and each item of progress before it is one too.
    """
    if detach and (following or send_lines):
        raise click.UsageError(
            f"--detach does not wait, so it goes without {'--follow' if following else '--send-lines'}; "
            "see `attach` and `send` for later."
        )
    if send_lines and file == STDIN:
        raise click.UsageError("--vars - and --send-lines both read stdin: put the variables into a file.")
    options = options_of({**said, "follow": following}, detach=detach)
    asked = _Asked(pipeline, variables(pairs, file), options, following, send_lines, as_json)
    return loop.run(asked.run(broker, patience_s))


class _Asked:
    """One job, as it was asked for."""

    def __init__(
        self, pipeline: str, values: dict[str, Any], options: Options, following: bool, send_lines: bool, as_json: bool
    ) -> None:
        self.pipeline = pipeline
        self.values = values
        self.options = options
        self.following = following
        self.send_lines = send_lines
        self.as_json = as_json

    async def run(self, broker: str, patience_s: float) -> Exit:
        """Run it, and tell what becomes of it."""
        async with kept_connection(broker, patience_s, self.options.encoding) as client:
            try:
                job = self._submit(client)
            except (TypeError, ValueError) as error:
                raise click.UsageError(f"{error}.") from error
            try:
                value = await self._outcome(job)
            except (JobFailed, RequestRefused) as error:
                return tell_failure(job.cookie, error, as_json=self.as_json)
            except click.exceptions.Exit as ended:
                if ended.exit_code == Exit.BROKEN_PIPE and self.options.on_disconnect == "continue":
                    note(f"job {job.cookie} goes on: reasonchip-broker attach {job.cookie}")
                raise
            if not self.options.detach:
                tell_result(job.cookie, value, as_json=self.as_json)
            elif self.as_json:
                emit_json({"cookie": job.cookie, "outcome": "SUBMITTED", "result": None})
            else:
                emit(str(job.cookie))
            return Exit.OK

    def _submit(self, client: Client) -> Job:
        said = {field.name: getattr(self.options, field.name) for field in fields(Options)}
        return client.submit(self.pipeline, self.values, **said)

    async def _outcome(self, job: Job) -> Any:
        """Wait for the job; Ctrl-C cancels it, and a second Ctrl-C stops waiting for what becomes of that."""
        running = asyncio.current_task()
        event_loop = asyncio.get_running_loop()
        asked: list[asyncio.Task[Any]] = []

        def interrupted() -> None:
            if asked and running is not None:
                running.cancel()
            else:
                note("cancelling the job; Ctrl-C again to leave at once")
                asked.append(asyncio.ensure_future(job.cancel(why="Ctrl-C")))

        event_loop.add_signal_handler(signal.SIGINT, interrupted)
        feeding = asyncio.create_task(_feed(job)) if self.send_lines else None
        try:
            async with reason_told(job):
                if self.following:
                    await follow(job, as_json=self.as_json)
                return await job
        except asyncio.CancelledError:
            if asked:
                raise click.exceptions.Exit(Exit.INTERRUPTED) from None
            raise
        except JobCancelled:
            if asked:
                note("the job was cancelled")
                raise click.exceptions.Exit(Exit.INTERRUPTED) from None
            raise
        finally:
            if feeding is not None:
                feeding.cancel()
            event_loop.remove_signal_handler(signal.SIGINT)
            await asyncio.gather(*asked, return_exceptions=True)


async def _feed(job: Job) -> None:
    """Send the job what stands on stdin, line by line, until either ends."""
    async with contextlib.aclosing(lines_of_stdin()) as arriving:
        async for lines in arriving:
            try:
                for line in lines:
                    await _send(job, line)
                await job.flush()
            except RequestRefused as error:
                if not job.done():
                    note(f"the job takes no input: {error}")
                return


async def _send(job: Job, line: str) -> None:
    try:
        await job.send(value_of(line))
    except (TypeError, ValueError, TooLarge) as error:
        note(f"a line of stdin can't be sent: {error}")
