"""A worker whose connection broke may come back and go on with what it holds; a name belongs to the newest."""

from typing import Any

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, JobState, PacketType, Role, Waiting
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

from .scenes import OTHER_PROCESS, PROCESS, chunks, driven, inside, kinds, outcome, ran, results, session

HELLO = schemas.HelloMeta(name="w", inst=PROCESS, grace=10)


def running(jobs: int = 1, **options: Any) -> tuple[SwitchboardDriver, FakeLink, FakeLink, list[bytes]]:
    """A client's jobs on a worker with a session."""
    driver = driven()
    client, worker = driver.client(), session(driver, jobs)
    cookies = [driver.run(client, **options) for _ in range(jobs)]
    client.take()
    worker.take()
    return driver, client, worker, cookies


def state(driver: SwitchboardDriver, cookie: bytes) -> tuple[str, str]:
    status = driver.status(driver.client(), cookie)
    return status.state, status.why


# Away


def test_jobs_of_a_worker_that_may_come_back_wait_for_it_and_nobody_is_told() -> None:
    driver, client, worker, (cookie,) = running()
    driver.disconnect(worker)
    assert client.take() == []
    assert state(driver, cookie) == (JobState.SUSPENDED, Waiting.WORKER_DISCONNECTED)
    driver.advance(9.9)
    assert client.take() == []
    driver.advance(0.2)
    assert outcome(client)[:2] == (Code.WORKER_WENT_AWAY, True)


@pytest.mark.parametrize("without", ["name", "process", "grace_s"])
def test_without_name_process_or_grace_they_are_lost_at_once(without: str) -> None:
    driver = driven()
    client = driver.client()
    options: dict[str, Any] = {without: 0 if without == "grace_s" else None}
    worker = session(driver, **options)
    driver.run(client)
    driver.disconnect(worker)
    assert outcome(client)[0] is Code.WORKER_WENT_AWAY


def test_a_grace_counts_as_a_minute_at_most() -> None:
    driver = driven()
    client, worker = driver.client(), session(driver, grace_s=3_000)
    driver.run(client)
    driver.disconnect(worker)
    driver.advance(59.9)
    assert client.take() == []
    driver.advance(0.2)
    assert outcome(client)[0] is Code.WORKER_WENT_AWAY


@pytest.mark.parametrize("reason", [CloseReason.NORMAL, CloseReason.SHUTTING_DOWN])
def test_who_says_goodbye_does_not_come_back(reason: CloseReason) -> None:
    driver, client, worker, _ = running()
    driver.send(worker, packets.goodbye(reason, "done"))
    assert outcome(client)[0] is Code.WORKER_WENT_AWAY


def test_who_says_goodbye_over_a_fault_may_come_back() -> None:
    driver, client, worker, cookies = running()
    driver.send(worker, packets.goodbye(CloseReason.HEARTBEAT_TIMEOUT, "silence"))
    assert client.take() == []
    assert session(driver, held=[(cookies[0], 1)]).kept == [(cookies[0], 1)]


def test_cancelled_while_its_worker_is_away_it_is_told_to_stop_when_it_is_back() -> None:
    driver, client, worker, (cookie,) = running()
    driver.disconnect(worker)
    driver.cancel(client, cookie)
    assert client.take_reply()[0] is Code.CANCELLING
    worker = session(driver, held=[(cookie, 1)])
    assert worker.kept == [(cookie, 1)]
    assert worker.take_one(PacketType.CANCEL).cookie == cookie
    driver.result(worker, cookie)
    assert results(client) == [(cookie, Code.OK)]


def test_cancelled_while_its_worker_is_away_for_good_it_is_cancelled() -> None:
    driver, client, worker, (cookie,) = running()
    driver.advance(0.001)
    driver.disconnect(worker)
    driver.advance(8.0)
    driver.cancel(client, cookie)
    client.take()
    driver.advance(2.1)
    assert outcome(client)[:2] == (Code.CANCELLED, True)


def test_out_of_time_while_its_worker_is_away_its_owner_is_told_and_it_is_not_taken_up() -> None:
    driver, client, worker, (cookie,) = running(left_ms=1_000)
    driver.disconnect(worker)
    driver.advance(1.1)
    assert outcome(client)[0] is Code.DEADLINE_EXCEEDED
    worker = session(driver, held=[(cookie, 1)])
    assert worker.kept == []
    queued = driver.run(client)
    client.take()
    driver.result(worker, cookie)
    assert (results(client), worker.take_kinds(PacketType.RUN)[-1].cookie) == ([], queued)


def test_the_run_limit_passes_while_its_worker_is_away() -> None:
    driver, client, worker, _ = running(rlim=2_000)
    driver.disconnect(worker)
    driver.advance(2.1)
    assert outcome(client)[0] is Code.DEADLINE_EXCEEDED


# Back


def test_what_it_lists_goes_on_and_what_it_does_not_is_lost() -> None:
    driver, client, worker, (kept, lost) = running(2)
    driver.disconnect(worker)
    driver.advance(5.0)
    worker = session(driver, 2, held=[(kept, 1)])
    assert (worker.kept, worker.take()) == ([(kept, 1)], [])
    assert results(client) == [(lost, Code.WORKER_WENT_AWAY)]
    driver.advance(100.0)
    driver.result(worker, kept)
    assert results(client) == [(kept, Code.OK)]


