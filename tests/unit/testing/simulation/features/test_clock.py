"""What the model says when time passes and nothing happens."""

from typing import Any

import pytest

from reasonchip_broker.routing.stopping import Stopping
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

HURRY = ("run", CLIENT, b"cookie         1", "p.a", True, True, False, False, 500)


def test_time_passes_and_the_broker_may_stand_still() -> None:
    assert told(HURRY, ("jump", 60.0), ("advance", 4.0)) == ""


@needs_interpreted_core
def test_a_deadline_that_passes_unnoticed_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    said = found(monkeypatch, Stopping, "deadline_over", HURRY, ("advance", 0.5), ("advance", 0.1))
    assert said.startswith("missing: the outcome DEADLINE_EXCEEDED of b'cookie         1'")


LIMITED = ("run", CLIENT, b"cookie         1", "p.a", True, True, False, False, 0, b"1", (("qlim", 60), ("rlim", 90)))


def test_a_job_may_not_wait_or_run_for_longer_than_it_said() -> None:
    assert told(LIMITED, ("advance", 0.1), ("result", WORKER, b"cookie         1", 3)) == ""
    assert told(("congest", WORKER), LIMITED, ("advance", 0.1)) == ""
    more = ("extend", WORKER, b"cookie         1", 900)
    assert told(LIMITED, more, ("advance", 0.5), ("result", WORKER, b"cookie         1")) == ""


@needs_interpreted_core
@pytest.mark.parametrize(("name", "story"), [("_run_limit_over", ()), ("queue_limit_over", (("congest", WORKER),))])
def test_a_limit_that_passes_unnoticed_is_missed(name: str, story: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "missing: the outcome" in found(monkeypatch, Stopping, name, *story, LIMITED, ("advance", 0.1), ("advance", 0.1))
