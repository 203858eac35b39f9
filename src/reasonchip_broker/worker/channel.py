"""What a running job says and hears besides its result: progress, inputs, the lending of its slot, more time.

A channel belongs to one attempt. Its handler uses it from whatever thread or task; frames from the broker come in from the
connection's thread (in a handler's process: from the thread that reads the pipe), and what is to be sent goes out through `send`,
which may be called from any thread. It counts for itself what it may send, so memory on the way is bounded:

    progress:  at most `credit` frames and `window` bytes beyond what the broker has credited; one frame always may be
    inputs:    at most `credit` frames beyond what was credited from here, in quarters, as the handler takes them
    slot:      HELD ─park─▶ LENT ─resume─▶ ASKED ─RESUME─▶ HELD

When the connection breaks and the worker has a session, `suspend` makes progress wait; `restart` goes on where it was, with an
allowance that is new.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.worker.encoding import encoded
from reasonchip_broker.worker.waiting import PENDING, Done, Pending, Waiters, in_loop, require_thread

if TYPE_CHECKING:
    from reasonchip_broker.peer.inflow import Gap

Send = Callable[[bytes], None]
"""Takes a frame, from any thread."""


class Terms(NamedTuple):
    """What the channels of one connection's jobs have in common: where what they say goes, how many frames and bytes of progress may be
    sent at first, and the broker's frame limit."""

    send: Send
    allowance: tuple[int, int]
    frame_bytes_max: int


class End:
    """There is nothing more."""


END = End()


class Slot(IntEnum):
    """The job's hold on a slot of its worker."""

    HELD = 1
    LENT = 2
    ASKED = 3


class _Item(NamedTuple):
    payload: bytes
    encoding: str
    number: int
    counts: bool
    """Whether the broker is to be told when it is taken. What came before a break belongs to an allowance that is gone."""


