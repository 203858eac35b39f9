"""A client in a thread of its own: what is handed over is done or refused, and the end comes within a bound."""

import asyncio
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import Client
from reasonchip_broker.client import engine as module
from reasonchip_broker.client.engine import Engine
from tests.unit.client.thread_broker import thread_broker

WAIT_S = 10.0


def connected(url: str) -> Engine:
    engine = Engine(Client(url))
    engine.call(engine.client.connect)
    return engine


def test_work_is_done_in_the_loops_thread_and_its_value_or_error_comes_back() -> None:
    with thread_broker() as ends:
        engine = connected(ends.url)

        async def where() -> str:
            return threading.current_thread().name

        async def broken() -> None:
            raise ZeroDivisionError

        assert engine.call(where).startswith("reasonchip client of tcp://")
        with pytest.raises(ZeroDivisionError):
            engine.call(broken)
        engine.close()


def test_after_the_end_everything_is_refused() -> None:
    with thread_broker() as ends:
        engine = connected(ends.url)
        engine.close()
        assert not engine._thread.is_alive(), "close waits for the end"
        engine.close()
        never: list[Coroutine[Any, Any, None]] = []
        with pytest.raises(errors.ConnectionLost, match="closed"):
            engine.call(lambda: never[0])
        with pytest.raises(errors.ConnectionLost, match="closed"):
            engine.hand_over(print)


def test_a_call_that_waits_when_the_end_comes_is_answered() -> None:
    with thread_broker() as ends:
        engine = connected(ends.url)
        cookie = bytes(16)
        entered = threading.Event()
        said: list[BaseException] = []

        async def ask() -> None:
            entered.set()
            engine.client._exchange._connection = Deaf()  # type: ignore[assignment]
            await engine.client._exchange.cancel(cookie, False, "")

        def wait() -> None:
            try:
                engine.call(ask)
            except errors.ReasonChipError as error:
                said.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert entered.wait(WAIT_S)
        engine.close(WAIT_S)
        waiting.join(WAIT_S)
        assert isinstance(said[0], errors.ConnectionLost)


class Deaf:
    """A connection that loses what is sent."""

    def send(self, frame: bytes) -> None: ...


def test_an_interrupted_call_interrupts_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with thread_broker() as ends:
        engine = connected(ends.url)
        started, interrupted = threading.Event(), threading.Event()

        async def work() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                interrupted.set()

        def ctrl_c(self: Future[Any], timeout: float | None = None) -> Any:
            started.wait(WAIT_S)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Future, "result", ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                engine.call(work)
        assert interrupted.wait(WAIT_S)
        engine.close()


def test_the_clients_own_thread_is_told_instead_of_waiting_for_itself() -> None:
    with thread_broker() as ends:
        engine = connected(ends.url)
        said: Future[BaseException | None] = Future()

        def wait() -> None:
            try:
                engine.call(engine.client.connect)
                said.set_result(None)
            except RuntimeError as error:
                said.set_result(error)

        engine.hand_over(wait)
        assert isinstance(said.result(WAIT_S), RuntimeError)
        engine.close()


def test_the_end_may_come_from_within() -> None:
    with thread_broker() as ends:
        engine = connected(ends.url)
        engine.hand_over(engine.close)
        engine._thread.join(WAIT_S)
        assert not engine._thread.is_alive()


def test_a_forked_child_touches_nothing() -> None:
    with thread_broker() as ends:
        engine = connected(ends.url)
        with engine._gate:
            # A thread that holds it is in the parent, and will never let go of it here.
            engine.forget()
            assert not engine._gate.locked()
        try:
            with pytest.raises(errors.ConnectionLost, match="forked"):
                engine.hand_over(print)
            engine.close()
            assert engine._thread.is_alive(), "it is the parent's to end"
        finally:
            module._inherited.remove(engine)
            engine.forgotten = False
            engine.close()


def test_plain_asyncio_does_where_uvloop_can_not_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with thread_broker() as ends:
        engine = connected(ends.url)
        assert "asyncio" in type(engine._loop).__module__
        engine.close()
