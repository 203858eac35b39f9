"""Jobs that wait for a slot: in which order, up to how many, and who may not wait."""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType, Role
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver


def cookies_of(worker: FakeLink) -> list[bytes]:
    """The jobs that a worker was sent since the last time, in order."""
    return [packet.cookie for packet in worker.take() if packet.kind == PacketType.RUN]


def drain_one_by_one(driver: SwitchboardDriver, worker: FakeLink) -> list[bytes]:
    """Answer whatever the worker is sent, until nothing comes any more; the jobs in the order in which they came."""
    order: list[bytes] = []
    while got := cookies_of(worker):
        order += got
        for cookie in got:
            driver.result(worker, cookie)
    return order


# Order


def test_jobs_of_one_pipeline_are_first_in_first_out() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    cookies = [driver.run(client) for _ in range(5)]
    assert drain_one_by_one(driver, driver.worker(1)) == cookies


def test_jobs_of_many_pipelines_and_clients_are_first_in_first_out_for_a_worker_that_serves_them_all() -> None:
    driver = SwitchboardDriver()
    clients = [driver.client() for _ in range(3)]
    pipelines = ("a", "b", "a", "c", "b", "b", "a", "c", "c", "a")
    cookies = [driver.run(clients[number % 3], pipeline) for number, pipeline in enumerate(pipelines)]
    assert drain_one_by_one(driver, driver.worker(1)) == cookies


def test_json_text_and_other_variables_wait_in_one_line() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    cookies = [driver.run(client, encoding=encoding) for encoding in ("json", "msgpack", "msgpack", "json", "text")]
    assert drain_one_by_one(driver, driver.worker(1)) == cookies


def test_a_freed_slot_gets_the_oldest_job_that_its_worker_serves() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    picky, any_ = driver.worker(1, ["b"]), driver.worker(1, ["*"])
    first, second = driver.run(client, "b"), driver.run(client, "a")
    for worker in (picky, any_):
        worker.take()
    for pipeline in ("a", "b", "a", "b"):
        driver.run(client, pipeline, cookie=f"{pipeline}{driver.switchboard.waiting}".encode() * 8)
    driver.result(picky, first)
    assert cookies_of(picky) == [b"b1" * 8]
    driver.result(any_, second)
    assert cookies_of(any_) == [b"a0" * 8]
    driver.result(any_, b"a0" * 8)
    assert cookies_of(any_) == [b"a2" * 8]
    driver.result(picky, b"b1" * 8)
    assert cookies_of(picky) == [b"b3" * 8]


def test_a_job_that_another_pool_took_is_not_looked_for_again() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    old = [driver.run(client, "a") for _ in range(3)]
    young = driver.run(client, "b")
    first = driver.worker(1, ["a"])
    assert cookies_of(first) == old[:1]
    second = driver.worker(2, ["a", "b"])
    assert cookies_of(second) == old[1:]
    driver.result(first, old[0])
    assert cookies_of(first) == []
    driver.result(second, old[1])
    assert cookies_of(second) == [young]


@pytest.mark.parametrize("gone", [[0], [2], [4], [0, 1, 2], [1, 3], [0, 1, 2, 3, 4]])
def test_jobs_that_stopped_waiting_are_passed_over(gone: list[int]) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    cookies = [driver.run(client) for _ in range(5)]
    for number in gone:
        driver.cancel(client, cookies[number])
    later = driver.run(client)
    left = [cookie for number, cookie in enumerate(cookies) if number not in gone]
    assert drain_one_by_one(driver, driver.worker(1)) == [*left, later]


def test_ten_thousand_cancelled_jobs_do_not_hide_the_one_behind_them() -> None:
    driver = SwitchboardDriver(checks=False)
    client = driver.client()
    for cookie in [driver.run(client) for _ in range(10_000)]:
        driver.cancel(client, cookie)
    last = driver.run(client)
    assert cookies_of(driver.worker(3)) == [last]
    driver.switchboard.invariants()


def test_a_worker_that_registers_gets_what_waits_for_it_at_once_up_to_its_capacity() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    cookies = [driver.run(client) for _ in range(5)]
    assert cookies_of(driver.worker(3)) == cookies[:3]
    assert driver.switchboard.waiting == 2


