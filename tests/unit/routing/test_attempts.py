"""What becomes of a job whose worker is lost, or whose handler fails in a way that may be tried again."""

from typing import Any

import pytest

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, JobState, PacketType, Waiting
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

from .scenes import PROCESS, driven, inside, outcome, ran, results, session

LOST = Code.WORKER_WENT_AWAY.name


def tried(driver: SwitchboardDriver, **options: Any) -> tuple[FakeLink, bytes]:
    """A client, and its job of three attempts that waits half a second between them."""
    client = driver.client()
    return client, driver.run(client, **{"att": 3, "back": 500, **options})


def lose(driver: SwitchboardDriver, name: str | None = None) -> tuple[bytes, int]:
    """A worker comes, is given a job, and its connection breaks 200 ms later. Returns what it was given."""
    worker = driver.worker(name=name)
    (run,) = ran(worker)
    driver.advance(0.2)
    driver.disconnect(worker)
    return run


def history(failure: schemas.Failure) -> list[tuple[Any, ...]]:
    return [(record.attempt, record.worker, record.end, record.ran_ms) for record in failure.hist]


def test_a_lost_worker_leads_to_the_next_attempt_after_the_wait() -> None:
    driver = driven()
    client, cookie = tried(driver)
    client.take()
    assert lose(driver) == (cookie, 1)
    assert client.take() == []
    worker = driver.worker()
    driver.advance(0.49)
    assert ran(worker) == []
    driver.advance(0.02)
    assert ran(worker) == [(cookie, 2)]
    driver.result(worker, cookie, attempt=2)
    packet = client.take_one(PacketType.RESULT)
    assert (packet.code, packet.attempt, packet.payload) == (Code.OK, 2, b"2")


@pytest.mark.parametrize("options", [{}, {"follow": True}, {"rlim": 60_000}])
def test_a_job_of_one_attempt_is_lost_with_its_worker_whatever_else_it_asks_for(options: dict[str, Any]) -> None:
    driver = driven()
    client, _ = tried(driver, att=1, **options)
    client.take()
    lose(driver)
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run, failure.hist) == (Code.WORKER_WENT_AWAY, True, [])
    driver.worker()
    driver.run(client, left_ms=100, **options)
    driver.advance(0.2)
    code, _, failure = outcome(client)
    assert (code, failure.hist) == (Code.DEADLINE_EXCEEDED, []), "one attempt is no history"


def test_without_a_wait_the_next_attempt_begins_at_once() -> None:
    driver = driven()
    _, cookie = tried(driver, back=0)
    lose(driver)
    worker = driver.worker()
    driver.advance(0.01)
    assert ran(worker) == [(cookie, 2)]


def test_the_wait_doubles_up_to_a_minute() -> None:
    driver = driven()
    _, cookie = tried(driver, att=6, back=10_000)
    for attempt, wait_s in enumerate((10, 20, 40, 60, 60), 1):
        assert lose(driver) == (cookie, attempt)
        worker = driver.worker()
        driver.advance(wait_s - 0.01)
        assert ran(worker) == []
        driver.disconnect(worker)
        driver.advance(0.02)
    assert lose(driver) == (cookie, 6)


def test_a_job_of_which_every_attempt_lost_its_worker_is_dead_lettered_with_its_history() -> None:
    driver = driven()
    client, cookie = tried(driver, back=0)
    client.take()
    for name in ("a", "b", None):
        lose(driver, name)
        driver.advance(0.01)
    packet = client.take_one(PacketType.RESULT)
    failure = schemas.failure(packet.payload)
    assert (packet.cookie, packet.code, packet.attempt) == (cookie, Code.DEAD_LETTERED, 3)
    assert schemas.result_meta(packet.meta).ran
    assert history(failure) == [(1, "a", LOST, 200), (2, "b", LOST, 200), (3, "", LOST, 200)]


def test_a_job_whose_last_attempt_only_lost_its_worker_is_worker_went_away() -> None:
    driver = driven()
    client, cookie = tried(driver, att=2, back=0, again=["*"])
    worker = driver.worker(name="a")
    driver.fail(worker, cookie, Code.EXCEPTION, error_type="OSError")
    client.take()
    driver.advance(0.01)
    driver.disconnect(worker)
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run) == (Code.WORKER_WENT_AWAY, True)
    assert [record.end for record in failure.hist] == ["EXCEPTION", LOST]


def test_a_job_with_one_attempt_is_lost_with_its_worker_and_has_no_history() -> None:
    driver = driven()
    client, _ = tried(driver, att=1)
    client.take()
    lose(driver)
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run, failure.hist) == (Code.WORKER_WENT_AWAY, True, [])


