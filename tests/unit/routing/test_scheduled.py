"""Jobs that are not to run before their time."""

import pytest

from reasonchip_broker.limits import PIPELINES_KNOWN_MAX
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType
from reasonchip_broker.routing.peers import PeerState
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver
from tests.unit.switchboard.interpreted import needs_interpreted_core

from .scenes import assert_nothing_is_left, driven, inside, kinds, outcome, ran, session

DAY_MS = 86_400_000


def scheduled(**options: object) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    """A job that may run in two seconds, and a worker with a free slot."""
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, **{"delay": 2_000, **options})  # type: ignore[arg-type]
    assert client.take_reply()[0] is Code.SCHEDULED
    return driver, client, worker, cookie


def counted(driver: SwitchboardDriver) -> tuple[int, int, int]:
    """Jobs that are not over, that wait for a slot, and that wait for their time."""
    board = driver.switchboard
    return board.jobs, board.waiting, board.scheduled


# Its time


def test_a_job_runs_at_its_time_and_not_before_though_a_slot_is_free() -> None:
    driver, client, worker, cookie = scheduled()
    assert counted(driver) == (1, 0, 1)
    driver.advance(1.999)
    assert (ran(worker), client.take()) == ([], [])
    driver.advance(0.006)
    assert ran(worker) == [(cookie, 1)]
    driver.result(worker, cookie)
    assert kinds(client.take()) == [PacketType.RESULT]
    assert counted(driver) == (0, 0, 0)


def test_without_a_slot_at_its_time_it_waits_behind_all_that_wait_and_nothing_is_said_of_it() -> None:
    driver, client, worker, cookie = scheduled()
    running, waiting = driver.run(client), driver.run(client)
    client.take()
    driver.advance(2.1)
    assert (client.take(), driver.status(client, cookie).state, counted(driver)) == ([], "queued", (3, 2, 0))
    driver.result(worker, running)
    driver.result(worker, waiting)
    assert ran(worker) == [(running, 1), (waiting, 1), (cookie, 1)]


def test_jobs_go_in_the_order_of_their_times_which_is_finer_than_that_of_the_timers() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(3)
    driver.advance(0.0001)
    last, first, second = (driver.run(client, delay=delay) for delay in (1_003, 1_001, 1_001))
    driver.advance(1.1)
    assert [cookie for cookie, _ in ran(worker)] == [first, second, last]


def test_a_broker_that_stood_still_takes_them_in_that_order_too() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2)
    later, sooner = driver.run(client, delay=3_000), driver.run(client, delay=1_000)
    driver.jump(60.0)
    assert [cookie for cookie, _ in ran(worker)] == [sooner, later]


def test_a_job_may_be_scheduled_for_as_far_ahead_as_the_limit_says_and_no_further() -> None:
    driver = driven()
    client = driver.client()
    driver.run(client, delay=30 * DAY_MS)
    assert client.take_reply()[0] is Code.SCHEDULED
    driver.run(client, delay=30 * DAY_MS + 1)
    code, sentence = client.take_reply()
    assert (code, counted(driver)) == (Code.BAD_PACKET, (1, 0, 1))
    most = "at most 2,592,000,000 ms are allowed here"
    assert sentence == f"RUN: 2,592,000,001 ms is too far ahead, {most} - at `$.delay`"


def test_the_options_of_scheduled_jobs_do_not_drive_out_those_that_come_over_and_over() -> None:
    driver = driven()
    client = driver.client()
    driver.run(client)
    before = dict(driver.switchboard._intake.known)
    for delay in range(1, 50):
        driver.run(client, delay=delay)
    assert driver.switchboard._intake.known == before


def test_a_pipeline_that_is_forgotten_meanwhile_is_found_again() -> None:
    driver = SwitchboardDriver(driven().limits, checks=False)
    client = driver.client()
    cookie = driver.run(client, "the.one", delay=2_000)
    for number in range(PIPELINES_KNOWN_MAX + 1):
        driver.cancel(client, driver.run(client, f"other.{number}"))
    client.take()
    worker = driver.worker(1, ["the.one"])
    driver.advance(2.1)
    driver.switchboard.invariants()
    assert ran(worker) == [(cookie, 1)]


