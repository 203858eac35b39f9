"""How a job's cost grows: the script runs, and prints what it has measured. What it should be is held in test_scale.py."""

import contextlib
import gc
import io
import json
import re

import pytest

from benchmarks import growth


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a short run prints, and what it writes."""
    file = tmp_path_factory.mktemp("growth") / "found.json"
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(told):
        monkeypatch.setattr(growth, "JOBS", 20)
        monkeypatch.setattr(growth, "ROUNDS", 3)
        monkeypatch.setattr(growth, "JOBS_OF_KEYS", 200)
        monkeypatch.setattr(growth, "MEMORY_JOBS", (100, 1_000))
        assert growth.main(["--quick", "--json", str(file)]) == 0
    return told.getvalue(), json.loads(file.read_text())


def test_each_row_says_how_much_it_is_of_the_first(found):
    told, _ = found
    ratios = [float(ratio) for ratio in re.findall(r"│ +([\d.]+) +│ +[\d.]+–[\d.]+ +│\n", told)]
    assert len(ratios) == 3 + 4 + 3
    assert [ratios[first] for first in (0, 3, 7)] == [1.0, 1.0, 1.0]


def test_all_rounds_are_written_for_who_draws_them(found):
    _, written = found
    assert [series["counts"] for series in written["series"]] == [[1, 10, 100], [1, 10, 100, 1_000], [1, 10, 100]]
    assert all(len(series["us"]) == 3 and min(map(min, series["us"])) > 0 for series in written["series"])
    assert [(row["jobs"], row["keys"]) for row in written["memory"]] == [(100, 1), (1_000, 1), (100, 1_000), (1_000, 1_000)]


def test_every_round_measures_all_and_another_one_goes_first(monkeypatch):
    monkeypatch.setattr(growth, "ROUNDS", 3)
    measured = []

    def make(count):
        def measure():
            measured.append(count)
            return float(count)

        return measure

    series = growth.grown("a job", "workers", (1, 2, 4), make)
    assert measured == [1, 2, 4, 1, 2, 4, 4, 1, 2, 2, 4, 1], "all once, so that they are warm, and then the rounds"
    assert series.us == [[1.0, 2.0, 4.0]] * 3
    assert series.ratios(2) == [4.0] * 3


def test_the_collector_is_off_while_it_measures_and_on_again_whatever_happens():
    with growth.collector_off():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), growth.collector_off():
        raise KeyError
    assert gc.isenabled()


@pytest.mark.parametrize("keys", [1, 100])
def test_a_job_that_waits_takes_at_most_500_bytes_beside_its_frame(keys):
    assert growth.bytes_of_a_job(20_000, keys) <= 500
