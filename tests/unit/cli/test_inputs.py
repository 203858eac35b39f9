import asyncio
import os
from contextlib import aclosing

import pytest

from reasonchip_broker.cli import inputs


@pytest.fixture
def stdin(monkeypatch):
    """The end of stdin to write to."""
    reader, writer = os.pipe()
    monkeypatch.setattr(inputs, "STDIN", reader)
    file = os.fdopen(writer, "wb", buffering=0)
    yield file
    file.close()
    os.close(reader)


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


async def test_reading_holds_the_loop_up_for_nobody(stdin):
    async with aclosing(inputs.lines_of_stdin()) as lines:
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        assert not waiting.done()
        stdin.write(b"a\n")
        assert await waiting == ["a"]
