"""Is the broker still there?"""

import asyncio
import time
from collections.abc import Callable

from reasonchip_broker.errors import ConnectionLost
from reasonchip_broker.peer.session import Session
from reasonchip_broker.protocol.codes import CloseReason
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.worker.outflow import Outflow


class Watch:
    """Checks one connection whenever its session says so, and ends it when nothing was heard for too long."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: Session,
        connection: Connection,
        outflow: Outflow,
        problem: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._session = session
        self._connection = connection
        self._outflow = outflow
        self._problem = problem
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """See whether the broker is there; again when that is due."""
        self.end()
        connection, session = self._connection, self._session
        if connection.reason is not None:
            return
        now = time.monotonic()
        if self._outflow.congested:
            # It is not being read from, so its silence is ours; the write deadline watches it.
            session.excuse(now)
        try:
            ping = session.check(now)
        except ConnectionLost as error:
            self._problem(str(error))
            connection.abort(CloseReason(error.reason))
            return
        if ping is not None:
            connection.send(ping)
        self._timer = self._loop.call_later(max(0.0, session.check_at - now), self.look)

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
