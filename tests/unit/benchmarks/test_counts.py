"""Counts are compared with those written, and what can't be compared is said. (`.ci/run` counts for real.)"""

import json
import shutil
import sys

import pytest

from benchmarks import counts
from benchmarks.counted import WORKLOADS
from benchmarks.errors import BenchError

FOUND = {"instructions": {"one": 10000.0, "other": 20000.0}, "allocations": {"one": 100.0, "other": 20.04}}


@pytest.fixture
def written(monkeypatch, tmp_path):
    """A machine that counts `FOUND`, and a file for what is written."""
    file = tmp_path / "counts.json"
    monkeypatch.setattr(counts, "WRITTEN", file)
    monkeypatch.setattr(counts, "valgrind", lambda: "valgrind")
    monkeypatch.setattr(counts, "identity", lambda python: ("interpreted", "3.99 here"))
    monkeypatch.setattr(counts, "count_all", lambda python, whats: {what: FOUND[what] for what in whats})
    return file


def write(file, python="3.99 here", what="instructions", **counted):
    file.write_text(json.dumps({"interpreted": {"python": python, what: counted}}))


@pytest.mark.parametrize(("what", "times"), [("instructions", 100), ("allocations", 1)])
@pytest.mark.parametrize(("one", "code"), [(100, 0), (97.2, 0), (97.0, 1), (103, 0), (50, 1), (500, 0)])
def test_more_than_written_beyond_the_tolerance_fails(written, capsys, one, code, what, times):
    write(written, what=what, one=one * times)
    assert counts.main([]) == code
    assert ("more than 3% over what is written: one" in capsys.readouterr().err) is bool(code)


def test_less_than_written_is_said_and_does_not_fail(written, capsys):
    write(written, one=10400, other=20000)
    assert counts.main([]) == 0
    assert "cheaper than written: one; write it down" in capsys.readouterr().out


def test_what_is_counted_is_shown_beside_what_is_written(written, capsys):
    write(written, one=20000)
    counts.main([])
    told = capsys.readouterr().out
    assert "0.500" in told
    assert "the interpreted core" in told


def test_what_is_counted_can_be_written_and_leaves_other_builds_alone(written):
    written.write_text(json.dumps({"compiled": {"python": "x", "instructions": {"one": 1}}}))
    assert counts.main(["--update"]) == 0
    assert json.loads(written.read_text()) == {
        "compiled": {"python": "x", "instructions": {"one": 1}},
        "interpreted": {
            "python": "3.99 here",
            "instructions": {"one": 10000, "other": 20000},
            "allocations": {"one": 100, "other": 20},
        },
    }
    assert counts.main([]) == 0


def test_of_instructions_alone_nothing_else_is_counted_and_nothing_is_written(written, capsys):
    write(written, what="allocations", one=1)
    assert counts.main(["--instructions"]) == 0
    assert "allocations" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        counts.main(["--instructions", "--update"])


def test_another_python_is_not_compared(written, capsys):
    write(written, python="3.98 elsewhere", one=1)
    assert counts.main([]) == counts.EXIT_UNKNOWN
    assert "those of Python 3.98, and this is another" in capsys.readouterr().err
    assert counts.main(["--if-possible"]) == 0


def test_without_valgrind_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert counts.main([]) == counts.EXIT_UNKNOWN
    assert "apt-get install valgrind" in capsys.readouterr().err


def test_what_goes_wrong_is_no_reason_to_pass(written, monkeypatch, capsys):
    def fails(python):
        raise BenchError("it broke")

    monkeypatch.setattr(counts, "identity", fails)
    assert counts.main(["--if-possible"]) == counts.EXIT_UNKNOWN
    assert capsys.readouterr().err == "counts: it broke\n"


def test_the_cost_of_a_job_is_the_difference_of_two_runs(monkeypatch):
    runs = {8: (1_000_000, 2048), 16: (1_204_800, 4096)}
    monkeypatch.setattr(counts, "total", lambda what, python, name, rounds, program: runs[rounds])
    monkeypatch.setattr("benchmarks.counts.subprocess.run", lambda *_, **__: None)
    assert counts.count("instructions", "python", "plain, 4 x 64") == 100.0


def test_a_python_that_does_not_run_the_core_is_told():
    assert counts.identity(sys.executable)[0] in ("interpreted", "compiled")
    for python in (shutil.which("false") or "/bin/false", "/nowhere/python"):
        with pytest.raises(BenchError, match="does not run the core"):
            counts.identity(python)


def test_the_committed_figures_are_of_all_workloads():
    for figures in counts.read(counts.WRITTEN).values():
        assert list(figures["instructions"]) == list(figures["allocations"]) == list(WORKLOADS)
