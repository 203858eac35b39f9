"""The INPUT of one job, from whoever sends to the wire.

The broker takes so many frames and bytes of a job's input beyond those that it has credited; what is over that waits here, first
in first out. Inputs get their numbers, from 1, as they go out. Each is kept until it is credited: after a reconnect the broker
says which one it has last, and the later ones are sent again under the numbers that they had. An input is credited when the job's
worker gets it, which may be long after the broker has it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from reasonchip_broker.errors import REFUSALS_BY_CODE, CookieNotFound, ReasonChipError, RequestRefused
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code


@dataclass(slots=True)
class _Item:
    payload: bytes
    encoding: str
    waiter: asyncio.Future[None] | None


class Outflow:
    """A job's inputs on their way out. `send` puts a frame on the present connection."""

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_flushers",
        "_frames_max",
        "_open",
        "_sent",
        "_waiting",
        "cookie",
        "error",
        "last",
        "missed",
        "send",
    )

    def __init__(self, cookie: bytes, send: Callable[[bytes], None]) -> None:
        self.cookie = cookie
        self.send = send
        self.last = 0
        """The number of the last input that was sent."""
        self.error: ReasonChipError | None = None
        """Why no more can be sent."""
        self.missed = 0
        """How many of those that were sent the job may not have got, now that no more can be sent."""
        self._flushers: list[asyncio.Future[None]] = []
        self._open = False
        self._frames_max = 0
        self._bytes_max = 0
        self._bytes = 0
        self._sent: deque[_Item] = deque()
        self._waiting: deque[_Item] = deque()

    def put(self, payload: bytes, encoding: str, waiter: asyncio.Future[None]) -> None:
        """Send an input as soon as that is possible; `waiter` is told then, or why it never will be."""
        self._waiting.append(_Item(payload, encoding, waiter))

    @property
    def pending(self) -> bool:
        """Whether there are inputs that are not known to be the job's."""
        return bool(self._sent or self._waiting)

    @property
    def is_out(self) -> bool:
        """Whether all of them were sent on the present connection, if they are to be sent at all."""
        return self.error is not None or (self._open and not self._waiting)

    async def gone_out(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for `is_out`."""
        while not self.is_out:
            flusher: asyncio.Future[None] = loop.create_future()
            self._flushers.append(flusher)
            await flusher

    def opened(self, frames: int, window: int, known: int | None = None) -> None:
        """The broker takes inputs on this connection, so many frames and bytes at first. `known`: the last one that it has."""
        sent, self._sent = self._sent, deque()
        self._bytes = 0
        if known is not None:
            last = self.last - len(sent)
            while sent and last < known:
                sent.popleft()
                last += 1
            self.last = max(last, known) if not sent else last
        else:
            self.last -= len(sent)
        for item in sent:
            item.waiter = None
        self._waiting.extendleft(reversed(sent))
        self._frames_max = max(1, frames)
        self._bytes_max = window
        self._open = True

    def shut(self) -> None:
        """Nothing can be sent until the next `opened`."""
        self._open = False

    def pump(self) -> None:
        """Send what may be sent."""
        while self._open and self._waiting and self.error is None:
            item = self._waiting[0]
            if item.waiter is not None and item.waiter.done():
                self._waiting.popleft()
                continue
            size = len(item.payload)
            if self._sent and (len(self._sent) >= self._frames_max or self._bytes + size > self._bytes_max):
                return
            self._waiting.popleft()
            self._sent.append(item)
            self._bytes += size
            self.last += 1
            self.send(packets.input_chunk(self.cookie, self.last, item.payload, item.encoding))
            if item.waiter is not None:
                item.waiter.set_result(None)
                item.waiter = None
        if self._flushers and self.is_out:
            self._ring()

    def credited(self, frames: int) -> None:
        """The broker has passed so many on; `pump` is due."""
        for _ in range(min(frames, len(self._sent))):
            self._bytes -= len(self._sent.popleft().payload)
        self._open = True

    def refused(self, code: int, number: int, meta: schemas.ReplyMeta) -> bool:
        """The broker did not take input `number`. Returns whether it is to be tried again after a while."""
        if number > self.last:
            return False  # It was taken back already, after an earlier one was refused.
        if code == Code.OVERLOADED:
            # It counts otherwise than this end does, after a reconnect.
            while self._sent and self.last >= number:
                item = self._sent.pop()
                self._bytes -= len(item.payload)
                self._waiting.appendleft(item)
                self.last -= 1
            self._open = False
            return True
        self.end(REFUSALS_BY_CODE.get(code, RequestRefused)(meta.msg))
        return False

    def reopen(self) -> None:
        """What was refused may be tried again; `pump` is due."""
        self._open = True

    def end(self, error: ReasonChipError) -> None:
        """No more is sent: whoever waits, or comes later, is told why."""
        if self.error is None:
            self.error = error
        waiting, self._waiting = self._waiting, deque()
        self.missed += len(self._sent)
        for item in waiting:
            if item.waiter is None:
                self.missed += 1
            elif not item.waiter.done():
                item.waiter.set_exception(self.error)
        self._sent.clear()
        self._ring()

    def _ring(self) -> None:
        flushers, self._flushers = self._flushers, []
        for flusher in flushers:
            if not flusher.done():
                flusher.set_result(None)


def job_over(why: BaseException | None, sentence: str = "the job is over, and takes no input") -> CookieNotFound:
    """What is raised for an input to a job that has ended."""
    error = CookieNotFound(sentence)
    error.__cause__ = why
    return error
