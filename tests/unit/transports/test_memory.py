"""The in-process transport: a pipe that holds what is not read, and reports it as a socket would."""

import asyncio

import pytest

from reasonchip_broker.errors import ConnectError, ListenError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.testing.transport_peers import Peer, Recorder, numbered
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.memory import MemoryClientTransport, MemoryServerTransport, MemoryTransport


class Notes(Peer):
    """A protocol that keeps every call, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[object] = []

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        super().connection_lost(exc)


class Pipe:
    """Both ends of a pipe."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.left, self.right = Notes(), Notes()
        self.near, self.far = MemoryTransport(loop, self.left), MemoryTransport(loop, self.right)
        self.near.join(self.far)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_bytes_come_in_the_next_turn_in_the_pieces_and_order_in_which_they_were_written() -> None:
    pipe = Pipe()
    pipe.near.write(b"one")
    pipe.near.writelines([b"two", bytearray(b"three"), memoryview(b"four")])
    pipe.near.write(b"")
    assert pipe.right.calls == []
    await turns()
    assert pipe.right.calls == [b"one", b"two", b"three", b"four"]


async def test_what_is_written_later_changes_nothing_that_was_written_before() -> None:
    pipe = Pipe()
    data = bytearray(b"before")
    pipe.near.write(data)
    data[:] = b"after!"
    await turns()
    assert pipe.right.calls == [b"before"]


async def test_both_ends_send() -> None:
    pipe = Pipe()
    pipe.near.write(b"ping")
    pipe.far.write(b"pong")
    await turns()
    assert (pipe.right.calls, pipe.left.calls) == ([b"ping"], [b"pong"])


async def test_what_is_not_read_is_held_and_counted_and_reported_at_the_mark() -> None:
    pipe = Pipe()
    pipe.near.set_write_buffer_limits(high=10, low=4)
    pipe.far.pause_reading()
    assert not pipe.far.is_reading()
    pipe.near.write(b"12345")
    pipe.near.write(b"67890")
    await turns()
    assert pipe.left.calls == []
    pipe.near.write(b"!")
    assert pipe.left.calls == ["pause"]
    assert pipe.near.get_write_buffer_size() == 11
    await turns()
    assert pipe.right.calls == []
    pipe.far.resume_reading()
    await turns()
    assert pipe.right.calls == [b"12345", b"67890", b"!"]
    assert pipe.left.calls == ["pause", "resume"]
    assert pipe.near.get_write_buffer_size() == 0


async def test_a_reader_may_pause_between_two_pieces() -> None:
    pipe = Pipe()

    def pause(data: bytes) -> None:
        pipe.right.calls.append(data)
        pipe.far.pause_reading()

    pipe.right.data_received = pause  # type: ignore[method-assign]
    pipe.near.write(b"one")
    pipe.near.write(b"two")
    await turns()
    assert pipe.right.calls == [b"one"]
    pipe.far.resume_reading()
    await turns()
    assert pipe.right.calls == [b"one", b"two"]


@pytest.mark.parametrize(("high", "low"), [(None, None), (100, None), (100, 0)])
async def test_the_limits_have_defaults(high: int | None, low: int | None) -> None:
    pipe = Pipe()
    pipe.near.set_write_buffer_limits(high, low)
    pipe.far.pause_reading()
    pipe.near.write(bytes(high or 64 * 1024))
    assert pipe.left.calls == []
    pipe.near.write(b"!")
    assert pipe.left.calls == ["pause"]


async def test_close_waits_until_everything_was_read() -> None:
    pipe = Pipe()
    pipe.far.pause_reading()
    pipe.near.write(b"last words")
    pipe.near.close()
    pipe.near.write(b"too late")
    assert pipe.near.is_closing()
    await turns()
    assert pipe.left.calls == []
    pipe.far.resume_reading()
    await turns()
    assert pipe.right.calls == [b"last words", "lost"]
    assert pipe.left.calls == ["lost"]


async def test_abort_ends_both_ends_once_and_forgets_what_waits() -> None:
    pipe = Pipe()
    pipe.far.pause_reading()
    pipe.near.write(b"never read")
    pipe.near.abort()
    pipe.near.abort()
    pipe.far.close()
    assert pipe.near.get_write_buffer_size() == 0
    await turns()
    assert (pipe.left.calls, pipe.right.calls) == (["lost"], ["lost"])
    pipe.near.write(b"nothing")
    pipe.near.close()
    await turns()
    assert pipe.right.calls == ["lost"]


async def test_a_protocol_that_raises_loses_its_connection_and_nobody_waits_for_it() -> None:
    """As asyncio's own transports do: otherwise the rest of what was sent would never be delivered, and nobody told."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, object]] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    pipe = Pipe()

    def fail(data: bytes) -> None:
        raise ValueError(data)

    pipe.right.data_received = fail  # type: ignore[method-assign]
    pipe.near.write(b"one")
    pipe.near.write(b"two")
    await turns()
    assert (pipe.left.calls, pipe.right.calls) == (["lost"], ["lost"])
    assert len(complaints) == 1


async def test_a_name_is_listened_on_by_one_and_free_again_afterwards() -> None:
    flusher = Flusher(asyncio.get_running_loop())
    first, second = MemoryServerTransport("name"), MemoryServerTransport("name")
    await first.start(Role.CLIENT, Recorder(), Limits(), flusher)
    with pytest.raises(ListenError, match="memory://name"):
        await second.start(Role.CLIENT, Recorder(), Limits(), flusher)
    await second.stop()
    assert isinstance(MemoryClientTransport("name").connect(Peer()), MemoryTransport)
    await first.stop()
    with pytest.raises(ConnectError, match="memory://name"):
        MemoryClientTransport("name").connect(Peer())
    await second.start(Role.CLIENT, Recorder(), Limits(), flusher)
    await second.stop()


def test_a_name_belongs_to_one_event_loop() -> None:
    async def listen() -> None:
        transport = MemoryServerTransport("name")
        await transport.start(Role.CLIENT, Recorder(), Limits(), Flusher(asyncio.get_running_loop()))

    async def connect() -> None:
        with pytest.raises(ConnectError):
            MemoryClientTransport("name").connect(Peer())

    asyncio.run(listen())
    asyncio.run(connect())


async def test_both_ends_are_connections_when_it_is_dialled() -> None:
    flusher = Flusher(asyncio.get_running_loop())
    transport, recorder, mine = MemoryServerTransport("name"), Recorder(), Recorder()
    await transport.start(Role.WORKER, recorder, Limits(), flusher)
    dialled = await MemoryClientTransport("name").dial(Role.WORKER, mine, Limits(), flusher)
    dialled.send(b"RCB\x01" + numbered(1))
    await recorder.until(lambda: recorder.count("received") == 1, "a frame did not arrive")
    assert recorder.connections[0].address == dialled.address == "memory"
    assert recorder.connections[0].role is Role.WORKER
    await transport.stop()
