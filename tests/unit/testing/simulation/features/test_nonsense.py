"""What the model says when nonsense is not answered."""

import pytest

from reasonchip_broker.switchboard import Switchboard
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told


@pytest.mark.parametrize("choice", range(12))
def test_nonsense_is_answered_or_ends_the_connection(choice: int) -> None:
    json_peers = [("connect client", 3, 2), ("connect worker", 4, 2, 1, ())]
    assert told(*json_peers, *(("garbage", end, choice) for end in (CLIENT, WORKER, 3, 4, 5))) == ""


@needs_interpreted_core
def test_an_answer_that_does_not_come_is_missed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    assert "no answer to" in found(monkeypatch, Switchboard, "_unsupported", ("garbage", CLIENT, 4))
