"""How a job's cost grows: the script runs, and prints what it has measured. What it should be is held in test_scale.py."""

import gc
import json
import re

import pytest

from benchmarks import growth


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(growth, "JOBS", 20)
    monkeypatch.setattr(growth, "ROUNDS", 3)
    monkeypatch.setattr(growth, "JOBS_OF_KEYS", 200)
    monkeypatch.setattr(growth, "MEMORY_JOBS", (100, 1_000))


def test_each_row_says_how_much_it_is_of_the_first(short, capsys):
    assert growth.main(["--quick"]) == 0
    told = capsys.readouterr().out
    ratios = [float(ratio) for ratio in re.findall(r"│ +([\d.]+) +│ +[\d.]+–[\d.]+ +│\n", told)]
    assert len(ratios) == 3 + 4 + 3
    assert [ratios[first] for first in (0, 3, 7)] == [1.0, 1.0, 1.0]


def test_all_rounds_are_written_for_who_draws_them(short, tmp_path):
    file = tmp_path / "found.json"
    assert growth.main(["--quick", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert [series["counts"] for series in found["series"]] == [[1, 10, 100], [1, 10, 100, 1_000], [1, 10, 100]]
    assert all(len(series["us"]) == 3 and min(map(min, series["us"])) > 0 for series in found["series"])
    assert [(row["jobs"], row["keys"]) for row in found["memory"]] == [(100, 1), (1_000, 1), (100, 1_000), (1_000, 1_000)]


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