# Where it is


@pytest.mark.parametrize(
    ("delay", "left"),
    [(1, "0:00:01"), (90_000, "0:01:30"), (DAY_MS + 3_600_000, "1 day, 1:00:00"), (30 * DAY_MS, "30 days, 0:00:00")],
)
def test_its_client_is_told_once_that_it_waits_for_its_time_and_for_how_long(delay: int, left: str) -> None:
    driver = driven()
    client = driver.client()
    driver.run(client, delay=delay, reply=True)
    assert client.take_reply() == (Code.SCHEDULED, f"the job is scheduled, and may start in {left} (h:mm:ss)")


def test_status_tells_that_it_is_not_due_and_how_much_time_is_left() -> None:
    driver, client, _, cookie = scheduled()
    driver.advance(0.5)
    client.take()
    driver.send(client, packets.status(cookie, number=3))
    told = schemas.reply_meta(client.take_one(PacketType.REPLY).meta)
    assert told.job is not None
    assert (told.job.state, told.job.why, told.job.due, told.job.age, told.job.att) == ("scheduled", "not_due", 1_500, 500, 0)
    assert told.msg == "the job is scheduled, and may start in 0:00:02 (h:mm:ss)"
    driver.advance(1.6)
    assert driver.status(client, cookie).due == 0


def test_sent_again_it_is_found_and_keeps_its_time() -> None:
    driver, client, worker, cookie = scheduled(nonce=b"n")
    driver.disconnect(client)
    driver.advance(1.0)
    again = driver.client()
    driver.run(again, cookie=cookie, nonce=b"n", delay=1_900)
    reply = again.take_one(PacketType.REPLY)
    job = schemas.reply_meta(reply.meta).job
    assert job is not None
    assert (reply.code, job.state, job.due) == (Code.SCHEDULED, "scheduled", 1_000)
    driver.advance(1.01)
    assert ran(worker) == [(cookie, 1)]
    driver.result(worker, cookie)
    assert again.take_one(PacketType.RESULT).code == Code.OK


def test_who_attaches_to_it_gets_its_outcome() -> None:
    driver, _, worker, cookie = scheduled(detach=True)
    other = driver.client()
    driver.attach(other, cookie, take=False)
    assert other.take_one(PacketType.REPLY).code == Code.OK
    driver.advance(2.1)
    driver.result(worker, cookie)
    assert other.take_one(PacketType.RESULT).code == Code.OK


# What ends it sooner


def test_cancelled_it_never_runs() -> None:
    driver, client, worker, cookie = scheduled()
    driver.cancel(client, cookie)
    result, reply = client.take()
    assert (result.code, schemas.result_meta(result.meta).ran, reply.code) == (Code.CANCELLED, False, Code.OK)
    driver.advance(5.0)
    assert (ran(worker), counted(driver)) == ([], (0, 0, 0))


def test_cancelled_with_its_batch_it_never_runs() -> None:
    driver, client, worker, _ = scheduled(batch=b"b" * 16)
    driver.send(client, packets.cancel_batch(b"b" * 16, number=4))
    assert [packet.code for packet in client.take()] == [Code.CANCELLED, Code.OK]
    driver.advance(5.0)
    assert ran(worker) == []


def test_a_deadline_before_its_time_ends_it_and_it_never_ran() -> None:
    driver, client, worker, _ = scheduled(left_ms=1_000)
    driver.advance(1.01)
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run, failure.error) == (
        Code.DEADLINE_EXCEEDED,
        False,
        "the deadline passed before its time had come",
    )
    driver.advance(5.0)
    assert ran(worker) == []


def test_a_deadline_in_the_very_moment_of_its_time_is_first() -> None:
    driver, client, worker, _ = scheduled(left_ms=2_000)
    driver.advance(5.0)
    assert (outcome(client)[0], ran(worker)) == (Code.DEADLINE_EXCEEDED, [])


def test_the_limit_of_its_wait_counts_from_its_time_on() -> None:
    driver = driven()
    client = driver.client()
    driver.run(client, delay=2_000, qlim=1_000)
    client.take()
    driver.advance(2.9)
    assert client.take() == []
    driver.advance(0.2)
    assert outcome(client)[:2] == (Code.QUEUE_TIMEOUT, False)


