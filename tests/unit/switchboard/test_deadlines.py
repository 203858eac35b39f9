"""A job that is not over by its deadline is over then, wherever it is."""

import pytest

from reasonchip_broker.limits import TIMER_TICK_S, Limits
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import NUMBER_MAX
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.routing.timers import AT_ONCE
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

LIMITS = Limits(cancel_grace_s=4.0, kill_grace_s=2.0, heartbeat_s=1000.0, lease_s=2000.0, retention_s=1.0)


def make(capacity: int = 0, *, json_cancel: bool = False) -> tuple[SwitchboardDriver, FakeLink]:
    driver = SwitchboardDriver(LIMITS, json_cancel=json_cancel)
    return driver, driver.client()


def outcome_of(client: FakeLink) -> tuple[Code, bool, str]:
    packet = client.take_one(PacketType.RESULT)
    return Code(packet.code), schemas.result_meta(packet.meta).ran, schemas.failure(packet.payload).error


@pytest.mark.parametrize("left_ms", [1, 4, 5, 6, 250, 60_000])
def test_a_job_that_waits_is_over_at_its_deadline_not_before_and_at_most_a_tick_later(left_ms: int) -> None:
    driver, client = make()
    driver.run(client, left_ms=left_ms)
    client.take()
    driver.advance(left_ms / 1000 - 0.0001)
    assert client.take() == []
    driver.advance(TIMER_TICK_S + 0.0002)
    assert outcome_of(client) == (Code.DEADLINE_EXCEEDED, False, "the deadline passed before a slot was free")
    assert driver.worker().take() == []


def test_deadlines_of_one_moment_do_not_all_end_in_one_step_but_they_do_end() -> None:
    driver, client = make()
    jobs = 3 * AT_ONCE
    for _ in range(jobs):
        driver.run(client, left_ms=500)
    client.take()
    driver.jump(0.51)
    assert driver.switchboard.jobs == jobs - AT_ONCE
    driver.advance(0.0)
    assert driver.switchboard.jobs == 0
    assert [Code(packet.code) for packet in client.take()] == [Code.DEADLINE_EXCEEDED] * jobs


def test_a_running_job_is_over_at_its_deadline_and_its_worker_is_asked_to_stop() -> None:
    driver, client = make()
    worker = driver.worker()
    cookie = driver.run(client, left_ms=500)
    worker.take()
    driver.advance(0.51)
    assert outcome_of(client) == (Code.DEADLINE_EXCEEDED, True, "the deadline passed while the job ran")
    cancel = worker.take_one(PacketType.CANCEL)
    assert (cancel.cookie, schemas.cancel_meta(cancel.meta)) == (cookie, schemas.CancelMeta(why="the deadline passed"))
    assert driver.switchboard.free_slots("p") == 0
    driver.fail(worker, cookie, Code.CANCELLED)
    driver.advance(3 * LIMITS.retention_s)
    assert (client.take(), driver.switchboard.free_slots("p"), len(driver.switchboard.timers)) == ([], 1, 2)


def test_a_worker_that_goes_on_after_the_deadline_is_told_to_stop_at_once_and_its_slot_stays_withheld() -> None:
    driver, client = make()
    worker = driver.worker()
    driver.run(client, left_ms=500)
    driver.advance(20)
    assert [schemas.cancel_meta(packet.meta).now for packet in worker.take()[1:]] == [False, True]
    assert [line[1] for line in driver.logs if line[0] == "warning"] == ["slot withheld: worker did not stop"]
    assert (len(client.take()), driver.switchboard.free_slots("p")) == (1, 0)


def test_a_worker_that_was_asked_to_stop_already_is_not_asked_again() -> None:
    driver, client = make()
    worker = driver.worker()
    cookie = driver.run(client, left_ms=500)
    driver.cancel(client, cookie)
    client.take()
    driver.advance(0.6)
    assert outcome_of(client)[0] == Code.DEADLINE_EXCEEDED
    assert [packet.kind for packet in worker.take()] == [PacketType.RUN, PacketType.CANCEL]
    driver.advance(3.5)
    assert schemas.cancel_meta(worker.take_one(PacketType.CANCEL).meta).now


