"""A loop that looks for what is waited for whenever it has done something, so that no test has to look again and again.

What a test waits for is often the state of an object that tells nobody of its changes. Where the object belongs to a loop, it changes
in no other place than the callbacks of that loop; so it is enough to look each time that some of them were run, before the loop waits
for more. What another thread changes has to wake the loop (`call_soon_threadsafe`), and what another process does has to come through
a descriptor (`readable`). Every asynchronous test runs in such a loop; a thread of a test can have one of its own.
"""

import asyncio
import os
import selectors
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self


class _Selector(selectors.DefaultSelector):
    """A selector that calls `look` first, and does not wait if that found something."""

    def __init__(self, look: Callable[[], bool]) -> None:
        super().__init__()
        self._look = look

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(0 if self._look() else timeout)


class AttentiveLoop(asyncio.SelectorEventLoop):
    """An event loop with `until`."""

    def __init__(self) -> None:
        self._sought: dict[asyncio.Future[None], Callable[[], bool]] = {}
        super().__init__(_Selector(self._look))

    def _look(self) -> bool:
        found = False
        for future, holds in self._sought.items():
            try:
                if not future.done() and holds():
                    future.set_result(None)
            except Exception as error:
                future.set_exception(error)
            found = found or future.done()
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds. Raises what `holds` raises."""
        if holds():
            return
        future = self.create_future()
        self._sought[future] = holds
        try:
            await future
        finally:
            del self._sought[future]


async def until(holds: Callable[[], bool], what: str, deadline_s: float) -> None:
    """Wait until something holds that changes in this loop alone. Raises AssertionError, with `what`, if it does not come to hold."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, AttentiveLoop)
    try:
        async with asyncio.timeout(deadline_s):
            await loop.until(holds)
    except TimeoutError:
        raise AssertionError(f"within {deadline_s:g} s, {what}") from None


def run(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run`, with such a loop."""
    with asyncio.Runner(loop_factory=AttentiveLoop) as runner:
        runner.run(main)


async def readable(descriptor: int, deadline_s: float) -> None:
    """Wait until something can be read from a descriptor, or its other end has gone. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        async with asyncio.timeout(deadline_s):
            await event.wait()
    finally:
        loop.remove_reader(descriptor)


async def gone(pid: int, deadline_s: float) -> None:
    """Wait until a process is dead that need not be our child. Raises TimeoutError."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await readable(descriptor, deadline_s)
    finally:
        os.close(descriptor)


class Word:
    """A named pipe by which processes give each other a word, once: `path` is written to, and read from, as a file is.

    It is held open at both ends here, so that nobody who opens it has to wait for somebody at the other end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    async def heard(self, deadline_s: float) -> str:
        """Wait for what another process says, and return it. Raises TimeoutError."""
        await readable(self._descriptor, deadline_s)
        return os.read(self._descriptor, 4096).decode()

    def say(self) -> None:
        """Let whoever waits for it go on."""
        os.write(self._descriptor, b".")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
