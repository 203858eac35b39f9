"""To see that somebody waits, in whatever thread: a loop that looks has to be told."""

import asyncio
from collections.abc import Callable

import pytest

from reasonchip_broker.worker.waiting import Waiters


@pytest.fixture
async def told_of_waits(monkeypatch):
    """The test's loop looks whenever a task or a thread begins to wait."""
    loop = asyncio.get_running_loop()
    enlist = Waiters._enlist

    def tell(waiters: Waiters, waker: Callable[[], object]) -> None:
        enlist(waiters, waker)
        loop.call_soon_threadsafe(lambda: None)

    monkeypatch.setattr(Waiters, "_enlist", tell)
