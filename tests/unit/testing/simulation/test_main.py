"""The command line of the simulator."""

import pytest

from reasonchip_broker.routing.stopping import Stopping
from reasonchip_broker.testing.simulation.__main__ import main
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import nothing


def test_seeds_that_find_nothing_end_well() -> None:
    said: list[str] = []
    assert main(["--seeds", "3", "--from", "5", "--steps", "30"], said.append) == 0
    assert said[-1].startswith("3 seeds, ")


@needs_interpreted_core
def test_what_is_found_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopping, "deadline_over", nothing)
    said: list[str] = []
    assert main(["--seeds", "50", "--audit", "0"], said.append) == 1
    told = "".join(said)
    assert "minimised from " in told
    assert "missing: the outcome DEADLINE_EXCEEDED of" in told
    assert "('BrokenPromise: missing: the outcome DEADLINE_EXCEEDED of #', (" in told
