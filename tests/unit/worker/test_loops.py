"""Loops that end, and signals that are heard whatever the loop does."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from reasonchip_broker.worker import loops


class Subject:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.on_hurry: Callable[[], object] = lambda: None

    def leave(self) -> None:
        self.told.append("leave")

    def hurry(self) -> None:
        self.told.append("hurry")
        self.on_hurry()


def test_a_new_loop_is_uvloops_where_there_is_one(monkeypatch) -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = loops.new_loop()
    assert isinstance(loop, uvloop.Loop)
    loop.close()
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = loops.new_loop()
    assert isinstance(loop, asyncio.BaseEventLoop)
    loop.close()


def test_a_loop_is_run_and_closed_and_errors_come_out() -> None:
    async def fail() -> None:
        raise ValueError("x")

    loop = loops.new_loop()
    with pytest.raises(ValueError, match="x"):
        loops.run_and_close(loop, fail())
    assert loop.is_closed()


def test_a_task_that_refuses_to_end_does_not_hold_up_the_loop(monkeypatch, caplog) -> None:
    monkeypatch.setattr(loops, "WIND_UP_S", 0.05)
    released: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def stubborn() -> None:
        while not released:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    async def polite() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            released.append("polite")
            released.clear()

    async def main() -> None:
        tasks.extend([asyncio.ensure_future(stubborn()), asyncio.ensure_future(polite())])
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    began_at = time.monotonic()
    loops.run_and_close(loop, main())
    assert time.monotonic() - began_at < 10
    assert loop.is_closed()
    assert "1 tasks did not end" in caplog.text
    assert [task.done() for task in tasks] == [False, True]
    # Let it end after all, so that nothing is left to be complained of.
    released.append("now")
    coroutine = tasks[0].get_coro()
    assert coroutine is not None
    coroutine.close()
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]


def test_signals_say_leave_then_hurry_and_then_are_what_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    subject = Subject()
    with loops.stopped_by_signals(subject):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert subject.told == ["leave", "hurry"]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


THREE_SIGNALS = """
import os, signal
from reasonchip_broker.worker.loops import stopped_by_signals

class Subject:
    def leave(self): ...
    def hurry(self): ...

with stopped_by_signals(Subject()):
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.process
def test_the_third_signal_ends_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", THREE_SIGNALS], timeout=30)
    assert ended.returncode == -signal.SIGTERM


@pytest.mark.parametrize("new_loop", [loops.new_loop, asyncio.new_event_loop])
def test_a_signal_is_heard_by_a_loop_that_waits_and_by_one_that_is_blocked_row_29(new_loop) -> None:
    subject = Subject()
    heard_while_blocked = []

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 20
        while not subject.told and time.monotonic() < deadline:
            pass  # The loop is blocked by a handler that computes.
        heard_while_blocked.extend(subject.told)
        hurried, loop = asyncio.Event(), asyncio.get_running_loop()
        subject.on_hurry = lambda: loop.call_soon_threadsafe(hurried.set)  # not every loop is woken by a signal
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        await asyncio.wait_for(hurried.wait(), 20)
        timer.join()

    with loops.stopped_by_signals(subject):
        loops.run_and_close(new_loop(), main())
    assert heard_while_blocked == ["leave"]
    assert subject.told == ["leave", "hurry"]


def test_outside_of_the_main_thread_signals_are_left_alone() -> None:
    entered = []

    def enter() -> None:
        with loops.stopped_by_signals(Subject()):
            entered.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [before]
