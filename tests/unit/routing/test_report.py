"""Who waits for what, as it is told."""

from typing import Any

import msgspec
import pytest

from reasonchip_broker.limits import QUEUE_LOOK_MAX, QUEUE_ROWS_MAX
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.routing import report
from reasonchip_broker.scheduling import Limit, Per, Scheduling
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

from .scenes import quiet


def driven(**scheduling: Any) -> SwitchboardDriver:
    return SwitchboardDriver(quiet(), scheduling=Scheduling(**scheduling))


def asked(driver: SwitchboardDriver, rows: int = 20, asker: FakeLink | None = None) -> tuple[schemas.QueueReport, str]:
    """The report, and its sentence."""
    asker = asker or driver.client()
    asker.take()
    driver.send(asker, packets.queue(rows, 5))
    reply = asker.take_one(PacketType.REPLY)
    meta = schemas.reply_meta(reply.meta)
    assert (reply.code, reply.number, meta.to) == (Code.OK, 5, PacketType.QUEUE)
    assert meta.queue is not None
    return meta.queue, meta.msg


def test_a_broker_at_which_nothing_waits_says_so() -> None:
    assert asked(driven()) == (schemas.QueueReport(of=[0, 0, 0, 0]), "0 jobs wait")


def test_what_waits_for_a_slot_and_what_for_its_time_is_counted() -> None:
    driver = driven()
    client = driver.client()
    driver.run(client)
    driver.run(client, delay=60_000)
    told, sentence = asked(driver)
    assert (told.wait, told.sched, sentence) == (1, 1, "1 job waits")
    assert told.size > 0


def test_the_rate_at_which_jobs_have_left_the_queue_is_told_by_the_hour() -> None:
    driver = driven()
    client = driver.client()
    for _ in range(100):
        driver.run(client)
    worker = driver.worker(1)
    for _ in range(90):
        driver.advance(0.5)
        driver.result(worker, worker.take_one(PacketType.RUN).cookie)
    assert asked(driver)[0].left == pytest.approx(7200, rel=0.2)


def test_a_line_tells_who_waits_for_what_and_why() -> None:
    driver = driven()
    client = driver.client()
    driver.run(client, "book", key="team", prio=7, need={"gpu": "new"}, like={"zone": "a"})
    driver.advance(2.5)
    driver.run(client, "book", key="team", prio=7, need={"gpu": "new"}, like={"zone": "a"})
    (line,) = asked(driver)[0].lines
    assert line == schemas.LineStatus(
        pipe="book",
        prio=7,
        level=7,
        key="team",
        n=2,
        json=True,
        need={"gpu": "new"},
        like={"zone": "a"},
        age=2500,
        why="not_served",
        msg="no connected worker that has gpu=new serves this pipeline",
    )


def test_a_line_that_waits_for_a_slot_says_no_more_than_that() -> None:
    driver = driven()
    client = driver.client()
    driver.worker(1)
    driver.run(client)
    driver.run(client)
    (line,) = asked(driver)[0].lines
    assert (line.why, line.msg) == ("no_free_slot", "")


def test_a_line_that_has_come_of_age_says_for_which_level_it_counts() -> None:
    driver = driven(ageing_s=10.0)
    driver.run(driver.client(), prio=3)
    driver.advance(25.0)
    (line,) = asked(driver)[0].lines
    assert (line.prio, line.level) == (3, 5)


def test_lines_are_in_the_order_in_which_they_get_their_slots() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(1)
    driver.run(client, "first", key="busy")
    for pipeline, key, priority in (("late", "busy", 4), ("low", "new", 0), ("soon", "new", 4), ("high", "busy", 9)):
        driver.run(client, pipeline, key=key, prio=priority)
        driver.advance(1.0)
    expected = [line.pipe for line in asked(driver)[0].lines]
    order = []
    for _ in range(5):
        packet = worker.take_one(PacketType.RUN)
        order.append(schemas.run_options(packet.meta).p)
        driver.result(worker, packet.cookie)
    assert order[1:] == expected == ["high", "soon", "late", "low"]


