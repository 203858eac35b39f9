"""Instructions of a whole broker: the jobs are real, and so is the broker; what counts them is not, since it takes its time."""

import sys
from pathlib import Path

import pytest

from benchmarks import whole
from benchmarks.errors import BenchError, Missing
from benchmarks.process import Child


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What callgrind was told. It counts 100,000 while it is on."""
    stand_in = tmp_path / "valgrind"
    stand_in.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    stand_in.chmod(0o755)
    said: list[str] = []

    def control(broker: Child, *what: str) -> None:
        said.extend(what)
        if what == ("-d",):
            (broker._log.parent / "callgrind.out.1").write_text("summary: 0\n1 2\n\ntotals: 100000\n")

    monkeypatch.setattr(whole, "valgrind", lambda: str(stand_in))
    monkeypatch.setattr(whole, "control", control)
    return said


def test_it_is_counted_while_the_jobs_run_and_not_while_the_broker_starts(told: list[str]) -> None:
    assert whole.count(sys.executable, jobs=40) == 2500
    assert told == ["-i", "on", "-i", "off", "-d"]


def test_a_broker_that_does_not_start_is_told_in_a_line(told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert whole.main(["--python", "/nowhere/python"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("whole: our broker ended before that it is ready")
    assert said.count("\n") == 1


def test_without_valgrind_that_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> str:
        raise Missing("it is not here")

    monkeypatch.setattr(whole, "valgrind", missing)
    assert whole.main([]) == 2
    assert capsys.readouterr().err == "whole: it is not here\n"


def test_nothing_counted_is_no_figure(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "control", lambda broker, *what: None)
    with pytest.raises(BenchError, match="counted nothing"):
        whole.count(sys.executable, jobs=1)
