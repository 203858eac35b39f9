"""One suite for every `ServerTransport`, after trio's `check_one_way_stream` and its kin.

A transport is checked through its own interface and that of `Connection`, against peers that know nothing of either: plain asyncio
protocols that write bytes and look at the bytes that come back. `CHECKS` holds one coroutine function for each promise, so that a test
runner can name the one that is broken; `check_server_transport` runs them all. None of them sleeps: they wait until something is so,
and fail if it is not so within `DEADLINE_S`. A peer that shall be slow, or not read at all, pauses its own reading.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from reasonchip_broker.errors import ConnectError, ListenError
from reasonchip_broker.limits import KIB, MIB, Limits
from reasonchip_broker.protocol.codes import CloseReason, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import PREFACE
from reasonchip_broker.testing.transport_peers import Peer, Recorder, numbered, require
from reasonchip_broker.transports.client_transport import ClientTransport
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.server_transport import ServerTransport

FRAME_BYTES = 64 * KIB
UNREAD_FRAMES = 16
UNREAD_BYTES = 32 * MIB
"""What is sent to a peer that does not read: kernels take a few MiB of it, and the rest waits at the broker's end."""


@dataclass(frozen=True)
class Implementation:
    """What the suite must know of a transport.

    `listener(None)` makes one that was not started, of any free address; `listener(url)` one of the address that an earlier one had.
    `connect(url, protocol)` makes a bare connection to it, and `dialler(url)` the transport that dials it.
    """

    listener: Callable[[str | None], ServerTransport]
    connect: Callable[[str, asyncio.Protocol], Awaitable[asyncio.Transport]]
    dialler: Callable[[str], ClientTransport]


Check: TypeAlias = Callable[[Implementation], Coroutine[None, None, None]]


class Stage:
    """A listener at work, and those who connect to it."""

    def __init__(self, implementation: Implementation, transport: ServerTransport, limits: Limits) -> None:
        self.implementation = implementation
        self.transport = transport
        self.limits = limits
        self.recorder = Recorder()
        self.peers: list[Peer] = []
        self.flusher = Flusher(asyncio.get_running_loop())

    async def connect(self) -> Peer:
        """A peer that has said nothing yet."""
        peer = Peer()
        self.peers.append(peer)
        await self.implementation.connect(self.transport.url, peer)
        return peer

    async def open(self) -> tuple[Peer, Connection]:
        """A peer that has said which protocol it speaks, and the connection at this end."""
        recorder = self.recorder
        before = len(recorder.opened_ones)
        peer = await self.connect()
        peer.live.write(PREFACE)
        await recorder.until(lambda: len(recorder.opened_ones) > before, "a connection was not announced")
        return peer, recorder.opened_ones[before]

    async def until_told(self, connection: Connection, event: str) -> None:
        """Wait for something to be told of a connection."""
        await self.recorder.until(
            lambda: event in self.recorder.told.get(connection, ()), f"{event!r} was not told of a connection"
        )

    async def until_received(self, connection: Connection, numbers: list[int]) -> None:
        """Wait for as many frames as these, and require that they are these."""
        frames = self.recorder.frames[connection]
        await self.recorder.until(lambda: len(frames) >= len(numbers), f"{len(numbers)} frames did not all arrive")
        require(
            self.recorder.received_numbers(connection) == numbers,
            "frames arrive once each, in the order in which they were sent",
        )

    async def turns(self, peer: Peer, connection: Connection, count: int) -> None:
        """Let so many round trips pass on a connection that has nothing to do with the matter: time, without a clock."""
        for _ in range(count):
            before = len(peer.frames), len(self.recorder.frames[connection])
            peer.live.write(numbered(0))
            connection.send(numbered(0))
            await peer.until(lambda seen=before[0]: len(peer.frames) > seen, "a bystander was not served")  # type: ignore[misc]
            await self.until_received(connection, [0] * (before[1] + 1))

    async def clog(self, connection: Connection) -> int:
        """Send frames numbered from 1 to a peer that does not read, the last of them larger than anything that kernels hold, and wait
        until the connection is congested. Returns the number of the last."""
        for number in range(1, UNREAD_FRAMES):
            connection.send(numbered(number, FRAME_BYTES))
        connection.send(numbered(UNREAD_FRAMES, UNREAD_BYTES))
        await self.until_told(connection, "congested")
        return UNREAD_FRAMES

    def abort(self) -> None:
        """End every connection at both ends."""
        for connection in self.recorder.connections:
            connection.abort(CloseReason.NORMAL)
        for peer in self.peers:
            if peer.transport is not None:
                peer.transport.abort()


