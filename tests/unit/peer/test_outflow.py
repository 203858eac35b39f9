"""A job's input, without a connection: what is sent under which number, what waits, and what is sent again."""

import asyncio

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer.outflow import Outflow, job_over
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import Code

COOKIE = b"i" * 16
NO_META = schemas.ReplyMeta(to=22, msg="no")


class Wire:
    """Writes down what is sent."""

    def __init__(self) -> None:
        self.sent: list[Packet] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(decode(frame))

    def take(self) -> list[tuple[int, bytes]]:
        sent, self.sent = self.sent, []
        return [(packet.number, packet.payload) for packet in sent]


def make(frames: int = 2, window: int = 100) -> tuple[Outflow, Wire]:
    wire = Wire()
    flow = Outflow(COOKIE, wire.send)
    flow.opened(frames, window)
    return flow, wire


def put(flow: Outflow, *payloads: bytes) -> list[asyncio.Future[None]]:
    waiters = []
    for payload in payloads:
        waiters.append(asyncio.get_running_loop().create_future())
        flow.put(payload, "bytes", waiters[-1])
    flow.pump()
    return waiters


def credit(flow: Outflow, frames: int) -> None:
    flow.credited(frames)
    flow.pump()


async def test_so_many_frames_are_sent_and_the_others_when_there_is_credit() -> None:
    flow, wire = make(frames=2)
    waiters = put(flow, b"a", b"b", b"c", b"d")
    assert wire.take() == [(1, b"a"), (2, b"b")]
    assert [waiter.done() for waiter in waiters] == [True, True, False, False]
    credit(flow, 1)
    assert wire.take() == [(3, b"c")]
    credit(flow, 2)
    assert wire.take() == [(4, b"d")]
    assert all(waiter.done() for waiter in waiters)


async def test_so_many_bytes_are_sent_but_always_one_frame() -> None:
    flow, wire = make(frames=10, window=100)
    put(flow, b"x" * 300, b"y")
    assert wire.take() == [(1, b"x" * 300)]
    credit(flow, 1)
    put(flow, b"z" * 99, b"w")
    assert wire.take() == [(2, b"y"), (3, b"z" * 99)]


async def test_a_frame_says_what_it_is() -> None:
    flow, wire = make()
    put(flow, b"a")
    [frame] = wire.sent
    assert (frame.cookie, frame.attempt, schemas.chunk_meta(frame.meta).enc) == (COOKIE, 0, "bytes")


async def test_who_gives_up_waiting_takes_its_input_back_and_leaves_no_hole() -> None:
    flow, wire = make(frames=1)
    _, second, _ = put(flow, b"a", b"b", b"c")
    second.cancel()
    credit(flow, 1)
    assert wire.take() == [(1, b"a"), (2, b"c")]


async def test_after_a_reconnect_what_the_broker_does_not_have_is_sent_again() -> None:
    flow, wire = make(frames=3)
    put(flow, b"a", b"b", b"c", b"d")
    credit(flow, 1)
    wire.take()
    flow.shut()
    put(flow, b"e")
    assert wire.take() == []
    flow.opened(3, 100, known=2)
    flow.pump()
    assert wire.take() == [(3, b"c"), (4, b"d"), (5, b"e")]


async def test_a_job_that_is_run_anew_gets_all_of_its_input_again() -> None:
    flow, wire = make(frames=3)
    put(flow, b"a", b"b")
    wire.take()
    flow.opened(3, 100)
    flow.pump()
    assert wire.take() == [(1, b"a"), (2, b"b")]


async def test_numbering_goes_on_after_what_somebody_else_has_sent() -> None:
    wire = Wire()
    flow = Outflow(COOKIE, wire.send)
    put(flow, b"a")
    assert wire.take() == []
    flow.opened(3, 100, known=7)
    flow.pump()
    assert wire.take() == [(8, b"a")]


async def test_what_there_was_no_room_for_is_sent_again_in_order_after_a_while() -> None:
    flow, wire = make(frames=3)
    put(flow, b"a", b"b", b"c")
    wire.take()
    assert flow.refused(Code.OVERLOADED, 2, NO_META)
    assert not flow.refused(Code.BAD_PACKET, 3, NO_META), "the one after it was not expected, of course"
    put(flow, b"d")
    assert wire.take() == []
    flow.reopen()
    flow.pump()
    assert wire.take() == [(2, b"b"), (3, b"c")]
    credit(flow, 1)
    assert wire.take() == [(4, b"d")]


async def test_a_refusal_is_told_to_who_waits_and_to_who_comes_later() -> None:
    flow, _ = make(frames=1)
    _, waiting = put(flow, b"a", b"b")
    assert not flow.refused(Code.NOT_ALLOWED, 1, NO_META)
    with pytest.raises(errors.NotAllowed, match="no"):
        await waiting
    assert isinstance(flow.error, errors.NotAllowed)


async def test_more_credit_than_was_sent_is_no_harm() -> None:
    flow, wire = make(frames=1)
    put(flow, b"a")
    credit(flow, 9)
    put(flow, b"b", b"c")
    assert wire.take() == [(1, b"a"), (2, b"b")]


@pytest.mark.parametrize("reconnected", [False, True])
async def test_what_was_sent_and_not_credited_may_be_missing_at_the_end_and_what_is_waited_for_is_told(
    reconnected: bool,
) -> None:
    flow, _ = make(frames=3)
    *sent, waiting = put(flow, b"a", b"b", b"c", b"d")
    credit(flow, 1)
    [late] = put(flow, b"e")
    if reconnected:
        flow.shut()
        flow.opened(3, 100, known=1)
    flow.end(job_over(None))
    assert flow.missed == 3
    assert all(waiter.done() for waiter in (*sent, waiting))
    with pytest.raises(errors.CookieNotFound):
        await late


async def test_the_end_of_the_job_is_told_with_what_it_ended_with() -> None:
    flow, _ = make(frames=1)
    _, waiting = put(flow, b"a", b"b")
    why = errors.WorkerWentAway("gone")
    flow.end(job_over(why))
    with pytest.raises(errors.CookieNotFound, match="over") as caught:
        await waiting
    assert caught.value.__cause__ is why
