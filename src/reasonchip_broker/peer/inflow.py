"""The PROGRESS of one job, from the wire to whoever iterates over it.

Chunks wait here, as frames, until they are taken, and each that is taken is credited, so that the broker sends as many again: a
slow reader makes the handler wait, and no more than a window of chunks is ever here. (At the end of a job the broker sends what
it still holds regardless.) Credits go out in batches of a quarter of the window.

While nobody iterates but somebody waits for the job's end, the flow is *free*: chunks are credited as they come, the newest window
of them is kept, and a gap stands for the others. So a job that is only awaited never makes its handler wait.

Numbers only grow. What was there before (the same chunk again, after a reconnect) is dropped; what is missing becomes a gap.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from reasonchip_broker.errors import OutcomeGone, ReasonChipError, RemoteProtocolError
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import attempt_of, code_of, number_of, payload_of
from reasonchip_broker.protocol.codes import Code

if TYPE_CHECKING:
    from reasonchip_broker.peer.job import Job

WINDOW = 64
"""Chunks that a broker sends before there is credit for more, until its WELCOME says how many."""

NOTHING: Final = object()
"""There is no chunk right now."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Stands among a job's chunks for those numbered `first` to `last`, which are missing and will not come."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class NewAttempt:
    """Stands among a job's chunks where another attempt of it begins: `attempt` is its number. What was made of the chunks before it
    is, most likely, made once more.
    """

    attempt: int


class Inflow:
    """A job's chunks on their way in. `credit` sends a CREDIT for so many; `first` is the number of the first chunk wanted."""

    __slots__ = (
        "_attempt",
        "_credit",
        "_entries",
        "_epoch",
        "_free",
        "_owed",
        "_waiters",
        "_window",
        "attaching",
        "by_run",
        "early",
        "error",
        "last",
        "readers",
        "taken",
    )

    def __init__(self, credit: Callable[[int], None], first: int = 1) -> None:
        self.last = first - 1
        """The number of the last chunk that came, or is known to be missing."""
        self.taken = first - 1
        """The number of the last one that was taken."""
        self.by_run = False
        """Whether RUN asks for the chunks, so that no ATTACH is needed."""
        self.readers = 0
        """How many iterate."""
        self.attaching = False
        """Whether an ATTACH that asks for chunks is not answered yet."""
        self.early: tuple[bytes, schemas.ResultMeta] | None = None
        """The outcome, if it came before that answer: the broker sends it again after the chunks, if it still can."""
        self.error: ReasonChipError | None = None
        """Why no chunks can be had."""
        self._credit = credit
        self._window = WINDOW
        self._free = False
        self._epoch = 0
        self._owed = 0
        self._attempt = 1
        self._entries: deque[tuple[int, int, bytes | Gap, str]] = deque()
        """The attachment that is to be credited for it (0: none), the attempt, the frame or gap, the encoding."""
        self._waiters: list[asyncio.Future[None]] = []

    # What the exchange says

    def opened(self, window: int) -> None:
        """The broker begins to send, with so many frames of credit; what came before is credited no more."""
        self._epoch += 1
        self._owed = 0
        self._window = max(1, window)

    def received(self, frame: bytes, meta: schemas.ChunkMeta) -> None:
        """A PROGRESS came."""
        number, attempt, epoch = number_of(frame), attempt_of(frame), self._epoch
        if code_of(frame) == Code.GAP:
            self._missing(max(meta.first, self.last + 1), number, attempt)
            self._owe(epoch)
        elif number <= self.last:
            self._owe(epoch)
        else:
            self._missing(self.last + 1, number - 1, attempt)
            self.last = number
            if self._free:
                self._owe(epoch)
                epoch = 0
            self._entries.append((epoch, attempt, frame, meta.enc))
            if self._free:
                self._trim()
        self.ring()

    def lost(self, number: int, attempt: int) -> None:
        """A PROGRESS came that could not be taken in."""
        self._missing(self.last + 1, number, attempt)
        self._owe(self._epoch)
        self.ring()

    def set_free(self, free: bool) -> None:
        """Whether chunks are to be credited as they come, since nobody takes them and somebody waits for the end."""
        if free and not self._free:
            entries, self._entries = self._entries, deque()
            for epoch, attempt, item, encoding in entries:
                self._owe(epoch)
                self._entries.append((0, attempt, item, encoding))
        self._free = free

    def ring(self) -> None:
        """Wake whoever waits for a chunk: there is one, or there will be none."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # What a reader says

    def take(self) -> Any:
        """The next item: a chunk's value, a Gap, a NewAttempt; NOTHING if there is none yet. Raises RemoteProtocolError for a chunk
        that can't be read; the next one can be asked for.
        """
        if not self._entries:
            return NOTHING
        epoch, attempt, item, encoding = self._entries[0]
        if attempt > self._attempt:
            self._attempt = attempt
            return NewAttempt(attempt)
        self._entries.popleft()
        if isinstance(item, Gap):
            self.taken = item.last
            return item
        self.taken = number_of(item)
        self._owe(epoch)
        try:
            return payloads.decode(payload_of(item), encoding)
        except ValueError as error:
            raise RemoteProtocolError(f"chunk {self.taken} can't be read: {error}") from error

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until there is something to take, or the end."""
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    # Inside

    def _missing(self, first: int, last: int, attempt: int) -> None:
        if first > last:
            return
        self.last = last
        entries = self._entries
        if entries and isinstance(entries[-1][2], Gap) and entries[-1][1] == attempt and entries[-1][2].last + 1 == first:
            first = entries.pop()[2].first  # type: ignore[union-attr]
        entries.append((0, attempt, Gap(first, last), ""))

    def _trim(self) -> None:
        """Let a gap stand for all but the newest chunks."""
        entries = self._entries
        while len(entries) > self._window + 1:
            _, _, item, _ = entries.popleft()
            first = item.first if isinstance(item, Gap) else number_of(item)
            _, attempt, after, _ = entries.popleft()
            last = after.last if isinstance(after, Gap) else number_of(after)
            entries.appendleft((0, attempt, Gap(first, last), ""))

    def _owe(self, epoch: int) -> None:
        if epoch == 0 or epoch != self._epoch:
            return
        self._owed += 1
        if self._owed * 4 >= self._window:
            owed, self._owed = self._owed, 0
            self._credit(owed)


