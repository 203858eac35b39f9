"""What becomes of jobs whose connection is gone."""

import asyncio
from typing import Any

from reasonchip_broker.worker.grace import Grace
from tests.unit.worker.harness import until


class Paper:
    """A desk that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def suspend_all(self) -> int:
        self.told.append("suspend")
        return 1

    def forsake(self) -> int:
        self.told.append("forsake")
        return 1

    def lose_all(self) -> int:
        self.told.append("lose")
        return 1


async def test_jobs_are_stopped_when_no_broker_can_wait_for_them_any_more(caplog) -> None:
    desk: Any = Paper()
    grace = Grace(asyncio.get_running_loop(), 0)
    grace.began(desk, 0.01)
    grace.began(desk, 0.01)
    assert desk.told == ["suspend", "suspend"]
    await until(lambda: desk.told[-1] == "forsake")
    assert desk.told == ["suspend", "suspend", "forsake"], "the time is from the first loss"
    assert "1 jobs are stopped: no broker waits for them any more" in caplog.text


async def test_a_worker_that_is_back_in_time_forsakes_nothing() -> None:
    desk: Any = Paper()
    grace = Grace(asyncio.get_running_loop(), 0)
    grace.began(desk, 0.0)
    grace.ended()
    assert grace._timer is None
    assert desk.told == ["suspend"]
    grace.began(desk, 0.0)
    grace.lose(desk)
    assert grace._timer is None
    assert desk.told == ["suspend", "suspend", "lose"]
