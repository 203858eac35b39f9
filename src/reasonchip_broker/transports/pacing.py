"""How much of what clients send is taken in at a time.

A job that has to wait costs several times one that finds a slot, and clients may send thousands in one read. Were they all taken in at
once, workers would be heard once in a long while, slots would stand idle meanwhile, the more jobs would have to wait, and the broker
would do less the more is asked of it. (Where the network is concerned this is called receive livelock: J. Mogul and K. Ramakrishnan,
*Eliminating receive livelock in an interrupt-driven kernel*, 1996.)

So while jobs wait, clients that send jobs are let in a little at a time, in turn, and are not read from meanwhile, which slows down who
sends more. Where jobs are long, and few end in a second, that only makes room for workers to be heard in between: all are taken in as
fast as can be. Where they are short, no more are taken in than slots become free; and where jobs wait already, so few that they become
fewer.
"""

from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable
from typing import Final

from reasonchip_broker.protocol.codes import CloseReason, PacketType
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.transports.connection import Connection

AT_ONCE: Final = 64
"""So many frames are taken in before it is looked at again whether jobs wait."""

SHARE: Final = 16
"""So many jobs of a client are taken in at its turn while others wait."""

PROBE: Final = 8
"""So many jobs are taken in, once in a window, to find out whether slots are free that nobody knew of."""

WINDOW_S: Final = 0.01
"""How often it is found out how many jobs end in a second."""

SHORT_PER_S: Final = 2_000
"""If more end in a second, jobs are short: it matters what it costs to let one wait."""

PART: Final = 8
"""Of short jobs that have to wait one is taken in for so many that end."""

SIGNS: Final = 64
"""For so many clients of those that have to queue it is said, in each window, that they live: nobody hears it of themselves."""

_RUN: Final = PacketType.RUN


