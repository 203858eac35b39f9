"""What the model says of QUEUE."""

from typing import Any

import pytest

from reasonchip_broker.protocol.schemas import QueueReport
from reasonchip_broker.routing.report import Report
from reasonchip_broker.testing.simulation.world import Setting
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

COOKIES = [b"cookie%10d" % number for number in range(1, 6)]


def run(number: int, pipeline: str = "p.a", **more: Any) -> tuple[Any, ...]:
    return ("run", CLIENT, COOKIES[number], pipeline, True, True, False, False, 0, b"1", tuple(more.items()))


STORY = [
    ("connect client", 7, 1, "somebody"),
    ("congest", WORKER),
    run(0),
    run(1, prio=9),
    run(2, delay=9_000),
    run(3, key="one"),
]
ASKED = ("queue", CLIENT)


def test_a_broker_that_tells_the_truth_is_told_nothing() -> None:
    assert told(*STORY, ASKED, ("queue", 7), ("queue", CLIENT, 1), ("queue", WORKER), ("queue", 99), ASKED) == ""


def test_a_limit_that_was_set_when_more_jobs_ran_is_no_fault() -> None:
    story = [run(0), run(1), run(3), ("configure", "all"), ASKED]
    assert told(("connect worker", 8, 1, 9, ("*",)), *story, setting=Setting(rules="slots")) == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"wait": 2}, "is told, and (3, 1, 0) wait"),
        ({"sched": 0}, "is told, and (3, 1, 0) wait"),
        ({"others": 1}, "is told, and (3, 1, 0) wait"),
        ({"pools": []}, "a table has not the rows it should"),
        ({"pools": [], "of": [0, 2, 3, 0]}, "0 pools are told of, and there are 1"),
        ({"lines": [], "of": [1, 2, 0, 0]}, "is told to wait"),
        ({"keys": [], "of": [1, 0, 3, 0]}, "the keys have other jobs than wait"),
    ],
)
@needs_interpreted_core
def test_a_report_that_is_not_so_is_seen(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], expected: str) -> None:
    original = Report.of

    def by(self: Report, principal: str, rows: int) -> QueueReport:
        report = original(self, principal, rows)
        fields = {name: getattr(report, name) for name in QueueReport.__struct_fields__}
        return QueueReport(**{**fields, **change})

    assert expected in found(monkeypatch, Report, "of", *STORY, ASKED, by=by)


@needs_interpreted_core
def test_others_that_are_shown_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Report.of
    said = found(monkeypatch, Report, "of", *STORY, ("queue", 7), by=lambda self, _, rows: original(self, "", rows))
    assert "(3, 1, 3) wait" in said