def test_chunks_may_have_been_lost_with_a_connection_but_not_with_an_attempt() -> None:
    driver, client, worker, (cookie,) = running(att=2, back=0, follow=True)
    driver.disconnect(worker)
    driver.disconnect(session(driver, held=[(cookie, 1)]), CloseReason.NORMAL)
    worker = session(driver)
    driver.advance(0.01)
    assert ran(worker) == [(cookie, 2)]
    client.take()
    driver.progress(worker, cookie, 2, attempt=2)
    assert client.take() == []
    driver.progress(worker, cookie, 1, attempt=2)
    assert chunks(client.take()) == [(1,)]


@pytest.mark.parametrize("held", [(0, 2), (0, 0)])
def test_another_attempt_than_its_own_is_not_confirmed(held: tuple[int, int]) -> None:
    driver, client, worker, cookies = running()
    driver.disconnect(worker)
    worker = session(driver, held=[(cookies[0], held[1])])
    assert worker.kept == []
    assert outcome(client)[0] is Code.WORKER_WENT_AWAY


def test_what_is_not_confirmed_takes_its_slot_until_it_is_reported_and_counts_for_nothing() -> None:
    driver, client, worker, (cookie,) = running()
    driver.disconnect(worker)
    driver.advance(11.0)
    client.take()
    worker = session(driver, held=[(cookie, 1)])
    queued = driver.run(client)
    assert (worker.kept, worker.take()) == ([], [])
    client.take()
    driver.result(worker, cookie)
    assert (client.take(), [packet.cookie for packet in worker.take_kinds(PacketType.RUN)]) == ([], [queued])


def test_a_result_that_was_received_and_not_acknowledged_in_time_is_sent_again_and_dropped() -> None:
    driver, client, worker, (cookie,) = running()
    driver.result(worker, cookie)
    client.take()
    driver.disconnect(worker)
    worker = session(driver, held=[(cookie, 1)])
    assert worker.kept == []
    driver.result(worker, cookie)
    assert client.take() == []
    queued = driver.run(client)
    assert queued in [packet.cookie for packet in worker.take()]


def test_row_30_another_process_of_the_name_means_that_the_jobs_are_lost_when_it_says_hello() -> None:
    driver, client, worker, (cookie,) = running()
    driver.disconnect(worker)
    driver.greet(driver.connect(Role.WORKER), schemas.HelloMeta(name="w", inst=OTHER_PROCESS, grace=10))
    assert results(client) == [(cookie, Code.WORKER_WENT_AWAY)]


@pytest.mark.parametrize("process", [OTHER_PROCESS, None])
def test_row_30_so_it_is_when_the_old_one_is_connected_still(process: bytes | None) -> None:
    driver, client, worker, (cookie,) = running()
    link = driver.connect(Role.WORKER)
    driver.greet(link, schemas.HelloMeta(name="w", inst=process, grace=10))
    assert (worker.close_reason, results(client)) == (CloseReason.REPLACED, [(cookie, Code.WORKER_WENT_AWAY)])
    driver.register(link, 1)
    driver.run(client)
    assert kinds(link.take()) == [PacketType.REPLY, PacketType.RUN]


def test_row_30_the_same_process_goes_on_when_its_old_connection_is_not_seen_dead_yet() -> None:
    driver, client, old, (cookie,) = running()
    worker = session(driver, held=[(cookie, 1)])
    assert (old.close_reason, worker.kept, client.take()) == (CloseReason.REPLACED, [(cookie, 1)], [])
    driver.result(worker, cookie)
    assert results(client) == [(cookie, Code.OK)]


def test_names_belong_to_principals_and_nameless_workers_replace_nobody() -> None:
    driver = driven()
    one, other = session(driver), session(driver, principal="another", process=OTHER_PROCESS)
    driver.worker()
    driver.worker()
    assert (one.closed, other.closed) == (False, False)


def test_who_comes_back_and_does_not_register_has_its_grace_all_the_same() -> None:
    driver, client, worker, (cookie,) = running()
    driver.disconnect(worker)
    again = driver.connect(Role.WORKER)
    driver.greet(again, HELLO)
    driver.disconnect(again)
    assert client.take() == []
    worker = session(driver, held=[(cookie, 1)])
    assert worker.kept == [(cookie, 1)]


def test_a_name_is_free_when_who_had_it_leaves_without_having_registered() -> None:
    driver = driven()
    link = driver.connect(Role.WORKER)
    driver.greet(link, HELLO)
    driver.disconnect(link)
    operator = driver.client()
    driver.drain_worker(operator, "w")
    assert operator.take_reply()[0] is Code.WORKER_NOT_FOUND


