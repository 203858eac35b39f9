"""What a running job says and hears: allowances, order, gaps, its slot, its end."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from reasonchip_broker.errors import JobCancelled, TooLarge
from reasonchip_broker.peer import payloads
from reasonchip_broker.peer.inflow import Gap
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode, encode
from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.worker.channel import Channel, Inputs, Parked, Slot
from tests.unit.worker.harness import soon, until
from tests.unit.worker.waits import told_of_waits

__all__ = ["told_of_waits"]

pytestmark = pytest.mark.usefixtures("told_of_waits")

COOKIE = bytes(range(16))
ATTEMPT = 2


class Setting:
    """A channel, and what it says."""

    def __init__(self, credit: int = 4, window: int = 100, encoding: str = "msgpack", frame_bytes_max: int = 4096) -> None:
        self.said: list[Packet] = []
        self.channel = Channel(COOKIE, ATTEMPT, encoding, self._send, credit, window, frame_bytes_max)

    def _send(self, frame: bytes) -> None:
        packet = decode(frame)
        assert (packet.cookie, packet.attempt) == (COOKIE, ATTEMPT)
        self.said.append(packet)

    @property
    def numbers(self) -> list[int]:
        return [packet.number for packet in self.said if packet.kind == PacketType.PROGRESS]

    def kinds(self) -> list[int]:
        return [packet.kind for packet in self.said]

    def hear(self, frame: bytes) -> None:
        self.channel.received(decode(frame))

    def credit(self, frames: int) -> None:
        self.hear(packets.credit(COOKIE, ATTEMPT, frames))

    def input(self, number: int, value: Any = None) -> None:
        payload = payloads.encode(number if value is None else value, "msgpack")
        self.hear(packets.input_chunk(COOKIE, number, payload, "msgpack", ATTEMPT))

    def inputs(self) -> Inputs:
        return Inputs(self.channel, lambda: None)

    @property
    def waiting(self) -> int:
        return len(self.channel._waiters._wakers)


async def ticks() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def in_thread(call: Callable[[], Any]) -> "asyncio.Task[Any]":
    """A task that waits for a call in a thread, begun."""
    begun = threading.Event()

    def run() -> Any:
        begun.set()
        return call()

    task = asyncio.create_task(asyncio.to_thread(run))
    await asyncio.to_thread(begun.wait, 20)
    return task


# ── Progress ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_chunks_are_numbered_and_travel_as_results_do() -> None:
    setting = Setting()
    for chunk in ({"a": 1}, "text", b"bytes", None):
        await setting.channel.progress(chunk)
    assert setting.numbers == [1, 2, 3, 4]
    chunks = [(packet.payload, schemas.chunk_meta(packet.meta).enc) for packet in setting.said]
    assert chunks == [(b"\x81\xa1a\x01", "msgpack"), (b"text", "text"), (b"bytes", "bytes"), (b"", "msgpack")]
    setting = Setting(encoding="json")
    await setting.channel.progress({"a": 1})
    assert setting.said[0].payload == b'{"a":1}'


async def test_a_task_waits_when_it_may_send_no_more_frames() -> None:
    setting = Setting(credit=2)

    async def stream() -> None:
        for n in range(5):
            await setting.channel.progress(n)

    task = asyncio.create_task(stream())
    await ticks()
    assert setting.numbers == [1, 2]
    setting.credit(1)
    await ticks()
    assert setting.numbers == [1, 2, 3]
    setting.credit(2)
    await soon(task)
    assert setting.numbers == [1, 2, 3, 4, 5]


async def test_a_task_waits_when_it_may_send_no_more_bytes_but_one_frame_always_goes() -> None:
    setting = Setting(window=100)
    await setting.channel.progress(b"x" * 1000)
    task = asyncio.create_task(_await(setting.channel.progress(b"y")))
    await ticks()
    assert setting.numbers == [1]
    setting.credit(1)
    await soon(task)
    await setting.channel.progress(b"y" * 99)
    task = asyncio.create_task(_await(setting.channel.progress(b"z")))
    await ticks()
    assert setting.numbers == [1, 2, 3], "one byte and 99 are the window"
    setting.credit(1)
    await soon(task)
    assert setting.channel._unacked_bytes == 100


async def _await(awaitable: Any) -> Any:
    return await awaitable


async def test_a_thread_blocks_when_it_may_send_no_more() -> None:
    setting = Setting(credit=1)
    setting.channel.progress(1)
    task = await in_thread(lambda: setting.channel.progress(2))
    await until(lambda: setting.waiting == 1)
    assert setting.numbers == [1]
    setting.credit(1)
    await soon(task)
    assert setting.numbers == [1, 2]


async def test_a_large_chunk_is_not_overtaken_for_ever_by_small_ones() -> None:
    setting = Setting(window=10)
    channel = setting.channel
    await channel.progress(b"123456789")
    large = asyncio.create_task(_await(channel.progress(b"x" * 50)))
    small = asyncio.create_task(_await(channel.progress(b"x")))
    await ticks()
    assert setting.numbers == [1], "the small one would fit, and has to wait for its turn"
    setting.credit(1)
    await ticks()
    setting.credit(1)
    await soon(asyncio.gather(large, small))
    assert [len(packet.payload) for packet in setting.said] == [9, 50, 1]


async def test_a_wait_that_is_cancelled_takes_its_chunk_along_and_lets_the_next_one_go() -> None:
    setting = Setting(window=10)
    channel = setting.channel
    await channel.progress(b"12345")
    large = asyncio.create_task(_await(channel.progress(b"x" * 50)))
    await ticks()
    small = asyncio.create_task(_await(channel.progress(b"x")))
    await ticks()
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    await soon(small)
    assert [len(packet.payload) for packet in setting.said] == [5, 1]
    assert setting.numbers == [1, 2]


async def test_a_thread_that_waits_in_a_job_that_is_to_stop_is_told() -> None:
    setting = Setting(credit=1)
    setting.channel.progress(1)
    task = await in_thread(lambda: setting.channel.progress(2))
    await until(lambda: setting.waiting == 1)
    setting.channel.cancel()
    with pytest.raises(JobCancelled):
        await soon(task)
    setting.credit(1)
    setting.channel.progress("what can be said at once is said")
    assert setting.numbers == [1, 2]


async def test_what_cannot_be_sent_is_told_and_leaves_the_rest_as_it_was() -> None:
    setting = Setting(encoding="json", frame_bytes_max=4096)
    with pytest.raises(TypeError):
        setting.channel.progress(b"bytes")
    with pytest.raises(TooLarge, match="over the broker's limit of 4096"):
        setting.channel.progress("x" * 5000)
    await setting.channel.progress("good")
    assert setting.numbers == [1]


async def test_a_job_that_is_over_says_nothing_more() -> None:
    setting = Setting(credit=1)
    await setting.channel.progress(1)
    waiting = asyncio.create_task(_await(setting.channel.progress(2)))
    await ticks()
    setting.channel.end()
    with pytest.raises(RuntimeError, match="the job is over"):
        await soon(waiting)
    with pytest.raises(RuntimeError, match="the job is over"):
        setting.channel.progress(3)
    setting.channel.park()
    setting.channel.unpark()
    setting.channel.extend(1)
    assert setting.kinds() == [PacketType.PROGRESS]


async def test_without_a_connection_progress_waits_and_then_goes_on_with_a_new_allowance() -> None:
    setting = Setting(credit=3)
    channel = setting.channel
    for n in range(3):
        await channel.progress(n)
    channel.suspend()
    setting.credit(3)
    task = asyncio.create_task(_await(channel.progress("later")))
    await ticks()
    assert setting.numbers == [1, 2, 3]
    channel.restart(2, 100)
    await soon(task)
    await channel.progress("another")
    blocked = asyncio.create_task(_await(channel.progress("too many")))
    await ticks()
    assert setting.numbers == [1, 2, 3, 4, 5]
    blocked.cancel()


# ── Inputs ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_inputs_come_in_order_and_credit_in_quarters() -> None:
    setting = Setting(credit=8)
    inputs = setting.inputs()
    for n in range(1, 6):
        setting.input(n)
    assert [await anext(inputs) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert [(packet.kind, packet.number) for packet in setting.said] == [(PacketType.CREDIT, 2)] * 2
    task = asyncio.create_task(_await(anext(inputs)))
    await ticks()
    assert not task.done()
    setting.input(6, "late")
    assert await soon(task) == "late"


async def test_a_thread_takes_inputs_too_until_the_job_is_to_stop() -> None:
    setting = Setting()
    ended: list[bool] = []
    inputs = Inputs(setting.channel, lambda: ended.append(True))
    task = await in_thread(lambda: list(inputs))
    setting.input(1)
    setting.input(2)
    await until(lambda: not setting.channel._inputs and setting.waiting == 1)
    setting.channel.cancel()
    assert await soon(task) == [1, 2]
    assert ended == [True]


async def test_inputs_end_with_the_job() -> None:
    setting = Setting()
    task = asyncio.create_task(_collect(setting.inputs()))
    await ticks()
    setting.channel.end()
    assert await soon(task) == []


async def _collect(inputs: Inputs) -> list[Any]:
    return [item async for item in inputs]


async def test_gaps_are_told_whether_or_not_the_broker_knows_of_them() -> None:
    setting = Setting()
    setting.input(1)
    setting.hear(packets.gap(PacketType.INPUT, COOKIE, ATTEMPT, 2, 4))
    setting.input(5)
    setting.input(8)
    setting.hear(packets.gap(PacketType.INPUT, COOKIE, ATTEMPT, 7, 9))
    inputs = setting.inputs()
    assert [await anext(inputs) for _ in range(6)] == [1, Gap(2, 4), 5, Gap(6, 7), 8, Gap(9, 9)]


async def test_an_input_that_was_sent_again_is_taken_once_and_holds_no_room() -> None:
    setting = Setting(credit=4)
    setting.input(1, "first")
    setting.input(1, "again")
    setting.input(2)
    inputs = setting.inputs()
    assert [await anext(inputs) for _ in range(2)] == ["first", 2]
    assert sum(packet.number for packet in setting.said) == 3, "three frames have come, and none waits"


async def test_who_stops_waiting_for_an_input_takes_none_along() -> None:
    setting = Setting()
    inputs = setting.inputs()
    task = asyncio.create_task(_await(anext(inputs)))
    await ticks()
    setting.input(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await anext(inputs) == 1


async def test_an_input_that_cannot_be_read_is_told_and_the_next_one_comes() -> None:
    setting = Setting()
    setting.hear(packets.input_chunk(COOKIE, 1, b"\xc1", "msgpack", ATTEMPT))
    setting.hear(encode(PacketType.INPUT, attempt=ATTEMPT, cookie=COOKIE, number=2, meta=b"\x81\xa3enc\x05", payload=b"x"))
    setting.input(3)
    inputs = setting.inputs()
    for number in (1, 2):
        with pytest.raises(ValueError, match=f"input {number} of the job can't be read"):
            await anext(inputs)
    assert await anext(inputs) == 3


async def test_what_came_before_a_break_is_not_credited_after_it() -> None:
    setting = Setting(credit=4)
    for n in range(1, 4):
        setting.input(n)
    setting.channel.suspend()
    inputs = setting.inputs()
    assert await anext(inputs) == 1
    assert setting.said == [], "there is nobody to tell"
    setting.channel.restart(4, 100)
    setting.input(4)
    assert [await anext(inputs) for _ in range(3)] == [2, 3, 4]
    assert [packet.number for packet in setting.said] == [1]


# ── The slot ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_parked_job_asks_for_a_slot_and_waits_for_it() -> None:
    setting = Setting()
    entered = asyncio.Event()

    async def handler() -> None:
        async with Parked(setting.channel):
            entered.set()

    task = asyncio.create_task(handler())
    await soon(entered.wait())
    await ticks()
    assert setting.kinds() == [PacketType.PARK, PacketType.RESUME]
    assert (task.done(), setting.channel.slot) == (False, Slot.ASKED)
    setting.hear(packets.resume(COOKIE, ATTEMPT))
    await soon(task)
    assert setting.channel.slot is Slot.HELD


async def test_a_thread_parks_too() -> None:
    setting = Setting()

    def handler() -> str:
        with Parked(setting.channel):
            assert setting.channel.slot is Slot.LENT
        return "back"

    task = await in_thread(handler)
    await until(lambda: setting.waiting == 1)
    setting.hear(packets.resume(COOKIE, ATTEMPT))
    assert await soon(task) == "back"


async def test_a_coroutine_that_would_hold_up_all_others_is_told_what_to_write() -> None:
    setting = Setting()
    with pytest.raises(RuntimeError, match="async for item"):
        next(Inputs(setting.channel, lambda: None))
    with pytest.raises(RuntimeError, match="async with"):
        Parked(setting.channel).__enter__()


async def test_the_slot_is_lent_while_anybody_of_the_handler_waits() -> None:
    setting = Setting()
    channel = setting.channel
    channel.park()
    channel.park()
    assert not channel.unpark(), "the first to come back does not wait for the other"
    assert setting.kinds() == [PacketType.PARK]
    assert channel.unpark()
    channel.park()
    setting.hear(packets.resume(COOKIE, ATTEMPT))
    assert channel.slot is Slot.LENT, "a slot that is not wanted any more goes back"
    assert setting.kinds() == [PacketType.PARK, PacketType.RESUME, PacketType.PARK]
    assert channel.unpark()


async def test_a_job_that_is_to_stop_needs_no_slot_for_that() -> None:
    setting = Setting()
    parked = Parked(setting.channel)

    def handler() -> None:
        with parked:
            pass

    task = await in_thread(handler)
    await until(lambda: setting.waiting == 1)
    setting.channel.cancel()
    await soon(task)
    other = Setting()
    other.channel.park()
    other.channel.cancel()
    assert not other.channel.unpark()
    assert other.kinds() == [PacketType.PARK]


async def test_a_body_that_raises_comes_back_for_its_slot() -> None:
    setting = Setting()

    async def handler() -> None:
        async with Parked(setting.channel):
            raise TimeoutError

    task = asyncio.create_task(handler())
    await ticks()
    assert not task.done()
    setting.hear(packets.resume(COOKIE, ATTEMPT))
    with pytest.raises(TimeoutError):
        await soon(task)


def test_a_grant_that_nobody_asked_for_is_nothing() -> None:
    setting = Setting()
    setting.hear(packets.resume(COOKIE, ATTEMPT))
    assert (setting.channel.slot, setting.said) == (Slot.HELD, [])


def test_more_time_is_asked_for_in_milliseconds() -> None:
    setting = Setting()
    setting.channel.extend(1.5)
    setting.channel.extend(10**9)
    assert [(packet.kind, packet.number) for packet in setting.said] == [
        (PacketType.EXTEND, 1500),
        (PacketType.EXTEND, 0xFFFFFFFF),
    ]
