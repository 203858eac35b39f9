"""What the model says when the broker forgets what it took."""

import pytest

from reasonchip_broker.switchboard import Switchboard
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

WAITS = ("congest", WORKER), ("run", CLIENT, b"cookie         1", "p.a")


def test_a_broker_that_drains_gives_back_what_waits() -> None:
    assert told(*WAITS, ("drain",), ("run", CLIENT, b"cookie         2", "p.a")) == ""


@needs_interpreted_core
def test_a_job_that_is_not_given_back_is_missed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def forget(self: Switchboard, now: float) -> None:
        self.effects.draining = True

    assert "missing: the outcome BROKER_WENT_AWAY" in found(monkeypatch, Switchboard, "drain", *WAITS, ("drain",), by=forget)
