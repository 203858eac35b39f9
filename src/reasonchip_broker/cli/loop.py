"""Running a coroutine on the best event loop that there is, and ending it in order when a signal says so."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

Result = TypeVar("Result")

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What ends a command like Ctrl-C does: processes that it started are ended too. A command may handle them in its own way."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loops, about four times as fast as asyncio's; or None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end.

    Ctrl-C, SIGTERM and SIGHUP cancel it. Once it has ended, that raises KeyboardInterrupt, or click's Exit with 128 + the signal's
    number.
    """
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_ended_by_signals(main))


async def _ended_by_signals(main: Coroutine[Any, Any, Result]) -> Result:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)
    ended_by: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        ended_by.append(number)
        task.cancel()

    for number in ENDING:
        loop.add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        if ended_by:
            raise click.exceptions.Exit(128 + ended_by[0]) from None
        raise
