"""Pipelines and options seen before are remembered, up to a bound; what was forgotten is found again, and dispatch stays right."""

import pytest

from reasonchip_broker.limits import OPTIONS_CACHED_BYTES_MAX, OPTIONS_CACHED_MAX, PIPELINES_KNOWN_MAX
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver


def flood(driver: SwitchboardDriver, client: FakeLink, count: int = PIPELINES_KNOWN_MAX + 1) -> None:
    """Ask for many pipelines that nobody serves; the jobs are refused."""
    client.take()
    for number in range(count):
        driver.run(client, f"flood.{number}", queue=False)
    assert {code for _, code in client.take_codes()} <= {Code.NOT_SERVED, Code.NO_CAPACITY}


def make() -> tuple[SwitchboardDriver, FakeLink]:
    driver = SwitchboardDriver(checks=False)
    return driver, driver.client()


def test_a_pipeline_that_was_forgotten_is_served_by_workers_that_came_meanwhile() -> None:
    driver, client = make()
    driver.cancel(client, driver.run(client, "mine"))
    flood(driver, client)
    worker = driver.worker(1, ["mine"])
    cookie = driver.run(client, "mine")
    assert worker.take_one(PacketType.RUN).cookie == cookie
    driver.switchboard.invariants()


def test_a_pipeline_that_was_forgotten_is_not_served_by_workers_that_left_meanwhile() -> None:
    driver, client = make()
    worker = driver.worker(1, ["mine"])
    driver.result(worker, driver.run(client, "mine"))
    flood(driver, client)
    driver.disconnect(worker)
    client.take()
    driver.run(client, "mine")
    assert client.take_reply()[0] == Code.QUEUED
    driver.switchboard.invariants()


def test_asking_for_free_slots_of_many_pipelines_forgets_no_worker() -> None:
    driver, client = make()
    driver.cancel(client, driver.run(client, "mine"))
    for number in range(PIPELINES_KNOWN_MAX + 1):
        assert driver.switchboard.free_slots(f"other.{number}") == 0
    worker = driver.worker(1, ["mine"])
    cookie = driver.run(client, "mine")
    assert worker.take_one(PacketType.RUN).cookie == cookie
    driver.switchboard.invariants()


def test_pipelines_with_waiting_jobs_are_not_forgotten() -> None:
    driver, client = make()
    cookies = [driver.run(client, "mine") for _ in range(3)]
    flood(driver, client)
    later = driver.run(client, "mine")
    worker = driver.worker(10, ["mine"])
    assert [packet.cookie for packet in worker.take()] == [*cookies, later]
    driver.switchboard.invariants()


def test_a_running_job_of_a_forgotten_pipeline_ends_as_usual() -> None:
    driver, client = make()
    worker = driver.worker(1, ["mine"])
    running, waiting = driver.run(client, "mine"), driver.run(client, "mine")
    flood(driver, client)
    worker.take()
    driver.result(worker, running)
    assert worker.take_one(PacketType.RUN).cookie == waiting
    driver.result(worker, waiting)
    assert len(client.take()) == 2
    driver.switchboard.invariants()


def test_the_order_of_waiting_jobs_survives_forgetting() -> None:
    driver, client = make()
    cookies = [driver.run(client, pipeline) for pipeline in ("a", "b", "a", "c", "b")]
    driver.cancel(client, cookies[3])
    flood(driver, client)
    worker = driver.worker(1)
    order = []
    while runs := worker.take():
        order += [packet.cookie for packet in runs]
        driver.result(worker, order[-1])
    assert order == [cookies[0], cookies[1], cookies[2], cookies[4]]
    driver.switchboard.invariants()


def test_more_pipelines_may_wait_than_are_remembered_idle() -> None:
    driver, client = make()
    cookies = [driver.run(client, f"p.{number}") for number in range(PIPELINES_KNOWN_MAX + 50)]
    flood(driver, client, 200)
    worker = driver.worker(10_000)
    last = driver.worker(10_000)
    assert [packet.cookie for packet in (*worker.take(), *last.take())] == cookies
    driver.switchboard.invariants()


def test_more_options_than_are_kept_are_still_read_right() -> None:
    driver, client = make()
    workers = [driver.worker(10_000) for _ in range(4)]
    names = [f"p{number}" for number in range(OPTIONS_CACHED_MAX + 10)]
    sent = {driver.run(client, name): name for name in (*names, *names)}
    runs = [packet for worker in workers for packet in worker.take_kinds(PacketType.RUN)]
    assert {packet.cookie: schemas.run_options(packet.meta).p for packet in runs} == sent


@pytest.mark.parametrize("surplus", [0, OPTIONS_CACHED_BYTES_MAX, 3 * OPTIONS_CACHED_BYTES_MAX])
def test_long_options_are_read_like_short_ones(surplus: int) -> None:
    driver, client = make()
    worker = driver.worker(1, ["p"])
    meta = b"\x82\xa1p\xa1p\xa1x\xc5" + surplus.to_bytes(2, "big") + bytes(surplus)
    for _ in range(3):
        cookie = driver.new_cookie()
        driver.send(client, packets.run(cookie, meta, b""))
        assert worker.take_one(PacketType.RUN).cookie == cookie
        driver.result(worker, cookie)


def test_the_same_pipeline_with_other_options_is_another_request_and_the_same_line() -> None:
    driver, client = make()
    first = driver.run(client, "p")
    second = driver.run(client, "p", reply=True)
    client.take()
    driver.run(client, "p", queue=False)
    assert client.take_reply()[0] == Code.NOT_SERVED
    assert [packet.cookie for packet in driver.worker(5).take()] == [first, second]
