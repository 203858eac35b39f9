"""Waiting in tasks and in threads for the same change."""

import asyncio
import threading

import pytest

from reasonchip_broker.worker.waiting import PENDING, Done, Pending, Waiters, in_loop
from tests.unit.worker.harness import soon, until
from tests.unit.worker.waits import told_of_waits

__all__ = ["told_of_waits"]

pytestmark = pytest.mark.usefixtures("told_of_waits")


class Flag:
    """Something that becomes true."""

    def __init__(self) -> None:
        self.waiters = Waiters()
        self.value = ""

    def attempt(self) -> str | Pending:
        assert self.waiters.lock.locked()
        return self.value or PENDING

    def set(self, value: str) -> None:
        with self.waiters.lock:
            self.value = value
            self.waiters.wake()


async def test_a_task_and_a_thread_wait_for_the_same_thing() -> None:
    flag = Flag()
    task = asyncio.create_task(flag.waiters.until(flag.attempt))
    thread = asyncio.create_task(asyncio.to_thread(flag.waiters.block_until, flag.attempt))
    await until(lambda: len(flag.waiters._wakers) == 2)
    flag.set("now")
    assert await soon(asyncio.gather(task, thread)) == ["now", "now"]
    assert flag.waiters._wakers == []


async def test_a_change_that_is_not_the_one_waited_for_wakes_in_vain() -> None:
    flag = Flag()
    task = asyncio.create_task(flag.waiters.until(flag.attempt))
    for _ in range(3):
        await until(lambda: len(flag.waiters._wakers) == 1)
        flag.set("")
        await asyncio.sleep(0)
        assert not task.done()
    flag.set("now")
    assert await soon(task) == "now"


async def test_who_stops_waiting_leaves_nothing_behind() -> None:
    flag = Flag()
    task = asyncio.create_task(flag.waiters.until(flag.attempt))
    await until(lambda: len(flag.waiters._wakers) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert flag.waiters._wakers == []


async def test_what_is_done_already_lets_others_run_once() -> None:
    ran: list[int] = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    assert await Done(5) == 5
    assert ran == [1]


async def test_in_a_loop_or_not() -> None:
    assert in_loop()
    assert not await asyncio.to_thread(in_loop)


def test_a_loop_that_is_closed_has_nobody_to_wake() -> None:
    flag = Flag()
    loop = asyncio.new_event_loop()
    task = loop.create_task(flag.waiters.until(flag.attempt))
    loop.run_until_complete(asyncio.sleep(0))
    wakers = list(flag.waiters._wakers)
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    flag.waiters._wakers = wakers
    thread = threading.Thread(target=flag.set, args=("late",))
    thread.start()
    thread.join()
