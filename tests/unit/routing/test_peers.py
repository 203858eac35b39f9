"""The record of a connection: what a new one is."""

from reasonchip_broker.protocol.codes import Dialect, Role
from reasonchip_broker.routing.peers import ANONYMOUS, Peer, PeerState


def test_a_new_peer_has_said_nothing_and_has_nothing() -> None:
    link = object()
    peer = Peer(link, b"i" * 16, Role.WORKER, Dialect.JSON, ANONYMOUS, False)
    assert (peer.link, peer.id, peer.role, peer.dialect) == (link, b"i" * 16, Role.WORKER, Dialect.JSON)
    assert (peer.principal, peer.queues, peer.state) == (ANONYMOUS, False, PeerState.GREETING)
    assert (peer.unfinished, peer.worker, peer.timer, peer.congested, peer.name) == (0, None, None, False, "")


def test_peers_share_no_table() -> None:
    first, second = (Peer(None, bytes(16), Role.CLIENT, Dialect.BINARY, "", True) for _ in range(2))
    assert first.sends is not second.sends


def test_a_peer_takes_no_attributes_that_it_does_not_have() -> None:
    """Thousands of them idle: each dict would cost more than all the rest."""
    assert not hasattr(Peer(None, bytes(16), Role.CLIENT, Dialect.BINARY, "", True), "__dict__")
