"""Limits by key: how many jobs run, or start, of a pipeline, a principal, a fairness key, or in all."""

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_BYTES, Code, Dialect, PacketType
from reasonchip_broker.scheduling import Limit, Per, Scheduling, WhenReached
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver
from tests.unit.switchboard.limiting import limited, one, ran


def status(driver: SwitchboardDriver, client: FakeLink, cookie: bytes) -> tuple[str, str]:
    """Why a job waits, for programs and for people."""
    client.unread.clear()
    driver.send(client, packets.status(cookie))
    sentence = client.take_reply()[1]
    return driver.status(client, cookie).why, sentence


# Concurrency


@pytest.mark.parametrize("encoding", [ENCODING_BYTES, "application/json"])
def test_no_more_jobs_run_than_may_whatever_is_free(encoding: str) -> None:
    driver = limited(one(concurrency=2))
    client, worker = driver.client(), driver.worker(10)
    cookies = [driver.run(client, encoding=encoding) for _ in range(5)]
    assert ran(worker) == cookies[:2]
    driver.result(worker, cookies[1])
    assert ran(worker) == [cookies[2]]
    driver.result(worker, cookies[0])
    driver.result(worker, cookies[2])
    assert ran(worker) == cookies[3:]


def test_a_job_that_ends_lets_the_next_one_go_to_whichever_worker_is_free() -> None:
    driver = limited(one(concurrency=1))
    client, first = driver.client(), driver.worker(1, name="first")
    cookie = driver.run(client)
    others = [driver.worker(1, ["p", "*"]), driver.worker(1, ["p"])]
    follower = driver.run(client)
    assert (ran(first), *map(ran, others)) == ([cookie], [], [])
    driver.disconnect(first)
    assert sorted(map(ran, others)) == [[], [follower]]


def test_jobs_of_other_pipelines_pass_those_that_are_held_back() -> None:
    driver = limited(one(pipelines=("llm.*",), concurrency=1))
    client, worker = driver.client(), driver.worker(2)
    first = driver.run(client, "llm.chat")
    held = [driver.run(client, "llm.chat"), driver.run(client, "llm.sum")]
    free = [driver.run(client, "other") for _ in range(3)]
    assert ran(worker) == [first, free[0]]
    driver.result(worker, free[0])
    assert ran(worker) == [free[1]]
    driver.result(worker, first)
    assert ran(worker) == [held[0]], "it waited before the other one"


def test_each_pipeline_or_key_or_principal_is_counted_by_itself_where_the_limit_is_per_that() -> None:
    for per, submit in {
        Per.PIPELINE: lambda driver, clients, which: driver.run(clients[0], "ab"[which]),
        Per.KEY: lambda driver, clients, which: driver.run(clients[0], key="ab"[which]),
        Per.PRINCIPAL: lambda driver, clients, which: driver.run(clients[which]),
    }.items():
        driver = limited(one(per=per, concurrency=1))
        clients, worker = [driver.client(principal="a"), driver.client(principal="b")], driver.worker(10)
        cookies = [submit(driver, clients, which) for which in (0, 0, 1, 1)]
        assert ran(worker) == [cookies[0], cookies[2]], per
        driver.result(worker, cookies[2])
        assert ran(worker) == [cookies[3]], per


def test_a_principal_has_one_count_whatever_keys_its_jobs_name() -> None:
    driver = limited(one(per=Per.PRINCIPAL, concurrency=1))
    first, second, worker = driver.client(principal="a"), driver.client(principal="a"), driver.worker(10)
    cookies = [driver.run(first, key="one"), driver.run(second, key="other"), driver.run(second)]
    assert ran(worker) == cookies[:1]


def test_where_nobody_is_authenticated_each_connection_has_its_own_count() -> None:
    driver = limited(one(per=Per.PRINCIPAL, concurrency=1))
    first, second, worker = driver.client(), driver.client(), driver.worker(10)
    cookies = [driver.run(first), driver.run(first), driver.run(second)]
    assert ran(worker) == [cookies[0], cookies[2]]


def test_all_limits_that_are_about_a_job_hold() -> None:
    driver = limited(Limit(name="all", concurrency=3), Limit(name="each", per=Per.KEY, concurrency=2))
    client, worker = driver.client(), driver.worker(10)
    a, b = [driver.run(client, key="a") for _ in range(4)], [driver.run(client, key="b") for _ in range(4)]
    assert ran(worker) == [*a[:2], b[0]]
    driver.result(worker, a[0])
    assert ran(worker) == [b[1]], "it has used less"
    driver.result(worker, a[1])
    assert ran(worker) == [a[2]], "two of the other run"


def test_a_limit_of_none_stops_a_pipeline_until_the_operator_says_otherwise() -> None:
    driver = limited(one(concurrency=0))
    client, worker = driver.client(), driver.worker(10)
    cookies = [driver.run(client) for _ in range(3)]
    assert status(driver, client, cookies[0]) == ("limit_reached", "the limit 'some' is reached: no job may run")
    driver.configure(Scheduling())
    assert ran(worker) == cookies


