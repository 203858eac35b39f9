"""One wheel for all timers: deadlines, leases, graces, rests.

A hashed timing wheel after Varghese and Lauck ("Hashed and hierarchical timing wheels", 1987), its slots kept in a dict because
most ticks have no timer: a tick holds the timers that end in it, and a heap orders the ticks, each of which is in it once. So to
arm a timer is O(1) but for the first of its tick, to disarm it is O(1) and leaves nothing behind, and a million deadlines that
never fire cost a dict entry each and nothing in the event loop.
"""

from enum import IntEnum
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final

from reasonchip_broker.limits import TIMER_TICK_S

NEVER: Final = float("inf")
_EMPTY_TICKS_MAX: Final = 1024
"""Ticks without a timer that may stay in the heap, beyond as many as have one."""

AT_ONCE: Final = 50
"""No more timers fire in one step: thousands may end in one tick, and what they lead to may take as long as frames of thousands."""


class TimerKind(IntEnum):
    """What is due."""

    HANDSHAKE = 1
    LEASE = 2
    DEADLINE = 3
    CANCEL_GRACE = 4
    KILL_GRACE = 5
    REST = 6
    RETENTION = 7
    QUEUE_LIMIT = 8
    RUN_LIMIT = 9
    BACKOFF = 10
    ORPHAN = 11
    SESSION = 12
    SCHEDULED = 13
    GATE = 14
    AFFINITY = 15


class Timer:
    """One armed timer. `subject` is what it is about: which class that is, its kind tells."""

    __slots__ = ("is_armed", "kind", "subject", "tick")

    def __init__(self, kind: TimerKind, subject: object, tick: int) -> None:
        self.kind = kind
        self.subject = subject
        self.tick = tick
        self.is_armed = True
        """Whether it was not disarmed: of the timers that are due at once, one may disarm another."""


class Timers:
    """The wheel. Times are seconds of the caller's monotonic clock; a timer never fires early, and at most one tick late."""

    __slots__ = ("_order", "_slots", "wake_at")

    def __init__(self) -> None:
        self._slots: dict[int, dict[Timer, None]] = {}
        self._order: list[int] = []
        self.wake_at = NEVER

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots.values())

    def arm(self, kind: TimerKind, subject: object, when: float) -> Timer:
        """Make a timer that is due at `when`."""
        tick = int(when / TIMER_TICK_S) + 1
        # Division rounds, and may have put a time at the very end of a tick into that tick.
        tick += tick * TIMER_TICK_S <= when
        timer = Timer(kind, subject, tick)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = {}
            heappush(self._order, tick)
            if tick * TIMER_TICK_S < self.wake_at:
                self.wake_at = tick * TIMER_TICK_S
        slot[timer] = None
        return timer

    def disarm(self, timer: Timer) -> None:
        """Forget a timer; one that has fired already may be given too. One that is due in this wake-up will not fire any more."""
        slot = self._slots.get(timer.tick)
        timer.is_armed = False
        if slot is not None:
            slot.pop(timer, None)
            if not slot:
                del self._slots[timer.tick]
                if len(self._order) > 2 * len(self._slots) + _EMPTY_TICKS_MAX:
                    self._order = list(self._slots)
                    heapify(self._order)

    def due(self, now: float) -> list[Timer]:
        """Remove and return the timers that are due, earliest tick first, in each tick in the order of arming. Of very many only
        some: then `wake_at` stays in the past."""
        fired: list[Timer] = []
        order, left = self._order, AT_ONCE
        while order and order[0] * TIMER_TICK_S <= now:
            slot = self._slots.get(order[0])
            if slot is not None:
                if len(slot) > left:
                    some = list(islice(slot, left))
                    for timer in some:
                        del slot[timer]
                    fired += some
                    break
                left -= len(slot)
                fired += slot
                del self._slots[order[0]]
            heappop(order)
        self.wake_at = order[0] * TIMER_TICK_S if order else NEVER
        return fired
