"""How much of what clients send is taken in: with a board of slots that counts, and a loop whose time passes on command."""

import asyncio
from itertools import pairwise
from typing import cast

import pytest

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import CloseReason, PacketType
from reasonchip_broker.protocol.frames import BinaryDecoder, Frame
from reasonchip_broker.testing.transport_peers import numbered
from reasonchip_broker.transports import pacing
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.pacing import AT_ONCE, PART, PROBE, SHARE, WINDOW_S, Pacer
from tests.unit.transports.fakes import ManualLoop

WINDOWS_PER_S = 1 / WINDOW_S
SHORT = int(pacing.SHORT_PER_S / WINDOWS_PER_S) + 1
"""So many that end in a window are short."""


class Line:
    """What the pacer knows of a connection."""

    def __init__(self) -> None:
        self.held: list[bool] = []
        self.reason: CloseReason | None = None

    def hold(self, held: bool) -> None:
        self.held.append(held)

    @property
    def is_held(self) -> bool:
        return self.held[-1:] == [True]


class Board:
    """A pacer, and slots that are taken by the jobs that it lets in."""

    def __init__(self, free: int) -> None:
        self.loop = ManualLoop()
        self.free = free
        self.waiting = 0
        self.finished = 0
        self.taken: list[tuple[Connection, Frame]] = []
        self.alive: list[Connection] = []
        """Of whom it was said that they live, though nothing of theirs was taken in."""
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.pacer = Pacer(loop, self.take, lambda: self.waiting, lambda: self.finished)

    def take(self, connection: Connection, frames: list[Frame]) -> None:
        if not frames:
            self.alive.append(connection)
        for frame in frames:
            self.taken.append((connection, frame))
            if frame[0] == PacketType.RUN:
                if self.free:
                    self.free -= 1
                else:
                    self.waiting += 1

    def finish(self, count: int) -> None:
        """So many jobs end, whose slots those get that wait."""
        self.finished += count
        served = min(self.waiting, count)
        self.waiting -= served
        self.free += count - served

    def numbers(self, connection: Connection | None = None) -> list[int]:
        """The numbers of what was taken in, from whoever it came."""
        return [frame[5] for one, frame in self.taken if connection in (None, one)]

    def turn(self) -> int:
        """One turn of the loop; how much was taken in."""
        before = len(self.taken)
        ready, self.loop._ready = self.loop._ready, []
        for handle in ready:
            handle.callback(*handle.args)
        return len(self.taken) - before

    def work(self, ended: int) -> int:
        """A window passes in which so many end; how much is taken in at its end."""
        before = len(self.taken)
        self.loop.clock.advance_to(self.loop.clock.now + 1.01 * WINDOW_S)
        self.finish(ended)
        self.pacer.heard()
        self.turn()
        return len(self.taken) - before


def line() -> Connection:
    return cast(Connection, Line())


def is_held(connection: Connection) -> bool:
    return cast(Line, connection).is_held


def jobs(count: int, first: int = 0) -> list[Frame]:
    return BinaryDecoder(1000).feed(b"".join(numbered(number) for number in range(first, first + count)))


@pytest.fixture
def busy() -> tuple[Board, Connection]:
    """All slots are taken, jobs are short, and a client has 1,000 more."""
    board, client = Board(AT_ONCE), line()
    board.take(client, jobs(AT_ONCE))
    board.pacer.receive(client, jobs(1000, AT_ONCE))
    while board.waiting < SHORT:
        board.turn()
    board.work(SHORT)
    board.finish(board.waiting)
    return board, client


def test_as_long_as_no_job_waits_everything_is_taken_in_at_once() -> None:
    board, client = Board(1000), line()
    board.pacer.receive(client, jobs(1000))
    assert board.numbers() == list(range(1000))
    assert not board.pacer.crowded
    assert not is_held(client)
    assert board.loop._ready == []


def test_once_a_job_waits_the_rest_is_held_and_its_client_not_read_from() -> None:
    board, client = Board(100), line()
    board.pacer.receive(client, jobs(1000))
    assert board.numbers() == list(range(2 * AT_ONCE))
    assert board.pacer.crowded
    assert is_held(client)


