"""What the model says when connections are not treated as they should be."""

import pytest

from reasonchip_broker.routing.leases import Leases
from reasonchip_broker.switchboard import Switchboard
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told


def test_a_connection_comes_and_goes() -> None:
    story = [("connect stranger", 3, 2), ("ping", CLIENT), ("congest", WORKER), ("unblock", WORKER), ("drain worker", WORKER)]
    assert told(*story, ("register", WORKER, 1, ("*",)), ("disconnect", CLIENT), ("disconnect", CLIENT)) == ""


def test_what_is_not_there_does_nothing() -> None:
    names = ("register", "disconnect", "congest", "unblock", "silence", "ping", "drain worker")
    assert told(*((name, 9, 1, ("*",)) if name == "register" else (name, 9) for name in names), alone=True) == ""


@needs_interpreted_core
def test_a_ping_without_an_answer_is_missed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    assert "PONG" in found(monkeypatch, Switchboard, "_ping", ("ping", CLIENT))


@needs_interpreted_core
def test_a_silent_peer_that_is_not_expired_is_missed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    said = found(monkeypatch, Leases, "expired_s", ("silence", CLIENT), *[("advance", 4.0)] * 4)
    assert "a peer lives on after" in said
