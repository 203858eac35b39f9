"""A client whose broker is killed, stopped and started again (row 3 of the design's faults): it learns at once, and goes on."""

import asyncio
import signal
import threading
import time
from collections import Counter

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import BlockingClient, Client
from tests.process.broker_process import BrokerProcess
from tests.unit.client.ends import StubWorker, hold, soon

pytestmark = pytest.mark.process

AT_ONCE_S = 1.0
"""What is called at once on a machine that others use too; by itself it takes a few milliseconds."""


async def test_row_3_a_killed_broker_is_learned_of_at_once_and_its_successor_says_that_jobs_may_have_run() -> None:
    with BrokerProcess() as first:
        async with Client(first.clients) as client, Client(first.clients, patience_s=0) as impatient:
            worker = await StubWorker(hold).connect(first.workers)
            jobs = [client.submit("p", number) for number in range(30)]
            lost = [impatient.submit("p", number) for number in range(30)]
            for _ in jobs + lost:
                await worker.next_run()
            first.kill()
            killed_at = time.monotonic()
            outcomes = await soon(asyncio.gather(*(job.result() for job in lost), return_exceptions=True))
            assert time.monotonic() - killed_at < AT_ONCE_S
            held = client.submit("p", "held")
            assert not any(job.done() for job in [held, *jobs])
            with BrokerProcess(first.clients, first.workers) as second:
                worker = await StubWorker().connect(second.workers)
                outcomes += await soon(asyncio.gather(*(job.result() for job in jobs), return_exceptions=True))
                assert all(isinstance(outcome, errors.BrokerWentAway) and outcome.may_have_run for outcome in outcomes)
                assert len(outcomes) == 60
                assert await soon(held) == "held"
                assert await soon(client.run("p", "new")) == "new"
                assert worker.runs.qsize() == 2, "nothing runs twice"


async def test_row_3_every_job_has_one_outcome_through_many_kills_under_load() -> None:
    outcomes: Counter[str] = Counter()
    rounds = 5
    broker = BrokerProcess(workers="echo")
    ran = asyncio.Condition()
    over = False

    async def load(client: Client) -> None:
        number = 0
        while not over:
            number += 1
            try:
                assert await client.run("echo", number) == number
                outcomes["OK"] += 1
            except errors.BrokerWentAway:
                outcomes["BrokerWentAway"] += 1
            async with ran:
                ran.notify_all()

    async def some_run() -> None:
        async with ran:
            enough = outcomes["OK"] + 200
            await ran.wait_for(lambda: outcomes["OK"] >= enough)

    try:
        async with Client(broker.clients) as client:
            loads = [asyncio.create_task(load(client)) for _ in range(20)]
            for _ in range(rounds):
                await soon(some_run())
                broker.kill()
                broker = await asyncio.to_thread(BrokerProcess, broker.clients, "echo")
            await soon(some_run())
            over = True
            await soon(asyncio.gather(*loads))
    finally:
        broker.kill()
    assert outcomes["OK"] >= 200 * (rounds + 1)
    assert outcomes["BrokerWentAway"] <= 20 * rounds, "only what was under way is lost"


async def test_nobody_waits_for_a_broker_that_does_not_come_back() -> None:
    with BrokerProcess(workers="echo") as broker:
        async with Client(broker.clients, connect_timeout_s=0.2, patience_s=0.2) as client:
            assert await client.run("echo", 1) == 1
            broker.kill()
            with pytest.raises((errors.ConnectError, errors.BrokerWentAway)):
                await soon(client.run("echo", 2))
            with pytest.raises(errors.ConnectError, match="not sent"):
                await soon(client.run("echo", 3))


async def test_a_stopped_broker_is_found_out_by_its_silence_and_taken_back_when_it_goes_on() -> None:
    with BrokerProcess(heartbeat_s=0.2) as broker:
        async with Client(broker.clients) as client, Client(broker.clients, patience_s=0) as impatient:
            worker = await StubWorker(hold).connect(broker.workers)
            job, lost = client.submit("p"), impatient.submit("p")
            runs = {run.cookie: run for run in [await worker.next_run() for _ in range(2)]}
            broker.kill(signal.SIGSTOP)
            try:
                with pytest.raises(errors.BrokerWentAway, match="nothing was heard"):
                    await soon(lost)
            finally:
                broker.kill(signal.SIGCONT)
            worker.succeed(runs[job.cookie.bytes], "late")
            assert await soon(job) == "late"
            await StubWorker().connect(broker.workers)
            assert await soon(impatient.run("echo", 2)) == 2


def test_a_blocked_thread_learns_at_once_and_a_new_broker_is_used_without_ado() -> None:
    with BrokerProcess(workers="echo") as first, BlockingClient(first.clients, patience_s=0) as client:
        assert client.run("echo", 1) == 1
        job = client.submit("hold")
        client.run("echo", 2)
        killer = threading.Thread(target=first.kill)
        killer.start()
        with pytest.raises(errors.BrokerWentAway) as caught:
            job.result(10)
        assert caught.value.may_have_run
        killer.join()
        with BrokerProcess(first.clients, "echo"):
            assert client.run("echo", 3) == 3