class Chunks:
    """The chunks of one job, for `async for`; what `Job.chunks` returns."""

    __slots__ = ("_closed", "_error", "_job", "_marks")

    def __init__(self, job: "Job", marks: bool) -> None:
        self._job = job
        self._marks = marks
        self._error: RemoteProtocolError | None = None
        """To be raised next."""
        self._closed = False
        job._read(1)

    def __aiter__(self) -> "Chunks":
        return self

    async def __anext__(self) -> Any:
        while True:
            item = self._ready()
            if item is not NOTHING:
                return item
            await self._job._wait_for_chunk()

    async def take(self, most: int) -> list[Any]:
        """Up to `most` items, as many as there are, at least one; none at the end. Raises what iterating raises."""
        try:
            items = [await self.__anext__()]
        except StopAsyncIteration:
            return []
        flow = self._job._stream
        while len(items) < most and flow is not None and flow._entries:
            try:
                item = self._next(flow)
            except RemoteProtocolError as error:
                self._error = error
                break
            if item is not NOTHING:
                items.append(item)
        return items

    async def aclose(self) -> None:
        """Iterate no more. The job goes on."""
        self._leave()

    def __del__(self) -> None:
        if not self._closed:
            self._job._exchange.soon(self._leave)

    def _ready(self) -> Any:
        """An item that is there, or NOTHING. Raises StopAsyncIteration at the end, or what the job ended with."""
        job = self._job
        flow = job._stream
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._closed:
            raise StopAsyncIteration
        if flow is None:
            self._leave()
            failure = job._failure()
            if failure is not None:
                raise failure
            raise OutcomeGone("the job was over before anybody followed it: submit it with the option follow=True", outcome=0)
        while flow._entries:
            item = self._next(flow)
            if item is not NOTHING:
                return item
        if flow.error is not None:
            self._leave()
            raise flow.error
        if job.done():
            self._leave()
            failure = job._failure()
            if failure is not None:
                raise failure
            raise StopAsyncIteration
        return NOTHING

    def _next(self, flow: Inflow) -> Any:
        item = flow.take()
        if not self._marks and isinstance(item, Gap | NewAttempt):
            return NOTHING
        return item

    def _leave(self) -> None:
        if not self._closed:
            self._closed = True
            self._job._read(-1)
