"""The chunks of one job, without a connection: their order, gaps, attempts, and the credit that each is worth."""

import asyncio
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer import payloads
from reasonchip_broker.peer.inflow import NOTHING, Gap, Inflow, NewAttempt
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import PacketType

COOKIE = bytes(16)
META = schemas.ChunkMeta(enc="msgpack")


def make(window: int = 8, first: int = 1) -> tuple[Inflow, list[int]]:
    credits: list[int] = []
    flow = Inflow(credits.append, first)
    flow.opened(window)
    return flow, credits


def come(flow: Inflow, *numbers: int, attempt: int = 1) -> None:
    for number in numbers:
        flow.received(packets.progress(COOKIE, attempt, number, payloads.encode(number, "msgpack"), "msgpack"), META)


def gap(flow: Inflow, first: int, last: int) -> None:
    flow.received(packets.gap(PacketType.PROGRESS, COOKIE, 1, first, last), schemas.ChunkMeta(first=first))


def taken(flow: Inflow) -> list[Any]:
    items = []
    while (item := flow.take()) is not NOTHING:
        items.append(item)
    return items


def test_chunks_are_taken_in_order_and_credited_a_quarter_of_the_window_at_a_time() -> None:
    flow, credits = make(window=8)
    come(flow, 1, 2, 3, 4, 5)
    assert credits == [], "what nobody has taken is not credited"
    assert taken(flow) == [1, 2, 3, 4, 5]
    assert credits == [2, 2]
    assert (flow.last, flow.taken) == (5, 5)


def test_a_window_of_one_is_credited_one_by_one() -> None:
    flow, credits = make(window=1)
    come(flow, 1)
    assert taken(flow) == [1]
    assert credits == [1]


def test_what_came_before_is_dropped_but_credited() -> None:
    flow, credits = make(window=4)
    come(flow, 1, 2, 1, 2, 3)
    assert credits == [1, 1]
    assert taken(flow) == [1, 2, 3]
    assert sum(credits) == 5


def test_what_is_missing_is_a_gap_whether_it_is_told_or_seen() -> None:
    flow, credits = make(window=4)
    come(flow, 1)
    gap(flow, 2, 4)
    gap(flow, 5, 6)
    come(flow, 7, 9)
    assert taken(flow) == [1, Gap(2, 6), 7, Gap(8, 8), 9]
    assert sum(credits) == 5, "each frame of the broker's, and nothing that was made up here"


def test_a_gap_that_is_known_already_is_told_once() -> None:
    flow, _ = make()
    come(flow, 1, 2, 5)
    gap(flow, 2, 4)
    gap(flow, 4, 7)
    assert taken(flow) == [1, 2, Gap(3, 4), 5, Gap(6, 7)]
    assert flow.taken == 7, "what is known to be missing is not waited for"


def test_a_chunk_that_was_too_large_for_this_end_is_a_gap() -> None:
    flow, credits = make(window=4)
    come(flow, 1)
    flow.lost(2, 1)
    come(flow, 3)
    assert taken(flow) == [1, Gap(2, 2), 3]
    assert sum(credits) == 3


def test_another_attempt_is_announced_once_and_a_first_one_is_not() -> None:
    flow, _ = make()
    come(flow, 1, 2)
    come(flow, 3, 4, attempt=2)
    assert taken(flow) == [1, 2, NewAttempt(2), 3, 4]


def test_following_from_a_number_on_misses_nothing_before_it() -> None:
    flow, _ = make(first=5)
    assert (flow.last, flow.taken) == (4, 4)
    come(flow, 5, 6)
    assert taken(flow) == [5, 6]


def test_after_a_reconnect_old_chunks_earn_no_credit() -> None:
    flow, credits = make(window=4)
    come(flow, 1, 2, 3)
    flow.opened(4)
    come(flow, 4)
    assert taken(flow) == [1, 2, 3, 4]
    assert credits == [1]


def test_while_it_is_free_everything_is_credited_at_once_and_the_newest_window_is_kept() -> None:
    flow, credits = make(window=4)
    come(flow, 1, 2)
    flow.set_free(True)
    assert sum(credits) == 2
    come(flow, *range(3, 101))
    assert sum(credits) == 100
    flow.set_free(False)
    assert taken(flow) == [Gap(1, 96), 97, 98, 99, 100]
    assert sum(credits) == 100, "nothing is credited twice"


def test_a_chunk_that_can_not_be_read_is_an_error_and_the_next_one_comes() -> None:
    flow, _ = make()
    flow.received(packets.progress(COOKIE, 1, 1, b"\xc1", "msgpack"), META)
    come(flow, 2)
    with pytest.raises(errors.RemoteProtocolError, match="chunk 1"):
        flow.take()
    assert taken(flow) == [2]


async def test_who_waits_is_woken_by_a_chunk_and_who_left_is_forgotten() -> None:
    flow, _ = make()
    loop = asyncio.get_running_loop()
    waiting, leaving = (asyncio.create_task(flow.wait(loop)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})
    come(flow, 1)
    await asyncio.wait_for(waiting, 5)
    assert flow._waiters == []
