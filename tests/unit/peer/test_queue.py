"""Who waits for what, in the words of the application."""

from dataclasses import asdict, replace

from reasonchip_broker.peer.queue import KeyStatus, LimitStatus, LineStatus, PoolStatus, queue_report
from reasonchip_broker.protocol import schemas
from tests.golden.table import QUEUE

POOL = schemas.PoolStatus(
    serves=["a"],
    cap=1,
    labels={"x": "y"},
    more=2,
    json=True,
    n=3,
    drain=4,
    slow=5,
    aside=6,
    slots=7,
    run=8,
    free=9,
    held=10,
    rest=11,
    wait=12,
)


def test_every_number_of_a_pool_has_its_place() -> None:
    (pool,) = queue_report(schemas.QueueReport(pools=[POOL])).pools
    assert asdict(pool) == {
        "serves": ("a",),
        "labels": {"x": "y"},
        "more": 2,
        "capacity": 1,
        "is_json": True,
        "workers": 3,
        "draining": 4,
        "slow": 5,
        "set_aside": 6,
        "slots": 7,
        "running": 8,
        "free": 9,
        "withheld": 10,
        "resting": 11,
        "waiting": 12,
    }


def test_keys_lines_and_limits_have_their_times_in_seconds() -> None:
    report = queue_report(QUEUE)
    assert report.keys[0] == KeyStatus(
        name="team-b", is_connection=False, weight=2.0, running=1, waiting=1, used_s=5.0, turn_s=0.5
    )
    assert report.lines[1] == LineStatus(
        pipeline="text.book",
        is_json=False,
        need={},
        like={},
        priority=4,
        level=4,
        key="team-a",
        jobs=2,
        age_s=0.8,
        why="limit_reached",
        sentence="the limit 'books' is reached",
    )
    shut = LimitStatus(name="books", of="", running=2, most=2, waiting=2, is_shut=True, opens_s=None)
    assert report.limits == (shut,)
    limit = schemas.LimitStatus(name="books", of="x", run=2, wait=2, shut=True, opens=1500)
    assert queue_report(schemas.QueueReport(limits=[limit])).limits == (replace(shut, of="x", most=None, opens_s=1.5),)


def test_the_totals() -> None:
    report = queue_report(QUEUE)
    assert (report.waiting, report.waiting_bytes, report.scheduled, report.left_per_hour, report.others) == (3, 372, 1, 720, 0)
    assert (report.pools_there, report.keys_there, report.lines_there, report.limits_there) == (1, 2, 2, 1)
    assert isinstance(report.pools[0], PoolStatus)


def test_what_is_not_told_is_nothing() -> None:
    report = queue_report(schemas.QueueReport())
    assert (report.pools, report.keys_there, report.limits_there) == ((), 0, 0)