def test_its_clients_end_cancels_it_if_its_policy_says_so_and_not_otherwise() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(3)
    gone, waited_for, stays = (driver.run(client, delay=2_000, orphan=orphan) for orphan in (0, 1_000, None))
    driver.disconnect(client)
    assert counted(driver) == (2, 0, 2)
    driver.advance(1.01)
    assert counted(driver) == (1, 0, 1)
    driver.advance(1.0)
    assert ran(worker) == [(stays, 1)]
    other = driver.client()
    assert [driver.status(other, cookie).out for cookie in (gone, waited_for)] == [Code.CANCELLED, Code.CANCELLED]


def test_a_child_ends_with_its_parent_unless_that_ends_well_or_the_child_is_loose() -> None:
    for code, loose, runs in ((Code.EXCEPTION, False, False), (Code.EXCEPTION, True, True), (Code.OK, False, True)):
        driver = driven()
        client, worker = driver.client(), driver.worker()
        parent = driver.run(client)
        child = driver.run(worker, parent=parent, delay=2_000, loose=loose)
        worker.take()
        if code is Code.OK:
            driver.result(worker, parent)
        else:
            driver.fail(worker, parent, code)
        driver.advance(2.1)
        assert [packet.cookie for packet in worker.take_kinds(PacketType.RUN)] == ([child] if runs else []), (code, loose)


def test_a_child_whose_parent_runs_out_of_time_in_the_moment_of_its_own_never_runs() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2)
    parent = driver.run(client, left_ms=2_000)
    driver.run(worker, parent=parent, delay=1_999)
    assert [packet.cookie for packet in worker.take_kinds(PacketType.RUN)] == [parent]
    driver.jump(3.0)
    assert worker.take_kinds(PacketType.RUN) == []


def test_neither_does_one_whose_parent_has_run_for_as_long_as_it_may() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2)
    parent = driver.run(client, rlim=2_000)
    driver.run(worker, parent=parent, delay=1_999)
    assert [packet.cookie for packet in worker.take_kinds(PacketType.RUN)] == [parent]
    driver.jump(3.0)
    assert kinds(worker.take()) == [PacketType.CANCEL, PacketType.RESULT]


def test_a_broker_that_drains_gives_it_back_and_never_starts_it() -> None:
    driver, client, worker, _ = scheduled()
    driver.drain()
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run) == (Code.BROKER_WENT_AWAY, False)
    assert "never started" in failure.error
    driver.advance(5.0)
    assert PacketType.RUN not in kinds(worker.take())


# What it may not do


def test_a_job_that_may_not_wait_for_a_slot_is_scheduled_without_one() -> None:
    driver = driven()
    client = driver.client()
    cookie = driver.run(client, queue=False, delay=2_000)
    assert client.take_reply()[0] is Code.SCHEDULED
    driver.advance(1.0)
    worker = driver.worker()
    driver.advance(1.1)
    assert ran(worker) == [(cookie, 1)]


def test_it_ends_if_it_finds_none_at_its_time() -> None:
    driver, client, worker, _ = scheduled(queue=False)
    driver.run(client)
    worker.take()
    driver.advance(2.1)
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run) == (Code.QUEUE_TIMEOUT, False)
    assert failure.error == "its time came, no slot was free, and the job was not to wait for one"
    assert counted(driver) == (1, 0, 0)


def test_it_waits_for_a_worker_that_says_it_holds_its_cookie_and_has_its_one_attempt_then() -> None:
    driver, client, _, cookie = scheduled()
    stale = session(driver, 2, held=[(cookie, 1)])
    driver.advance(2.1)
    assert (stale.take_kinds(PacketType.RUN), driver.status(client, cookie).why) == ([], "stale_attempt")
    driver.result(stale, cookie)
    assert driver.status(client, cookie).state == "running"


# Limits


def test_it_counts_against_the_limit_of_unfinished_jobs_of_its_client() -> None:
    driver = driven(client_jobs_max=1)
    client = driver.client()
    cookie = driver.run(client, delay=2_000)
    client.take()
    driver.run(client)
    assert client.take_reply()[0] is Code.OVERLOADED
    driver.cancel(client, cookie)
    client.take()
    driver.run(client)
    assert client.take_reply()[0] is Code.QUEUED


