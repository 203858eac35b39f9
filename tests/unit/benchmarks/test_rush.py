"""More jobs than can be done: the program that measures what a broker does then."""

import json
import sys

import pytest

from benchmarks import rush
from benchmarks.errors import BenchError
from benchmarks.workloads import System
from tests.unit.benchmarks.programs import have_everything


def done(jobs, seconds=2.0):
    return {"jobs": jobs, "seconds": seconds}


def test_the_least_of_what_it_can_is_the_worst_of_all_rates():
    closed = 80_000
    figures = {"0": done(2 * closed)} | {str(rate): done(2 * min(rate, closed)) for rate in rush.RATES}
    assert rush.least(figures) == 1.0
    figures["20000"] = done(2 * 15_000)
    assert rush.least(figures) == 0.75, "of what was sent, where that is less"
    figures["200000"] = done(2 * 8_000)
    assert rush.least(figures) == 0.1, "of a closed loop, where that is less"


def test_each_system_is_measured_in_a_closed_loop_and_at_all_rates(monkeypatch, tmp_path, capsys):
    measured = []

    def measure(workload, bench, rate=0):
        if workload.system is System.RELAY:
            raise BenchError("the relay fell over")
        measured.append((str(workload.system), rate))
        return done(2 * rate or 100_000)

    monkeypatch.setattr(rush, "measure", measure)
    have_everything(monkeypatch, tmp_path)
    file = tmp_path / "rush.json"
    assert rush.main(["--rounds", "1", "--compiled-python", sys.executable, "--json", str(file)]) == 1
    assert measured == [(name, rate) for name in ("compiled", "binary", "nats") for rate in (0, *rush.RATES)]
    summary = json.loads(file.read_text())["summary"]
    assert summary["nats"]["closed_loop"]["median"] == 50_000
    assert summary["nats"]["done_at_20000"]["median"] == 20_000
    assert summary["nats"]["least"]["median"] == pytest.approx(1.0)
    assert summary["relay"]["least"] is None
    told = capsys.readouterr()
    assert "20,000 of 20,000, 50,000 of 50,000" in told.err
    assert "1 failed" in told.out
