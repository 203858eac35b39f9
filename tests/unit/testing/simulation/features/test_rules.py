"""What the model says of limits, of jobs that take several slots, of affinity and of labels."""

from typing import Any

import pytest

from reasonchip_broker.routing.affinity import Affinity
from reasonchip_broker.routing.gates import LimitGate
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.roster import Pool, choose
from reasonchip_broker.testing.simulation.features.rules import RULES
from reasonchip_broker.testing.simulation.world import Setting
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

COOKIES = [b"cookie%10d" % number for number in range(1, 10)]
GPU = (("gpu", "new"),)


def run(number: int, pipeline: str = "p.a", **more: Any) -> tuple[Any, ...]:
    return ("run", CLIENT, COOKIES[number], pipeline, True, True, False, False, 0, b"1", tuple(more.items()))


def worker(id: int, capacity: int = 3, labels: tuple[tuple[str, str], ...] = (), name: str = "") -> tuple[Any, ...]:
    return ("connect worker", id, 1, capacity, ("*",), name, b"", 0, (), labels)


LIMITED, SLOTS, AFFINITY = (Setting(rules=name) for name in ("limits", "slots", "affinity"))


@pytest.mark.parametrize("rules", RULES)
def test_a_broker_that_keeps_to_the_rules_is_told_nothing(rules: str) -> None:
    jobs = [
        run(number, pipeline, aff="home") for number, pipeline in enumerate(("p.a", "p.a", "p.b", "q", "q", "lonely", "p.a"))
    ]
    story = [worker(3), *jobs, ("advance", 0.7), ("result", WORKER, COOKIES[0]), ("configure", "all"), ("advance", 2.0)]
    assert told(*story, ("configure", "limits"), ("disconnect", 3), ("advance", 1.0), setting=Setting(rules=rules)) == ""


@needs_interpreted_core
def test_a_limit_that_is_exceeded_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    story = [worker(3), *(run(number) for number in range(3))]
    said = found(monkeypatch, LimitGate, "may_pass", *story, by=lambda *_: True, setting=LIMITED)
    assert said == "the limit 'p.a' is exceeded: 3 jobs run"


@needs_interpreted_core
def test_a_rate_that_is_exceeded_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    story = [worker(3, 9), *(run(number, "q") for number in range(3))]
    said = found(monkeypatch, LimitGate, "may_pass", *story, by=lambda *_: True, setting=LIMITED)
    assert said == "the limit 'q' is exceeded: too often"


@needs_interpreted_core
def test_slots_that_there_are_not_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pool.occupy
    story = [run(0, "q"), run(1, "q")]
    by = lambda self, worker, slots=1: original(self, worker, 1)  # noqa: E731
    said = found(monkeypatch, Pool, "occupy", *story, by=by, setting=SLOTS)
    assert said == "1 slots are free, and 0 should be"


@needs_interpreted_core
def test_a_job_that_goes_elsewhere_than_its_key_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    story = [worker(3), worker(4), *(run(number, aff="home") for number in range(2))]
    by = lambda self, kind, *_, **__: kind.choose()  # noqa: E731
    assert (
        found(monkeypatch, Affinity, "choose", *story, by=by, setting=AFFINITY)
        == "a job did not go to the worker that has its key"
    )


@needs_interpreted_core
def test_affinity_that_wins_over_load_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    story = [worker(3, 9), *(run(number, aff="home") for number in range(8))]
    original = Affinity.__init__

    def init(self: Affinity, *arguments: Any) -> None:
        original(self, *arguments)
        self._imbalance = 1.0

    said = found(monkeypatch, Affinity, "__init__", *story, by=init, setting=AFFINITY)
    assert said.startswith("a worker with load ")


@needs_interpreted_core
def test_labels_that_do_not_count_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    said = found(monkeypatch, Pool, "matches", run(0, need=dict(GPU)), by=lambda self, labels: len(labels))
    assert said == "'p.a' was sent to a worker that does not serve it"


@needs_interpreted_core
def test_a_worker_that_is_liked_less_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    story = [worker(3, 2, GPU), run(0, like=dict(GPU)), run(1, like=dict(GPU))]
    said = found(monkeypatch, EligibilityClass, "choose", *story, by=lambda self: choose(self.pools))
    assert said == "another free worker has more of the labels that a job likes"
