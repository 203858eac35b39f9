"""`reasonchip-broker demo`."""

from pathlib import Path

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, json_option
from reasonchip_broker.cli.demo.progress import narrator
from reasonchip_broker.cli.demo.stage import perform
from reasonchip_broker.cli.demo.survey import BYTES_MAX, FILES_MAX, standard_library, survey
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.output import emit, emit_json

QUICK_FILES_MAX = 120
QUICK_BYTES_MAX = 2 * 1024 * 1024


@click.command(
    "demo",
    cls=Command,
    examples=[
        ("reasonchip-broker demo", "the source of Python's own standard library"),
        ("reasonchip-broker demo ~/src", "files of your own: Python files if there are any, otherwise all"),
        ("reasonchip-broker demo --quick --json", "a few seconds; the report as JSON"),
    ],
)
@click.argument("source", metavar="[INPUT]", required=False, type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help=f"At most {QUICK_FILES_MAX} files: a few seconds.")
@json_option
def command(source: Path | None, quick: bool, as_json: bool) -> Exit:
    """Show it all at work on real files.

    Starts a broker, three worker processes and a client; measures every file of INPUT, a job each, and merges what was found. Midway it
    cancels a job, kills a worker with SIGKILL and starts another. It takes less than a minute and leaves nothing running. The exit code
    is 1 if the numbers of its report do not add up.
    """
    limits = (QUICK_FILES_MAX, QUICK_BYTES_MAX) if quick else (FILES_MAX, BYTES_MAX)
    chosen = survey((source or standard_library()).resolve(), files_max=limits[0], bytes_max=limits[1])
    with narrator() as telling:
        telling.say(f"{len(chosen.files):,} {chosen.kind} of {chosen.root}, {chosen.size / 1e6:.1f} MB in all")
        outcome = loop.run(perform(chosen, telling))
    if as_json:
        emit_json(outcome.as_json())
    else:
        from rich.console import Console

        from reasonchip_broker.cli.demo.report import report

        console = Console()
        with console.capture() as captured:
            report(outcome, console)
        emit(captured.get(), end=False)
    return Exit.OK if outcome.adds_up else Exit.FAILED
