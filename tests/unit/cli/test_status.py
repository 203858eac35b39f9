import io
import json
from dataclasses import replace
from uuid import UUID

import pytest
from rich.console import Console

from reasonchip_broker.cli import status
from reasonchip_broker.cli.output import json_text
from reasonchip_broker.client import JobStatus
from reasonchip_broker.protocol.codes import Code

HOSTILE = "evil\x1b[2J\r\n\x9b\u202e"

RUNNING = JobStatus(
    cookie=UUID(int=1),
    state="running",
    sentence="a worker has it",
    pipeline="report",
    attempt=2,
    attempts=3,
    age_s=65.0,
    left_s=5.0,
    progress=12,
    inputs=1,
    worker="gpu-1",
    parent=UUID(int=9),
)
WAITING = JobStatus(
    cookie=UUID(int=2), state="queued", why="no_free_slot", sentence="the one slot is taken", pipeline="sum", age_s=0.25
)
FAILED = JobStatus(cookie=UUID(int=3), state="over", pipeline="sum", outcome=Code.EXCEPTION, children=(WAITING,))


def with_children(*children):
    return JobStatus(cookie=UUID(int=4), state="parked", why="slot_lent_out", pipeline="all", worker="w", children=children)


def drawn(told):
    written = io.StringIO()
    console = Console(file=written, width=status.TREE_COLUMNS_MAX, highlight=False)
    console.print(status.drawn_tree(told))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_it_says_all_there_is_to_say():
    assert list(status.lines(RUNNING)) == [
        "running: a worker has it",
        "  job       00000000-0000-0000-0000-000000000001",
        "  pipeline  report",
        "  attempt   2 of 3",
        "  age       1 min 5 s",
        "  time left 5.0 s",
        "  worker    gpu-1",
        "  progress  12",
        "  inputs    1",
        "  parent    00000000-0000-0000-0000-000000000009",
    ]


def test_and_nothing_of_what_there_is_not():
    assert list(status.lines(WAITING)) == [
        "queued: the one slot is taken",
        "  job       00000000-0000-0000-0000-000000000002",
        "  pipeline  sum",
        "  attempt   none yet, of 1",
        "  age       250 ms",
    ]
    spent = JobStatus(cookie=UUID(int=5), state="over", outcome=Code.OK)
    assert list(status.lines(spent)) == ["over", "  job       00000000-0000-0000-0000-000000000005", "  outcome   OK"]


def test_of_a_job_that_is_scheduled_it_says_when_it_starts():
    told = JobStatus(cookie=UUID(int=6), state="scheduled", why="not_due", sentence="not yet", pipeline="sum", due_s=5400.0)
    assert "  starts in 1 h 30 min" in list(status.lines(told))
    assert status.facts(told, tree=False)["due_s"] == 5400.0


def test_the_tree_shows_whose_child_each_job_is():
    assert drawn(with_children(RUNNING, FAILED)) == [
        "all  parked (slot lent out), on w, 0 ms  00000000-0000-0000-0000-000000000004",
        "├── report  running, on gpu-1, attempt 2 of 3, 1 min 5 s  00000000-0000-0000-0000-000000000001",
        "└── sum  EXCEPTION, 0 ms  00000000-0000-0000-0000-000000000003",
        "    └── sum  queued (no free slot), 250 ms  00000000-0000-0000-0000-000000000002",
    ]


def test_a_deep_tree_is_one_too():
    told = WAITING
    for _ in range(100):
        told = with_children(told)
    assert len(drawn(told)) == 101


def test_as_json_it_is_the_whole():
    found = json.loads(json_text(status.facts(with_children(RUNNING, FAILED), tree=True)))
    assert (found["state"], found["why"]) == ("parked", "slot_lent_out")
    running, failed = found["children"]
    assert running == {
        "cookie": str(UUID(int=1)),
        "state": "running",
        "why": "",
        "sentence": "a worker has it",
        "pipeline": "report",
        "attempt": 2,
        "attempts": 3,
        "age_s": 65.0,
        "left_s": 5.0,
        "due_s": None,
        "worker": "gpu-1",
        "progress": 12,
        "inputs": 1,
        "outcome": None,
        "parent": str(UUID(int=9)),
        "children": [],
    }
    assert failed["outcome"] == "EXCEPTION"
    assert failed["children"][0]["why"] == "no_free_slot"
    assert "children" not in status.facts(FAILED, tree=False)


@pytest.mark.parametrize("name", ["state", "why", "sentence", "pipeline", "worker"])
def test_no_name_moves_the_cursor_or_makes_up_a_line(name):
    told = replace(JobStatus(cookie=UUID(int=1), state="running", pipeline="p"), **{name: HOSTILE})  # type: ignore[arg-type]
    shown = [*status.lines(told), *drawn(with_children(told))]
    assert all(line.replace("─", "").isprintable() for line in shown)
    assert len(drawn(with_children(told))) == 2