@pytest.mark.parametrize("code", [Code.EXCEPTION, Code.PROCESSOR_EXCEPTION])
@pytest.mark.parametrize(("again", "is_tried"), [(["OSError"], True), (["*"], True), (["KeyError"], False), ([], False)])
def test_a_named_failure_of_the_handler_leads_to_the_next_attempt(code: Code, again: list[str], is_tried: bool) -> None:
    driver = driven()
    client, cookie = tried(driver, again=again, back=0)
    worker = driver.worker()
    client.take()
    worker.take()
    driver.fail(worker, cookie, code, "no", error_type="OSError")
    driver.advance(0.01)
    if is_tried:
        assert (client.take(), ran(worker)) == ([], [(cookie, 2)])
    else:
        answer, _, failure = outcome(client)
        assert (answer, failure.type, failure.error) == (code, "OSError", "no")
        assert history(failure) == [(1, "", code.name, 0)]


@pytest.mark.parametrize("code", [Code.CANCELLED, Code.TOO_LARGE, Code.DEADLINE_EXCEEDED, Code.OK])
def test_no_other_outcome_is_tried_again(code: Code) -> None:
    driver = driven()
    client, cookie = tried(driver, again=["*"])
    worker = driver.worker()
    client.take()
    driver.fail(worker, cookie, code)
    assert results(client) == [(cookie, code)]


def test_the_last_attempts_own_failure_is_the_outcome_with_what_became_of_each() -> None:
    driver = driven()
    client, cookie = tried(driver, att=2, back=0, again=["*"])
    client.take()
    worker = driver.worker(name="w")
    for attempt in (1, 2):
        driver.advance(0.1)
        driver.fail(worker, cookie, Code.EXCEPTION, f"no {attempt}", attempt, error_type="OSError")
        driver.advance(0.005)
    code, _, failure = outcome(client)
    assert (code, failure.error) == (Code.EXCEPTION, "no 2")
    assert [(record.attempt, record.end) for record in failure.hist] == [(1, "EXCEPTION"), (2, "EXCEPTION")]


def test_a_failed_attempt_frees_its_slot_for_others() -> None:
    driver = driven()
    client, cookie = tried(driver, again=["*"], back=1000)
    worker = driver.worker()
    other = driver.run(client)
    worker.take()
    driver.fail(worker, cookie, Code.EXCEPTION)
    assert ran(worker) == [(other, 1)]


def test_a_job_that_failed_while_parked_is_tried_again() -> None:
    driver = driven()
    _, cookie = tried(driver, again=["*"], back=0)
    worker = driver.worker()
    driver.park(worker, cookie)
    worker.take()
    driver.fail(worker, cookie, Code.EXCEPTION)
    driver.advance(0.01)
    assert ran(worker) == [(cookie, 2)]


def test_rows_12_and_13_a_result_of_a_stale_attempt_counts_for_nothing() -> None:
    driver = driven()
    client, cookie = tried(driver, again=["*"], back=0)
    worker = driver.worker(2)
    client.take()
    driver.fail(worker, cookie, Code.EXCEPTION)
    driver.advance(0.01)
    for attempt in (1, 3, 0):
        driver.result(worker, cookie, b"9", attempt=attempt)
        driver.progress(worker, cookie, 1, attempt=attempt)
    assert client.take() == []
    assert inside(driver).counters.results_dropped == 3
    assert inside(driver).counters.progress_dropped == 3
    driver.result(worker, cookie, attempt=2)
    driver.result(worker, cookie, attempt=2)
    assert results(client) == [(cookie, Code.OK)]


def test_row_30_the_result_of_an_attempt_whose_worker_was_given_up_is_fenced() -> None:
    driver = driven()
    client, cookie = tried(driver, back=0)
    old = session(driver)
    driver.disconnect(old, CloseReason.CONNECTION_LOST)
    driver.advance(10.1)
    worker = driver.worker()
    client.take()
    assert ran(worker) == [(cookie, 2)]
    back = session(driver, held=[(cookie, 1)])
    assert back.kept == []
    driver.result(back, cookie, b"9", attempt=1)
    assert client.take() == []
    driver.result(worker, cookie, attempt=2)
    assert client.take_one(PacketType.RESULT).payload == b"2"


def test_the_next_attempt_waits_for_a_worker_that_still_holds_an_earlier_one() -> None:
    driver = driven()
    client, cookie = tried(driver, back=1_000)
    lose(driver)
    holder = driver.worker(2, name="h", process=PROCESS, grace_s=5, held=[(cookie, 1)])
    driver.advance(2.0)
    assert ran(holder) == []
    client.take()
    status = driver.status(client, cookie)
    assert (status.state, status.why) == (JobState.BACKOFF, Waiting.STALE_ATTEMPT)
    driver.result(holder, cookie, attempt=1)
    assert (holder.take_kinds(PacketType.RUN)[0].attempt, client.take()) == (2, [])