@asynccontextmanager
async def stage(implementation: Implementation, limits: Limits | None = None) -> AsyncIterator[Stage]:
    """A started listener; when it is left, everything of it has ended and was told in order."""
    transport = implementation.listener(None)
    it = Stage(implementation, transport, limits or Limits())
    await transport.start(Role.CLIENT, it.recorder, it.limits, it.flusher)
    try:
        yield it
        await it.transport.stop()
        it.abort()
        recorder = it.recorder
        await recorder.until(lambda: set(recorder.reasons) >= set(recorder.connections), "a connection's end was not told")
        recorder.require_order()
    finally:
        await it.transport.stop()
        it.abort()
        await asyncio.sleep(0)


# Listening


async def connections_are_announced_once_and_in_order(implementation: Implementation) -> None:
    """Many that come at once: each is announced, opened and ended once, with an id of its own, and keeps its frames to itself."""
    async with stage(implementation) as it:
        recorder = it.recorder
        peers = await asyncio.gather(*(it.connect() for _ in range(100)))
        for number, peer in enumerate(peers):
            peer.live.write(PREFACE + numbered(number))
        await recorder.until(lambda: recorder.count("received") == len(peers), "not every connection's frame arrived")
        require(len({connection.id for connection in recorder.connections}) == len(peers), "no two connections have one id")
        for connection in recorder.connections:
            require(
                len(connection.id) == 16 and connection.role is Role.CLIENT and bool(connection.address),
                "a connection has an identity",
            )
            require(connection.dialect is Dialect.BINARY, "the preface tells the dialect")
        require(
            sorted(recorder.received_numbers(connection)[0] for connection in recorder.connections) == list(range(len(peers))),
            "frames stay apart",
        )
        for peer in peers:
            peer.live.close()
        await recorder.until(lambda: recorder.count("closed") == len(peers), "the end of a connection was not told")


async def a_connection_knows_what_its_listener_does_with_json_jobs(implementation: Implementation) -> None:
    """Whether they wait for a slot is the listener's to say, for each connection of its own."""
    async with stage(implementation) as it:
        for queues in (False, True):
            it.transport.json_queue = queues
            _, connection = await it.open()
            require(connection.json_queue is queues, "a connection does not have its listener's `json_queue`")


async def a_connection_that_is_refused_ends_without_a_word(implementation: Implementation) -> None:
    """The handler says no: the peer gets no byte, the handler hears nothing more of it, and others are not touched."""
    async with stage(implementation) as it:
        other, other_connection = await it.open()
        it.recorder.takes = False
        peer = await it.connect()
        peer.live.write(PREFACE + numbered(1))
        await peer.until(lambda: peer.is_lost, "a refused connection was not ended")
        require(peer.data_bytes == 0, "a refused connection is told nothing")
        await it.turns(other, other_connection, 5)
        told = [events for connection, events in it.recorder.told.items() if connection is not other_connection]
        require(told == [["accepts"]], f"of a refused connection the handler hears nothing more, not {told}")


async def a_dialler_and_a_listener_understand_each_other(implementation: Implementation) -> None:
    """`ClientTransport.dial` gives a connection that is open, of the binary dialect, and carries frames both ways."""
    async with stage(implementation) as it:
        mine = Recorder()
        dialled = await implementation.dialler(it.transport.url).dial(Role.CLIENT, mine, it.limits, it.flusher)
        require(mine.told[dialled] == ["accepts", "opened"], "the handler has heard of a dialled connection when dial returns")
        dialled.send(PREFACE + numbered(1, FRAME_BYTES))
        await it.recorder.until(lambda: it.recorder.count("received") > 0, "a dialled connection's frame did not arrive")
        connection = it.recorder.connections[0]
        connection.send(numbered(2, FRAME_BYTES))
        await mine.until(lambda: mine.received_numbers(dialled) == [2], "the answer did not arrive")
        connection.close(CloseReason.SHUTTING_DOWN, "enough")
        await mine.until(lambda: dialled in mine.reasons, "the dialling end was not told of the end")
        require(mine.frames[dialled][-1][0] == PacketType.GOODBYE, "the dialling end hears why")
        mine.require_order()


