"""Seeds are taken in this process or in several, with the same result."""

import pytest

from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.testing.simulation.__main__ import arguments
from reasonchip_broker.testing.simulation.run import CHUNK_SEEDS, Report, run_all, run_seeds
from tests.unit.switchboard.interpreted import needs_interpreted_core


def test_several_processes_do_what_one_does() -> None:
    alone, together = list(run_all(7, CHUNK_SEEDS + 2, 20)), list(run_all(7, CHUNK_SEEDS + 2, 20, processes=2))
    assert [(report.seeds, report.steps, report.jobs) for report in alone] == [
        (report.seeds, report.steps, report.jobs) for report in together
    ]
    assert [report.seeds for report in alone] == [CHUNK_SEEDS, 2]


@needs_interpreted_core
def test_each_step_is_audited_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    audits: list[Switchboard] = []
    monkeypatch.setattr(Switchboard, "invariants", lambda board: audits.append(board))
    # One more is at the end of each episode.
    assert run_seeds(0, 2, 30).steps + 2 == len(audits)
    audits.clear()
    assert next(run_all(0, 2, 30)).steps + 2 == len(audits)
    assert arguments([]).audit == 1


def test_a_report_adds_up_and_says_so() -> None:
    total = Report()
    total.add(run_seeds(0, 2, 30))
    total.add(run_seeds(2, 1, 30))
    assert total.seeds == 3
    assert total.failures == []
    assert str(total).startswith(f"3 seeds, {total.steps} steps, {total.jobs} jobs, 0 failures; ")
    assert "0 steps a second" in str(Report())
