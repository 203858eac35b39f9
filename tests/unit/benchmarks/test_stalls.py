"""The longest steps of the core: the script has all kinds of them, and prints what it has measured."""

import json

import pytest

from benchmarks import stalls
from benchmarks.stalls import Scene, Sizes, Steps, measured

SMALL = Sizes(jobs=2_000, ended=700, spent_max=300)


@pytest.fixture(scope="module")
def steps() -> Steps:
    return measured(SMALL)


def test_every_step_of_every_job_is_measured(steps: Steps) -> None:
    assert len(steps.ns["RUN that waits"]) == SMALL.jobs
    assert SMALL.ended <= len(steps.ns["RESULT that gives its slot on"]) < SMALL.ended + stalls.SLOTS
    assert len(steps.ns["client that leaves its jobs"]) == stalls.CLIENTS // 4
    assert all(min(taken) > 0 for taken in steps.ns.values())


def test_deadlines_outcomes_and_cookies_end_while_it_looks() -> None:
    scene = Scene(SMALL, Steps())
    scene.submit()
    jobs = scene.load.board.jobs
    assert jobs == SMALL.jobs
    scene.run()
    board = scene.load.board
    assert board.outcomes > 0
    assert board._dispatcher.routes.spent == SMALL.spent_max
    before = board.jobs
    scene.wait(stalls.DEADLINE_MS / 1000 + 1)
    assert board.jobs < before - 400
    scene.wait(1000.0)
    assert (board.outcomes, board._dispatcher.routes.spent) == (0, 0)


def test_it_prints_a_table_and_writes_the_longest_steps(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stalls, "measured", lambda sizes: _of({"RUN that waits": [1_000, 2_000, 703_000]}))
    assert stalls.main(["--quick", "--json", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text()) == {"RUN that waits": {"median": 2_000, "longest": 703_000}}
    row = next(line for line in capsys.readouterr().out.splitlines() if "RUN that waits" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["3", "2", "703", "703"]


def _of(ns: dict[str, list[int]]) -> Steps:
    steps = Steps()
    steps.ns.update(ns)
    return steps