class Pacer:
    """Frames of clients that have to wait until workers were heard.

    `take` is given those whose time has come; `waiting` tells how many jobs wait, and `finished` how many have ended so far.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        take: Callable[[Connection, list[Frame]], object],
        waiting: Callable[[], int],
        finished: Callable[[], int],
    ) -> None:
        self.crowded = False
        """Whether clients that send jobs have to queue."""
        self._loop = loop
        self._take = take
        self._waiting = waiting
        self._finished = finished
        self._held: dict[Connection, deque[Frame]] = {}
        """What has to wait, by whose it is, in the order of their turns. These connections are not read from."""
        self._unsaid: list[Connection] = []
        """Of those that were held some time ago the ones of which it was not said since that they live."""
        self._turning = False
        """Whether the next turn of the loop will be noticed."""
        self._timer: TimerHandle | None = None
        self._short = False
        """Whether jobs are short."""
        self._left = AT_ONCE
        """How many more jobs may be taken in while others wait: in this window if jobs are short, else in this turn."""
        self._free = 0
        """How many slots should be free: as many as became so since the last turn, if no job waited for them."""
        self._probe = PROBE
        """How many more are tried."""
        self._done = 0
        """How many jobs had ended at the last turn."""
        self._waited = 0
        """How many waited then: when it was over, or, while it lasts, when it began."""
        self._window_done = 0
        """How many when this window began."""
        self._window_began_at = loop.time()

    def took(self, frames: list[Frame]) -> None:
        """A client sent these few, which were taken in, and jobs wait."""
        self._left -= sum(frame[0] == _RUN for frame in frames)
        self.crowded = self._left <= 0
        self._notice()

    def receive(self, connection: Connection, frames: list[Frame]) -> None:
        """A client sent these, which are many, or have to queue. They are taken in at once as far as no job waits."""
        held = self._held.get(connection)
        if held is not None:
            # It was read before it was no longer.
            held.extend(frames)
            return
        begin = 0
        while not self.crowded and not self._waiting():
            self._take(connection, frames[begin : begin + AT_ONCE] if len(frames) > AT_ONCE else frames)
            begin += AT_ONCE
            if begin >= len(frames):
                return
        if not any(frame[0] == _RUN for frame in frames):
            self._take(connection, frames[begin:])
            return
        self._held[connection] = deque(frames[begin:])
        connection.hold(True)
        self.crowded = True
        self._notice()

    def heard(self) -> None:
        """A worker was heard while clients queue."""
        self._notice()

    def end(self, connection: Connection) -> None:
        """A connection has ended, or sends nonsense: what it had sent before counts, unless it was ended here."""
        held = self._held.pop(connection, None)
        while held and not _is_ended_here(connection):
            self._take(connection, [held.popleft() for _ in range(min(AT_ONCE, len(held)))])
        if not self._held:
            self._unsaid = []

    def _notice(self) -> None:
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """The loop has been around, so that whoever else had something to say has said it; or a window has passed."""
        self._turning = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._look()
        while self._held:
            waiting = self._waiting()
            count = self._allowed(waiting)
            if count <= 0:
                break
            connection = next(iter(self._held))
            held = self._held.pop(connection)
            if _is_ended_here(connection):
                continue
            part = _begin(held, count)
            # The last in its turn now; and nothing of it may overtake what is held while that is taken in.
            self._held[connection] = held
            self._take(connection, part)
            self._charge(sum(frame[0] == _RUN for frame in part), waiting)
            if not held and self._held.pop(connection, None) is not None:
                connection.hold(False)
        self.crowded = bool(self._held)
        self._waited = self._waiting()
        if self._held and not self._short:
            self._notice()
        elif self._held:
            self._timer = self._loop.call_later(WINDOW_S, self._turn)

    def _look(self) -> None:
        """What has become of jobs since the last turn, and since the window began."""
        finished, now = self._finished(), self._loop.time()
        waiting = self._waiting()
        self._free = 0 if waiting else finished - self._done - self._waited
        self._done, self._waited = finished, waiting
        elapsed_s = now - self._window_began_at
        if elapsed_s >= WINDOW_S:
            ended = finished - self._window_done
            self._short = ended > SHORT_PER_S * elapsed_s
            self._left = ended // PART
            self._probe = PROBE
            self._window_began_at, self._window_done = now, finished
            self._say_who_lives()
        if not self._short:
            self._left = AT_ONCE

    def _say_who_lives(self) -> None:
        """Who is not read from can't say so. With thousands of them a turn may be long in coming, and must not cost a lease."""
        if not self._unsaid:
            self._unsaid = list(self._held)
        for _ in range(min(SIGNS, len(self._unsaid))):
            connection = self._unsaid.pop()
            if connection in self._held and not _is_ended_here(connection):
                self._take(connection, [])

    def _allowed(self, waiting: int) -> int:
        """How many jobs may be taken in at the next client's turn."""
        if waiting:
            # Not of what is taken in only to fill slots: what waits now was one too many.
            return min(SHARE, self._left) if self._waited or not self._short else 0
        if not self._short:
            return AT_ONCE
        return min(AT_ONCE, self._free if self._free > 0 else self._probe)

    def _charge(self, jobs: int, waiting: int) -> None:
        """So many jobs were taken in, before which so many waited."""
        if waiting:
            self._left -= jobs
        elif self._free > 0:
            self._free -= jobs
        elif self._short:
            self._probe = 0 if self._waiting() else 2 * self._probe


def _is_ended_here(connection: Connection) -> bool:
    """Whether it was not the peer that ended it, or the network: nothing is heard any more of one that was said goodbye to."""
    return connection.reason is not None and connection.reason < CloseReason.PEER_CLOSED


def _begin(held: deque[Frame], jobs: int) -> list[Frame]:
    """Take the first frames off, up to so many jobs."""
    part: list[Frame] = []
    while held and len(part) < AT_ONCE:
        if held[0][0] == _RUN:
            if not jobs:
                break
            jobs -= 1
        part.append(held.popleft())
    return part
