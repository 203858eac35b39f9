"""Answers: what is told, to whom nothing may be."""

import pytest

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import NO_COOKIE, Code, Dialect, PacketType, Role
from reasonchip_broker.routing.answers import Answers
from reasonchip_broker.routing.effects import Effects
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.stand_ins import NO_KIND
from reasonchip_broker.routing.table import RouteTable
from tests.unit.routing.making import make_peer

COOKIE = b"k" * 16


def answered(
    peer: Peer, to: PacketType = PacketType.RUN, code: Code = Code.BAD_PACKET, owns: RouteState | None = None
) -> list[bytes]:
    effects = Effects()
    routes = RouteTable(1)
    answers = Answers(effects, routes)
    if owns is not None:
        routes.add(Route(COOKIE, peer, "", schemas.RunOptions(p="p"), NO_KIND, owns))
    answers.reply(peer, to, code, "why", COOKIE, 7, retry_ms=9)
    return [frame for _, frame in effects.take_sends()]


def test_a_reply_carries_the_requests_type_cookie_and_number() -> None:
    (frame,) = answered(make_peer())
    packet = decode(frame)
    assert (packet.kind, packet.code, packet.cookie, packet.number) == (PacketType.REPLY, Code.BAD_PACKET, COOKIE, 7)
    assert schemas.reply_meta(packet.meta) == schemas.ReplyMeta(to=PacketType.RUN, msg="why", retry=9)


def test_a_reply_that_is_about_no_job_and_no_number_says_neither() -> None:
    effects = Effects()
    Answers(effects, RouteTable(1)).reply(make_peer(), PacketType.ACK, Code.BAD_PACKET, "why")
    ((_, frame),) = effects.take_sends()
    packet = decode(frame)
    assert (packet.cookie, packet.number) == (NO_COOKIE, 0)
    assert schemas.reply_meta(packet.meta) == schemas.ReplyMeta(to=PacketType.ACK, msg="why")


def test_who_has_gone_is_told_nothing() -> None:
    peer = make_peer()
    peer.state = PeerState.GONE
    assert answered(peer) == []


@pytest.mark.parametrize(("to", "told"), [(PacketType.REGISTER, 1), (PacketType.RUN, 0), (PacketType.RESULT, 0)])
def test_an_existing_worker_hears_only_of_its_first_registration(to: PacketType, told: int) -> None:
    assert len(answered(make_peer(Role.WORKER, Dialect.JSON), to)) == told


@pytest.mark.parametrize(("owns", "cookie"), [(RouteState.QUEUED, NO_COOKIE), (RouteState.OVER, COOKIE), (None, COOKIE)])
def test_an_existing_client_is_told_of_an_error_without_the_cookie_of_a_job_that_goes_on(
    owns: RouteState | None, cookie: bytes
) -> None:
    (frame,) = answered(make_peer(Role.CLIENT, Dialect.JSON), owns=owns)
    assert decode(frame).cookie == cookie
