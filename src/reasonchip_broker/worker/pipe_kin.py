"""The children of a handler in a process: what it asks goes up the pipe, and what is answered comes down.

Both ends are processes of one program on one machine, and speak in pickles.
"""

import pickle
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from typing import TYPE_CHECKING, Any

from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.worker.kindred import Kin

if TYPE_CHECKING:
    from reasonchip_broker.worker.children import Submission

MARK = b"k"
"""The first byte of what is said up the pipe about children. A frame's first byte is never as large."""


class PipeKin:
    """The end in the process; `say` writes to the pipe, from any thread."""

    def __init__(self, say: Callable[[bytes], None]) -> None:
        self._say = say
        self._numbers = count(1)
        self._asked: dict[int, Future[Any]] = {}

    def submit(self, submission: "Submission") -> None:
        """Send a child."""
        self._put(0, "submit", submission)

    def ask(self, verb: str, cookie: bytes, *arguments: Any) -> "Future[Any]":
        """Ask something of a child."""
        number = next(self._numbers)
        future: Future[Any] = Future()
        self._asked[number] = future
        future.add_done_callback(lambda future: self._left(number, future))
        self._put(number, verb, cookie, *arguments)
        return future

    def release(self, cookie: bytes) -> None:
        """Nobody will ask for this child again."""
        try:
            self._put(0, "release", cookie)
        except OSError:
            pass  # The pipe is closed.

    def answered(self, data: bytes) -> None:
        """Take an answer from the pipe."""
        number, value, error = pickle.loads(data)
        future = self._asked.pop(number, None)
        if future is not None and future.set_running_or_notify_cancel():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def _left(self, number: int, future: "Future[Any]") -> None:
        if future.cancelled() and self._asked.pop(number, None) is not None:
            self._put(number, "leave")

    def _put(self, number: int, verb: str, *arguments: Any) -> None:
        self._say(MARK + pickle.dumps((number, verb, arguments)))


class PipeKinServer:
    """The other end, for one job; `answer` writes to the pipe, from any thread, without waiting."""

    def __init__(self, kin: Kin, answer: Callable[[bytes], None]) -> None:
        self._kin = kin
        self._answer = answer
        self._asked: dict[int, Future[Any]] = {}
        self._children: set[bytes] = set()

    def heard(self, data: bytes) -> None:
        """Take what came up the pipe."""
        number, verb, arguments = pickle.loads(data[len(MARK) :])
        if verb == "submit":
            (submission,) = arguments
            self._children.add(submission.cookie)
            self._kin.submit(submission)
        elif verb == "release":
            (cookie,) = arguments
            self._children.discard(cookie)
            self._kin.release(cookie)
        elif verb == "leave":
            future = self._asked.pop(number, None)
            if future is not None:
                future.cancel()
        else:
            future = self._asked[number] = self._kin.ask(verb, *arguments)
            future.add_done_callback(lambda future: self._done(number, future))

    def end(self) -> None:
        """The job is over: nobody will ask for its children again."""
        children, self._children = self._children, set()
        for cookie in children:
            self._kin.release(cookie)

    def _done(self, number: int, future: "Future[Any]") -> None:
        self._asked.pop(number, None)
        value: Any = None
        error: BaseException | None
        if future.cancelled():
            error = JobCancelled("the worker is stopping")
        else:
            error = future.exception()
            value = future.result() if error is None else None
        try:
            data = pickle.dumps((number, value, error))
        except Exception as problem:
            data = pickle.dumps((number, None, RuntimeError(f"what was answered can't be passed on: {problem}")))
        self._answer(data)
