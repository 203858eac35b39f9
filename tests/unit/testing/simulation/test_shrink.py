"""What a failure takes is found, and told so that a person can read it."""

import pytest

from reasonchip_broker.routing.stopping import Stopping
from reasonchip_broker.testing.simulation.shrink import explain, shrink
from reasonchip_broker.testing.simulation.walk import Failure, Walk, kind_of, take_again
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import nothing


def a_failure() -> Failure:
    for seed in range(50):
        try:
            Walk(seed, audit_every=0).go(400)
        except Failure as failure:
            return failure
    raise AssertionError("nothing fails")


@needs_interpreted_core
def test_a_failure_is_minimised_and_still_fails_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopping, "deadline_over", nothing)
    failure = a_failure()
    operations = shrink(failure)
    assert len(failure.operations) > len(operations) <= 6
    assert {"connect client", "run"} <= {operation[0] for operation in operations}
    error = take_again(failure.setting, operations, failure.audit_every)
    assert error is not None
    assert kind_of(error) == failure.kind
    assert explain(failure, operations)[-1] == f"{type(error).__name__}: {error}"
    assert len(shrink(failure, tries_max=1)) >= len(operations)


@needs_interpreted_core
def test_what_is_mended_is_told_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Stopping, "deadline_over", nothing)
        failure = a_failure()
    assert explain(failure, failure.operations)[-1] == "nothing is wrong"