def test_keys_of_which_something_waits_are_told_however_many_there_are_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "QUEUE_LOOK_MAX", 5)
    driver = driven()
    client, worker = driver.client(), driver.worker(1)
    for number in range(9):
        driver.result(worker, driver.run(client, key=f"idle {number}"))
    for _ in range(2):
        driver.run(client, key="last")
    assert [key.key for key in asked(driver)[0].keys] == ["last"]


def test_to_ask_changes_nothing() -> None:
    def told(asks: bool) -> list[bytes]:
        driver = driven(ageing_s=3.0)
        client, worker, order = driver.client(), driver.worker(2), []
        for number in range(60):
            driver.run(client, key=f"key {number % 7}", prio=number % 3)
            driver.advance(0.37)
            if asks:
                asked(driver, asker=client)
            for packet in worker.take_kinds(PacketType.RUN):
                order.append(packet.cookie)
                if number % 2:
                    driver.result(worker, packet.cookie)
        return order

    assert told(True) == told(False)


def test_a_pool_tells_what_becomes_of_its_slots() -> None:
    driver = driven()
    client = driver.client()
    driving, leaving, slow = (driver.worker(4, ("p",), labels={"gpu": "new"}) for _ in range(3))
    driver.run(client, left_ms=500)
    driver.run(client)
    driver.run(client)
    driver.advance(1.0)
    driver.send(leaving, packets.drain(1))
    driver.congest(slow)
    (pool,) = asked(driver)[0].pools
    free = 4 - len(driving.take_kinds(PacketType.RUN))
    assert pool == schemas.PoolStatus(
        serves=["p"],
        cap=4,
        labels={"gpu": "new"},
        n=3,
        drain=1,
        slow=1,
        slots=12,
        run=2,
        held=1,
        free=free,
    )


def test_a_pool_of_json_workers_says_so_and_what_rests() -> None:
    driver = driven()
    client, worker = driver.client(Dialect.JSON), driver.worker(2, dialect=Dialect.JSON)
    driver.result(worker, driver.run(client))
    (pool,) = asked(driver)[0].pools
    assert (pool.json, pool.slots, pool.rest, pool.free) == (True, 2, 1, 1)


def test_a_worker_that_is_set_aside_is_told() -> None:
    driver = driven(slots={"heavy": 2})
    client = driver.client()
    driver.worker(2)
    driver.run(client)
    driver.run(client, "heavy")
    (pool,) = asked(driver)[0].pools
    assert (pool.aside, pool.run, pool.free, pool.wait) == (1, 1, 0, 1)


def test_pools_for_which_most_jobs_wait_come_first_and_those_with_most_workers_of_them() -> None:
    driver = driven()
    client = driver.client()
    for serves, count in (("a", 1), ("b", 2), ("c", 1)):
        for _ in range(count):
            driver.worker(1, (serves,))
    for _ in range(3):
        driver.run(client, "c")
    assert [(pool.serves, pool.wait) for pool in asked(driver)[0].pools] == [(["c"], 2), (["b"], 0), (["a"], 0)]


def test_of_many_patterns_and_labels_the_first_are_shown_and_the_others_counted() -> None:
    driver = driven()
    driver.worker(1, tuple(f"p{number:02}" for number in range(25)), labels={f"l{number:02}": "x" for number in range(12)})
    (pool,) = asked(driver)[0].pools
    assert (len(pool.serves), len(pool.labels), pool.more) == (10, 10, 17)


def test_a_key_tells_what_it_has_had_what_it_has_and_what_waits() -> None:
    driver = driven(weights={"team": 2.0})
    client, worker = driver.client(), driver.worker(1)
    for _ in range(3):
        driver.run(client, key="team")
    driver.advance(2.0)
    driver.result(worker, worker.take_one(PacketType.RUN).cookie)
    driver.advance(1.0)
    (key,) = asked(driver)[0].keys
    assert (key.key, key.named, key.weight, key.run, key.wait) == ("team", True, 2.0, 1, 1)
    assert key.used == pytest.approx(3000, rel=0.05)
    assert 500 < key.turn < 2000, "not the two seconds of the one job that has ended: some of it is the guess of before"


def test_a_connection_without_a_key_is_told_by_its_id() -> None:
    driver = driven()
    client = driver.client()
    driver.run(client)
    (key,) = asked(driver)[0].keys
    assert (key.key, key.named) == (client.peer.id.hex(), False)


