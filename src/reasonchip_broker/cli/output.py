"""stdout for what was asked for, stderr for everything else."""

import os
import sys
from typing import Any

import click
import msgspec

from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.text import printable, printable_lines


def emit(text: str | bytes, *, end: bool = True) -> None:
    """Print on stdout, at once, and end the line. Ends the command if nobody reads it any more."""
    try:
        click.echo(text, nl=end)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered has nowhere to go; without this the interpreter would complain about it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(Exit.BROKEN_PIPE) from None


def emit_json(value: Any) -> None:
    """Print a value on stdout as one line of JSON."""
    emit(msgspec.json.encode(value).decode())


def note(line: str) -> None:
    """Print one line on stderr."""
    click.echo(printable(line), err=True)


def note_lines(text: str) -> None:
    """Print text of several lines on stderr."""
    click.echo(printable_lines(text), err=True)