def test_no_slot_stays_free_while_a_job_waits_that_could_have_it() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [driver.worker(2, ["a"]), driver.worker(2, ["b"]), driver.worker(1, ["*"])]
    cookies = [driver.run(client, "a") for _ in range(6)]
    assert (driver.switchboard.waiting, driver.switchboard.free_slots("b")) == (3, 2)
    held = {cookie: worker for worker in workers for cookie in cookies_of(worker)}
    for done, cookie in enumerate(cookies, 1):
        worker = held[cookie]
        driver.result(worker, cookie)
        held |= dict.fromkeys(cookies_of(worker), worker)
        assert driver.switchboard.waiting == max(0, 3 - done)


# Who may not wait


def test_a_job_that_is_not_to_wait_is_refused_at_once() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.run(client, queue=False)
    assert client.take_reply() == (Code.NOT_SERVED, "no connected worker serves this pipeline")
    worker = driver.worker(1)
    cookie = driver.run(client, queue=False)
    assert (cookies_of(worker), client.take()) == ([cookie], [])
    driver.run(client, queue=False)
    assert client.take_reply() == (Code.NO_CAPACITY, "No capacity available")
    driver.result(worker, cookie)
    client.take()
    assert (cookies_of(worker), driver.switchboard.jobs) == ([], 0)


def test_a_json_client_is_not_queued_for() -> None:
    driver = SwitchboardDriver()
    client = driver.client(Dialect.JSON)
    driver.run(client)
    worker = driver.worker(1)
    driver.run(client)
    driver.run(client)
    assert [told["rc"] for told in client.take_json()] == ["NO_CAPACITY", "NO_CAPACITY"]
    assert (len(cookies_of(worker)), driver.switchboard.jobs) == (1, 1)


def test_a_json_client_is_queued_for_where_its_listener_is_configured_so() -> None:
    driver = SwitchboardDriver()
    client = driver.client(Dialect.JSON, queues=True)
    cookies = [driver.run(client) for _ in range(3)]
    assert client.take_json() == []
    assert drain_one_by_one(driver, driver.worker(1)) == cookies


def test_a_json_client_gets_the_slot_that_a_waiting_job_does_not_need() -> None:
    driver = SwitchboardDriver()
    queued, client = driver.client(), driver.client(Dialect.JSON)
    driver.run(queued, "other")
    worker = driver.worker(1, ["p"])
    cookie = driver.run(client)
    assert cookies_of(worker) == [cookie]


# Limits


def overloaded(client: FakeLink) -> str:
    """The sentence of the one REPLY, which is OVERLOADED and tells when to try again."""
    packet = client.take_one(PacketType.REPLY)
    meta = schemas.reply_meta(packet.meta)
    assert (packet.code, meta.to, 750 <= meta.retry <= 1250) == (Code.OVERLOADED, PacketType.RUN, True)
    return meta.msg


def test_the_backlog_holds_so_many_jobs_and_no_more() -> None:
    driver = SwitchboardDriver(Limits(backlog_jobs_max=3))
    client = driver.client()
    cookies = [driver.run(client, pipeline) for pipeline in ("a", "b", "c")]
    client.take()
    driver.run(client)
    assert overloaded(client).startswith("3 jobs of ")
    driver.cancel(client, cookies[1])
    client.take()
    driver.run(client)
    assert client.take_reply()[0] == Code.QUEUED


def test_the_backlog_holds_so_many_bytes_and_no_more() -> None:
    size = len(packets.json_run(b"k" * 16, "p", bytes(100), detach=False))
    driver = SwitchboardDriver(Limits(backlog_bytes_max=2 * size))
    client = driver.client()
    options = schemas.encode_meta(schemas.RunOptions(p="p", enc="json"))
    for _ in range(3):
        driver.send(client, packets.run(driver.new_cookie(), options, bytes(100)))
    assert client.take_codes() == [
        (PacketType.REPLY, Code.QUEUED),
        (PacketType.REPLY, Code.QUEUED),
        (PacketType.REPLY, Code.OVERLOADED),
    ]
    driver.run(client, variables=b"")
    assert overloaded(client) == f"2 jobs of {2 * size} bytes wait already"