def test_a_key_that_has_nothing_and_waits_for_nothing_is_not_told() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(1)
    driver.result(worker, driver.run(client, key="team"))
    assert asked(driver)[0].keys == []


def test_keys_are_told_in_the_order_of_their_turns() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(1)
    for key, seconds in (("much", 9.0), ("little", 1.0), ("some", 4.0)):
        cookie = driver.run(client, key=key)
        driver.advance(seconds)
        driver.result(worker, cookie)
    driver.run(client, key="much")
    for key in ("much", "little", "some"):
        driver.run(client, key=key)
    assert [key.key for key in asked(driver)[0].keys] == ["little", "some", "much"]


def test_a_limit_tells_for_whom_it_counts_and_when_it_opens() -> None:
    slow = Limit(name="slow", pipelines=("p",), rate=1, period_s=10.0, per=Per.PIPELINE)
    few = Limit(name="few", pipelines=("q",), concurrency=1)
    each = Limit(name="each", pipelines=("q",), concurrency=5, per=Per.KEY)
    driver = driven(limits=(slow, few, each))
    client = driver.client()
    driver.worker(9)
    for pipeline, count in (("p", 3), ("q", 5)):
        for _ in range(count):
            driver.run(client, pipeline, key="team")
    driver.advance(4.0)
    told = {limit.name: limit for limit in asked(driver)[0].limits}
    assert told == {
        "slow": schemas.LimitStatus(name="slow", of="p", run=1, wait=2, shut=True, opens=6000),
        "few": schemas.LimitStatus(name="few", run=1, most=1, wait=4, shut=True),
        "each": schemas.LimitStatus(name="each", of="team", run=1, most=5, wait=4),
    }


def test_others_are_counted_and_in_no_table() -> None:
    limits = (Limit(name="each", per=Per.PRINCIPAL, concurrency=5), Limit(name="keys", per=Per.KEY, concurrency=5))
    driver = driven(limits=limits)
    ann, bob = driver.client(principal="ann"), driver.client(principal="bob")
    driver.run(ann, key="team")
    for _ in range(4):
        driver.run(bob, "secret", key="hidden")
    told, _ = asked(driver, asker=driver.client(principal="ann"))
    assert (told.wait, told.others, [line.pipe for line in told.lines], told.of) == (5, 4, ["p"], [0, 1, 1, 2])
    assert [key.key for key in told.keys] == ["team"]
    assert sorted((limit.name, limit.of) for limit in told.limits) == [("each", "ann"), ("keys", "team")]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_there_are_no_more_rows_than_asked_for_and_it_is_said_how_many_there_would_be(rows: int) -> None:
    driver = driven(limits=(Limit(name="some", per=Per.KEY, concurrency=1),))
    client = driver.client()
    for number in range(4):
        driver.worker(1, (f"nobody {number}",))
        driver.run(client, key=f"key {number}")
    told, _ = asked(driver, rows)
    assert [len(table) for table in (told.pools, told.keys, told.lines, told.limits)] == [rows] * 4
    assert told.of == [4, 4, 4, 4]


def test_of_very_many_only_so_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "QUEUE_LOOK_MAX", 5)
    driver = driven()
    client = driver.client()
    for number in range(9):
        driver.run(client, key=f"key {number}")
    told, _ = asked(driver)
    assert (told.wait, told.of[1] <= 5, told.of[2], len(told.lines)) == (9, True, 5, 5)


@pytest.mark.parametrize("rows", [-1, QUEUE_ROWS_MAX + 1, "many"])
def test_a_number_of_rows_that_makes_no_sense_is_bad_packet(rows: object) -> None:
    driver = driven()
    client = driver.client()
    driver.send(client, encode(PacketType.QUEUE, number=5, meta=msgspec.msgpack.encode({"rows": rows})))
    reply = client.take_one(PacketType.REPLY)
    assert (reply.code, reply.number) == (Code.BAD_PACKET, 5)


def test_it_looks_at_no_more_than_the_design_says() -> None:
    assert QUEUE_LOOK_MAX == 10_000
