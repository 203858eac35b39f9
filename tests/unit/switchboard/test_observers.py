"""What the switchboard tells its caller beside packets: outcomes, capacity and log lines, each only where it is wanted."""

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.protocol.json_v0 import is_json
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

LIMITS = Limits(cancel_grace_s=1.0, kill_grace_s=1.0, heartbeat_s=1e6, lease_s=2e6)


def observed(**settings: bool | int | None) -> SwitchboardDriver:
    driver = SwitchboardDriver(LIMITS, **settings)  # type: ignore[arg-type]
    driver.switchboard.effects.observe_outcomes = True
    driver.switchboard.effects.observe_capacity = True
    return driver


def offers(driver: SwitchboardDriver) -> list[tuple[str, ...]]:
    """What was announced since the last time."""
    announced, driver.capacity = driver.capacity, []
    return announced


# Outcomes


def test_nothing_is_observed_where_nobody_asked() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    driver.result(worker, driver.run(client))
    assert (driver.outcomes, driver.capacity) == ([], [])


def test_each_outcome_is_observed_once_whatever_it_is_and_whoever_listens() -> None:
    driver = observed()
    client, gone = driver.client(), driver.client()
    worker = driver.worker(5)
    plain, detached, orphaned, timed = (
        driver.run(client),
        driver.run(client, detach=True),
        driver.run(gone),
        driver.run(client, left_ms=10),
    )
    lost = driver.run(client)
    cancelled = driver.run(client)
    driver.disconnect(gone)
    driver.cancel(client, cancelled)
    for cookie in (plain, detached, orphaned):
        driver.result(worker, cookie)
    driver.advance(0.5)
    driver.disconnect(worker)
    assert [(outcome.cookie, decode(outcome.frame).code) for outcome in driver.outcomes] == [
        (cancelled, Code.CANCELLED),
        (plain, Code.OK),
        (detached, Code.OK),
        (orphaned, Code.OK),
        (timed, Code.DEADLINE_EXCEEDED),
        (lost, Code.WORKER_WENT_AWAY),
    ]


def test_an_observed_outcome_is_a_binary_frame_with_its_attempt_whoever_sent_it() -> None:
    driver = observed()
    client, worker = driver.client(Dialect.JSON), driver.worker(dialect=Dialect.JSON)
    for code in (Code.OK, Code.EXCEPTION):
        cookie = driver.run(client)
        driver.fail(worker, cookie, code)
    for outcome in driver.outcomes:
        assert not is_json(outcome.frame)
        packet = decode(outcome.frame)
        assert (packet.kind, packet.cookie, packet.attempt) == (PacketType.RESULT, outcome.cookie, 1)


def test_a_refusal_is_no_outcome() -> None:
    driver = observed()
    client = driver.client()
    driver.run(client, queue=False)
    assert driver.outcomes == []


# Capacity


def busy() -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    """A worker whose only slot is taken, and nothing announced."""
    driver = observed()
    client, worker = driver.client(), driver.worker(1, ["p", "q"])
    cookie = driver.run(client)
    offers(driver)
    return driver, client, worker, cookie


def test_a_worker_that_registers_is_capacity() -> None:
    driver = observed()
    driver.worker(3, ["b", "a"])
    assert offers(driver) == [("a", "b")]
    driver.worker(3, ["a", "b"])
    assert offers(driver) == []


def test_a_slot_that_is_freed_where_none_was_free_is_capacity() -> None:
    driver, _, worker, cookie = busy()
    driver.result(worker, cookie)
    assert offers(driver) == [("p", "q")]


def test_a_slot_that_is_freed_where_others_were_free_is_no_news() -> None:
    driver = observed()
    client, worker = driver.client(), driver.worker(3)
    cookies = [driver.run(client) for _ in range(2)]
    offers(driver)
    for cookie in cookies:
        driver.result(worker, cookie)
    assert offers(driver) == []


