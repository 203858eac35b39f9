import asyncio
import os
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from reasonchip_broker.cli import inputs
from reasonchip_broker.errors import ConnectionLost, NotAllowed


@pytest.fixture
def stdin(monkeypatch):
    """The end of stdin to write to."""
    reader, writer = os.pipe()
    monkeypatch.setattr(inputs, "STDIN", reader)
    file = os.fdopen(writer, "wb", buffering=0)
    yield file
    file.close()
    os.close(reader)


class Told:
    """A job of which the broker says, one after the other, that it has so many inputs; with an error it ends that."""

    def __init__(self, *told, over_after=10**6):
        self.told = list(told)
        self.sent = []
        self.over_after = over_after
        self._inputs = None

    def done(self):
        return len(self.sent) > self.over_after

    async def send(self, item):
        self.sent.append(item)

    async def status(self):
        answer = self.told.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(inputs=answer, is_over=False) if isinstance(answer, int) else answer


def job_of(*told, **others) -> Any:
    return Told(*told, **others)


async def test_lines_come_as_they_are_written_and_the_end_with_what_is_left(stdin):
    got = []
    async with aclosing(inputs.lines_of_stdin()) as lines:
        stdin.write("a\r\n\nZoë\nbeg".encode())
        got.append(await anext(lines))
        stdin.write(b"un\nlast")
        got.append(await anext(lines))
        stdin.close()
        got.append(await anext(lines))
        with pytest.raises(StopAsyncIteration):
            await anext(lines)
    assert got == [["a", "Zoë"], ["begun"], ["last"]]


async def test_no_more_is_read_than_is_taken(stdin):
    async with aclosing(inputs.lines_of_stdin()) as lines:
        stdin.write(b"a\n")
        assert await anext(lines) == ["a"]
        stdin.write(b"b\n")
        assert os.read(inputs.STDIN, 10) == b"b\n"


async def test_a_stdin_that_is_closed_is_at_its_end(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    monkeypatch.setattr(inputs, "STDIN", reader)
    assert [lines async for lines in inputs.lines_of_stdin()] == []


async def test_items_are_sent_when_the_broker_says_so():
    job = job_of(5, 6)
    assert await inputs.Sender(job, before=3).send(["a", 1, None])
    assert job.sent == ["a", 1, None]
    assert job.told == []


async def test_a_connection_that_breaks_meanwhile_is_waited_for():
    assert await inputs.Sender(job_of(ConnectionLost("gone"), 1)).send(["a"])


async def test_a_refusal_of_the_last_one_is_raised():
    job = job_of(0)
    job._inputs = SimpleNamespace(error=NotAllowed("the job's worker takes no input"))
    with pytest.raises(NotAllowed):
        await inputs.Sender(job).send(["a"])


@pytest.mark.parametrize("over_after", [0, 10])
async def test_a_job_that_ends_meanwhile_may_not_have_got_it(over_after):
    told = SimpleNamespace(inputs=0, is_over=True)
    assert not await inputs.Sender(job_of(told, over_after=over_after)).send(["a"])


async def test_one_that_ended_after_it_had_it_has_got_it():
    assert await inputs.Sender(job_of(SimpleNamespace(inputs=1, is_over=True))).send(["a"])


async def test_reading_holds_the_loop_up_for_nobody(stdin):
    async with aclosing(inputs.lines_of_stdin()) as lines:
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        assert not waiting.done()
        stdin.write(b"a\n")
        assert await waiting == ["a"]
