"""What the model says of whose turn it is."""

from typing import Any

import pytest

from reasonchip_broker.limits import PRIORITY_DEFAULT
from reasonchip_broker.routing.backlog import Backlog
from reasonchip_broker.routing.lines import Line
from reasonchip_broker.routing.shares import Share
from reasonchip_broker.testing.simulation.settings import AGEING_S
from reasonchip_broker.testing.simulation.world import Setting
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

COOKIES = [b"cookie%10d" % number for number in range(6)]
OTHER_CLIENT = 3


def run(place: int, client: int = CLIENT, **more: Any) -> tuple[Any, ...]:
    """A job; there are two slots."""
    return ("run", client, COOKIES[place], "p.a", True, True, False, False, 0, b"1", tuple(more.items()))


def result(place: int) -> tuple[Any, ...]:
    return ("result", WORKER, COOKIES[place])


FULL = run(5), run(0)
NEWCOMER = (*FULL, run(1), ("connect client", OTHER_CLIENT, 1), run(2, OTHER_CLIENT), result(0))
URGENT = (*FULL, run(1), run(2, prio=9), result(0))
AGED = (*FULL, run(1, prio=4), ("advance", 2 * AGEING_S + 0.1), run(2, prio=5), result(0))
AGED_AND_YOUNG = (
    *(*FULL, run(1, prio=4), run(2, prio=4), ("cancel", CLIENT, COOKIES[1]), ("advance", 2 * AGEING_S + 0.1)),
    *(run(3, prio=4), ("cancel", CLIENT, COOKIES[2]), run(4, prio=5), result(0)),
)
OF_ITS_OWN = (*FULL, run(1), run(2, key="other"), result(0))


@pytest.mark.parametrize("story", [NEWCOMER, URGENT, AGED, AGED_AND_YOUNG, OF_ITS_OWN])
@pytest.mark.parametrize("ageing_s", [0.0, AGEING_S])
def test_a_broker_that_gives_everybody_his_turn_is_told_nothing(story: tuple[Any, ...], ageing_s: float) -> None:
    assert told(*story, setting=Setting(ageing_s=ageing_s)) == ""


@needs_interpreted_core
def test_a_job_that_goes_before_a_more_urgent_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(self: Line, number: int, kind: Any, priority: int, share: Share, *others: Any) -> None:
        original(self, number, kind, PRIORITY_DEFAULT, share, *others)
        self.priority = priority

    original = Line.__init__
    said = found(monkeypatch, Line, "__init__", *URGENT, by=init)
    assert said == f"{COOKIES[1]!r} overtook {COOKIES[2]!r}"


@needs_interpreted_core
@pytest.mark.parametrize("story", [NEWCOMER, OF_ITS_OWN])
def test_a_key_that_goes_before_one_that_had_nothing_is_seen(monkeypatch: pytest.MonkeyPatch, story: tuple[Any, ...]) -> None:
    said = found(monkeypatch, Share, "order", *story, by=lambda self, now: 1.0)
    assert said == f"{COOKIES[1]!r} overtook {COOKIES[2]!r}"


@needs_interpreted_core
@pytest.mark.parametrize(("story", "first", "second"), [(AGED, 2, 1)])
def test_a_job_whose_age_does_not_count_is_seen(
    monkeypatch: pytest.MonkeyPatch, story: tuple[Any, ...], first: int, second: int
) -> None:
    said = found(monkeypatch, Backlog, "_promote", *story, by=lambda self, now: None, setting=Setting(ageing_s=AGEING_S))
    assert said == f"{COOKIES[first]!r} overtook {COOKIES[second]!r}"
