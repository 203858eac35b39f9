"""What a job costs does not depend on how many workers there are, nor on how many jobs wait.

Both sides of each comparison are measured in the same run, in processor time, and in turn: a few jobs of one, a few of the other. What
a processor's time is worth changes within milliseconds by half, since two of them may be threads of one core; what takes turns that
are shorter sees the same of it. The median of several rounds counts.
"""

import time
from collections.abc import Callable
from statistics import median

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_BYTES, ENCODING_JSON, PacketType
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, view

ROUNDS = 9
TURNS = 50
JOBS = 40
"""So many in a turn: less than a millisecond."""

RATIO_MAX = 1.5

pytestmark = pytest.mark.needs_interpreted_core
"""The compiled core is the same source, so it scans nothing either; but its steps are so short that what the processor's caches make
of ten thousand keys is half of them."""

LIMITS = Limits(heartbeat_s=1e6, lease_s=2e6, client_jobs_max=10_000_000, backlog_jobs_max=10_000_000)
OPTIONS = {
    encoding: schemas.encode_meta(schemas.RunOptions(p="p", enc=encoding)) for encoding in (ENCODING_BYTES, ENCODING_JSON)
}


def run_frames(count: int, first: int = 0, encoding: str = ENCODING_BYTES) -> list[Frame]:
    """So many RUNs; in JSON they are not plain (`routing/plain.py`)."""
    return [view(packets.run((first + number).to_bytes(16, "big"), OPTIONS[encoding], b"1")) for number in range(1, count + 1)]


def result_frame(cookie: bytes) -> Frame:
    return view(packets.result(cookie, 1, b"2", ENCODING_JSON))


def require_the_same(few: Callable[[], float], many: Callable[[], float]) -> None:
    """Fail if the second takes more than `RATIO_MAX` times as long as the first."""
    rounds = []
    for _ in range(ROUNDS):
        turns = [(few(), many()) for _ in range(TURNS)]
        few_s, many_s = map(sum, zip(*turns, strict=True))
        rounds.append(many_s / few_s)
    assert median(rounds) <= RATIO_MAX, f"times as long, in each of {ROUNDS} rounds: {sorted(rounds)}"


def make(workers: int, capacity: int) -> tuple[SwitchboardDriver, FakeLink]:
    driver = SwitchboardDriver(LIMITS, checks=False)
    client = driver.client()
    for _ in range(workers):
        driver.worker(capacity)
    return driver, client


def job_after_job(driver: SwitchboardDriver, client: FakeLink, encoding: str) -> Callable[[], float]:
    """Measures a turn of jobs, each sent and answered before the next one."""
    frames = [(run, result_frame(run[1])) for run in run_frames(JOBS, encoding=encoding)]
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
    require_the_same(job_after_job(*make(1, capacity), encoding), job_after_job(*make(10_000, capacity), encoding))


def queued_jobs(waiting: int) -> Callable[[], float]:
    """Measures a turn of jobs that are queued behind others, and as many that are taken from the front of the queue."""
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
        frames = run_frames(JOBS, arrived)
        arrived += JOBS
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
    require_the_same(queued_jobs(2), queued_jobs(200_000))


def jobs_of_keys(keys: int) -> Callable[[], float]:
    """Measures a turn of jobs of so many fairness keys that are queued, and as many that are taken in their turns."""
    driver, client = make(0, 1)
    board = driver.switchboard
    effects = board.effects
    metas = [schemas.encode_meta(schemas.RunOptions(p="p", enc=ENCODING_BYTES, key=f"{number}")) for number in range(keys)]
    frames = [view(packets.run((1 + n).to_bytes(16, "big"), metas[n % keys], b"1")) for n in range(20_000)]
    for frame in frames:
        board.received(client.peer, [frame], driver.clock.now)
    worker = driver.worker(1)
    held = [packet.cookie for packet in worker.take() if packet.kind == PacketType.RUN]
    effects.clear_sends()
    client.unread.clear()
    arrived = len(frames)

    def measure() -> float:
        nonlocal arrived
        fresh = [view(packets.run((1 + n).to_bytes(16, "big"), metas[n % keys], b"1")) for n in range(arrived, arrived + JOBS)]
        arrived += JOBS
        begin = time.process_time()
        for frame in fresh:
            driver.clock.now += 0.001
            board.received(client.peer, [frame], driver.clock.now)
            effects.clear_sends()
            board.received(worker.peer, [result_frame(held.pop())], driver.clock.now)
            held.append(worker.peer.sends[-1][8:24])
            effects.clear_sends()
        return time.process_time() - begin

    return measure


@pytest.mark.slow
def test_a_queued_job_costs_the_same_with_2_and_with_10_000_fairness_keys() -> None:
    require_the_same(jobs_of_keys(2), jobs_of_keys(10_000))


def cancelled_jobs(waiting: int) -> Callable[[], float]:
    """Measures a turn of jobs that are queued and cancelled, among others that wait."""
    driver, client = make(0, 1)
    board = driver.switchboard
    effects = board.effects
    for frame in run_frames(waiting):
        board.received(client.peer, [frame], driver.clock.now)
    effects.clear_sends()
    frames = [(run, view(packets.cancel(run[1]))) for run in run_frames(JOBS, waiting)]

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
    require_the_same(cancelled_jobs(1), cancelled_jobs(200_000))
