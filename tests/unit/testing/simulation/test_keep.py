"""A failure that is kept can be taken again. What the simulator ever found is in `failures.txt` beside this file."""

from pathlib import Path

import pytest

from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.testing.simulation.keep import read, written
from reasonchip_broker.testing.simulation.walk import Failure, take_again
from reasonchip_broker.testing.simulation.world import Operation, Setting

KEPT = list(read(Path(__file__).with_name("failures.txt").read_text("utf-8").splitlines()))


def test_what_is_written_can_be_read() -> None:
    operations = [("connect stranger", 1, Role.WORKER), ("run", 2, b"\x00k", ("a", "b"))]
    failure = Failure(7, Setting(None, True), operations, ValueError("went wrong at 12.5"), 1)
    (kept,) = read(["# a comment", "", written(failure, operations)])
    assert kept == ("ValueError: went wrong at #", Setting(None, True), operations)


@pytest.mark.parametrize(("kind", "setting", "operations"), KEPT, ids=[kind for kind, _, _ in KEPT])
def test_what_was_found_once_does_not_come_back(kind: str, setting: Setting, operations: list[Operation]) -> None:
    assert take_again(setting, operations) is None
