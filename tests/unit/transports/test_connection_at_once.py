"""Lone frames, which a connection writes at once rather than at the end of the loop's turn."""

import pytest

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import ENCODING_JSON, CloseReason, PacketType
from reasonchip_broker.testing.transport_peers import numbered
from reasonchip_broker.transports.connection import APART_S
from tests.unit.transports.fakes import Rig
from tests.unit.transports.test_connection import SMALL, binary, json_frame


def test_a_lone_frame_is_written_at_once_and_one_that_follows_at_once_waits_for_those_that_may_be_joined() -> None:
    rig = binary()
    now = 10.0
    rig.connection.send_at_once([numbered(1)], now)
    assert rig.transport.writes == [numbered(1)]
    rig.connection.send_at_once([numbered(2)], now + 0.9 * APART_S)
    rig.connection.send_at_once([numbered(3)], now + 2 * APART_S)
    assert rig.transport.writes == [numbered(1)], "number 3 would have overtaken number 2"
    rig.loop.turn()
    assert rig.transport.writes == [numbered(1), numbered(2) + numbered(3)]
    rig.connection.send_at_once([numbered(4), numbered(5)], now + 3 * APART_S)
    assert rig.transport.writes[2:] == [numbered(4) + numbered(5)]
    rig.loop.turn()
    assert len(rig.transport.writes) == 3


def test_a_lone_frame_does_not_overtake_what_was_sent_before() -> None:
    rig = binary()
    rig.connection.send(numbered(1))
    rig.connection.send_at_once([numbered(2)], 10.0)
    assert rig.transport.writes == []
    rig.loop.turn()
    assert rig.transport.writes == [numbered(1) + numbered(2)]


def test_lone_frames_for_a_peer_that_takes_none_for_now_wait_and_follow_in_order() -> None:
    rig = binary(**SMALL)
    rig.transport.room = 0
    rig.connection.send_at_once([numbered(1, 1500)], 1.0)
    for number in (2, 3):
        rig.connection.send_at_once([numbered(number)], float(number))
    assert rig.transport.writes == [numbered(1, 1500)]
    rig.transport.take(1500)
    assert rig.transport.written == numbered(1, 1500) + numbered(2) + numbered(3)


def test_lone_frames_for_a_peer_that_takes_none_count_for_the_hard_cap() -> None:
    rig = binary(**SMALL)
    rig.transport.room = 0
    for number in range(1, 9):
        rig.connection.send_at_once([numbered(number, 1200)], float(number))
    assert rig.connection.reason is CloseReason.SLOW_CONSUMER


def existing_peer() -> Rig:
    rig = Rig()
    rig.hear(json_frame(packet_type="CANCEL"))
    return rig


def test_a_lone_frame_for_an_existing_peer_is_written_at_once_in_its_own_words() -> None:
    rig = existing_peer()
    result = packets.result(b"j" * 16, 1, b"5", ENCODING_JSON)
    rig.connection.send_at_once([packets.ping(), result], 10.0)
    assert b'"rc":"OK"' in rig.transport.written
    assert not rig.loop.is_ready, "nothing is left to the flusher"
    rig.connection.send_at_once([result], 10.0 + 0.9 * APART_S)
    assert len(rig.transport.writes) == 1
    rig.loop.turn()
    assert len(rig.transport.writes) == 2


def test_a_frame_that_can_not_be_told_to_an_existing_peer_costs_no_other() -> None:
    rig = existing_peer()
    with pytest.raises(ValueError, match="not a valid Code"):
        rig.connection.send_at_once([encode(PacketType.REPLY, code=250)], 10.0)
    rig.send(packets.result(b"j" * 16, 1, b"5", ENCODING_JSON))
    assert b'"rc":"OK"' in rig.transport.written


def test_nothing_is_sent_to_a_peer_that_was_said_goodbye_to() -> None:
    rig = binary()
    rig.connection.close(CloseReason.LIMIT, "enough")
    said = len(rig.transport.writes)
    rig.connection.send_at_once([numbered(1)], 10.0)
    rig.loop.turn()
    assert len(rig.transport.writes) == said
