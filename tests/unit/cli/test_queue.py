import json
from dataclasses import asdict, replace

import pytest

from reasonchip_broker.cli import queue
from reasonchip_broker.cli.output import json_text
from reasonchip_broker.client import KeyStatus, LimitStatus, LineStatus, PoolStatus, QueueReport

HOSTILE = "evil\x1b[2J\r\n\x9b\u202e"

POOL = PoolStatus(
    serves=("a", "b.*"),
    labels={"gpu": "h200"},
    more=0,
    capacity=4,
    is_json=False,
    workers=2,
    draining=0,
    slow=0,
    set_aside=0,
    slots=8,
    running=5,
    free=3,
    withheld=0,
    resting=0,
    waiting=1200,
)
KEY = KeyStatus(name="team", is_connection=False, weight=2.5, running=5, waiting=1200, used_s=65.0, turn_s=0.25)
LINE = LineStatus(
    pipeline="a",
    is_json=False,
    need={},
    like={},
    priority=4,
    level=4,
    key="team",
    jobs=1200,
    age_s=3.0,
    why="no_free_slot",
    sentence="",
)
LIMIT = LimitStatus(name="openai", of="", running=2, most=2, waiting=7, is_shut=True, opens_s=3.7)
NOTHING = QueueReport(
    waiting=0,
    waiting_bytes=0,
    scheduled=0,
    left_per_hour=0,
    others=0,
    pools=(),
    keys=(),
    lines=(),
    limits=(),
    pools_there=0,
    keys_there=0,
    lines_there=0,
    limits_there=0,
)
ALL = replace(
    NOTHING,
    waiting=1200,
    pools=(POOL,),
    keys=(KEY,),
    lines=(LINE,),
    limits=(LIMIT,),
    pools_there=1,
    keys_there=1,
    lines_there=1,
    limits_there=1,
)


def test_of_a_broker_at_which_there_is_nothing_it_says_just_that():
    assert list(queue.lines(NOTHING)) == ["0 jobs wait for a slot"]


def test_it_shows_a_table_of_each():
    assert list(queue.lines(ALL)) == [
        "1,200 jobs wait for a slot",
        "",
        "workers that offer   workers   slots   running   free   waiting   notes",
        "a b.* gpu=h200             2       8         5      3     1,200",
        "",
        "fairness key   weight   slots   waiting   used lately   a job takes",
        "team           2.5          5     1,200   1 min 5 s     250 ms",
        "",
        "jobs that wait    jobs   priority   fairness key   oldest   why",
        "a                1,200   4          team           3.0 s    no free slot",
        "",
        "limit    for   running   at most   waiting   now",
        "openai   all         2   2               7   reached, the next in 3.7 s",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"waiting": 1}, "1 job waits for a slot"),
        ({"waiting": 2, "others": 1}, "2 jobs wait for a slot (1 of them somebody else's)"),
        ({"waiting": 2, "scheduled": 1}, "2 jobs wait for a slot, 1 for its time"),
        ({"waiting": 2, "scheduled": 3}, "2 jobs wait for a slot, 3 for their time"),
        ({"waiting": 2, "left_per_hour": 5}, "2 jobs wait for a slot, lately 5 an hour left the queue"),
        ({"waiting": 2, "left_per_hour": 120}, "2 jobs wait for a slot, lately 2 a minute left the queue"),
        ({"waiting": 2, "left_per_hour": 36_000_000}, "2 jobs wait for a slot, lately 10,000 a second left the queue"),
        ({"left_per_hour": 5}, "0 jobs wait for a slot"),
    ],
)
def test_the_first_line_sums_up(change, expected):
    assert queue.summary(replace(NOTHING, **change)) == expected


def test_what_is_left_out_is_counted():
    told = list(queue.lines(replace(ALL, keys_there=7, limits=(), limits_there=3)))
    assert told[told.index("") + 5 :][1] == "… and 6 more"
    assert told[-1] == "limits: 3"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"draining": 1}, "1 draining"),
        ({"slow": 1, "set_aside": 1}, "1 too slow, 1 set aside for a job that takes several slots"),
        ({"withheld": 2}, "2 slots withheld until their worker reports"),
        ({"is_json": True, "resting": 3}, "JSON protocol, 3 slots resting"),
    ],
)
def test_what_is_the_matter_with_workers_is_noted(change, expected):
    assert queue._pool(replace(POOL, **change))[-1] == expected


def test_a_pool_with_more_patterns_than_are_shown_says_so():
    assert queue._pool(replace(POOL, more=5))[0] == "a b.* gpu=h200 … 5 more"


def test_a_line_says_what_its_jobs_need_and_like_and_for_which_priority_they_count():
    line = replace(LINE, need={"gpu": "h200"}, like={"zone": "a"}, level=6, sentence="nobody serves it")
    assert queue._line(line) == ("a gpu=h200 (zone=a)", 1200, "4, by age 6", "team", "3.0 s", "nobody serves it")


def test_a_connection_is_no_key_that_somebody_has_named():
    told = list(queue.lines(replace(ALL, keys=(replace(KEY, is_connection=True, name="06a7"),))))
    assert "connection 06a7   2.5          5     1,200   1 min 5 s     250 ms" in told


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ("openai", "all", 2, "2", 7, "reached, the next in 3.7 s")),
        ({"of": "team", "opens_s": None}, ("openai", "team", 2, "2", 7, "reached")),
        ({"most": None, "is_shut": False, "opens_s": None}, ("openai", "all", 2, "", 7, "open")),
    ],
)
def test_a_limit(change, expected):
    assert queue._limit(replace(LIMIT, **change)) == expected


def test_what_a_peer_has_named_moves_no_cursor():
    hostile = replace(
        ALL,
        pools=(replace(POOL, serves=(HOSTILE,), labels={HOSTILE: HOSTILE}),),
        keys=(replace(KEY, name=HOSTILE),),
        lines=(replace(LINE, pipeline=HOSTILE, key=HOSTILE, sentence=HOSTILE),),
        limits=(replace(LIMIT, name=HOSTILE, of=HOSTILE),),
    )
    for line in (*queue.lines(hostile), json_text(asdict(hostile))):
        assert line.isprintable()
    assert json.loads(json_text(asdict(hostile)))["keys"][0]["name"] == HOSTILE