def test_a_job_counts_until_its_worker_has_let_go_of_it() -> None:
    driver = limited(one(concurrency=1))
    client, worker = driver.client(), driver.worker(10)
    cookies = [driver.run(client), driver.run(client)]
    driver.cancel(client, cookies[0])
    driver.advance(driver.limits.cancel_grace_s + driver.limits.kill_grace_s + 1)
    assert client.take_kinds(PacketType.RESULT)[0].code == Code.CANCELLED
    assert ran(worker) == cookies[:1]
    driver.fail(worker, cookies[0], Code.CANCELLED)
    assert ran(worker) == cookies[1:]


def test_a_job_that_has_lent_its_slot_out_counts() -> None:
    driver = limited(one(concurrency=1))
    client, worker = driver.client(), driver.worker(1)
    cookies = [driver.run(client), driver.run(client)]
    driver.park(worker, cookies[0])
    assert ran(worker) == cookies[:1]
    driver.resume(worker, cookies[0])
    driver.result(worker, cookies[0])
    assert ran(worker) == cookies[1:]


def test_jobs_that_are_tried_again_or_had_a_time_to_start_keep_to_the_limits() -> None:
    driver = limited(one(concurrency=1))
    client, worker = driver.client(), driver.worker(10)
    first = driver.run(client, att=2, again=["*"])
    later = driver.run(client, delay=1000)
    driver.fail(worker, first, Code.EXCEPTION)
    second = driver.run(client)
    assert ran(worker) == [first, second]
    driver.advance(2.0)
    assert ran(worker) == []
    driver.result(worker, second)
    assert ran(worker) == [first]
    driver.result(worker, first, attempt=2)
    assert ran(worker) == [later]


def test_existing_workers_keep_to_the_limits() -> None:
    driver = limited(one(concurrency=1), json_slot_rest_ms=100)
    client, worker = driver.client(), driver.worker(4, dialect=Dialect.JSON)
    cookies = [driver.run(client) for _ in range(3)]
    assert worker.take_kinds(PacketType.RUN)[0].cookie == cookies[0]
    driver.result(worker, cookies[0])
    assert worker.take_kinds(PacketType.RUN)[0].cookie == cookies[1]


# Rates


def test_no_more_jobs_start_in_a_period_than_may() -> None:
    driver = limited(one(rate=10, period_s=1.0, burst=2))
    client, worker = driver.client(), driver.worker(1000)
    cookies = [driver.run(client) for _ in range(50)]
    assert ran(worker) == cookies[:2]
    driver.advance(1.006)
    assert ran(worker) == cookies[2:12]
    driver.advance(5.0)
    assert len(ran(worker)) == 38


def test_the_whole_rate_may_start_at_once_where_no_burst_is_said() -> None:
    driver = limited(one(rate=10, period_s=60.0))
    client, worker = driver.client(), driver.worker(1000)
    cookies = [driver.run(client) for _ in range(12)]
    assert ran(worker) == cookies[:10]
    driver.advance(5.9)
    assert ran(worker) == []
    driver.advance(0.2)
    assert ran(worker) == [cookies[10]]


def test_what_was_not_started_is_no_credit_beyond_the_burst() -> None:
    driver = limited(one(rate=1, period_s=1.0, burst=3))
    client, worker = driver.client(), driver.worker(1000)
    driver.run(client)
    driver.advance(20.0)
    cookies = [driver.run(client) for _ in range(5)]
    assert ran(worker)[1:] == cookies[:3]


def test_who_comes_just_before_the_timer_goes_off_does_not_overtake_those_that_wait() -> None:
    driver = limited(one(rate=10, period_s=1.0, burst=1))
    client, worker = driver.client(), driver.worker(1000)
    driver.advance(0.0012)
    first, second = driver.run(client), driver.run(client)
    driver.clock.advance(0.1)
    third = driver.run(client)
    driver.advance(0.2)
    assert ran(worker) == [first, second, third]


def test_a_rate_and_a_concurrency_hold_together() -> None:
    driver = limited(one(rate=10, burst=1, concurrency=1))
    client, worker = driver.client(), driver.worker(10)
    cookies = [driver.run(client) for _ in range(3)]
    driver.result(worker, cookies[0])
    assert ran(worker) == cookies[:1]
    driver.advance(0.106)
    assert ran(worker) == cookies[1:2]
    driver.advance(1.0)
    assert ran(worker) == []
    driver.result(worker, cookies[1])
    assert ran(worker) == cookies[2:]


# What is said


