"""Things handed from any thread to one event loop, a batch at a time."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Calls `take` in `loop` with each thing that is `put`, in order; `take` must not raise.

    Waking another thread's loop is a system call, so it is done once for all that is put until the loop gets to it. No lock is
    needed: a thing is put before the flag is read, and the flag is cleared before things are taken, so whoever reads it as set
    knows that the taking is still to come.
    """

    __slots__ = ("_items", "_loop", "_take", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Callable[[T], None]) -> None:
        self._loop = loop
        self._take = take
        self._items: deque[T] = deque()
        self._woken = False

    def put(self, item: T) -> None:
        """Hand over a thing, from any thread. Once the loop is closed nobody is there to hear it, and nothing happens."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._items.clear()
                self._woken = False

    def _deliver(self) -> None:
        self._woken = False
        items = self._items
        while items:
            self._take(items.popleft())
