"""The inside of a handler's process, run here in a thread of the test, so that what it does can be seen."""

import os
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest

from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.limits import MIB
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.worker import JobContext, child
from reasonchip_broker.worker import context as contexts
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


async def streams(context: JobContext) -> list[Any]:
    for n in range(3):
        await context.progress(n)
    return [await anext(context.inputs())]


def waits(context: JobContext) -> Any:
    context.progress("begun")
    return context.wait_cancelled(20) or None


COOKIE = bytes(range(16))
HANDLERS: list[tuple[str, Callable[..., Any]]] = [
    ("double", double),
    ("remaining.*", remaining),
    ("leave", leave),
    ("streams", streams),
    ("waits", waits),
]


class Asker:
    """Gives orders to the child, says words to it, and hears what it answers."""

    def __init__(self, pipe: "Connection[bytes, bytes]") -> None:
        self.pipe = pipe

    def __call__(self, offer: int, variables: Any = None, *, name: str = "", deadline: float | None = None) -> Outcome:
        self.order(offer, variables, name=name, deadline=deadline)
        return Outcome(self.hear())

    def order(self, offer: int, variables: Any = None, *, name: str = "", deadline: float | None = None) -> None:
        pipeline = Pipeline(*HANDLERS[offer], executor="process")
        payload = payloads.encode(variables, "json")
        job = Job(COOKIE, 4, pipeline, name or pipeline.name, "json", payload, MIB, deadline, allowance=(2, MIB))
        self.pipe.send_bytes(child.order_of(job, offer))

    def say(self, word: child.Word) -> None:
        self.pipe.send_bytes(child.encode(word))

    def hear(self) -> bytes:
        assert self.pipe.poll(20)
        return self.pipe.recv_bytes()


@pytest.fixture
def ask(monkeypatch):
    monkeypatch.setattr(child, "_take_signals", lambda interrupted: None)
    monkeypatch.setattr(child, "_interrupt_main_thread", lambda: None)
    ours, theirs = Pipe()
    offers = [(name, handler, True) for name, handler in HANDLERS]
    thread = threading.Thread(target=child.main, args=(theirs, offers))
    thread.start()
    yield Asker(ours)
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


def test_what_is_for_the_running_job_reaches_it_and_what_is_for_another_does_not(ask) -> None:
    ask.order(3)
    assert [decode(ask.hear()).number for _ in range(2)] == [1, 2]
    ask.say(child.Heard(COOKIE, 3, packets.credit(COOKIE, 3, 2)))
    ask.say(child.Heard(bytes(16), 4, packets.credit(bytes(16), 4, 2)))
    for cookie, attempt in ((COOKIE, 3), (bytes(16), 4)):
        ask.say(child.Cancel(cookie, attempt, "another"))
    ask.say(child.Suspend(COOKIE, 4))
    ask.say(child.Heard(COOKIE, 4, packets.credit(COOKIE, 4, 2)))
    ask.say(child.Restart(COOKIE, 4, 1, MIB))
    assert ask.hear() == child.RESTARTED
    assert decode(ask.hear()).number == 3
    ask.say(child.Heard(COOKIE, 4, packets.input_chunk(COOKIE, 1, b"go", "text", 4)))
    assert decode(ask.hear()).kind == PacketType.CREDIT
    assert Outcome(ask.hear()).value == ["go"]
    ask.say(child.Heard(COOKIE, 4, packets.credit(COOKIE, 4, 2)))
    assert ask(0, {"n": 4}).value == 8, "what comes too late is nothing"


def test_a_coroutine_is_cancelled_and_a_function_is_told(ask) -> None:
    ask.order(3)
    for _ in range(2):
        ask.hear()
    ask.say(child.Cancel(COOKIE, 4, "enough"))
    outcome = Outcome(ask.hear())
    assert (outcome.code, outcome.failure.error) == (Code.CANCELLED, "cancelled while it ran: enough")
    ask.order(4)
    ask.hear()
    ask.say(child.Cancel(COOKIE, 4, ""))
    assert Outcome(ask.hear()).value is True


@pytest.mark.parametrize("offer", [3, 4])
def test_a_job_that_is_cancelled_before_it_begins_says_nothing_else(ask, offer) -> None:
    pipeline = Pipeline(*HANDLERS[offer], executor="process")
    made = child._Child(ask.pipe, [])
    job = made._job = Job(COOKIE, 4, pipeline, "p", "json", b"", MIB)
    contexts.cancel(job.context)
    assert Outcome(made._perform(job)).code == Code.CANCELLED
    if made._runner is not None:
        made._runner.close()


def test_only_a_handler_is_interrupted_and_only_if_it_is_to_stop() -> None:
    made = child._Child(None, [])  # type: ignore[arg-type]
    made.interrupted()
    job = made._job = Job(COOKIE, 4, Pipeline("leave", leave), "leave", "json", b"", MIB)
    made._interruptible = True
    made.interrupted()
    contexts.cancel(job.context)
    with pytest.raises(JobCancelled):
        made.interrupted()
    assert contexts.has_seen(job.context)
    made.interrupted()


def test_a_process_that_has_no_parent_is_nobodys_child() -> None:
    assert os.getpid() > 0
    child._end_with_parent()
