import asyncio
from typing import Any
from uuid import UUID

import pytest

from reasonchip_broker.cli.demo.crew import TRIES, Crew
from reasonchip_broker.cli.demo.findings import FileFindings
from reasonchip_broker.cli.demo.ledger import LOST, OK, Ledger
from reasonchip_broker.errors import JobException, WorkerWentAway
from tests.unit.cli.demo.fakes import FakeClient


def crew(*outcomes):
    client: Any = FakeClient(*outcomes)
    return Crew(client, Ledger()), client


async def test_a_job_that_is_lost_with_its_worker_is_sent_again_under_a_new_cookie():
    sends, client = crew(WorkerWentAway("gone"), WorkerWentAway("gone"), "result")
    assert await sends.run("file", "p", {"x": 1}) == "result"
    assert [(pipeline, variables) for pipeline, variables, _ in client.sent] == [("p", {"x": 1})] * 3
    entries = sends.ledger.entries
    assert [(entry.outcome, entry.repeats) for entry in entries.values()] == [
        (LOST, None),
        (LOST, UUID(int=1)),
        (OK, UUID(int=2)),
    ]
    assert len(sends.lost_at) == 2
    assert sends.loss.is_set()


async def test_a_job_that_costs_every_worker_its_life_is_given_up():
    sends, client = crew(*(WorkerWentAway("gone") for _ in range(TRIES + 1)))
    with pytest.raises(WorkerWentAway):
        await sends.run("file", "p", {})
    assert len(client.sent) == TRIES
    assert sends.ledger.given_up == 1
    assert all(check.holds for check in sends.ledger.checks({}, TRIES))


async def test_a_job_that_fails_by_itself_is_not_sent_again():
    sends, client = crew(JobException("bad"))
    with pytest.raises(JobException):
        await sends.run("file", "p", {})
    assert sends.ledger.outcomes() == {"EXCEPTION": 1}
    assert len(client.sent) == 1


async def test_a_result_becomes_what_it_stands_for():
    sends, _ = crew({"path": b"a.py", "lines": 3})
    assert await sends.run_as("file", "p", {}, FileFindings) == FileFindings(path=b"a.py", lines=3)


async def test_so_many_at_a_time_and_each_once():
    sends, _ = crew()
    running = most = 0

    async def act(item):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return item

    done = [item async for item in sends.for_each(range(100), act)]
    assert sorted(done) == list(range(100))
    assert most == 24


async def test_no_more_are_begun_once_it_is_time_to_end():
    sends, _ = crew()
    begun = []

    async def act(item):
        begun.append(item)

    async for _ in sends.for_each(range(100), act, lambda: len(begun) > 30):
        pass
    assert 30 < len(begun) < 60


async def test_a_failure_ends_what_is_under_way():
    sends, _ = crew()
    cancelled = []

    async def act(item):
        if item == 3:
            raise ValueError("bad")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    with pytest.raises(ValueError, match="bad"):
        async for _ in sends.for_each(range(100), act):
            pass
    assert len(cancelled) == 23
