"""What is over leaves nothing behind: no frame, no worker, no timer.

Memory is measured, so that it does not matter who would keep it.
"""

import gc
import tracemalloc
from collections.abc import Callable

import pytest

from reasonchip_broker.limits import KIB, MIB, Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import Dialect, PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

LIMITS = Limits(heartbeat_s=1e6, lease_s=2e6, cancel_grace_s=1.0, kill_grace_s=1.0, retention_s=1.0)


def grown_bytes(work: Callable[[], object], *, before: int = 2) -> int:
    """By how much memory grows when some work is done once more, all that is kept for good being kept by then."""
    tracemalloc.start()
    try:
        for _ in range(before):
            work()
        gc.collect()
        begin = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - begin
    finally:
        tracemalloc.stop()


def make(*, admits: bool = False) -> tuple[SwitchboardDriver, FakeLink]:
    driver = SwitchboardDriver(LIMITS, checks=False, admits=admits)
    return driver, driver.client()


def test_a_large_job_that_was_cancelled_while_it_waited_does_not_keep_its_frame() -> None:
    driver, client = make()

    def work() -> None:
        cookies = [driver.run(client, variables=bytes(MIB)) for _ in range(40)]
        for cookie in cookies:
            driver.cancel(client, cookie)
        client.take()

    assert grown_bytes(work, before=0) < MIB


def test_a_large_job_does_not_keep_its_frame_while_it_runs() -> None:
    driver, client = make()
    worker = driver.worker(1000)

    def work() -> None:
        for _ in range(20):
            driver.run(client, variables=bytes(MIB))
        worker.take()

    assert grown_bytes(work, before=0) < MIB


def test_a_large_job_that_was_admitted_does_not_keep_its_frame_while_it_runs() -> None:
    driver, client = make(admits=True)
    worker = driver.worker(1000)

    def work() -> None:
        for _ in range(20):
            driver.admit(driver.run(client, variables=bytes(MIB)))
        driver.admissions.clear()
        worker.take()

    assert grown_bytes(work, before=0) < MIB


def test_row_24_workers_that_come_and_go_beside_one_that_stays_leave_nothing() -> None:
    driver, _ = make()
    driver.worker(1)

    def work() -> None:
        for _ in range(3000):
            driver.disconnect(driver.worker(1))
        driver.links.clear()
        driver.logs.clear()

    assert grown_bytes(work) < 64 * KIB


def test_row_24_clients_that_come_and_go_leave_nothing() -> None:
    driver, _ = make()

    def work() -> None:
        for _ in range(3000):
            driver.disconnect(driver.client())
        driver.links.clear()
        driver.logs.clear()

    assert grown_bytes(work) < 64 * KIB


def test_a_worker_that_is_congested_and_writable_in_turn_leaves_nothing() -> None:
    driver, _ = make()
    worker = driver.worker(1)

    def work() -> None:
        for _ in range(5000):
            driver.congest(worker)
            driver.unblock(worker)

    assert grown_bytes(work) < 64 * KIB


@pytest.mark.parametrize("dialect", list(Dialect))
def test_jobs_that_were_done_leave_nothing(dialect: Dialect) -> None:
    driver, client = make()
    worker = driver.worker(7, dialect=dialect)

    def work() -> None:
        for _ in range(2000):
            driver.result(worker, driver.run(client))
            driver.advance(0.05)
        client.take()
        worker.take()
        driver.advance(3 * LIMITS.retention_s)

    assert grown_bytes(work) < 64 * KIB


def test_deadlines_that_never_came_leave_nothing() -> None:
    driver, client = make()
    worker = driver.worker(7)
    left_ms = iter(range(3_600_000, 5_000_000, 7))

    def work() -> None:
        for _ in range(5_000):
            driver.result(worker, driver.run(client, left_ms=next(left_ms)))
            client.take()
            worker.take()
        driver.advance(3 * LIMITS.retention_s)

    assert grown_bytes(work) < 256 * KIB


def test_jobs_that_waited_in_many_pipelines_leave_nothing_but_the_names() -> None:
    driver, client = make()

    def work() -> None:
        for number in range(2000):
            driver.cancel(client, driver.run(client, f"p{number}"))
        client.take()
        driver.advance(3 * LIMITS.retention_s)

    assert grown_bytes(work) < 64 * KIB


def test_row_15_a_register_of_any_capacity_takes_the_same_memory() -> None:
    def register(capacity: int) -> Callable[[], None]:
        def work() -> None:
            driver, _ = make()
            for _ in range(10):
                driver.worker(capacity)
            kept.append(driver)

        kept: list[SwitchboardDriver] = []
        return work

    assert grown_bytes(register(10_000)) < grown_bytes(register(1)) + 16 * KIB


def test_refusals_of_any_kind_leave_nothing() -> None:
    driver, client = make()
    running = driver.run(client)
    meta = schemas.encode_meta(schemas.RunOptions(p="p"))

    def work() -> None:
        for number in range(2000):
            driver.run(client, cookie=running)
            driver.run(client, queue=False)
            driver.cancel(client, number.to_bytes(16, "big"))
            driver.send(client, encode(PacketType.RUN, meta=b"\x80"), encode(99), packets.run(bytes(16), meta, b""))
        client.take()

    assert grown_bytes(work) < 64 * KIB
