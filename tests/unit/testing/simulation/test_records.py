"""What the model remembers."""

import pytest

from reasonchip_broker.limits import TIMER_TICK_S
from reasonchip_broker.protocol.codes import Dialect, Role
from reasonchip_broker.routing.timers import TimerKind, Timers
from reasonchip_broker.testing.simulation.records import BrokenPromise, Step, Worker, fires_at, kinds, require
from reasonchip_broker.testing.switchboard_driver import FakeLink


@pytest.mark.parametrize("due", [0.0, 0.005, 1000.0, 1000.0149, 1000.015, 1003.1400000000001])
def test_a_timer_fires_when_the_wheel_lets_it(due: float) -> None:
    timers = Timers()
    timers.arm(TimerKind.REST, object(), due)
    assert timers.wake_at == fires_at(due)
    assert due < fires_at(due) <= due + 2 * TIMER_TICK_S


def test_kinds_are_served_by_name_or_glob_and_json_workers_need_json() -> None:
    worker = Worker(1, FakeLink(0, Role.WORKER, Dialect.JSON), 0.0)
    worker.serves, worker.capacity = ("p.*",), 1
    assert [(kind.pipeline, kind.as_json) for kind in kinds() if kind.is_served_by(worker)] == [("p.a", True), ("p.b", True)]
    assert len({kind.bit for kind in kinds()}) == len(kinds())


def test_what_is_broken_is_said() -> None:
    require(True, "nothing")
    with pytest.raises(BrokenPromise, match=r"^this$"):
        require(False, "this")
    assert Step().answers == []
