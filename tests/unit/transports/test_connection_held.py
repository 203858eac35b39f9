"""A connection that its owner does not want to hear for a while."""

from reasonchip_broker.testing.transport_peers import numbered
from tests.unit.transports.fakes import Rig
from tests.unit.transports.test_connection import SMALL, binary, json_frame


def test_a_connection_that_is_held_is_not_read_from_until_it_is_not_any_more() -> None:
    rig = binary()
    rig.connection.hold(True)
    assert not rig.transport.reading
    rig.connection.hold(False)
    assert rig.transport.reading


def test_a_connection_that_is_held_is_not_read_from_though_its_peer_takes_what_it_is_sent() -> None:
    rig = binary(**SMALL)
    rig.transport.room = 0
    rig.send(*(numbered(number, 1000) for number in range(100)))
    assert not rig.transport.reading
    rig.connection.hold(True)
    rig.transport.take(1 << 30)
    assert rig.told[-1] == "writable"
    assert not rig.transport.reading
    rig.connection.hold(False)
    assert rig.transport.reading


def test_a_connection_that_is_no_longer_held_is_not_read_from_while_its_peer_does_not_read() -> None:
    rig = binary(**SMALL)
    rig.connection.hold(True)
    rig.transport.room = 0
    rig.send(*(numbered(number, 1000) for number in range(100)))
    rig.connection.hold(False)
    assert not rig.transport.reading
    rig.transport.take(1 << 30)
    assert rig.transport.reading


def test_a_json_frame_of_a_connection_that_is_not_read_from_is_not_overdue() -> None:
    rig = Rig(handshake_s=10.0)
    rig.hear(json_frame(packet_type="CANCEL", cookie="x" * 36)[:20])
    rig.connection.hold(True)
    rig.loop.advance(30.0)
    assert rig.told == ["accepts", "opened"]
    rig.connection.hold(False)
    rig.loop.advance(11.0)
    assert "offended" in rig.told
