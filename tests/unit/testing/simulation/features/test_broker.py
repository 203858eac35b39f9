"""What the model says when the broker forgets what it took."""

from typing import Any

import pytest

from reasonchip_broker.routing.intake import Intake
from reasonchip_broker.routing.route import Route
from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.testing.simulation.world import Setting
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

JOB = b"cookie         1"
WAITS = ("congest", WORKER), ("run", CLIENT, JOB, "p.a")
ADMITS = Setting(admits=True)


def test_a_broker_that_drains_gives_back_what_waits() -> None:
    assert told(*WAITS, ("drain",), ("run", CLIENT, b"cookie         2", "p.a")) == ""


ATTACHED = ("run", CLIENT, JOB, "p.a"), ("connect client", 3, 1), ("attach", 3, JOB, 1, False), ("decide", JOB, False)


def test_a_job_that_is_not_admitted_is_refused_to_all_who_follow_it() -> None:
    assert told(*ATTACHED, setting=ADMITS) == ""
    unserved = ("run", CLIENT, JOB, "lonely", True, False), *ATTACHED[1:3], ("disconnect", WORKER), ("decide", JOB, True)
    assert told(("disconnect", WORKER), *unserved, setting=ADMITS) == ""


@needs_interpreted_core
def test_a_follower_that_is_not_told_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell_the_owner(self: Intake, route: Route, *refusal: Any) -> None:
        self._dispatcher.withdraw(route)
        self.refuse(route.owner, route.cookie, *refusal)

    monkeypatch.setattr(Intake, "turn_away", tell_the_owner)
    assert "no answer to" in told(*ATTACHED, setting=ADMITS)


@needs_interpreted_core
def test_a_job_that_is_not_given_back_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: Switchboard, now: float) -> None:
        self.effects.draining = True

    assert "missing: the outcome BROKER_WENT_AWAY" in found(monkeypatch, Switchboard, "drain", *WAITS, ("drain",), by=forget)
