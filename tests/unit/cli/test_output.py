import asyncio
import os
import subprocess
import sys
from uuid import UUID

import pytest
from msgspec.msgpack import Ext

from reasonchip_broker.cli import output


def test_what_was_asked_for_goes_to_stdout_and_the_rest_to_stderr(capsys):
    output.emit("data")
    output.note("by the way")
    assert capsys.readouterr() == ("data\n", "by the way\n")


def test_json_is_one_line(capsys):
    output.emit_json({"cookie": UUID(int=1), "text": "a\nb\x1b"})
    assert capsys.readouterr().out == '{"cookie":"00000000-0000-0000-0000-000000000001","text":"a\\nb\\u001b"}\n'


def test_a_note_is_one_clean_line(capsys):
    output.note("a\nb\x1b[2J")
    assert capsys.readouterr().err == "a\\nb\\x1b[2J\n"


def test_lines_stay_lines(capsys):
    output.note_lines("Traceback:\n  at x\n\x1b[2J")
    assert capsys.readouterr().err == "Traceback:\n  at x\n\\x1b[2J\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, "Zoë"]}, '{"a":[1,"Zoë"]}'),
        ({None: b"x", 2: {(1, 2): True}}, '{"null":"eA==","2":{"[1,2]":true}}'),
        ("a\x9b\u202e", '"a\\u009b\\u202e"'),
        ([Ext(5, b"\x00")], "[\"Ext(5, b'\\\\x00')\"]"),
    ],
)
def test_what_json_has_no_form_for_is_told_as_text(value, text):
    assert output.json_text(value) == text


async def test_bytes_are_written_aside_to_the_last(capfdbinary):
    data = bytes(range(256)) * 1000
    await output.emit_aside(data[:60_000])
    assert capfdbinary.readouterr().out == data[:60_000]


async def test_a_reader_that_does_not_read_holds_nothing_up_but_who_waits_for_it(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr("sys.stdout", os.fdopen(writer, "w"))
    data = b"x" * 1_000_000
    writing = asyncio.ensure_future(output.emit_aside(data))
    assert await asyncio.to_thread(os.read, reader, 1) == b"x"
    assert not writing.done()
    left = len(data) - 1
    while left:
        left -= len(await asyncio.to_thread(os.read, reader, 65536))
    await writing
    sys.stdout.close()
    os.close(reader)


async def test_a_reader_that_is_gone_ends_the_command(tmp_path):
    code = (
        "import asyncio, sys; from reasonchip_broker.cli import output\n"
        "import click\n"
        "try: asyncio.run(output.emit_aside(b'x'))\n"
        "except click.exceptions.Exit as ended: sys.exit(ended.exit_code)"
    )
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    assert reader.stdin is not None
    reader.wait()
    done = subprocess.run([sys.executable, "-c", code], stdout=reader.stdin, stderr=subprocess.PIPE, text=True, timeout=30)
    reader.stdin.close()
    assert (done.returncode, done.stderr) == (141, "")