def test_a_slot_that_is_freed_and_taken_again_at_once_is_no_capacity() -> None:
    driver, client, worker, cookie = busy()
    driver.run(client)
    driver.result(worker, cookie)
    assert offers(driver) == []


def test_a_worker_that_registers_and_is_filled_at_once_is_no_capacity() -> None:
    driver = observed()
    client = driver.client()
    for _ in range(2):
        driver.run(client)
    driver.worker(2)
    assert offers(driver) == []


def test_a_slot_of_a_worker_that_takes_no_jobs_is_no_capacity() -> None:
    for cease in ("drain", "congest"):
        driver, _, worker, cookie = busy()
        if cease == "drain":
            driver.send(worker, packets.drain())
        else:
            driver.congest(worker)
        driver.result(worker, cookie)
        assert offers(driver) == [], cease


def test_a_slot_of_a_worker_that_takes_no_jobs_is_no_news_beside_a_free_one() -> None:
    driver = observed()
    client, first = driver.client(), driver.worker(1)
    driver.worker(1)
    cookie = driver.run(client)
    driver.send(first, packets.drain())
    offers(driver)
    driver.result(first, cookie)
    assert offers(driver) == []


def test_a_worker_that_is_writable_again_is_capacity() -> None:
    driver = observed()
    worker = driver.worker(1)
    driver.congest(worker)
    offers(driver)
    driver.unblock(worker)
    assert offers(driver) == [("*",)]


def test_a_slot_that_has_rested_is_capacity_and_not_before() -> None:
    driver = observed()
    client, worker = driver.client(), driver.worker(2, dialect=Dialect.JSON)
    cookies = [driver.run(client) for _ in range(2)]
    offers(driver)
    driver.result(worker, cookies[0])
    assert offers(driver) == []
    driver.advance(0.1)
    assert offers(driver) == [("*",)]
    driver.result(worker, cookies[1])
    driver.advance(0.1)
    assert offers(driver) == []


def test_a_withheld_slot_is_capacity_when_its_worker_lets_go() -> None:
    driver, client, worker, cookie = busy()
    driver.cancel(client, cookie, at_once=True)
    driver.advance(5)
    assert offers(driver) == []
    driver.result(worker, cookie)
    assert offers(driver) == [("p", "q")]


# Log lines


def events(driver: SwitchboardDriver) -> list[tuple[str, str]]:
    return [(level, event) for level, event, _ in driver.logs]


def test_the_life_of_a_route_is_logged_only_where_routes_are() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.logs.clear()
    for log_routes in (False, True):
        driver.switchboard.effects.log_routes = log_routes
        cookie = driver.run(client, "the.pipeline")
        worker = driver.worker()
        driver.result(worker, cookie)
        driver.disconnect(worker)
        lines = [line for line in driver.logs if line[0] == "debug"]
        assert [event for _, event, _ in lines] == (["route queued", "route dispatched", "route over"] if log_routes else [])
        for _, _, fields in lines:
            assert (fields["cookie"], fields["pipeline"]) == (cookie.hex(), "the.pipeline")


def test_peers_that_come_and_register_and_drain_are_logged() -> None:
    driver = SwitchboardDriver()
    worker = driver.worker(3, ["a"])
    driver.send(worker, packets.drain())
    assert events(driver) == [
        ("info", "connection welcomed"),
        ("info", "worker registered"),
        ("info", "worker draining"),
    ]
    assert driver.logs[1][2] == {"connection": worker.id.hex(), "name": "", "capacity": 3, "serves": ["a"]}


def test_no_log_line_holds_more_than_a_few_of_a_workers_patterns_nor_any_payload() -> None:
    driver = SwitchboardDriver()
    driver.switchboard.effects.log_routes = True
    client, worker = driver.client(), driver.worker(1, [f"p{number}" for number in range(1000)])
    driver.result(worker, driver.run(client, "p1", variables=b'"a secret"'), b'"another secret"')
    assert "secret" not in repr(driver.logs)
    assert max(len(repr(line)) for line in driver.logs) < 500
