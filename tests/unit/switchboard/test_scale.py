"""What a job costs does not depend on how many workers there are, nor on how many jobs wait.

Both sides of each comparison are measured in turn, in the same run, in processor time, and the best of several rounds counts: what a
busy machine adds to one round, it does not add to all.
"""

import time
from collections.abc import Callable

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_BYTES, ENCODING_JSON, PacketType
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, view

ROUNDS = 9
RATIO_MAX = 1.5
LIMITS = Limits(heartbeat_s=1e6, lease_s=2e6, client_jobs_max=10_000_000, backlog_jobs_max=10_000_000)
OPTIONS = {
    encoding: schemas.encode_meta(schemas.RunOptions(p="p", enc=encoding)) for encoding in (ENCODING_BYTES, ENCODING_JSON)
}


def run_frames(count: int, first: int = 0, encoding: str = ENCODING_BYTES) -> list[Frame]:
    """So many RUNs; in JSON they are not plain (`routing/plain.py`)."""
    return [view(packets.run((first + number).to_bytes(16, "big"), OPTIONS[encoding], b"1")) for number in range(1, count + 1)]


def result_frame(cookie: bytes) -> Frame:
    return view(packets.result(cookie, 1, b"2", ENCODING_JSON))


def best_s(*measured: Callable[[], float]) -> list[float]:
    """The best of some rounds of each, taken in turn."""
    rounds = [[measure() for measure in measured] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def make(workers: int, capacity: int) -> tuple[SwitchboardDriver, FakeLink]:
    driver = SwitchboardDriver(LIMITS, checks=False)
    client = driver.client()
    for _ in range(workers):
        driver.worker(capacity)
    return driver, client


def job_after_job(driver: SwitchboardDriver, client: FakeLink, count: int, encoding: str) -> Callable[[], float]:
    """Measures so many jobs, each sent and answered before the next one."""
    frames = [(run, result_frame(run[1])) for run in run_frames(count, encoding=encoding)]
    board = driver.switchboard
    effects = board.effects

    def measure() -> float:
        now = driver.clock.now
        begin = time.process_time()
        for run, result in frames:
            board.received(client.peer, [run], now)
            board.received(effects.recipients[0], [result], now)
            effects.clear_sends()
        return time.process_time() - begin

    return measure


@pytest.mark.slow
@pytest.mark.parametrize("encoding", [ENCODING_BYTES, ENCODING_JSON])
@pytest.mark.parametrize("capacity", [1, 8])
def test_a_job_costs_the_same_with_1_and_with_10_000_workers(capacity: int, encoding: str) -> None:
    jobs = 4000
    few, many = best_s(*(job_after_job(*make(workers, capacity), jobs, encoding) for workers in (1, 10_000)))
    assert many <= RATIO_MAX * few, f"{few / jobs * 1e6:.2f} µs a job with one worker, {many / jobs * 1e6:.2f} µs with 10,000"


def queued_jobs(waiting: int, count: int) -> Callable[[], float]:
    """Measures so many jobs that are queued behind others, and as many that are taken from the front of the queue."""
    driver, client = make(0, 1)
    board = driver.switchboard
    effects = board.effects
    for frame in run_frames(waiting):
        board.received(client.peer, [frame], driver.clock.now)
    worker = driver.worker(1)
    held = [packet.cookie for packet in worker.take() if packet.kind == PacketType.RUN]
    effects.clear_sends()
    client.unread.clear()
    arrived = waiting

    def measure() -> float:
        nonlocal arrived
        frames = run_frames(count, arrived)
        arrived += count
        now = driver.clock.now
        begin = time.process_time()
        for frame in frames:
            board.received(client.peer, [frame], now)
            effects.clear_sends()
            board.received(worker.peer, [result_frame(held.pop())], now)
            held.append(worker.peer.sends[-1][8:24])
            effects.clear_sends()
        return time.process_time() - begin

    return measure


@pytest.mark.slow
def test_a_queued_job_costs_the_same_with_1_and_with_200_000_jobs_before_it() -> None:
    jobs = 2000
    few, many = best_s(queued_jobs(2, jobs), queued_jobs(200_000, jobs))
    assert many <= RATIO_MAX * few, f"{few / jobs * 1e6:.2f} µs a job behind one, {many / jobs * 1e6:.2f} µs behind 200,000"


def cancelled_jobs(waiting: int, count: int) -> Callable[[], float]:
    """Measures so many jobs that are queued and cancelled, among others that wait."""
    driver, client = make(0, 1)
    board = driver.switchboard
    effects = board.effects
    for frame in run_frames(waiting):
        board.received(client.peer, [frame], driver.clock.now)
    effects.clear_sends()
    frames = [(run, view(packets.cancel(run[1]))) for run in run_frames(count, waiting)]

    def measure() -> float:
        now = driver.clock.now
        begin = time.process_time()
        for run, cancel in frames:
            board.received(client.peer, [run, cancel], now)
            effects.clear_sends()
        return time.process_time() - begin

    return measure


@pytest.mark.slow
def test_a_job_that_is_cancelled_while_it_waits_costs_the_same_among_1_and_among_200_000() -> None:
    jobs = 2000
    few, many = best_s(cancelled_jobs(1, jobs), cancelled_jobs(200_000, jobs))
    assert many <= RATIO_MAX * few, f"{few / jobs * 1e6:.2f} µs a job among one, {many / jobs * 1e6:.2f} µs among 200,000"