def test_a_job_that_is_held_back_is_told_why_at_once_and_in_its_status() -> None:
    driver = limited(one(concurrency=1))
    client = driver.client()
    driver.worker(10)
    driver.run(client)
    cookie = driver.run(client, reply=True)
    sentence = "the limit 'some' is reached: 1 of at most 1 jobs run"
    assert client.take_reply() == (Code.QUEUED, sentence)
    assert status(driver, client, cookie) == ("limit_reached", sentence)


def test_status_tells_when_a_rate_lets_the_next_job_start() -> None:
    driver = limited(one(rate=1, period_s=10.0))
    client = driver.client()
    driver.worker(10)
    driver.run(client)
    cookie = driver.run(client)
    driver.advance(7.5)
    sentence = "the limit 'some' is reached: 1 jobs in 10 s; the next may start in 2.50 s"
    assert status(driver, client, cookie) == ("limit_reached", sentence)


def test_a_job_is_refused_where_the_operator_said_so_with_the_time_to_try_again() -> None:
    driver = limited(one(rate=1, period_s=10.0, when_reached=WhenReached.REFUSE))
    client, worker = driver.client(), driver.worker(10)
    first, second = driver.run(client), driver.run(client)
    answer = client.take_kinds(PacketType.REPLY)[0]
    assert (answer.code, answer.cookie) == (Code.OVERLOADED, second)
    assert schemas.reply_meta(answer.meta).retry == 10_000
    driver.advance(10.0)
    assert ran(worker) == [first]
    assert driver.run(client, cookie=second) == ran(worker)[0]


@pytest.mark.parametrize("dialect", Dialect)
def test_a_job_that_is_not_to_wait_is_refused_where_a_limit_is_reached(dialect: Dialect) -> None:
    driver = limited(one(concurrency=1))
    client = driver.client(dialect, queues=False)
    worker = driver.worker(10)
    driver.run(client, queue=False)
    driver.run(client, queue=False)
    assert len(ran(worker)) == 1
    assert client.take_reply() == (Code.NO_CAPACITY, "the limit 'some' is reached: 1 of at most 1 jobs run")


def test_a_job_that_is_admitted_meets_the_limits_then() -> None:
    driver = limited(one(concurrency=1), admits=True)
    client, worker = driver.client(), driver.worker(10)
    cookies = [driver.run(client), driver.run(client)]
    for cookie in cookies:
        driver.admit(cookie)
    assert ran(worker) == cookies[:1]
    driver.result(worker, cookies[0])
    assert ran(worker) == cookies[1:]


# Other rules


def test_other_limits_hold_at_once_for_what_waits_and_for_what_runs() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(3)
    cookies = [driver.run(client, encoding=ENCODING_BYTES) for _ in range(8)]
    assert ran(worker) == cookies[:3]
    driver.configure(Scheduling(limits=(one(concurrency=2),)))
    driver.result(worker, cookies[0])
    assert ran(worker) == []
    driver.result(worker, cookies[1])
    assert ran(worker) == [cookies[3]]
    driver.configure(Scheduling(limits=(one(concurrency=3),)))
    assert ran(worker) == [cookies[4]]
    driver.configure(Scheduling())
    driver.result(worker, cookies[2])
    assert ran(worker) == [cookies[5]]


def test_a_job_that_runs_when_a_limit_comes_is_counted_until_it_ends_and_so_is_the_next_like_it() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(10)
    cookies = [driver.run(client, encoding=ENCODING_BYTES) for _ in range(2)]
    driver.result(worker, cookies[0])
    driver.configure(Scheduling(limits=(one(concurrency=1),)))
    driver.result(worker, cookies[1])
    cookies += [driver.run(client, encoding=ENCODING_BYTES) for _ in range(2)]
    assert ran(worker) == cookies[:3]


def test_a_limit_that_stays_as_it_was_goes_on_counting_what_has_started() -> None:
    limit = one(rate=1, period_s=10.0)
    driver = limited(limit)
    client, worker = driver.client(), driver.worker(3)
    cookies = [driver.run(client), driver.run(client)]
    driver.configure(Scheduling(limits=(limit,), ageing_s=3.0))
    assert ran(worker) == cookies[:1]
    driver.advance(9.9)
    assert ran(worker) == []
    driver.advance(0.2)
    assert ran(worker) == cookies[1:]


def test_a_withheld_slot_counts_by_rules_that_came_after_its_job_was_over() -> None:
    limits = (one(concurrency=1),)
    driver = limited(*limits)
    client, worker = driver.client(), driver.worker(10)
    cookies = [driver.run(client), driver.run(client)]
    driver.cancel(client, cookies[0])
    driver.advance(driver.limits.cancel_grace_s + driver.limits.kill_grace_s + 1)
    driver.configure(Scheduling(limits=(*limits, Limit(name="other", concurrency=5))))
    assert ran(worker) == cookies[:1]
    driver.fail(worker, cookies[0], Code.CANCELLED)
    assert ran(worker) == cookies[1:]
