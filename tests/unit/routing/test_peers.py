"""The record of a connection: what a new one is."""

from reasonchip_broker.protocol.codes import Dialect, Role
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.shares import ANONYMOUS
from tests.unit.routing.making import SHARES


def test_a_new_peer_has_said_nothing_and_has_nothing() -> None:
    link = object()
    peer = Peer(link, b"i" * 16, Role.WORKER, Dialect.JSON, ANONYMOUS, False, SHARES.of_connection("", "p"))
    assert (peer.link, peer.id, peer.role, peer.dialect) == (link, b"i" * 16, Role.WORKER, Dialect.JSON)
    assert (peer.principal, peer.queues, peer.state) == (ANONYMOUS, False, PeerState.GREETING)
    assert (peer.unfinished, peer.worker, peer.timer, peer.congested, peer.name) == (0, None, None, False, "")
    assert (peer.leaving, peer.process, peer.grace_s, peer.results, peer.ties) == (False, b"", 0, 0, None)
    assert (peer.unacknowledged, peer.awaited, peer.pack, peer.last_pack) == (None, 0, None, None)
    assert (peer.unheard, peer.acknowledged, peer.kept_bytes, peer.sends) == (None, 0, 0, [])


def test_no_two_states_of_a_peer_are_the_same() -> None:
    assert list(PeerState) == list(PeerState.__members__.values())


def test_peers_share_no_table() -> None:
    first, second = (
        Peer(None, bytes(16), Role.CLIENT, Dialect.BINARY, "", True, SHARES.of_connection("", "p")) for _ in range(2)
    )
    assert first.sends is not second.sends


def test_a_peer_takes_no_attributes_that_it_does_not_have() -> None:
    """Thousands of them idle: each dict would cost more than all the rest."""
    assert not hasattr(Peer(None, bytes(16), Role.CLIENT, Dialect.BINARY, "", True, SHARES.of_connection("", "p")), "__dict__")
