import asyncio
import os
import signal
import sys

import click
import pytest

from reasonchip_broker.cli import loop


async def wait_for_end(noted, number):
    """Send this process a signal, and note that there was time to clean up after it."""
    os.kill(os.getpid(), number)
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        noted.append("cleaned up")


def test_it_returns_what_the_coroutine_returns():
    async def answer():
        return 42

    assert loop.run(answer()) == 42


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_after_it_has_cleaned_up(number, code):
    noted: list[str] = []
    with pytest.raises(click.exceptions.Exit) as ended:
        loop.run(wait_for_end(noted, number))
    assert ended.value.exit_code == code
    assert noted == ["cleaned up"]


def test_ctrl_c_does_too():
    noted: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        loop.run(wait_for_end(noted, signal.SIGINT))
    assert noted == ["cleaned up"]


def test_a_cancellation_that_no_signal_caused_is_no_exit():
    async def cancelled():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        loop.run(cancelled())


def test_it_is_uvloops_where_there_is_one_and_asyncios_otherwise(monkeypatch):
    async def kind():
        return type(asyncio.get_running_loop()).__module__

    assert loop.run(kind()) == "uvloop"
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop.run(kind()).startswith("asyncio")
