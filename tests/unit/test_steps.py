"""The hot path through the broker's body. What it does about bugs, and about steps inside of steps, is in test_broker_faults.py."""

import asyncio
import os
from typing import Any, cast

import msgspec

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import PREFACE, BinaryDecoder, Frame
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.steps import NEVER, Steps
from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.pacing import Pacer
from tests.raw_peers import HELLO, options
from tests.unit.transports.fakes import FakeTransport, Rig

REGISTER = encode(PacketType.REGISTER, number=1, meta=msgspec.msgpack.encode({"cap": 64, "serves": ["echo"], "labels": {}}))


class Body:
    """As much of a broker as steps need."""

    def __init__(self) -> None:
        self.board = Switchboard(os.urandom(16), Limits())
        self.after = 0
        self.doubts: list[Exception] = []
        self.failures: list[str] = []
        """Of sends."""
        self.steps = Steps(self.board, self.follow, lambda connection, error: self.doubts.append(error), self)
        self.rig = Rig()

    def error(self, event: str, **fields: object) -> None:
        """As a logger has it."""
        self.failures.append(event)

    def follow(self) -> None:
        """Whatever may follow, but for sends."""
        self.after += 1
        self.steps.send_out()
        self.board.effects.clear_rare()
        self.steps.wake_at = self.board.timers.wake_at

    def peer(self, role: Role, *first: bytes) -> tuple[Connection, FakeTransport]:
        """A peer that has said hello, and more."""
        transport = FakeTransport(self.rig.loop)
        connection = self.rig.made(transport, None, role)
        connection.data_received(PREFACE)
        connection.context = self.board.connected(connection, connection.id, role, Dialect.BINARY, 0.0)
        self.hear(connection, HELLO[len(PREFACE) :], *first)
        self.rig.loop.turn()
        transport.writes.clear()
        return connection, transport

    def hear(self, connection: Connection, *raw: bytes) -> None:
        """Frames come in one read."""
        self.steps.received(connection, BinaryDecoder(1 << 20).feed(b"".join(raw)))


def runs(count: int) -> list[bytes]:
    return [packets.run(bytes([7]) * 15 + bytes([number + 1]), options("echo"), b"") for number in range(count)]


def result_of(frame: Frame) -> bytes:
    return encode(PacketType.RESULT, attempt=1, cookie=frame[1])


def taken(transport: FakeTransport) -> list[Frame]:
    return BinaryDecoder(1 << 20).feed(transport.written)


def test_a_lone_run_is_with_its_worker_and_the_result_with_its_client_before_the_loop_turns() -> None:
    body = Body()
    client, heard = body.peer(Role.CLIENT)
    worker, given = body.peer(Role.WORKER, REGISTER)
    (run,) = runs(1)
    body.hear(client, run)
    assert given.writes == [run]
    result = result_of(taken(given)[0])
    body.hear(worker, result)
    assert heard.writes == [result]
    body.rig.loop.turn()
    assert (given.writes, heard.writes) == ([run], [result])


def test_what_came_in_one_read_is_written_once_at_the_end_of_the_turn() -> None:
    body = Body()
    client, heard = body.peer(Role.CLIENT)
    worker, given = body.peer(Role.WORKER, REGISTER)
    three = runs(3)
    body.hear(client, *three)
    assert given.writes == []
    body.rig.loop.turn()
    assert given.writes == [b"".join(three)]
    results = [result_of(frame) for frame in taken(given)]
    body.hear(worker, *results)
    body.rig.loop.turn()
    assert heard.writes == [b"".join(results)]


def test_after_plain_jobs_nothing_else_is_looked_at_but_a_timer_that_is_due_earlier() -> None:
    body = Body()
    client, _ = body.peer(Role.CLIENT)
    worker, given = body.peer(Role.WORKER, REGISTER)
    first, second, third = runs(3)
    # What its options mean is found out once, and that is no plain step.
    body.hear(client, first)
    before = body.after
    body.hear(client, second)
    body.hear(worker, *[result_of(frame) for frame in taken(given)])
    assert body.after == before
    body.steps.wake_at = NEVER
    body.hear(client, third)
    assert body.after == before + 1


def test_a_step_that_fails_is_told_with_its_connection_and_steps_go_on() -> None:
    body = Body()
    client, _ = body.peer(Role.CLIENT)
    _, given = body.peer(Role.WORKER, REGISTER)

    def fails(peer: Any, frame: Frame) -> None:
        raise ValueError("on purpose")

    client.context.handlers[PacketType.CANCEL] = fails
    body.hear(client, packets.cancel(b"c" * 16))
    assert [str(error) for error in body.doubts] == ["on purpose"]
    assert not body.steps.carrying
    body.hear(client, *runs(1))
    assert given.writes == runs(1)


def test_what_a_step_that_comes_of_a_send_leaves_is_looked_at_once() -> None:
    body = Body()
    client, _ = body.peer(Role.CLIENT)
    body.peer(Role.WORKER, REGISTER)
    first, second, third = runs(3)
    body.hear(client, first)
    before = body.after
    body.steps.stepped = True
    body.hear(client, second)
    assert body.after == before + 1
    body.hear(client, third)
    assert body.after == before + 1


def test_a_send_that_fails_costs_the_others_of_that_step_their_frames_and_nothing_after_it() -> None:
    body = Body()
    client, heard = body.peer(Role.CLIENT)
    other, _ = body.peer(Role.CLIENT)
    effects = body.board.effects

    def sends_to_nobody_and_to_the_client(peer: Any, frame: Frame) -> None:
        nobody = Peer(None, bytes(16), Role.CLIENT, Dialect.BINARY, "", True, peer.share)
        effects.send(nobody, packets.ping(1))
        effects.send(client.context, packets.ping(2))

    other.context.handlers[PacketType.CANCEL] = sends_to_nobody_and_to_the_client
    body.hear(other, packets.cancel(b"c" * 16))
    assert len(body.failures) == 1
    assert heard.writes == []
    body.hear(client, packets.ping(3))
    assert heard.writes == [packets.pong(3)]


def test_whoever_sends_while_clients_have_to_queue_goes_to_the_end_of_it() -> None:
    body = Body()
    client, transport = body.peer(Role.CLIENT)
    _, given = body.peer(Role.WORKER, REGISTER)
    loop = cast(asyncio.AbstractEventLoop, body.rig.loop)
    pacer = Pacer(loop, body.steps.take, lambda: body.board.waiting, lambda: body.board.counters.finished)
    body.steps.pacer = pacer
    pacer.crowded = True
    body.hear(client, *runs(1))
    assert given.writes == []
    assert not transport.reading
    body.rig.loop.turn()
    assert given.writes == runs(1)
    assert transport.reading
