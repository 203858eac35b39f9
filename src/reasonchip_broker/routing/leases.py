"""Leases: how long a connection may stay silent.

A binary peer that was silent for a heartbeat is sent a PING; one that was silent for its whole lease is gone. If the broker itself
stood still (it was stopped, or its machine was), silence says nothing about the peers: all leases begin anew.
"""

from typing import Final

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.routing.effects import Effects
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.timers import TimerKind, Timers

LATE_S: Final = 1.0
"""A wake-up that comes this much too late means that the broker stood still; sooner, where leases are so short that it matters."""


class Leases:
    """Watches over the silence of connections, one timer each. Times are seconds on the switchboard's clock."""

    __slots__ = ("_anew_at", "_effects", "_late_s", "_limits", "_timers")

    def __init__(self, limits: Limits, timers: Timers, effects: Effects) -> None:
        self._limits = limits
        self._timers = timers
        self._effects = effects
        self._anew_at = 0.0
        self._late_s = min(LATE_S, (limits.lease_s - limits.heartbeat_s) / 2)

    def woken(self, due_at: float, now: float) -> float:
        """The switchboard was to be woken at `due_at`, and was woken `now`. Returns for how long the broker stood still."""
        late_s = now - due_at
        if late_s > self._late_s:
            self._anew_at = now
            return late_s
        return 0.0

    def begin(self, peer: Peer, now: float) -> None:
        """A connection was welcomed."""
        peer.timer = self._timers.arm(TimerKind.LEASE, peer, now + self._limits.heartbeat_s)

    def expired_s(self, peer: Peer, now: float) -> float | None:
        """Look at a connection whose timer went off. Returns how long it was silent if that is too long; else asks it, or waits on."""
        if peer.congested:
            # It is not being read from, so its silence is ours; the write deadline watches it.
            peer.heard_at = now
        limits = self._limits
        silent_s = now - max(peer.heard_at, self._anew_at)
        if silent_s >= limits.lease_s:
            return silent_s
        if silent_s >= limits.heartbeat_s:
            self._effects.send(peer, packets.ping())
            next_s = min(limits.heartbeat_s, limits.lease_s - silent_s)
        else:
            next_s = limits.heartbeat_s - silent_s
        peer.timer = self._timers.arm(TimerKind.LEASE, peer, now + next_s)
        return None
