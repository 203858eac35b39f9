"""The fairness benchmark finds what it looks for, and says so when it is missed. Everything is in virtual time."""

import json

import pytest

from benchmarks import fairness
from benchmarks.fairness import Missed, Ratio, Scene, Waits
from reasonchip_broker.scheduling import Scheduling


@pytest.mark.parametrize("active", [1, 5])
def test_a_newcomer_waits_for_at_most_one_turn_of_each_active_key(active):
    waits = fairness.waits(active, 500)
    waits.check()
    assert len(waits.first_starts) == fairness.NEWCOMERS
    assert len(waits.later_starts) == fairness.JOBS_OF_WHO_STAYS
    assert max(waits.first_s) <= (active + 1) / fairness.SLOTS + 1e-3


def test_a_wait_is_told_in_starts_of_others_and_in_seconds():
    scene = Scene(1)
    client = scene.driver.client()
    cookies = [scene.submit(client, "one", 2.0) for _ in range(4)]
    scene.open()
    assert scene.until_started(cookies[3]) == (2, 5.0), "one started when the worker came, a second ago"


def test_slot_time_is_counted_while_a_job_runs():
    scene = Scene(2, Scheduling(weights={"a": 2.0}))
    client = scene.driver.client()
    scene.submit(client, "a", 100.0, "a")
    scene.submit(client, "b", 100.0, "b")
    scene.open()
    scene.wait(9.0)
    assert sorted(scene.used_s.values()) == pytest.approx([9.5, 10.0])
    assert scene.ended == 0


def test_a_newcomer_that_waits_longer_is_a_goal_missed():
    with pytest.raises(Missed, match="3 turns of 2 active keys"):
        Waits(2, [0, 3], [0.1, 0.9], [], []).check()


def test_one_who_stays_and_gets_less_than_an_equal_share_is_a_goal_missed():
    Waits(2, [0], [0.1], [3, 1, 3], [0.5] * 3).check()
    with pytest.raises(Missed, match=r"4\.0 turns of 2 active keys on the average"):
        Waits(2, [0], [0.1], [4, 4, 4], [0.5] * 3).check()


@pytest.mark.parametrize("seed", [0, 1])
def test_slot_time_comes_to_the_ratio_of_the_weights(seed):
    found = fairness.weighted(seed, 300)
    found.check()
    assert found.jobs[-1] == 300
    assert found == fairness.weighted(seed, 300), "the same seed gives the same figures"
    assert found.holds_from() < 300


def test_a_ratio_that_is_6_percent_off_is_a_goal_missed():
    Ratio(1, [10, 20], [1.0, 3.1]).check()
    with pytest.raises(Missed, match=r"after 20 jobs slot-time is 3\.180 : 1, and not 3 : 1 \(seed 1\)"):
        Ratio(1, [10, 20], [3.0, 3.18]).check()


def test_a_ratio_holds_from_where_it_goes_away_no_more():
    assert Ratio(1, [10, 20, 30, 40], [3.0, 4.0, 3.0, 3.1]).holds_from() == 30
    assert Ratio(1, [10, 20], [3.0, 3.0]).holds_from() == 10


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(fairness, "ACTIVE", (1, 3))
    monkeypatch.setattr(fairness, "JOBS", 200)


def test_the_script_prints_both_tables_and_writes_what_it_found(small, tmp_path, capsys):
    file = tmp_path / "found.json"
    assert fairness.main(["--quick", "--json", str(file)]) == 0
    told = capsys.readouterr().out
    assert "A newcomer, behind 2,000 jobs of one second" in told
    assert "Slot-time of weight 3" in told
    found = json.loads(file.read_text())
    assert [row["active"] for row in found["newcomer"]["waits"]] == [1, 3]
    assert {whose for _, whose in found["newcomer"]["story"]["starts"]} == set(found["newcomer"]["story"]["keys"])
    assert [ratio["seed"] for ratio in found["weights"]["ratios"]] == [0, 1, 2]


def test_the_script_fails_and_says_which_goal_was_missed(small, monkeypatch, capsys):
    monkeypatch.setattr(fairness, "TOLERANCE", 1e-6)
    assert fairness.main(["--quick"]) == 1
    assert "and not 3 : 1" in capsys.readouterr().err