def test_with_fewer_slots_it_keeps_as_many_as_it_has() -> None:
    driver, client, worker, cookies = running(3)
    driver.disconnect(worker)
    worker = session(driver, 2, held=[(cookie, 1) for cookie in cookies])
    assert worker.kept == [(cookie, 1) for cookie in cookies[:2]]
    assert results(client) == [(cookies[2], Code.WORKER_WENT_AWAY)]
    for cookie in cookies:
        driver.result(worker, cookie)
    assert [cookie for cookie, _ in results(client)] == cookies[:2]
    driver.run(client)
    assert worker.take_kinds(PacketType.RUN) != []


def test_with_more_slots_it_is_given_jobs_at_once_after_the_reply() -> None:
    driver, client, worker, (cookie,) = running()
    queued = driver.run(client)
    driver.disconnect(worker)
    link = driver.connect(Role.WORKER)
    driver.greet(link, HELLO)
    driver.register(link, 2, held=[(cookie, 1)])
    reply, run = link.take()
    assert (reply.kind, schemas.reply_meta(reply.meta).held) == (PacketType.REPLY, [(cookie, 1)])
    assert (run.kind, run.cookie) == (PacketType.RUN, queued)


def test_a_parked_job_stays_parked() -> None:
    driver, client, worker, (cookie,) = running()
    driver.park(worker, cookie)
    driver.disconnect(worker)
    worker = session(driver, held=[(cookie, 1)])
    other = driver.run(client)
    assert (worker.kept, ran(worker)) == ([(cookie, 1)], [(other, 1)])
    assert state(driver, cookie) == (JobState.PARKED, Waiting.SLOT_LENT_OUT)
    driver.resume(worker, cookie)
    driver.result(worker, other)
    assert [packet.cookie for packet in worker.take_kinds(PacketType.RESUME)] == [cookie]


def test_a_pair_that_is_listed_twice_or_with_two_attempts_is_taken_once() -> None:
    driver, client, worker, (cookie,) = running()
    driver.disconnect(worker)
    worker = session(driver, 3, held=[(cookie, 1), (cookie, 1), (cookie, 2)])
    assert worker.kept == [(cookie, 1)]
    driver.result(worker, cookie)
    assert results(client) == [(cookie, Code.OK)]


def test_the_reply_to_register_comes_in_its_turn() -> None:
    driver = driven()
    link = driver.connect(Role.WORKER)
    register = packets.register(schemas.RegisterMeta(cap=1, serves=["*"]))
    driver.run(driver.client())
    driver.send(link, packets.hello(HELLO), packets.ping(3), register)
    assert kinds(link.take()) == [PacketType.WELCOME, PacketType.PONG, PacketType.REPLY, PacketType.RUN]


# ACK of RESULTs


def test_a_worker_with_a_grace_learns_how_many_results_have_arrived() -> None:
    driver, _, worker, cookies = running(3)
    driver.send(worker, *(packets.result(cookie, 1, b"2", "json") for cookie in cookies[:2]))
    assert worker.take_one(PacketType.ACK).number == 2
    driver.result(worker, b"unknown".ljust(16))
    driver.result(worker, cookies[2])
    assert [packet.number for packet in worker.take()] == [3, 4]


def test_their_count_goes_round_and_a_worker_without_a_grace_is_not_told() -> None:
    driver, client, worker, cookies = running(2)
    worker.peer.results = 2**32 - 1
    driver.result(worker, cookies[0])
    assert worker.take_one(PacketType.ACK).number == 0
    driver.disconnect(worker)
    other = driver.worker()
    driver.result(other, driver.run(client))
    assert kinds(other.take()) == [PacketType.RUN]


# Draining


def test_a_worker_that_comes_back_to_a_broker_that_drains_finishes_what_it_has() -> None:
    driver, client, worker, (cookie,) = running()
    driver.disconnect(worker)
    driver.drain()
    worker = session(driver, held=[(cookie, 1)])
    assert (worker.kept, kinds(worker.take())) == ([(cookie, 1)], [PacketType.DRAIN])
    driver.result(worker, cookie)
    assert results(client) == [(cookie, Code.OK)]


def test_a_worker_that_was_drained_stays_so_when_it_comes_back() -> None:
    driver, client, worker, (cookie,) = running()
    driver.drain_worker(client, "w")
    driver.disconnect(worker)
    client.take()
    worker = session(driver, 2, held=[(cookie, 1)])
    driver.run(client)
    assert (worker.kept, kinds(worker.take())) == ([(cookie, 1)], [PacketType.DRAIN])


def test_when_the_broker_stops_nothing_waits_for_anybody() -> None:
    driver, client, worker, (cookie,) = running()
    driver.disconnect(worker)
    driver.stop()
    assert results(client) == [(cookie, Code.BROKER_WENT_AWAY)]
    driver.advance(400.0)
    assert len(inside(driver).sessions.suspended) == 0


@pytest.mark.parametrize("options", [{}, {"att": 2, "back": 0}])
def test_a_job_of_a_worker_that_was_given_up_is_tried_again_if_it_may_be(options: dict[str, int]) -> None:
    driver, client, worker, (cookie,) = running(**options)
    other = driver.worker()
    driver.disconnect(worker)
    driver.advance(10.1)
    assert ran(other) == ([(cookie, 2)] if options else [])
    assert len(client.take()) == (0 if options else 1)
