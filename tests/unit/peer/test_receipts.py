"""When RESULTs are acknowledged: many at a time, but none late."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer.receipts import BYTES_MAX, DELAY_S, RESULTS_MAX, Receipts
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.unit.peer.paper import LOST, frames, ok, post, start, up

COOKIE = b"f" * 16


class Loop:
    """The one timer of it that receipts need."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> "Timer":
        timer = Timer(delay_s, callback)
        self.timers.append(timer)
        return timer


class Timer:
    def __init__(self, delay_s: float, callback: Callable[[], object]) -> None:
        self.delay_s = delay_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def receipts() -> tuple[Receipts, list[int], Loop]:
    acks: list[int] = []
    loop: Any = Loop()
    return Receipts(lambda frame: acks.append(decode(frame).number), loop), acks, loop


def test_results_that_come_one_by_one_are_acknowledged_together_after_a_moment() -> None:
    some, acks, loop = receipts()
    for _ in range(5):
        some.received(1, 100)
    assert acks == []
    [timer] = loop.timers
    assert timer.delay_s == DELAY_S
    timer.callback()
    assert acks == [5]
    some.received(1, 100)
    assert len(loop.timers) == 2, "the next one has its own moment"
    loop.timers[1].callback()
    assert acks == [5, 6]


def test_many_results_are_acknowledged_at_once() -> None:
    some, acks, _ = receipts()
    for _ in range(RESULTS_MAX):
        some.received(1, 100)
    assert acks == [RESULTS_MAX]
    some.received(RESULTS_MAX - 1, 100)
    assert acks == [RESULTS_MAX]
    some.received(RESULTS_MAX, 100)
    assert acks == [RESULTS_MAX, 3 * RESULTS_MAX - 1]


def test_results_of_many_bytes_are_acknowledged_at_once() -> None:
    some, acks, _ = receipts()
    some.received(1, BYTES_MAX - 1)
    assert acks == []
    some.received(1, 1)
    assert acks == [2]
    some.received(1, BYTES_MAX - 1)
    assert acks == [2]


def test_a_moment_that_is_over_without_anything_new_says_nothing() -> None:
    some, acks, loop = receipts()
    some.received(1, 100)
    some.acknowledge()
    assert acks == [1]
    loop.timers[0].callback()
    some.acknowledge()
    assert acks == [1]


def test_nothing_is_due_any_more_once_the_connection_is_closed() -> None:
    some, _, loop = receipts()
    some.end()
    some.received(1, 100)
    some.end()
    assert [timer.cancelled for timer in loop.timers] == [True]


# Of an exchange


async def test_the_results_of_a_connection_are_acknowledged_wanted_or_not_and_those_of_no_other() -> None:
    exchange = start(patience_s=60)
    paper = up(exchange)
    jobs = [post(exchange) for _ in range(3)]
    exchange.received(frames(ok(jobs[0]), ok(jobs[1])))
    exchange.received(frames(packets.reply(PacketType.RUN, Code.QUEUED, "", cookie=jobs[2]._cookie)))
    exchange.received(frames(packets.result(b"s" * 16, 1, b"", "")))
    exchange.acknowledge()
    paper.take_packets()
    assert paper.acks == [3]
    exchange.down(LOST)
    again = up(exchange)
    exchange.received(frames(ok(jobs[2])))
    exchange.acknowledge()
    again.take_packets()
    assert again.acks == [1]


async def test_large_results_are_acknowledged_at_once() -> None:
    exchange = start()
    paper = up(exchange)
    exchange.received(frames(ok(post(exchange), b"\xc6" + BYTES_MAX.to_bytes(4, "big") + bytes(BYTES_MAX))))
    paper.take_packets()
    assert paper.acks == [1]


async def test_a_client_that_is_closed_acknowledges_first_what_it_has() -> None:
    exchange = start()
    paper = up(exchange)
    exchange.received(frames(ok(post(exchange))))
    exchange.ended(LOST, lambda: LOST)
    paper.take_packets()
    assert paper.acks == [1]


async def test_what_was_received_is_acknowledged_before_anything_is_asked() -> None:
    exchange = start()
    paper = up(exchange)
    exchange.received(frames(ok(post(exchange))))
    asking = asyncio.create_task(exchange.status(COOKIE, tree=False))
    await asyncio.sleep(0)
    assert [packet.kind for packet in paper.sent][-2:] == [PacketType.ACK, PacketType.STATUS]
    exchange.received(frames(ok(post(exchange))))
    exchange.attach(COOKIE, "msgpack", 0, take=True)
    assert [packet.kind for packet in paper.sent][-2:] == [PacketType.ACK, PacketType.ATTACH]
    exchange.ended(LOST, lambda: LOST)
    with pytest.raises(errors.ConnectionLost):
        await asking


async def test_a_connection_that_broke_is_not_spoken_on_any_more() -> None:
    exchange = start()
    paper = up(exchange)
    exchange.received(frames(ok(post(exchange))))
    exchange.down(LOST)
    exchange.acknowledge()
    paper.take_packets()
    assert paper.acks == []


async def test_a_result_that_is_too_large_to_keep_was_received() -> None:
    exchange = start()
    paper = up(exchange)
    job = post(exchange)
    [(kind, *rest)] = frames(ok(job))
    exchange.received([(kind + 256, *rest)])  # type: ignore[list-item]
    with pytest.raises(errors.TooLarge):
        await job
    exchange.acknowledge()
    paper.take_packets()
    assert paper.acks == [1]