def test_a_full_backlog_refuses_only_jobs_that_would_have_to_wait() -> None:
    driver = SwitchboardDriver(Limits(backlog_jobs_max=1))
    client, worker = driver.client(), driver.worker(1, ["served"])
    driver.run(client, "unserved")
    client.take()
    cookie = driver.run(client, "served")
    assert (cookies_of(worker), client.take()) == ([cookie], [])


def test_results_flow_while_runs_are_refused() -> None:
    driver = SwitchboardDriver(Limits(backlog_jobs_max=1))
    client, worker = driver.client(), driver.worker(1)
    running, _ = driver.run(client), driver.run(client)
    client.take()
    driver.run(client)
    overloaded(client)
    driver.result(worker, running)
    assert client.take_one(PacketType.RESULT).cookie == running


def test_a_job_that_left_the_backlog_makes_room_whatever_made_it_leave() -> None:
    driver = SwitchboardDriver(Limits(backlog_jobs_max=1, heartbeat_s=100.0, lease_s=200.0))
    client = driver.client()
    for leave in ("cancel", "deadline", "dispatch"):
        cookie = driver.run(client, "p", left_ms=50 if leave == "deadline" else 0)
        assert client.take_reply()[0] == Code.QUEUED, leave
        if leave == "cancel":
            driver.cancel(client, cookie)
        elif leave == "deadline":
            driver.advance(0.1)
        else:
            driver.worker(1)
        client.take()
        assert driver.switchboard.waiting == 0, leave


@pytest.mark.parametrize("end", ["report", "loss"])
def test_a_job_that_waits_is_not_begun_while_a_worker_says_that_it_holds_it(end: str) -> None:
    """After a restart of the broker, say: the worker has it from the run before, and the client has sent it anew."""
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.connect(Role.WORKER)
    cookie = driver.run(client)
    driver.greet(worker, schemas.HelloMeta(name="w"))
    driver.send(worker, packets.register(schemas.RegisterMeta(cap=1, serves=["*"], held=[(cookie, 1)]), 1))
    other = driver.worker(1)
    client.take()
    assert (worker.take_codes(), other.take()) == ([(PacketType.REPLY, Code.OK)], [])
    if end == "report":
        driver.result(worker, cookie)
    else:
        driver.disconnect(worker)
    runs = [packet for link in (worker, other) for packet in link.take()]
    assert [(packet.kind, packet.cookie, packet.attempt) for packet in runs] == [(PacketType.RUN, cookie, 1)]
    assert client.take() == []


def held_back(driver: SwitchboardDriver, cookie: bytes, capacity: int = 1) -> FakeLink:
    """A worker that registers and says that it holds a job."""
    worker = driver.connect(Role.WORKER)
    driver.greet(worker, schemas.HelloMeta(name="w"))
    driver.send(worker, packets.register(schemas.RegisterMeta(cap=capacity, serves=["*"], held=[(cookie, 1), (cookie, 2)]), 1))
    worker.take()
    return worker


def test_a_job_that_was_held_back_has_one_place_among_those_that_wait() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    other, cookie = driver.run(client), driver.run(client)
    worker = held_back(driver, cookie)
    driver.result(worker, cookie)
    assert cookies_of(worker) == [other]
    driver.result(worker, other)
    assert cookies_of(worker) == [cookie]
    driver.result(worker, cookie)
    assert (cookies_of(worker), driver.switchboard.waiting, driver.switchboard.jobs) == ([], 0, 0)


def test_a_job_that_is_admitted_while_a_worker_says_that_it_holds_it_is_not_begun() -> None:
    driver = SwitchboardDriver(admits=True)
    client = driver.client()
    cookie = driver.run(client)
    worker = held_back(driver, cookie, 2)
    driver.admit(cookie)
    assert (worker.take(), client.take_reply()[0]) == ([], Code.QUEUED)
    driver.result(worker, cookie)
    assert cookies_of(worker) == [cookie]
    driver.result(worker, cookie)
    assert client.take_one(PacketType.RESULT).code == Code.OK
    assert driver.switchboard.free_slots("p") == 2