def test_a_job_that_waits_for_a_slot_is_held_back_too_and_then_waits_behind_those_that_waited_meanwhile() -> None:
    driver = driven()
    client, cookie = tried(driver, back=0)
    lose(driver)
    driver.advance(0.01)
    others = [driver.run(client) for _ in range(2)]
    holder = driver.worker(1, ("none",), held=[(cookie, 1)])
    driver.result(holder, cookie, attempt=1)
    worker = driver.worker(1)
    order = []
    for _ in range(3):
        order += ran(worker)
        driver.result(worker, order[-1][0], attempt=order[-1][1])
    assert order == [(others[0], 1), (others[1], 1), (cookie, 2)]


def test_a_job_that_never_ran_waits_for_a_worker_that_says_it_holds_its_cookie() -> None:
    """A broker that was restarted may be sent a job anew while a worker of before still runs it."""
    driver = driven()
    client = driver.client()
    cookie = driver.run(client)
    first = driver.run(client, "q")
    worker = driver.worker(2, held=[(cookie, 1)])
    assert ran(worker) == [(first, 1)]
    client.take()
    assert driver.status(client, cookie).why == Waiting.STALE_ATTEMPT
    driver.result(worker, cookie, b"9")
    assert (client.take(), ran(worker)) == ([], [(cookie, 1)])
    driver.result(worker, cookie)
    assert client.take_one(PacketType.RESULT).payload == b"2"


def test_cancelled_between_two_attempts_it_never_runs_again_and_may_have_run() -> None:
    driver = driven()
    client, cookie = tried(driver)
    lose(driver)
    client.take()
    driver.cancel(client, cookie)
    assert results_then_reply(client) == (Code.CANCELLED, True, Code.OK)
    driver.advance(5.0)
    assert ran(driver.worker()) == []


def results_then_reply(client: FakeLink) -> tuple[Code, bool, Code]:
    result, reply = client.take()
    assert (result.kind, reply.kind) == (PacketType.RESULT, PacketType.REPLY)
    return Code(result.code), schemas.result_meta(result.meta).ran, Code(reply.code)


def test_the_deadline_passes_between_two_attempts() -> None:
    driver = driven()
    client, _ = tried(driver, left_ms=400)
    client.take()
    lose(driver)
    driver.advance(0.3)
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run) == (Code.DEADLINE_EXCEEDED, True)
    assert [record.end for record in failure.hist] == [LOST]


def test_a_worker_that_is_lost_while_it_is_to_stop_leads_to_no_further_attempt() -> None:
    driver = driven()
    client, cookie = tried(driver)
    worker = driver.worker(name="w")
    driver.cancel(client, cookie)
    client.take()
    driver.disconnect(worker)
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run) == (Code.CANCELLED, True)
    assert history(failure) == [(1, "w", "CANCELLED", 0)]


def test_a_broker_that_drains_gives_a_job_back_that_waits_for_its_next_attempt() -> None:
    driver = driven()
    client, _ = tried(driver)
    lose(driver)
    client.take()
    driver.drain()
    code, may_have_run, failure = outcome(client)
    assert (code, may_have_run, len(failure.hist)) == (Code.BROKER_WENT_AWAY, True, 1)


def test_a_broker_that_drains_begins_no_further_attempt() -> None:
    driver = driven()
    client, _ = tried(driver)
    worker = driver.worker()
    driver.drain()
    client.take()
    driver.disconnect(worker)
    assert outcome(client)[:2] == (Code.BROKER_WENT_AWAY, True)


def test_each_attempt_has_the_time_that_is_left_and_the_same_run() -> None:
    driver = driven()
    _, cookie = tried(driver, left_ms=10_000, back=1_000, variables=b'{"x":1}')
    lose(driver)
    driver.advance(2.0)
    (packet,) = driver.worker().take()
    assert (packet.cookie, packet.attempt, packet.payload) == (cookie, 2, b'{"x":1}')
    assert 7_700 <= packet.number <= 7_800


def test_a_json_worker_serves_attempts_as_well() -> None:
    driver = driven()
    client, cookie = tried(driver, again=["*"], back=0)
    worker = driver.worker(dialect=Dialect.JSON)
    assert [packet["cookie"] is not None for packet in worker.take_json()] == [True]
    driver.fail(worker, cookie, Code.EXCEPTION, "no")
    driver.advance(0.1)
    assert [packet["packet_type"] for packet in worker.take_json()] == ["RUN"]
    driver.result(worker, cookie)
    client.take_kinds(PacketType.REPLY)
    assert inside(driver).counters.retried == 1


def test_a_job_whose_class_was_forgotten_while_it_waited_for_its_next_attempt_finds_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = driven()
    _, cookie = tried(driver, back=1_000)
    lose(driver)
    backlog = inside(driver).backlog
    backlog._forget_at = 1
    backlog.class_of("another", False)
    assert ("p", True, (), ()) not in backlog._classes
    driver.advance(2.0)
    assert ran(driver.worker()) == [(cookie, 2)]
