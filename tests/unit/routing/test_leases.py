"""Leases: when a silent connection is asked, when it is given up, and when its silence does not count.

(`tests/unit/switchboard/test_leases.py` has what becomes of it.)
"""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.routing.effects import Effects
from reasonchip_broker.routing.leases import LATE_S, Leases
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.timers import Timers
from tests.unit.routing.making import make_peer


class Watch:
    """Leases, the timers that they arm, and the PINGs that they send."""

    def __init__(self, heartbeat_s: float = 10.0, lease_s: float = 30.0) -> None:
        self.timers = Timers()
        self.effects = Effects()
        self.leases = Leases(Limits(heartbeat_s=heartbeat_s, lease_s=lease_s), self.timers, self.effects)

    def begin(self, heard_at: float = 100.0) -> Peer:
        peer = make_peer()
        peer.heard_at = heard_at
        self.leases.begin(peer, heard_at)
        return peer

    def look(self, peer: Peer, now: float) -> tuple[float | None, int, float]:
        """How long it was silent if that is too long; how many PINGs were sent; when to look again."""
        self.timers.due(1e12)
        self.effects.clear()
        expired_s = self.leases.expired_s(peer, now)
        sends = self.effects.take_sends()
        assert all((link, frame[4]) == (peer.link, PacketType.PING) for link, frame in sends)
        return expired_s, len(sends), self.timers.wake_at


def close_to(when: float) -> object:
    """Within a tick after it."""
    return pytest.approx(when + 0.0025, abs=0.0051)


def test_a_new_lease_is_looked_at_after_a_heartbeat() -> None:
    watch = Watch()
    peer = watch.begin(100.0)
    assert watch.timers.wake_at == close_to(110.0)
    assert peer.timer is not None


def test_one_that_was_heard_meanwhile_is_looked_at_a_heartbeat_after_that() -> None:
    watch = Watch()
    peer = watch.begin()
    peer.heard_at = 107.0
    assert watch.look(peer, 110.0) == (None, 0, close_to(117.0))


def test_one_that_is_silent_is_asked_and_looked_at_again() -> None:
    watch = Watch()
    peer = watch.begin()
    assert watch.look(peer, 110.0) == (None, 1, close_to(120.0))
    assert watch.look(peer, 120.0) == (None, 1, close_to(130.0))


def test_the_last_look_is_at_the_end_of_the_lease() -> None:
    watch = Watch(10.0, 14.0)
    peer = watch.begin()
    assert watch.look(peer, 110.0) == (None, 1, close_to(114.0))


def test_one_that_is_silent_for_its_whole_lease_is_given_up_and_not_looked_at_again() -> None:
    watch = Watch()
    peer = watch.begin()
    assert watch.look(peer, 130.0) == (30.0, 0, float("inf"))
    assert watch.look(peer, 131.5)[0] == 31.5


def test_the_silence_of_a_congested_peer_does_not_count() -> None:
    watch = Watch()
    peer = watch.begin()
    peer.congested = True
    assert watch.look(peer, 500.0) == (None, 0, close_to(510.0))
    peer.congested = False
    assert watch.look(peer, 529.0)[0] is None
    assert watch.look(peer, 530.0)[0] == 30.0


@pytest.mark.parametrize(
    ("late_s", "is_pause"), [(0.0, False), (LATE_S, False), (LATE_S + 0.25, True), (3600.0, True), (float("-inf"), False)]
)
def test_all_leases_begin_anew_after_a_pause_and_only_after_one(late_s: float, is_pause: bool) -> None:
    watch = Watch()
    peer = watch.begin()
    assert watch.leases.woken(200.0 - late_s, 200.0) == (late_s if is_pause else 0.0), "for how long the broker stood still"
    assert watch.look(peer, 200.0)[0] == (None if is_pause else 100.0)


@pytest.mark.parametrize(("late_s", "is_pause"), [(0.09, False), (0.15, True)])
def test_where_leases_are_short_a_pause_of_half_the_time_after_a_heartbeat_is_one(late_s: float, is_pause: bool) -> None:
    watch = Watch(0.1, 0.3)
    peer = watch.begin()
    watch.leases.woken(100.35 - late_s, 100.35)
    assert (watch.look(peer, 100.35)[0] is None) == is_pause