async def an_address_in_use_is_refused_in_one_line(implementation: Implementation) -> None:
    """A second listener on an address raises ListenError; the first goes on, and the address is not spoilt."""
    async with stage(implementation) as it:
        url = it.transport.url
        second = implementation.listener(url)
        try:
            await second.start(Role.CLIENT, Recorder(), it.limits, it.flusher)
        except ListenError as error:
            require("\n" not in str(error) and url in str(error), f"one line that names the address, not {str(error)!r}")
        else:
            await second.stop()
            require(False, "two listeners can't have one address")
        await second.stop()
        await it.turns(*await it.open(), 2)
        await it.transport.stop()
        await second.start(Role.CLIENT, it.recorder, it.limits, it.flusher)
        await it.turns(*await it.open(), 2)
        await second.stop()


async def stop_frees_the_address_and_leaves_connections_alone(implementation: Implementation) -> None:
    """After `stop` nobody gets in, who is in stays, and somebody else can listen there; stop may come twice, or without a start."""
    unused = implementation.listener(None)
    await unused.stop()
    async with stage(implementation) as it:
        url = it.transport.url
        peer, connection = await it.open()
        await it.transport.stop()
        try:
            await implementation.dialler(url).dial(Role.CLIENT, Recorder(), it.limits, it.flusher)
        except ConnectError as error:
            require("\n" not in str(error) and url in str(error), f"one line that names the address, not {str(error)!r}")
        else:
            require(False, "a transport that was stopped takes no connection")
        await it.turns(peer, connection, 5)
        await it.transport.stop()
        async with stage(
            Implementation(lambda _: implementation.listener(url), implementation.connect, implementation.dialler)
        ) as again:
            require(again.transport.url == url, "the same address can be listened on again")
            await again.turns(*await again.open(), 2)
            await it.turns(peer, connection, 2)


# Frames


async def frames_arrive_whole_in_order_however_they_are_cut(implementation: Implementation) -> None:
    """Byte by byte, many in one write, and everything in between."""
    async with stage(implementation) as it:
        peer, connection = await it.open()
        stream = b"".join(numbered(number, number) for number in range(6))
        for place in range(len(stream)):
            peer.live.write(stream[place : place + 1])
            await asyncio.sleep(0)
        numbers = list(range(6))
        await it.until_received(connection, numbers)
        peer.live.write(b"".join(numbered(number, 100) for number in range(6, 5000)))
        await it.until_received(connection, list(range(5000)))
        for number in range(5000):
            connection.send(numbered(number, 100))
        await peer.until(lambda: len(peer.frames) >= 5000, "5000 frames did not all arrive at the peer")
        require(peer.numbers() == list(range(5000)), "frames go out once each, in order")


async def large_frames_pass_both_ways_at_once(implementation: Implementation) -> None:
    """Frames of 8 MiB, several times what kernels and outboxes hold, cross each other on one connection, unharmed."""
    async with stage(implementation) as it:
        peer, connection = await it.open()
        for number in (1, 2):
            peer.live.write(numbered(number, 8 * MIB))
            connection.send(numbered(number + 2, 8 * MIB))
        await peer.until(lambda: len(peer.frames) == 2, "large frames did not arrive at the peer")
        await it.until_received(connection, [1, 2])
        for frame in (*it.recorder.frames[connection], *peer.frames):
            require(frame[2] == numbered(frame[5], 8 * MIB), "a large frame arrives as it was sent")


async def frames_of_all_sizes_come_whole_in_order(implementation: Implementation) -> None:
    """Large ones, which may have a way of their own, before, among and after small ones; many, or few, in a write."""
    sizes = (0, MIB, 100, 300 * KIB, *(100 * KIB for _ in range(20)), *(10 for _ in range(200)), 2 * MIB, 2 * MIB, 0)
    frames = [numbered(number, size) for number, size in enumerate(sizes)]
    numbers = list(range(len(sizes)))
    async with stage(implementation) as it:
        peer, connection = await it.open()
        for number, frame in enumerate(frames):
            peer.live.write(frame)
            if sizes[number] < 100:
                await it.until_received(connection, numbers[: number + 1])
        peer.live.writelines(frames)
        await it.until_received(connection, [*numbers, *numbers])
        got = [frame[2] for frame in it.recorder.frames[connection]]
        require(got == [*frames, *frames], "a frame of any size arrives as it was sent")


# Back-pressure


