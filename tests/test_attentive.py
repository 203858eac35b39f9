"""The loop that tests wait in: it looks when it has done something, and neither sleeps nor spins meanwhile."""

import asyncio
import threading
from pathlib import Path

import pytest

from tests.attentive import Word, gone, until


async def test_what_a_callback_changes_is_seen_at_once_and_nobody_looks_in_between() -> None:
    looks = 0
    changed: list[str] = []

    def holds() -> bool:
        nonlocal looks
        looks += 1
        return bool(changed)

    asyncio.get_running_loop().call_later(0.05, changed.append, "x")
    await until(holds, "it did not change", 20)
    assert looks < 10, "50 ms are as many looks as there was something to do, and no more"


async def test_what_another_thread_changes_is_seen_when_it_wakes_the_loop() -> None:
    loop, changed = asyncio.get_running_loop(), threading.Event()

    def change() -> None:
        changed.set()
        loop.call_soon_threadsafe(lambda: None)

    thread = threading.Timer(0.02, change)
    thread.start()
    await until(changed.is_set, "it did not change", 20)
    thread.join()


async def test_what_never_comes_to_hold_and_what_can_not_be_told_are_errors() -> None:
    with pytest.raises(AssertionError, match=r"within 0.01 s, it did not change"):
        await until(lambda: False, "it did not change", 0.01)
    told: list[int] = []
    asyncio.get_running_loop().call_later(0.01, told.append, 0)
    with pytest.raises(ZeroDivisionError):
        await until(lambda: bool(told) and 1 / told[0] > 0, "it did not change", 20)


async def test_one_that_gives_up_takes_nobody_along() -> None:
    changed: list[str] = []
    first, second = (asyncio.create_task(until(lambda: bool(changed), "it did not change", 20)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    asyncio.get_running_loop().call_later(0.01, changed.append, "x")
    await second
    assert first.cancelled()


@pytest.mark.process
async def test_a_word_of_another_process_and_its_end(tmp_path: Path) -> None:
    with Word(tmp_path / "begun") as begun, Word(tmp_path / "end") as end:
        script = 'echo $$ > "$0"; head -c 1 < "$1"'
        process = await asyncio.create_subprocess_exec("sh", "-c", script, begun.path, end.path)
        assert int(await begun.heard(20)) == process.pid
        end.say()
        await gone(process.pid, 20)
        assert await process.wait() == 0