@pytest.mark.parametrize("limit", [{"backlog_jobs_max": 2}, {"backlog_bytes_max": 120}])
def test_jobs_that_wait_for_their_time_and_for_a_slot_have_one_limit_in_jobs_and_bytes(limit: dict[str, int]) -> None:
    driver = driven(**limit)
    client = driver.client()
    size = len(packets.run(bytes(16), schemas.encode_meta(schemas.RunOptions(p="p", enc="json", delay=2_000)), b"1"))
    assert 40 < size < 60
    for delay in (2_000, 0, 2_000, 0):
        driver.run(client, delay=delay)
    assert [Code(packet.code) for packet in client.take()] == [Code.SCHEDULED, Code.QUEUED, Code.OVERLOADED, Code.OVERLOADED]
    driver.advance(2.1)
    assert counted(driver) == (2, 2, 0)
    inside(driver).backlog.invariants()


def test_without_a_limit_reached_a_job_that_a_free_slot_takes_at_once_is_not_asked_for_room() -> None:
    driver = driven(backlog_jobs_max=1)
    client, worker = driver.client(), driver.worker(2)
    driver.run(client, delay=2_000)
    now = driver.run(client)
    assert ran(worker) == [(now, 1)]


# Admission


def admitting() -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    driver = SwitchboardDriver(driven().limits, admits=True)
    client, worker = driver.client(), driver.worker()
    return driver, client, worker, driver.run(client, delay=2_000)


def test_it_is_admitted_at_once_and_its_time_runs_from_its_run_on() -> None:
    driver, client, worker, cookie = admitting()
    driver.advance(1.5)
    assert (client.take(), driver.switchboard.scheduled) == ([], 0)
    driver.admit(cookie)
    assert client.take_reply() == (Code.SCHEDULED, "the job is scheduled, and may start in 0:00:01 (h:mm:ss)")
    driver.advance(0.51)
    assert ran(worker) == [(cookie, 1)]


def test_admitted_after_its_time_it_runs_at_once() -> None:
    driver, client, worker, cookie = admitting()
    driver.advance(2.5)
    driver.admit(cookie)
    assert (ran(worker), client.take()) == ([(cookie, 1)], [])


def test_refused_by_admission_it_leaves_nothing_behind() -> None:
    driver, client, worker, cookie = admitting()
    driver.reject(cookie)
    assert client.take_reply()[0] is Code.NOT_ALLOWED
    driver.advance(5.0)
    assert (ran(worker), counted(driver)) == ([], (0, 0, 0))


# All of it


@pytest.mark.parametrize("dialect", list(Dialect))
def test_nothing_of_it_is_left_once_it_is_over(dialect: Dialect) -> None:
    driver = driven(retention_s=1.0)
    client, worker = driver.client(), driver.worker(dialect=dialect)
    for delay in (10, 500, 900_000):
        driver.run(client, delay=delay, left_ms=60_000)
    driver.advance(1.0)
    for packet in worker.take():
        driver.result(worker, packet.cookie)
    for packet in worker.take():
        driver.result(worker, packet.cookie)
    driver.advance(61.0)
    for link in (client, worker):
        if link.peer.state is not PeerState.GONE:
            driver.disconnect(link, CloseReason.NORMAL)
    driver.advance(1_000.0)
    assert_nothing_is_left(driver)


@needs_interpreted_core
def test_a_bug_in_one_job_whose_time_has_come_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2)
    broken, whole = driver.run(client, delay=1_000), driver.run(client, delay=1_000)
    dispatcher = inside(driver)
    original = dispatcher.scheduled.begin

    def begin(route: object) -> None:
        if getattr(route, "cookie", b"") == broken:
            raise ZeroDivisionError
        original(route)  # type: ignore[arg-type]

    driver.checks = False
    monkeypatch.setattr(type(dispatcher.scheduled), "begin", lambda _, route: begin(route))
    with pytest.raises(ZeroDivisionError):
        driver.advance(1.1)
    assert broken != whole
    assert driver.switchboard.scheduled == 1
    assert worker.peer.worker is not None
    assert list(worker.peer.worker.assignments) == [whole]
