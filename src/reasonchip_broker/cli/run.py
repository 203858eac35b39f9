"""`reasonchip-broker run`."""

import asyncio
import signal
import sys
from typing import Any
from uuid import UUID

import click
import msgspec

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, broker_option, json_option
from reasonchip_broker.cli.exits import Exit, code_of
from reasonchip_broker.cli.output import emit, emit_json, note, note_lines
from reasonchip_broker.cli.text import printable_lines
from reasonchip_broker.cli.variables import variables
from reasonchip_broker.client import Client, Job, JobState
from reasonchip_broker.errors import JobCancelled, JobFailed, RequestRefused
from reasonchip_broker.protocol.codes import Code

QUEUED_NOTE_S = 1.0
"""Whoever waits for longer than this is told what for."""


@click.command(
    "run",
    cls=Command,
    examples=[
        ("reasonchip-broker run greet --set name=Ada", "one variable, a text"),
        ("reasonchip-broker run add --set a=2 --set b=3.5 --set 'tags=[\"x\"]'", "what parses as JSON is JSON"),
        ('echo \'{"name": "Ada"}\' | reasonchip-broker run greet --vars -', "variables from stdin"),
        ("reasonchip-broker run report --timeout 60 --json", "at most a minute; the outcome as JSON"),
        ("reasonchip-broker run nightly --detach", "print the job's cookie, and don't wait for it"),
    ],
)
@click.argument("pipeline")
@click.option(
    "--set", "pairs", metavar="NAME=VALUE", multiple=True, help="A variable: JSON where it parses, else text. May be repeated."
)
@click.option("--vars", "file", metavar="FILE", help="Variables from a file with a JSON object; - is stdin. --set wins.")
@click.option("--detach", is_flag=True, help="Print the job's cookie as soon as the broker has it, and don't wait.")
@click.option("--cookie", type=click.UUID, metavar="UUID", help="Name the job by this UUID. [default: a random one]")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="End the job if it is not over by then."
)
@click.option(
    "--encoding",
    type=click.Choice(["json", "msgpack"]),
    default="json",
    show_default=True,
    help="How variables travel. Existing ReasonChip workers know only json.",
)
@broker_option
@json_option
def command(pipeline: str, pairs: tuple[str, ...], file: str | None, broker: str, as_json: bool, **options: Any) -> Exit:
    """Run one job and print its result.

    A text is printed as it is, anything else as JSON. If the job fails, its error and the worker's stack trace go to stderr, and the
    exit code is 1; if the broker refuses it, 4; if there is no broker, 3. Ctrl-C cancels the job.
    """
    values = variables(pairs, file)
    return loop.run(_run(pipeline, values, broker, as_json=as_json, **options))


async def _run(
    pipeline: str,
    values: dict[str, Any],
    broker: str,
    *,
    as_json: bool,
    detach: bool,
    cookie: UUID | None,
    timeout: float | None,
    encoding: str,
) -> Exit:
    async with Client(broker, reconnect=False, encoding=encoding) as client:
        submitter = client.with_options(detach=detach, cookie=cookie, deadline_s=timeout)
        try:
            job = submitter.submit(pipeline, values)
        except (TypeError, ValueError) as error:
            raise click.UsageError(f"{error}.") from error
        try:
            value = await _outcome(job, pipeline)
        except (JobFailed, RequestRefused) as error:
            return _tell_failure(job, error, as_json=as_json)
        _tell_result(job, value, as_json=as_json, detached=detach)
        return Exit.OK


async def _outcome(job: Job, pipeline: str) -> Any:
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

    def waits() -> None:
        if job.state is JobState.QUEUED:
            note(f"no slot is free for {pipeline!r} yet; job {job.cookie} waits for one")

    event_loop.add_signal_handler(signal.SIGINT, interrupted)
    told = event_loop.call_later(QUEUED_NOTE_S, waits)
    try:
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
        told.cancel()
        event_loop.remove_signal_handler(signal.SIGINT)
        await asyncio.gather(*asked, return_exceptions=True)


def _tell_result(job: Job, value: Any, *, as_json: bool, detached: bool) -> None:
    if as_json:
        emit_json({"cookie": job.cookie, "outcome": "SUBMITTED" if detached else "OK", "result": value})
    elif detached:
        emit(str(job.cookie))
    elif isinstance(value, str):
        emit(printable_lines(value) if sys.stdout.isatty() else value)
    elif isinstance(value, bytes) and sys.stdout.isatty():
        note(f"the result is {len(value)} bytes: redirect stdout to a file to have them")
    elif isinstance(value, bytes):
        emit(value, end=False)
    else:
        encoded = msgspec.json.encode(value)
        emit((msgspec.json.format(encoded) if sys.stdout.isatty() else encoded).decode())


def _tell_failure(job: Job, error: JobFailed | RequestRefused, *, as_json: bool) -> Exit:
    refused = isinstance(error, RequestRefused)
    name = Code(error.code).name
    message = str(error.args[0]) if error.args else ""
    if as_json:
        facts: dict[str, Any] = {"cookie": job.cookie, "refused" if refused else "outcome": name, "error": message}
        if isinstance(error, JobFailed):
            facts |= {"type": error.error_type, "stack": error.stack, "may_have_run": error.may_have_run}
        emit_json(facts)
    else:
        kind = error.error_type if isinstance(error, JobFailed) else ""
        verb = (
            "the broker refused the job"
            if refused
            else "the job was cancelled"
            if isinstance(error, JobCancelled)
            else "the job failed"
        )
        note(f"{verb} ({name}): {kind + ': ' if kind else ''}{message}")
        if isinstance(error, JobFailed) and error.stack:
            note_lines("\n".join(["stack trace of the worker:", *error.stack]))
    return code_of(error)