async def a_peer_that_does_not_read_is_not_read_from(implementation: Implementation) -> None:
    """Congestion is told, and holds up this peer alone; when it reads again nothing is missing, and it is heard."""
    limits = Limits(outbox_bytes_mark=256 * KIB, outbox_bytes_max=256 * MIB, frame_bytes_max=64 * MIB)
    async with stage(implementation, limits) as it:
        other, other_connection = await it.open()
        peer, connection = await it.open()
        peer.live.pause_reading()
        last = await it.clog(connection)
        require(connection.pending_bytes >= UNREAD_BYTES // 2, f"what waits is counted, not {connection.pending_bytes}")
        connection.send(numbered(last + 1, FRAME_BYTES))
        peer.live.write(numbered(7))
        await it.turns(other, other_connection, 20)
        events = it.recorder.told[connection]
        require("received" not in events, f"a congested peer is not read from; told was {events}")
        peer.live.resume_reading()
        await peer.until(lambda: len(peer.frames) == last + 1, "a peer that reads again did not get everything")
        require(peer.numbers() == list(range(1, last + 2)), "nothing is lost or moved while a connection is congested")
        await it.until_received(connection, [7])
        require("writable" in events[: events.index("received")], "the peer is heard once it has read")
        require(not it.recorder.is_congested(connection), "congestion ends once everything was taken")
        await it.turns(other, other_connection, 2)


async def a_frame_larger_than_every_limit_is_admitted_alone(implementation: Implementation) -> None:
    """One frame is always admitted, whatever the mark and the cap."""
    limits = Limits(outbox_bytes_mark=4 * KIB, outbox_bytes_max=8 * KIB)
    async with stage(implementation, limits) as it:
        peer, connection = await it.open()
        connection.send(numbered(1, 15 * MIB))
        await peer.until(lambda: len(peer.frames) == 1, "a frame over the cap did not arrive")
        require(connection.reason is None, "a connection that takes what it is sent lives")


async def the_hard_cap_ends_a_connection(implementation: Implementation) -> None:
    """A peer that does not read, and is sent more and more, is a slow consumer; others go on."""
    limits = Limits(outbox_bytes_mark=64 * KIB, outbox_bytes_max=1 * MIB)
    async with stage(implementation, limits) as it:
        other, other_connection = await it.open()
        peer, connection = await it.open()
        peer.live.pause_reading()
        last = await it.clog(connection)
        for number in range(2 * limits.outbox_bytes_max // FRAME_BYTES):
            connection.send(numbered(last + number, FRAME_BYTES))
        require(connection.reason is CloseReason.SLOW_CONSUMER, f"the cap was passed, and the reason is {connection.reason!r}")
        await it.until_told(connection, "closed")
        require(it.recorder.reasons[connection] is CloseReason.SLOW_CONSUMER, "why it ended is told")
        await it.turns(other, other_connection, 2)


async def the_write_deadline_ends_a_connection_that_takes_nothing(implementation: Implementation) -> None:
    """Not a byte is taken for the write deadline: a slow consumer. One that takes a little, now and then, is served to the end."""
    limits = Limits(outbox_bytes_mark=64 * KIB, write_deadline_s=0.4)
    async with stage(implementation, limits) as it:
        peer, connection = await it.open()
        slow, slow_connection = await it.open()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for each in (peer, slow):
            each.live.pause_reading()

        def sip() -> None:
            """Read what comes in one turn, and then nothing for a quarter of the deadline; after three deadlines, all of it."""
            if not slow.is_lost:
                slow.live.resume_reading()
                if loop.time() < began + 3 * limits.write_deadline_s:
                    loop.call_later(0.005, slow.live.pause_reading)
                    loop.call_later(limits.write_deadline_s / 4, sip)

        sip()
        await it.clog(connection)
        for number in range(1, 257):
            slow_connection.send(numbered(number, FRAME_BYTES))
        await it.until_told(connection, "closed")
        require(it.recorder.reasons[connection] is CloseReason.SLOW_CONSUMER, "why it ended is told")
        # Loops count milliseconds, so a timer may seem to be a little early.
        require(loop.time() - began > limits.write_deadline_s * 0.9, "it ended before the deadline")
        await slow.until(lambda: len(slow.frames) == 256, "a slow reader was not served to the end")
        require(slow_connection.reason is None, "a peer that reads slowly is no slow consumer")


# The end


async def close_writes_what_was_sent_before_and_says_goodbye(implementation: Implementation) -> None:
    """Everything that was sent, however much waits, then GOODBYE with its sentence, then the end; what comes meanwhile is not heard."""
    async with stage(implementation) as it:
        peer, connection = await it.open()
        connection.send(numbered(1, 100))
        peer.live.write(numbered(8))
        await _close_and_read(it, peer, connection, 1)
        peer, connection = await it.open()
        peer.live.pause_reading()
        await _close_and_read(it, peer, connection, await it.clog(connection))


async def _close_and_read(it: Stage, peer: Peer, connection: Connection, last: int) -> None:
    connection.close(CloseReason.REPLACED, "a newer one has come")
    connection.send(numbered(9))
    peer.live.resume_reading()
    await peer.until(lambda: peer.is_lost, "a closed connection did not end")
    require(peer.numbers() == list(range(1, last + 1)), "what was sent before close is written, and nothing after it")
    require(peer.goodbye() == (CloseReason.REPLACED, "a newer one has come"), f"the farewell is {peer.goodbye()!r}")
    await it.until_told(connection, "closed")
    require(it.recorder.reasons[connection] is CloseReason.REPLACED, "the handler hears why")
    require(not it.recorder.frames[connection], "what comes after close is not heard")


async def a_half_closed_connection_is_served_and_ended(implementation: Implementation) -> None:
    """A peer that says no more: its frames count, what was sent to it arrives, and its end is told."""
    async with stage(implementation) as it:
        peer, connection = await it.open()
        peer.live.pause_reading()
        for number in range(10):
            connection.send(numbered(number, KIB))
        peer.live.write(numbered(1) + numbered(2) + numbered(3)[:-1])
        if not _half_closes(peer):
            peer.live.resume_reading()
            await peer.until(lambda: len(peer.frames) == 10, "frames did not arrive")
            peer.live.close()
        else:
            await asyncio.sleep(0)
            peer.live.write_eof()
            peer.live.resume_reading()
            await peer.until(lambda: peer.is_lost, "a half-closed connection was not ended")
            require(peer.numbers() == list(range(10)), "a half-closed connection gets what was sent before")
        await it.until_told(connection, "closed")
        require(it.recorder.received_numbers(connection) == [1, 2], "the frames that were complete count, and no others")
        require(it.recorder.reasons[connection] is CloseReason.PEER_CLOSED, f"ended by {it.recorder.reasons[connection]!r}")


def _half_closes(peer: Peer) -> bool:
    try:
        return peer.live.can_write_eof()
    except NotImplementedError:
        return False


async def a_reset_is_noticed_even_while_congested(implementation: Implementation) -> None:
    """A peer that vanishes: its end is told once and soon, with and without much to write; sending to it is harmless; others go on."""
    async with stage(implementation, Limits(outbox_bytes_mark=64 * KIB)) as it:
        other, other_connection = await it.open()
        for is_congested in (False, True):
            peer, connection = await it.open()
            if is_congested:
                peer.live.pause_reading()
                await it.clog(connection)
            peer.reset()
            await it.until_told(connection, "closed")
            gone = it.recorder.reasons[connection] in (CloseReason.PEER_CLOSED, CloseReason.CONNECTION_LOST)
            require(gone, f"a reset is told as {it.recorder.reasons[connection]!r}")
            connection.send(numbered(1))
            connection.close(CloseReason.NORMAL, "too late")
            connection.abort(CloseReason.NORMAL)
            await it.turns(other, other_connection, 5)


CHECKS: tuple[Check, ...] = (
    connections_are_announced_once_and_in_order,
    a_connection_knows_what_its_listener_does_with_json_jobs,
    a_connection_that_is_refused_ends_without_a_word,
    a_dialler_and_a_listener_understand_each_other,
    an_address_in_use_is_refused_in_one_line,
    stop_frees_the_address_and_leaves_connections_alone,
    frames_arrive_whole_in_order_however_they_are_cut,
    large_frames_pass_both_ways_at_once,
    frames_of_all_sizes_come_whole_in_order,
    a_peer_that_does_not_read_is_not_read_from,
    a_frame_larger_than_every_limit_is_admitted_alone,
    the_hard_cap_ends_a_connection,
    the_write_deadline_ends_a_connection_that_takes_nothing,
    close_writes_what_was_sent_before_and_says_goodbye,
    a_half_closed_connection_is_served_and_ended,
    a_reset_is_noticed_even_while_congested,
)
"""Every promise, each as a check that can be run by itself."""


async def check_server_transport(implementation: Implementation) -> None:
    """Run all of `CHECKS`. Raises AssertionError for the first promise that is broken."""
    for check in CHECKS:
        await check(implementation)
