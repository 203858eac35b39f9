"""The inside of a handler's process, run here in a thread of the test, so that what it does can be seen."""

import os
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any

import pytest

from reasonchip_broker.limits import MIB
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.worker import JobContext, child
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.pipelines import Pipeline
from tests.unit.worker.harness import Outcome


def double(n: int) -> int:
    return 2 * n


async def remaining(context: JobContext) -> list[Any]:
    assert context.remaining_s is not None
    return [str(context.cookie), context.pipeline, context.attempt, context.remaining_s]


def leave() -> None:
    raise SystemExit(5)


HANDLERS: list[tuple[str, Callable[..., Any]]] = [("double", double), ("remaining.*", remaining), ("leave", leave)]


@pytest.fixture
def ask(monkeypatch):
    """Gives an order to the child and returns what it answers."""
    monkeypatch.setattr(child, "_leave_signals_to_the_worker", lambda: None)
    ours, theirs = Pipe()
    offers = [(name, handler, True) for name, handler in HANDLERS]
    thread = threading.Thread(target=child.main, args=(theirs, offers))
    thread.start()

    def ask(offer: int, variables: Any = None, *, name: str = "", deadline: float | None = None) -> Outcome:
        pipeline = Pipeline(*HANDLERS[offer], executor="process")
        payload = payloads.encode(variables, "json")
        job = Job(bytes(range(16)), 4, pipeline, name or pipeline.name, "json", payload, MIB, deadline)
        ours.send_bytes(child.order_of(job, offer))
        assert ours.poll(20)
        return Outcome(ours.recv_bytes())

    yield ask
    ours.close()
    thread.join(20)
    assert not thread.is_alive(), "the child ends when its pipe is closed"
    theirs.close()


def test_orders_are_answered_with_results_one_after_the_other(ask) -> None:
    assert [ask(0, {"n": n}).value for n in range(3)] == [0, 2, 4]


def test_the_context_is_the_one_that_the_worker_had(ask) -> None:
    cookie, pipeline, attempt, remaining_s = ask(1, name="remaining.one", deadline=time.monotonic() + 60).value
    assert (cookie, pipeline, attempt) == ("00010203-0405-0607-0809-0a0b0c0d0e0f", "remaining.one", 4)
    assert 40 < remaining_s <= 60


def test_what_goes_wrong_is_an_answer_and_the_process_goes_on_row_29(ask) -> None:
    assert ask(0, {"n": "x"}).failure.type == "InvalidVariables"
    assert ask(2).failure.type == "SystemExit"
    assert ask(0, {"n": 4}).code == Code.OK


def test_a_process_that_has_no_parent_is_nobodys_child() -> None:
    assert os.getpid() > 0
    child._end_with_parent()