class Channel:
    """One attempt's conversation. `encoding` is that of the job's variables, by which its chunks are encoded as its result is."""

    __slots__ = (
        "_attempt",
        "_cancelled",
        "_cookie",
        "_credit",
        "_encoding",
        "_flowing",
        "_frame_bytes_max",
        "_inputs",
        "_number",
        "_over",
        "_parked",
        "_received",
        "_send",
        "_slot",
        "_taken",
        "_turns",
        "_unacked",
        "_unacked_bytes",
        "_waiters",
        "_window",
    )

    def __init__(
        self, cookie: bytes, attempt: int, encoding: str, send: Send, credit: int, window: int, frame_bytes_max: int
    ) -> None:
        self._cookie = cookie
        self._attempt = attempt
        self._encoding = encoding
        self._send = send
        self._credit = credit
        self._window = window
        self._frame_bytes_max = frame_bytes_max
        self._waiters = Waiters()
        self._cancelled = False
        self._over = False
        self._flowing = True
        self._number = 0
        self._unacked: deque[int] = deque()
        """The sizes of the chunks for which there is no credit yet, oldest first."""
        self._unacked_bytes = 0
        self._turns: deque[object] = deque()
        """Who waits to send a chunk, in order: a large one must not wait for ever behind small ones."""
        self._inputs: deque[_Item | Gap] = deque()
        self._received = 0
        self._taken = 0
        self._slot = Slot.HELD
        self._parked = 0

    # Progress

    def progress(self, value: Any) -> Awaitable[None]:
        """Send a chunk, when it may be sent: at once, or when what is returned has been awaited; where no event loop runs, this
        blocks. Raises TypeError and ValueError for what can't be encoded, TooLarge, JobCancelled from a thread that waits."""
        payload, tag = encoded(value, self._encoding)
        payloads.check_size(len(schemas.encode_meta(schemas.ChunkMeta(enc=tag))), len(payload), self._frame_bytes_max)
        turn = object()
        send = partial(self._send_chunk, turn, payload, tag)
        with self._waiters.lock:
            self._turns.append(turn)
            try:
                sent = send()
            except BaseException:
                self._turns.remove(turn)
                raise
        if not isinstance(sent, Pending):
            return Done(None)
        if in_loop():
            return self._progress_later(turn, send)
        try:
            self._waiters.block_until(partial(self._unless_cancelled, send))
        finally:
            self._leave_turn(turn)
        return Done(None)

    async def _progress_later(self, turn: object, send: Callable[[], Pending | None]) -> None:
        try:
            await self._waiters.until(send)
        finally:
            self._leave_turn(turn)

    def _send_chunk(self, turn: object, payload: bytes, tag: str) -> Pending | None:
        if self._over:
            raise RuntimeError("the job is over: it can't have progress any more")
        size = len(payload)
        waiting = self._unacked
        may = not waiting or (len(waiting) < self._credit and self._unacked_bytes + size <= self._window)
        if self._turns[0] is not turn or not self._flowing or not may:
            return PENDING
        self._number += 1
        self._turns.popleft()
        waiting.append(size)
        self._unacked_bytes += size
        self._send(packets.progress(self._cookie, self._attempt, self._number, payload, tag))
        if self._turns:
            self._waiters.wake()
        return None

    def _leave_turn(self, turn: object) -> None:
        with self._waiters.lock:
            if turn in self._turns:
                self._turns.remove(turn)
                self._waiters.wake()

    def _unless_cancelled(self, attempt: Callable[[], Any]) -> Any:
        """For threads, which can't be cancelled otherwise: what can be done is done, but nothing is waited for."""
        result = attempt()
        if isinstance(result, Pending) and self._cancelled:
            raise JobCancelled("cancelled")
        return result

    # Inputs

    async def next_input(self) -> Any:
        """The next input, a `Gap`, or `END`. Raises ValueError for one that can't be read."""
        # Before it is taken, since whoever stops waiting must not take an input along.
        await Done(None)
        item: _Item | Gap | End = await self._waiters.until(self._take)
        return _decoded(item)

    def block_for_input(self) -> Any:
        """The same in a thread."""
        item: _Item | Gap | End = self._waiters.block_until(self._take)
        return _decoded(item)

    def _take(self) -> "_Item | Gap | End | Pending":
        if self._over or self._cancelled:
            return END
        if not self._inputs:
            return PENDING
        item = self._inputs.popleft()
        if isinstance(item, _Item) and item.counts:
            self._count_taken()
        return item

    def _count_taken(self) -> None:
        self._taken += 1
        if self._taken >= max(1, self._credit // 4) and self._flowing:
            self._send(packets.credit(self._cookie, self._attempt, self._taken))
            self._taken = 0

    # The slot

    @property
    def slot(self) -> Slot:
        """The hold that the job has on a slot."""
        return self._slot

    def park(self) -> None:
        """Lend the slot out, until as many `unpark`s as `park`s."""
        with self._waiters.lock:
            self._parked += 1
            if self._slot is Slot.HELD and not self._over:
                self._slot = Slot.LENT
                self._send(packets.park(self._cookie, self._attempt))

    def unpark(self) -> bool:
        """Ask for a slot, if this was the last to lend it. Returns whether it has to be waited for."""
        with self._waiters.lock:
            self._parked -= 1
            if self._parked == 0 and self._slot is Slot.LENT and not self._over and not self._cancelled:
                self._slot = Slot.ASKED
                self._send(packets.resume(self._cookie, self._attempt))
            return isinstance(self._go_on(), Pending)

    async def slot_granted(self) -> None:
        """Wait for the slot that was asked for."""
        await self._waiters.until(self._go_on)

    def block_until_slot_granted(self) -> None:
        """The same in a thread. A cancelled job does not get one, and goes on to its end."""
        self._waiters.block_until(self._go_on)

    def _go_on(self) -> Pending | None:
        # A job that is to stop needs no slot for that; one that somebody else of its handler has lent out is not back yet.
        if self._slot is Slot.HELD or self._parked or self._over or self._cancelled:
            return None
        return PENDING

    # Waiting for something else

    def block_until_done(self, future: "Future[Any]") -> None:
        """Wait in a thread for a future. Raises JobCancelled if the job is to stop meanwhile."""
        future.add_done_callback(self._poke)
        self._waiters.block_until(partial(self._unless_cancelled, lambda: None if future.done() else PENDING))

    def _poke(self, _: "Future[Any]") -> None:
        with self._waiters.lock:
            self._waiters.wake()

    # Time

    def extend(self, seconds: float) -> None:
        """Ask for so many more seconds, from now."""
        more_ms = min(0xFFFFFFFF, math.ceil(seconds * 1000))
        with self._waiters.lock:
            if not self._over:
                self._send(packets.extend(self._cookie, self._attempt, more_ms))

    # From the broker, and from the worker

    def received(self, packet: Packet) -> None:
        """Take an INPUT, a CREDIT or a RESUME of this attempt."""
        with self._waiters.lock:
            if packet.kind == PacketType.CREDIT:
                self._credited(packet.number)
            elif packet.kind == PacketType.INPUT:
                self._input(packet)
            elif packet.kind == PacketType.RESUME:
                self._granted()
            self._waiters.wake()

    def _credited(self, frames: int) -> None:
        for _ in range(min(frames, len(self._unacked))):
            self._unacked_bytes -= self._unacked.popleft()

    def _input(self, packet: Packet) -> None:
        number, due = packet.number, self._received + 1
        if number < due:
            # It was sent again after a break: the one that came first is the one that counts, and this takes no room.
            self._count_taken()
            return
        try:
            meta = schemas.chunk_meta(packet.meta)
        except (schemas.MetaInvalid, schemas.MetaUndecodable):
            meta = schemas.ChunkMeta(enc="?")
        last_missing = number if packet.code == Code.GAP else number - 1
        if last_missing >= due:
            # Loaded when it is needed, which is seldom.
            from reasonchip_broker.peer.inflow import Gap

            self._inputs.append(Gap(due, last_missing))
        if packet.code == Code.GAP:
            self._count_taken()
        else:
            self._inputs.append(_Item(packet.payload, meta.enc, number, counts=True))
        self._received = number

    def _granted(self) -> None:
        if self._slot is Slot.ASKED:
            self._slot = Slot.HELD
            if self._parked:
                self._slot = Slot.LENT
                self._send(packets.park(self._cookie, self._attempt))

    def cancel(self) -> None:
        """The job is to stop: threads that wait are told, inputs end."""
        with self._waiters.lock:
            self._cancelled = True
            self._waiters.wake()

    def end(self) -> None:
        """The job is over, and says nothing more."""
        with self._waiters.lock:
            self._over = True
            self._inputs.clear()
            self._waiters.wake()

    def suspend(self) -> None:
        """There is no connection: nothing more is sent until there is."""
        with self._waiters.lock:
            self._flowing = False

    def restart(self, credit: int, window: int) -> None:
        """There is a connection again, on which nothing of this job is under way."""
        with self._waiters.lock:
            self._credit, self._window = credit, window
            self._unacked.clear()
            self._unacked_bytes = 0
            self._inputs = deque(item._replace(counts=False) if isinstance(item, _Item) else item for item in self._inputs)
            self._taken = 0
            self._flowing = True
            self._waiters.wake()


class Inputs:
    """A job's inputs, in the order in which they were sent; `async for` in a task, `for` in a thread."""

    __slots__ = ("_channel", "_on_end")

    def __init__(self, channel: Channel, on_end: Callable[[], object]) -> None:
        self._channel = channel
        self._on_end = on_end

    def __aiter__(self) -> "Inputs":
        return self

    async def __anext__(self) -> Any:
        item = await self._channel.next_input()
        if item is END:
            self._on_end()
            raise StopAsyncIteration
        return item

    def __iter__(self) -> "Inputs":
        return self

    def __next__(self) -> Any:
        require_thread("async for item in context.inputs()")
        item = self._channel.block_for_input()
        if item is END:
            self._on_end()
            raise StopIteration
        return item


class Parked:
    """While this is entered, with `async with` in a task or `with` in a thread, the job's slot is lent out; at its end one is
    asked for again, and waited for."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __enter__(self) -> None:
        require_thread("async with context.parked()")
        self._channel.park()

    def __exit__(self, *error: object) -> None:
        if self._channel.unpark():
            self._channel.block_until_slot_granted()

    async def __aenter__(self) -> None:
        self._channel.park()

    async def __aexit__(self, *error: object) -> None:
        if self._channel.unpark():
            await self._channel.slot_granted()


def _decoded(item: "_Item | Gap | End") -> Any:
    if not isinstance(item, _Item):
        return item
    try:
        return payloads.decode(item.payload, item.encoding)
    except ValueError as error:
        raise ValueError(f"input {item.number} of the job can't be read: {error}") from error
