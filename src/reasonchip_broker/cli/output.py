"""stdout for what was asked for, stderr for everything else."""

import asyncio
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

import click
import msgspec

from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.text import printable, printable_json, printable_lines


def emit(text: str | bytes, *, end: bool = True) -> None:
    """Print on stdout, at once, and end the line. Ends the command if nobody reads it any more."""
    try:
        click.echo(text, nl=end)
        sys.stdout.flush()
    except BrokenPipeError:
        raise _unread() from None


async def emit_aside(data: bytes) -> None:
    """The same for bytes as they are, without holding the event loop up: while a pager shows the first page, the broker goes on
    hearing from us.

    In a thread that nobody waits for, which writes past Python's buffers: it may stay stuck in that when the command ends.
    """
    loop = asyncio.get_running_loop()
    written: asyncio.Future[None] = loop.create_future()
    descriptor = sys.stdout.fileno()

    def write() -> None:
        left, error = memoryview(data), None
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(tell, error)
        except RuntimeError:
            pass  # The loop is closed: the command has ended meanwhile.

    def tell(error: OSError | None) -> None:
        if written.done():
            return
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)

    threading.Thread(target=write, name="stdout", daemon=True).start()
    try:
        await written
    except BrokenPipeError:
        raise _unread() from None


def _unread() -> click.exceptions.Exit:
    # What is still buffered has nowhere to go; without this the interpreter would complain about it on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return click.exceptions.Exit(Exit.BROKEN_PIPE)


def emit_json(value: Any) -> None:
    """Print a value on stdout as one line of JSON."""
    emit(json_text(value))


def json_text(value: Any) -> str:
    """A value as one line of JSON, in which nothing moves a terminal's cursor. What came from a worker in MessagePack may have what
    JSON has no form for: that becomes text.
    """
    try:
        encoded = msgspec.json.encode(value)
    except TypeError:
        encoded = msgspec.json.encode(_sayable(value))
    return printable_json(encoded.decode())


def _sayable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else json_text(key): _sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    if isinstance(value, msgspec.msgpack.Ext):
        return f"Ext({value.code}, {value.data!r})"
    return value


def note(line: str) -> None:
    """Print one line on stderr."""
    click.echo(printable(line), err=True)


def note_lines(text: str) -> None:
    """Print text of several lines on stderr."""
    click.echo(printable_lines(text), err=True)