def test_long_jobs_are_all_taken_in_some_in_each_turn() -> None:
    board, client = Board(0), line()
    board.pacer.receive(client, jobs(1000))
    taken = [board.turn() for _ in range(20)]
    assert max(taken) == AT_ONCE
    assert board.numbers() == list(range(1000))
    assert not is_held(client)
    assert not board.pacer.crowded
    assert board.loop._ready == []
    assert board.loop.timers == 0


def test_of_short_jobs_no_more_are_taken_in_than_slots_became_free(busy: tuple[Board, Connection]) -> None:
    board, _ = busy
    board.work(SHORT)
    for ended in (30, 50, 64, 40):
        waiting = board.waiting
        assert waiting <= PROBE
        assert board.work(ended) <= ended - waiting + PROBE


def test_where_short_jobs_wait_fewer_are_taken_in_than_end(busy: tuple[Board, Connection]) -> None:
    board, client = busy
    board.take(client, jobs(500, 5000))
    board.work(40)
    assert board.waiting > 400
    assert [board.work(40) for _ in range(8)] == [40 // PART] * 8


def test_what_was_one_too_many_gets_a_slot_before_others_are_taken_in(busy: tuple[Board, Connection]) -> None:
    board, _ = busy
    board.work(SHORT)
    assert board.waiting == PROBE
    board.finish(30)
    board.pacer.heard()
    assert board.turn() == 30 - PROBE
    assert board.waiting == 0


def test_who_comes_later_has_to_queue_behind_others_though_no_job_waits(busy: tuple[Board, Connection]) -> None:
    board, _ = busy
    board.work(SHORT)
    board.finish(board.waiting)
    other = line()
    board.pacer.receive(other, jobs(1))
    assert is_held(other)
    assert board.numbers(other) == []


def test_slots_that_nobody_knew_of_are_found(busy: tuple[Board, Connection]) -> None:
    board, _ = busy
    board.work(SHORT)
    board.finish(board.waiting)
    board.free += 500
    taken = board.work(SHORT) + board.work(SHORT) + board.work(SHORT)
    assert taken > 200


def test_if_nothing_ends_for_a_window_all_is_taken_in_again(busy: tuple[Board, Connection]) -> None:
    board, client = busy
    board.work(SHORT)
    assert board.pacer.crowded
    assert board.loop.timers == 1
    board.loop.advance(2 * WINDOW_S)
    assert len(board.taken) == 1000 + AT_ONCE
    assert not is_held(client)
    assert board.loop.timers == 0


def test_clients_have_their_turns() -> None:
    board, clients = Board(0), [line() for _ in range(3)]
    board.take(clients[0], jobs(1))
    for client in clients:
        board.pacer.receive(client, jobs(100))
    del board.taken[:]
    board.turn()
    order = [clients.index(client) for client, _ in board.taken]
    assert order == [0] * SHARE + [1] * SHARE + [2] * SHARE + [0] * SHARE
    board.turn()
    assert clients.index(board.taken[AT_ONCE][0]) == 1


def test_what_was_still_read_of_a_client_that_is_held_comes_after_what_is_held() -> None:
    board, client = Board(0), line()
    board.take(client, jobs(1))
    board.pacer.receive(client, jobs(100, 1))
    board.pacer.receive(client, jobs(100, 101))
    for _ in range(4):
        board.turn()
    assert board.numbers() == list(range(201))


def test_who_sends_no_jobs_need_not_queue() -> None:
    board, client, other = Board(0), line(), line()
    board.take(client, jobs(1))
    board.pacer.receive(client, jobs(100))
    acks = BinaryDecoder(1000).feed(packets.ack(1) + packets.ping())
    board.pacer.receive(other, acks)
    assert [frame for one, frame in board.taken if one is other] == acks
    assert not is_held(other)


def test_what_is_no_job_passes_with_the_jobs_before_it() -> None:
    board, client = Board(0), line()
    board.take(client, jobs(1))
    acks = BinaryDecoder(1000).feed(packets.ack(1) * 30)
    board.pacer.receive(client, [*jobs(SHARE), *acks, *jobs(SHARE)])
    del board.taken[:]
    board.pacer._look()
    board.pacer._left = SHARE
    board.turn()
    assert [frame[0] for _, frame in board.taken[:SHARE]] == [PacketType.RUN] * SHARE
    assert [frame[0] for _, frame in board.taken[SHARE : SHARE + 30]] == [PacketType.ACK] * 30


def test_many_clients_with_few_jobs_each_have_to_queue_too() -> None:
    board, clients = Board(0), [line() for _ in range(20)]
    board.take(clients[0], jobs(1))
    for number, client in enumerate(clients):
        few = jobs(10, 10 * number)
        if board.pacer.crowded:
            board.pacer.receive(client, few)
        else:
            board.take(client, few)
            board.pacer.took(few)
    assert [is_held(client) for client in clients] == [False] * 7 + [True] * 13
    assert sum(board.turn() for _ in range(3)) == 130
    assert not any(is_held(client) for client in clients)
    assert not board.pacer.crowded


def test_in_the_next_turn_few_jobs_need_not_queue_any_more() -> None:
    board, client = Board(0), line()
    board.take(client, jobs(AT_ONCE))
    board.pacer.took(jobs(AT_ONCE))
    assert board.pacer.crowded
    board.turn()
    assert not board.pacer.crowded
    assert board.loop._ready == []


def test_what_a_client_had_sent_before_it_left_counts() -> None:
    board, client = Board(0), line()
    board.take(client, jobs(1))
    board.pacer.receive(client, jobs(300, 1))
    board.pacer.end(client)
    assert board.numbers() == list(range(301))
    board.turn()
    assert not board.pacer.crowded
    assert len(board.taken) == 301


def test_a_client_that_leaves_while_its_jobs_are_taken_in_is_forgotten() -> None:
    board, client = Board(0), line()
    board.take(client, jobs(1))
    board.pacer.receive(client, jobs(300, 1))
    take = board.take

    def leave(connection: Connection, frames: list[Frame]) -> None:
        board.pacer._take = take
        take(connection, frames)
        board.pacer.end(connection)

    board.pacer._take = leave
    board.turn()
    assert board.numbers() == list(range(301))
    assert cast(Line, client).held == [True]


def test_of_clients_that_are_not_read_from_it_is_said_that_they_live(busy: tuple[Board, Connection]) -> None:
    board, first = busy
    others = [line() for _ in range(3 * pacing.SIGNS)]
    for other in others:
        board.pacer.receive(other, jobs(1))
    del board.alive[:]
    said = [len(board.alive) for _ in range(5) if board.work(SHORT) >= 0]
    assert max(after - before for before, after in pairwise([0, *said])) <= pacing.SIGNS
    silent = {one for one in (first, *others) if is_held(one)} - set(board.alive)
    assert silent <= {connection for connection, _ in board.taken}


def test_of_a_client_that_has_left_nothing_is_said_and_nothing_known(busy: tuple[Board, Connection]) -> None:
    board, client = busy
    other = line()
    board.pacer.receive(other, jobs(1000))
    del board.alive[:]
    board.pacer._unsaid = [other, client]
    board.pacer.end(client)
    board.work(SHORT)
    assert board.alive == [other]
    board.pacer._unsaid = [other]
    board.pacer.end(other)
    assert board.pacer._unsaid == []


@pytest.mark.parametrize("reason", [CloseReason.PEER_CLOSED, CloseReason.CONNECTION_LOST, CloseReason.LIMIT])
def test_what_was_sent_before_counts_unless_the_connection_was_ended_here(reason: CloseReason) -> None:
    board, client = Board(0), line()
    board.take(client, jobs(1))
    board.pacer.receive(client, jobs(300, 1))
    cast(Line, client).reason = reason
    if reason is CloseReason.LIMIT:
        board.turn()
        assert board.pacer._held == {}
        assert not board.pacer.crowded
    board.pacer.end(client)
    assert len(board.taken) == (1 if reason is CloseReason.LIMIT else 301)


def test_of_a_client_that_was_said_goodbye_to_it_is_not_said_that_it_lives(busy: tuple[Board, Connection]) -> None:
    board, client = busy
    other = line()
    board.pacer.receive(other, jobs(1000))
    cast(Line, other).reason = CloseReason.LIMIT
    del board.alive[:]
    board.pacer._unsaid = [other, client]
    board.work(SHORT)
    assert board.alive == [client]