@pytest.mark.parametrize("json_cancel", [False, True])
def test_a_json_worker_is_told_of_a_deadline_only_where_it_is_told_of_a_cancel(json_cancel: bool) -> None:
    driver, client = make(json_cancel=json_cancel)
    worker = driver.worker(dialect=Dialect.JSON)
    driver.run(client, left_ms=500)
    worker.take()
    driver.advance(1)
    assert outcome_of(client)[0] == Code.DEADLINE_EXCEEDED
    assert [packet.kind for packet in worker.take()] == ([PacketType.CANCEL] if json_cancel else [])


def test_a_result_in_time_is_the_outcome_and_the_deadline_is_forgotten() -> None:
    driver, client = make()
    worker = driver.worker()
    cookie = driver.run(client, left_ms=500)
    driver.advance(0.49)
    driver.result(worker, cookie)
    assert client.take_one(PacketType.RESULT).code == Code.OK
    driver.advance(10)
    assert (client.take(), len(driver.switchboard.timers)) == ([], 2)


def test_a_result_after_the_deadline_is_discarded() -> None:
    driver, client = make()
    worker = driver.worker()
    cookie = driver.run(client, left_ms=500)
    driver.advance(0.51)
    client.take()
    driver.result(worker, cookie)
    assert (client.take(), driver.switchboard.free_slots("p")) == ([], 1)


def test_the_worker_is_told_how_much_time_is_left() -> None:
    driver, client = make()
    driver.run(client, left_ms=10_000)
    driver.advance(4)
    worker = driver.worker(2)
    run = worker.take_one(PacketType.RUN)
    assert (run.number, run.attempt) == (6000, 1)
    driver.run(client, left_ms=10_000)
    assert worker.take_one(PacketType.RUN).number == 10_000
    driver.run(client)
    client.take()
    driver.worker().take_one(PacketType.RUN)


def test_no_deadline_is_told_as_none() -> None:
    driver, client = make()
    worker = driver.worker()
    driver.run(client)
    assert worker.take_one(PacketType.RUN).number == 0


def test_at_least_a_millisecond_is_left_for_a_job_that_is_sent_out_at_all() -> None:
    driver, client = make()
    driver.run(client, left_ms=1)
    driver.clock.advance(0.0011)
    assert driver.worker().take_one(PacketType.RUN).number == 1


def test_the_farthest_deadline_of_all_is_kept() -> None:
    driver, client = make()
    worker = driver.worker()
    driver.run(client, left_ms=NUMBER_MAX)
    assert worker.take_one(PacketType.RUN).number == NUMBER_MAX
    driver.clock.advance_to(driver.clock.now + NUMBER_MAX / 1000 - 1)
    assert client.take() == []
    driver.jump(1.01)
    assert (PacketType.RESULT, Code.DEADLINE_EXCEEDED) in client.take_codes()


@pytest.mark.parametrize("gone", ["client", "worker"])
def test_a_deadline_of_a_job_that_is_nobodys_any_more_is_harmless(gone: str) -> None:
    driver, client = make()
    worker = driver.worker()
    driver.run(client, left_ms=500)
    driver.disconnect(client if gone == "client" else worker)
    driver.advance(1)
    assert (driver.switchboard.jobs, driver.switchboard.counters.finished) == (0, 1)


def test_a_freed_slot_goes_to_a_job_that_still_has_time() -> None:
    driver, client = make()
    worker = driver.worker()
    running = driver.run(client)
    driver.run(client, left_ms=100)
    patient = driver.run(client)
    driver.advance(0.2)
    worker.take()
    driver.result(worker, running)
    assert worker.take_one(PacketType.RUN).cookie == patient


def test_many_deadlines_at_one_moment_end_in_the_order_in_which_the_jobs_came() -> None:
    driver, client = make()
    cookies = [driver.run(client, left_ms=100) for _ in range(50)]
    client.take()
    driver.advance(0.2)
    assert [packet.cookie for packet in client.take()] == cookies
