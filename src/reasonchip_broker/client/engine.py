"""An asyncio client in a thread of its own: what the blocking facades stand on.

The thread is a daemon, so that it never keeps a process alive; the end of the process disconnects it in an orderly way, within
a bound. After a fork the child has no such thread, and the sockets are the parent's: the child leaves everything of it alone
(`forget`), down to never deallocating the loop, which shares its epoll instance with the parent's.

Locks: `_gate` alone. It orders what is handed to the loop before the end of the loop, so that nothing is handed over and then
forgotten. Nothing waits, and no callback is called, under it.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from reasonchip_broker.client.client import Client
from reasonchip_broker.errors import ConnectionLost
from reasonchip_broker.protocol.codes import CloseReason

Value = TypeVar("Value")

EXIT_S = 2.0
"""How long the end of the process waits for the broker to take what was sent."""

_inherited: list["Engine"] = []
"""In a forked child: what belongs to its parent."""


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Engine:
    """A client, and the running loop that it belongs to."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.forgotten = False
        """Whether this belongs to the process that this one was forked from."""
        self._loop = _new_loop()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"reasonchip client of {client.url}", daemon=True)
        self._thread.start()

    def hand_over(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call something in the loop's thread, soon. Raises ConnectionLost once the client is closed."""
        with self._gate:
            self._require_open()
            self._loop.call_soon_threadsafe(callback, *arguments)

    def call(self, work: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Run a coroutine in the loop's thread and wait for what it returns or raises. If the wait is interrupted, so is the
        work.

        Raises ConnectionLost once the client is closed, RuntimeError in the loop's own thread, which would wait for itself.
        """
        self.require_other_thread()
        with self._gate:
            self._require_open()
            future: Future[Value] = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def require_other_thread(self) -> None:
        """Raise RuntimeError in the loop's own thread: nothing that waits may be called there, such as in a future's callback."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("this is the client's own thread (a callback?): to wait for the client here would be for ever")

    def close(self, timeout_s: float | None = None) -> None:
        """Disconnect, end the thread, and wait for that for at most `timeout_s` seconds (in the thread itself, not at all)."""
        with self._gate:
            if self.forgotten:
                return
            if not self._closed:
                self._closed = True
                asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def forget(self) -> None:
        """This is a forked child: nothing of this engine works here, and nothing of it may be touched."""
        self._gate = threading.Lock()
        self.forgotten = True
        _inherited.append(self)

    def _require_open(self) -> None:
        if self.forgotten:
            raise ConnectionLost("the connection belongs to the process that this one was forked from", CloseReason.NORMAL)
        if self._closed:
            raise ConnectionLost("the client is closed", CloseReason.NORMAL)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _finish(self) -> None:
        try:
            await self.client.close()
            # Whoever waits for an answer has one now; let those who carry it across the threads do so.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=EXIT_S)
            for _ in range(2):
                await asyncio.sleep(0)
        finally:
            self._loop.stop()
