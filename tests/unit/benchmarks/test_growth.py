"""How a job's cost grows: the script runs, and prints what it has measured. What it should be is held in test_scale.py."""

import re

import pytest

from benchmarks import growth


def test_each_row_says_how_much_it_is_of_the_first(monkeypatch, capsys):
    monkeypatch.setattr(growth, "JOBS", 20)
    monkeypatch.setattr(growth, "ROUNDS", 3)
    assert growth.main(few=True) == 0
    told = capsys.readouterr().out
    ratios = [float(ratio) for ratio in re.findall(r"│ +([\d.]+) +│\n", told)]
    assert ratios[:2][0] == 1.0
    assert len(ratios) == 8


@pytest.mark.parametrize("keys", [1, 100])
def test_a_job_that_waits_takes_at_most_500_bytes_beside_its_frame(keys):
    assert growth.bytes_of_a_job(20_000, keys) <= 500
