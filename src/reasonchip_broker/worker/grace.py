"""What becomes of jobs when their connection is gone."""

import asyncio
import logging

from reasonchip_broker.worker.desk import Desk

logger = logging.getLogger("reasonchip_broker.worker")


class Grace:
    """The time that a broker waits for this worker, `grace_s` seconds; all in the connection's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, grace_s: int) -> None:
        self._loop = loop
        self._grace_s = grace_s
        self._timer: asyncio.TimerHandle | None = None

    def began(self, desk: Desk, dead_s: float) -> None:
        """The connection is gone, and the session goes on. The broker counts from when it sees that, which takes it `dead_s` at
        the most; after that nobody waits for these jobs, and they are stopped."""
        jobs = desk.suspend_all()
        if jobs:
            logger.warning("%d jobs go on without a connection, for which the broker waits %d s", jobs, self._grace_s)
        if self._timer is None:
            self._timer = self._loop.call_later(self._grace_s + dead_s, self._over, desk)

    def ended(self) -> None:
        """The worker is back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def lose(self, desk: Desk) -> None:
        """There is no session, or there is none any more: nobody waits for what runs here."""
        self.ended()
        lost = desk.lose_all()
        if lost:
            logger.warning("%d jobs were lost with the connection, and are stopped", lost)

    def _over(self, desk: Desk) -> None:
        self._timer = None
        logger.warning("%d jobs are stopped: no broker waits for them any more", desk.forsake())
