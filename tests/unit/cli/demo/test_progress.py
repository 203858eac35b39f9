import io

import pytest
from rich.console import Console

from reasonchip_broker.cli.demo import progress
from reasonchip_broker.cli.demo.progress import LiveNarrator, PlainNarrator, narrator


def test_without_a_terminal_each_thing_is_a_line_on_stderr(capsys):
    with PlainNarrator() as telling:
        telling.say("KILLED worker-1\x1b[2J")
        telling.phase("files", 30)
        for _ in range(30):
            telling.advance("worker-1")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].endswith("s  KILLED worker-1\\x1b[2J")
    assert lines[-1].endswith("s  files: 30 of 30")
    assert len(lines) == 2
    assert telling.workers == {"worker-1": 30}


def test_how_far_it_is_is_told_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "TELL_EACH_S", 0.0)
    with PlainNarrator() as telling:
        telling.phase("merges", 2)
        telling.advance()
        telling.advance()
    assert [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()] == ["merges: 1 of 2", "merges: 2 of 2"]


def test_on_a_terminal_there_are_bars_and_lines_above_them():
    stream = io.StringIO()
    with LiveNarrator(Console(file=stream, force_terminal=True, width=100)) as telling:
        telling.phase("files", 10)
        telling.advance("worker-1")
        telling.gone.add("worker-1")
        telling.say("KILLED [bold]worker-1\x1b[2J")
    text = stream.getvalue()
    assert "files" in text
    assert "1/10" in text
    assert "worker-1: 1 files" in text
    assert "KILLED [bold]worker-1\\x1b[2J" in text
    assert text.endswith("\x1b[?25h") or "\x1b[?25h" in text


def test_nothing_is_lost_when_nothing_is_counted_yet():
    with LiveNarrator(Console(file=io.StringIO(), force_terminal=True)) as telling:
        telling.advance("worker-1")
    assert telling.workers == {"worker-1": 1}


@pytest.mark.parametrize(("terminal", "kind"), [({"TTY_COMPATIBLE": "1"}, LiveNarrator), ({}, PlainNarrator)])
def test_it_looks_whether_there_is_a_terminal(monkeypatch, terminal, kind):
    for name in ("TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in terminal.items():
        monkeypatch.setenv(name, value)
    assert type(narrator()) is kind


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert type(narrator()) is PlainNarrator
