"""The hot path through the broker's body: frames that came to the switchboard, and what it asks to be sent to its connections.

Apart from `broker.py`, so that it can be compiled with the core: every read goes through here, and where jobs come one by one this is
a large part of what they cost.
"""

import time
from collections.abc import Callable
from typing import Any, Final, cast

from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.transports.server_transport import AT_ONCE, Connection, Pacer

NEVER: Final = float("inf")
_WORKER: Final = Role.WORKER
_monotonic: Final = time.monotonic


class Steps:
    """Takes steps of the switchboard for what connections receive, and sends what follows.

    `after` is called when anything but sends may follow; `doubt` when a step failed, with the connection that it was taken for and the
    error; `log` gets what else fails.
    """

    def __init__(
        self, switchboard: Switchboard, after: Callable[[], None], doubt: Callable[[Connection, Exception], None], log: Any
    ) -> None:
        self.switchboard = switchboard
        self.pacer: Pacer | None = None
        """Lets clients in, once the broker runs."""
        self.wake_at = NEVER
        """When the broker will look at the switchboard's timers."""
        self.carrying = False
        """Whether effects are being carried out: a step that comes of a send is left to whoever is sending."""
        self.stepped = False
        """Whether there was such a step."""
        self._timers = switchboard.timers
        self._effects = switchboard.effects
        self._recipients = switchboard.effects.recipients
        self._after = after
        self._doubt = doubt
        self._log = log

    def received(self, connection: Connection, frames: list[Frame]) -> None:
        """Frames came. Those of clients may have to wait until workers were heard."""
        pacer = self.pacer
        if connection.role is _WORKER or pacer is None:
            self.take(connection, frames)
            if pacer is not None and pacer.crowded:
                pacer.heard()
        elif len(frames) > AT_ONCE or pacer.crowded:
            pacer.receive(connection, frames)
        else:
            self.take(connection, frames)
            if self.switchboard.waiting:
                pacer.took(frames)

    def take(self, connection: Connection, frames: list[Frame]) -> None:
        """Frames in, effects out."""
        self.carrying = True
        plain = False
        now = _monotonic()
        try:
            plain = self.switchboard.received(connection.context, frames, now)
        except Exception as error:
            self._doubt(connection, error)
        self.send_out(now if len(frames) == 1 else 0.0)
        self.carrying = False
        if not plain or self.stepped or self._timers.wake_at < self.wake_at:
            self.stepped = False
            self._after()

    def send_out(self, lone_at: float = 0.0) -> None:
        """Carry out all sends. They are written at the end of the loop's turn; what came of a frame that was alone in its read, at
        `lone_at` (`time.monotonic()`), is written now, if it need not be joined to anything."""
        try:
            # It grows, if a send leads to a step that sends more.
            for peer in self._recipients:
                frames, peer.sends = peer.sends, []
                link = cast(Connection, peer.link)
                if lone_at:
                    link.send_at_once(frames, lone_at)
                else:
                    link.send_all(frames)
        except Exception as error:
            # None should fail. What was not sent is lost, and whoever it was for is better off without us.
            self._log.error("internal error", error=repr(error), exc_info=error)
            self._effects.clear_sends()
        self._recipients.clear()
