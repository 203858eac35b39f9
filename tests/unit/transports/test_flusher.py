"""What was sent in a turn goes out at the end of it."""

from reasonchip_broker.protocol.codes import Dialect
from reasonchip_broker.testing.transport_peers import numbered
from tests.unit.transports.fakes import FakeTransport
from tests.unit.transports.test_connection import SMALL, binary


def test_the_flusher_writes_each_connection_once_a_turn() -> None:
    rig = binary()
    other = FakeTransport(rig.loop)
    second = rig.made(other, Dialect.BINARY)
    for number in range(3):
        rig.connection.send(numbered(number))
        second.send(numbered(number + 10))
    rig.loop.turn()
    assert len(rig.transport.writes) == len(other.writes) == 1


def test_a_frame_that_is_sent_while_flushing_goes_out_in_the_next_turn() -> None:
    rig = binary(**SMALL)
    other = FakeTransport(rig.loop)
    second = rig.made(other, Dialect.BINARY)
    rig.recorder.congested = lambda connection: second.send(numbered(9))  # type: ignore[method-assign]
    rig.transport.room = 0
    rig.connection.send(numbered(1, 2000))
    second.send(numbered(2))
    rig.loop.turn()
    assert other.writes == [numbered(2) + numbered(9)] or other.writes == [numbered(2), numbered(9)]
