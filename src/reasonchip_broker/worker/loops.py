"""Event loops: uvloop's where it can be had, and an end that a stubborn task can't hold up."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from signal import SIG_DFL, SIGINT, SIGTERM, Signals, raise_signal, signal
from types import FrameType
from typing import Any, Protocol

logger = logging.getLogger("reasonchip_broker.worker")

WIND_UP_S = 2.0
"""How long what is left in a loop may take to end; a handler may swallow its cancellation, and the process is to end all the
same."""


class Stoppable(Protocol):
    """What signals stop."""

    def leave(self) -> None:
        """Finish what runs, and end. Called by a signal handler."""

    def hurry(self) -> None:
        """Do not wait for what runs. Called by a signal handler."""


def new_loop() -> asyncio.AbstractEventLoop:
    """A new event loop; uvloop's where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run_and_close(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a loop of its own and close that, which `asyncio.run` does not while a task refuses to end.

    Raises what the coroutine raises.
    """
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main)
    finally:
        try:
            loop.run_until_complete(_wind_up())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


async def _wind_up() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=WIND_UP_S)
        if pending:
            logger.warning("%d tasks did not end, and are left behind", len(pending))
    loop = asyncio.get_running_loop()
    for shutdown in (loop.shutdown_asyncgens(), loop.shutdown_default_executor()):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WIND_UP_S):
                await shutdown


@contextlib.contextmanager
def stopped_by_signals(subject: Stoppable) -> Iterator[None]:
    """While this is entered, SIGTERM and SIGINT make the subject leave, a second one makes it hurry, and a third ends the
    process.

    The handlers are plain ones and not the loop's, so that they are heard while a handler blocks the loop. Outside of the main
    thread, where Python hears no signals, nothing is done.
    """
    heard = 0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard += 1
        if heard == 1:
            subject.leave()
        elif heard == 2:
            subject.hurry()
        else:
            signal(number, SIG_DFL)
            raise_signal(Signals(number))

    try:
        before = {number: signal(number, hear) for number in (SIGTERM, SIGINT)}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal(number, SIG_DFL if handler is None else handler)
