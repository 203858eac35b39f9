"""Waiting for what another thread brings about, in a task or in a thread, with one lock for both.

Something is *tried* under the lock, and tried again whenever something has changed, until it does not say `PENDING` any more. A
task waits with a future of its own loop and a thread with an event, so whoever changes something need not know who waits.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Pending:
    """What is tried can't be done yet."""


PENDING: Final = Pending()


class Done(Awaitable[T]):
    """A result that is there already. To await it lets other tasks run once, so that a handler that never has to wait does not
    keep the loop for itself."""

    __slots__ = ("_result",)

    def __init__(self, result: T) -> None:
        self._result = result

    def __await__(self) -> Generator[Any, None, T]:
        yield
        return self._result


def require_thread(instead: str) -> None:
    """Raise RuntimeError in an event loop, which every coroutine of the worker would wait with; `instead` is what to write there."""
    if in_loop():
        raise RuntimeError(f"in a coroutine it is `{instead}`")


def in_loop() -> bool:
    """Whether the caller is in an event loop, and so must await and not block."""
    return asyncio._get_running_loop() is not None


class Waiters:
    """Those who wait for a change of one thing. `lock` guards that thing and this; it is held for moments only, and never while
    another lock of this kind is taken."""

    __slots__ = ("_wakers", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._wakers: list[Callable[[], object]] = []

    def wake(self) -> None:
        """Something has changed. To be called with the lock held."""
        if self._wakers:
            wakers, self._wakers = self._wakers, []
            for waker in wakers:
                waker()

    async def until(self, attempt: Callable[[], Any]) -> Any:
        """Try in a task until it is done; `attempt` is called with the lock held. Raises what it raises, and CancelledError."""
        loop = asyncio.get_running_loop()
        while True:
            future: asyncio.Future[None] = loop.create_future()

            def waker(future: "asyncio.Future[None]" = future) -> None:
                try:
                    loop.call_soon_threadsafe(_wake, future)
                except RuntimeError:
                    pass  # The loop is closed, and with it whoever waited.

            with self.lock:
                result = attempt()
                if not isinstance(result, Pending):
                    return result
                self._enlist(waker)
            try:
                await future
            finally:
                self._forget(waker)

    def block_until(self, attempt: Callable[[], Any]) -> Any:
        """Try in this thread until it is done; `attempt` is called with the lock held. Raises what it raises."""
        while True:
            event = threading.Event()
            with self.lock:
                result = attempt()
                if not isinstance(result, Pending):
                    return result
                self._enlist(event.set)
            try:
                event.wait()
            finally:
                # A signal's handler may have raised.
                self._forget(event.set)

    def _enlist(self, waker: Callable[[], object]) -> None:
        self._wakers.append(waker)

    def _forget(self, waker: Callable[[], object]) -> None:
        with self.lock:
            if waker in self._wakers:
                self._wakers.remove(waker)


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
