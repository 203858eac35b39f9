"""What becomes of jobs whose connection is gone."""

import asyncio
from typing import Any, cast

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

    grace.began(desk, 0.0)
    await until(lambda: desk.told[-1] == "forsake")
    assert desk.told[3:] == ["suspend", "forsake"], "and of the next one anew"


async def test_they_have_the_grace_from_when_the_broker_sees_the_loss_at_the_latest() -> None:
    loop, desk = asyncio.get_running_loop(), cast(Any, Paper())
    grace = Grace(loop, 60)
    before = loop.time()
    grace.began(desk, 30.0)
    assert grace._timer is not None
    assert before + 90.0 <= grace._timer.when() <= loop.time() + 90.0
    grace.ended()


async def test_a_worker_that_is_back_in_time_forsakes_nothing() -> None:
    desk: Any = Paper()
    grace = Grace(asyncio.get_running_loop(), 0)
    for end in (grace.ended, lambda: grace.lose(desk)):
        grace.began(desk, 0.0)
        timer = grace._timer
        assert timer is not None
        end()
        assert (timer.cancelled(), grace._timer) == (True, None)
    assert desk.told == ["suspend", "suspend", "lose"]
