"""A worker whose outbox is over its mark gets no jobs; a worker that is filled up is not sent more than the mark at once."""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

MARK = Limits(outbox_bytes_mark=1000)
KILOBYTE = b'"' + b"x" * 1000 + b'"'


def cookies_of(worker: FakeLink) -> list[bytes]:
    return [packet.cookie for packet in worker.take() if packet.kind == PacketType.RUN]


def test_a_congested_worker_gets_no_job_and_the_others_do() -> None:
    driver = SwitchboardDriver()
    client, slow, fast = driver.client(), driver.worker(5), driver.worker(5)
    driver.congest(slow)
    for _ in range(6):
        driver.run(client)
    assert (len(cookies_of(slow)), len(cookies_of(fast))) == (0, 5)
    assert (driver.switchboard.waiting, driver.switchboard.free_slots("p")) == (1, 0)


def test_a_worker_gets_what_waits_as_soon_as_it_is_writable_again() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(3)
    driver.congest(worker)
    cookies = [driver.run(client) for _ in range(4)]
    driver.unblock(worker)
    assert cookies_of(worker) == cookies[:3]


def test_a_congested_worker_still_reports_and_its_slots_are_counted() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(2)
    cookie = driver.run(client)
    driver.congest(worker)
    driver.result(worker, cookie)
    assert client.take_one(PacketType.RESULT).cookie == cookie
    driver.run(client)
    assert (client.take_reply()[0], driver.switchboard.free_slots("p")) == (Code.QUEUED, 0)
    driver.unblock(worker)
    assert driver.switchboard.free_slots("p") == 1


def test_a_congested_worker_still_gets_cancels() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    worker.take()
    driver.congest(worker)
    driver.cancel(client, cookie)
    worker.take_one(PacketType.CANCEL)


def test_to_be_congested_or_writable_twice_is_to_be_it_once() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(2)
    driver.congest(worker)
    driver.congest(worker)
    driver.run(client)
    driver.unblock(worker)
    driver.unblock(worker)
    assert len(cookies_of(worker)) == 1


def test_a_worker_that_registers_while_congested_gets_jobs_only_when_it_is_writable() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    cookie = driver.run(client)
    worker = driver.client()
    worker = driver.connect(role=driver.worker(1, ["other"]).role)
    driver.greet(worker)
    driver.congest(worker)
    driver.register(worker, 1)
    assert cookies_of(worker) == []
    driver.unblock(worker)
    assert cookies_of(worker) == [cookie]


def test_a_congested_client_is_answered_and_its_jobs_run() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    driver.congest(client)
    cookie = driver.run(client)
    driver.result(worker, cookie)
    assert client.take_one(PacketType.RESULT).code == Code.OK


@pytest.mark.parametrize("dialect", [Dialect.BINARY, Dialect.JSON])
def test_a_mass_fill_stops_at_the_mark_and_goes_on_when_there_is_room(dialect: Dialect) -> None:
    driver = SwitchboardDriver(MARK)
    client = driver.client()
    cookies = [driver.run(client, variables=KILOBYTE) for _ in range(5)]
    worker = driver.worker(10, dialect=dialect)
    assert (cookies_of(worker), worker.wants_writable) == (cookies[:1], True)
    for cookie in cookies[1:]:
        assert driver.switchboard.free_slots("p", as_json=True) == 0
        driver.unblock(worker)
        assert cookies_of(worker) == [cookie]
    # Nothing waits any more, so there was no reason to stop at the last one.
    assert not worker.wants_writable
    assert driver.switchboard.free_slots("p", as_json=True) == 5


def test_a_mass_fill_counts_the_bytes_of_many_small_jobs() -> None:
    driver = SwitchboardDriver(MARK)
    client = driver.client()
    for _ in range(100):
        driver.run(client)
    worker = driver.worker(100)
    sent = sum(map(len, worker.unread))
    assert 1000 <= sent < 1000 + len(worker.unread[0])
    assert driver.switchboard.waiting == 100 - len(worker.unread)


def test_a_mass_fill_that_takes_all_slots_does_not_stop_for_the_mark() -> None:
    driver = SwitchboardDriver(MARK)
    client = driver.client()
    for _ in range(3):
        driver.run(client, variables=KILOBYTE)
    worker = driver.worker(1)
    assert (len(cookies_of(worker)), worker.wants_writable) == (1, False)


def test_results_that_arrive_while_a_fill_is_stopped_bring_no_jobs() -> None:
    driver = SwitchboardDriver(MARK)
    client = driver.client()
    cookies = [driver.run(client, variables=KILOBYTE) for _ in range(4)]
    worker = driver.worker(3)
    assert cookies_of(worker) == cookies[:1]
    driver.result(worker, cookies[0])
    assert cookies_of(worker) == []
    driver.unblock(worker)
    assert cookies_of(worker) == cookies[1:2]


def test_jobs_beyond_the_mark_go_to_other_workers() -> None:
    driver = SwitchboardDriver(MARK)
    client = driver.client()
    cookies = [driver.run(client, variables=KILOBYTE) for _ in range(4)]
    workers = [driver.worker(10) for _ in range(4)]
    assert [cookies_of(worker) for worker in workers] == [[cookie] for cookie in cookies]


def test_a_worker_lost_while_its_fill_is_stopped_leaves_the_rest_waiting() -> None:
    driver = SwitchboardDriver(MARK)
    client = driver.client()
    for _ in range(4):
        driver.run(client, variables=KILOBYTE)
    worker = driver.worker(10)
    driver.disconnect(worker)
    driver.unblock(worker)
    assert (driver.switchboard.jobs, driver.switchboard.waiting) == (3, 3)


def test_what_a_slow_follower_is_sent_before_a_gap_takes_up_its_credit() -> None:
    driver = SwitchboardDriver(Limits(credit_frames=4))
    client, worker = driver.client(), driver.worker(name="w", process=b"p" * 16, grace_s=10)
    cookie = driver.run(client, follow=True)
    driver.congest(client)
    driver.progress(worker, cookie, 1)
    driver.disconnect(worker)
    worker = driver.worker(name="w", process=b"p" * 16, grace_s=10, held=[(cookie, 1)])
    driver.progress(worker, cookie, 3, 4, 5, 6)
    assert [packet.number for packet in client.take()] == [1]
    driver.unblock(client)
    # Of four chunks that it has room for one had come, and the gap takes up another's.
    assert [packet.number for packet in client.take()] == [2, 3, 4]
