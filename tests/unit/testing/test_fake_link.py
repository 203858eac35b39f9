"""What was sent to a pretended connection is kept, and looked at once."""

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType, Role
from reasonchip_broker.testing.fake_link import FakeLink


def test_what_was_sent_is_taken_once() -> None:
    link = FakeLink(7, Role.CLIENT, Dialect.BINARY)
    link.unread += [packets.ping(1), packets.pong(2), packets.ping(3)]
    assert [packet.number for packet in link.take_kinds(PacketType.PING)] == [1, 3]
    assert link.take() == []
    assert link.id == bytes(15) + b"\x07"
    assert link.close_reason is None


def test_an_answer_is_read_and_must_be_there() -> None:
    link = FakeLink(0, Role.CLIENT, Dialect.BINARY)
    link.unread.append(packets.reply(PacketType.RUN, Code.QUEUED, "it waits"))
    assert link.take_reply() == (Code.QUEUED, "it waits")
    with pytest.raises(InternalError, match=r"expected one REPLY, but link 0 was sent \[\]"):
        link.take_reply()
    link.unread.append(packets.reply(PacketType.STATUS, Code.OK, ""))
    with pytest.raises(InternalError, match="a REPLY without the job's status"):
        link.take_status()
