import asyncio
from typing import Any

import pytest

from reasonchip_broker.cli.demo import incidents as module
from reasonchip_broker.cli.demo.crew import Crew
from reasonchip_broker.cli.demo.incidents import Incidents
from reasonchip_broker.cli.demo.ledger import Ledger
from reasonchip_broker.client import Answer
from reasonchip_broker.errors import WorkerWentAway
from reasonchip_broker.protocol.codes import Code
from tests.unit.cli.demo.fakes import FakeChildren, FakeClient


class Listener:
    def __init__(self):
        self.lines = []
        self.gone = set()

    def say(self, line):
        self.lines.append(line)

    def said(self, word):
        return [line for line in self.lines if line.startswith(word)]


@pytest.fixture
def scene():
    children: Any = FakeChildren(["broker", "worker-1", "worker-2", "worker-3"])
    client: Any = FakeClient()
    crew = Crew(client, Ledger())
    listener: Any = Listener()
    incidents = Incidents(children, "tcp://w", crew, listener, 100)

    def lose():
        for _ in range(2):
            crew.lost_at.append(asyncio.get_running_loop().time())
        crew.loss.set()

    children.on_kill = lose
    return incidents, children, crew, listener


async def work(incidents, files, worker="worker-2"):
    for _ in range(files):
        incidents.done(worker)
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_job_is_cancelled_first_and_the_busiest_worker_killed_midway(scene):
    incidents, children, crew, listener = scene
    task = asyncio.create_task(incidents.happen())
    await work(incidents, 24)
    assert not listener.said("CANCELLED")
    await work(incidents, 1)
    assert len(listener.said("CANCELLED")) == 1
    assert crew.ledger.outcomes("long job") == {"CANCELLED": 1}
    assert not listener.said("KILLED")
    await work(incidents, 25)
    await task
    (killed,) = listener.said("KILLED worker-2 (process 1002)")
    assert "the 2 jobs that it held" in killed
    assert listener.said("STARTED worker-4 (process 1004)")
    assert listener.gone == {"worker-2"}
    assert [name for name, child in children.children.items() if not child.alive] == ["worker-2"]


async def test_a_worker_that_held_nothing_is_told_as_that(scene, monkeypatch):
    incidents, children, _, listener = scene
    monkeypatch.setattr(module, "NOTICE_S", 0.0)
    children.on_kill = lambda: None
    incidents.hurry()
    await incidents.happen()
    assert "it held no job at that moment" in listener.said("KILLED")[0]


async def test_when_there_are_no_more_files_it_all_happens_at_once(scene):
    incidents, _, _, listener = scene
    incidents.hurry()
    await incidents.happen()
    assert [line.split()[0] for line in listener.lines] == ["a", "CANCELLED", "KILLED", "STARTED"]


async def test_a_long_job_whose_worker_is_gone_is_told_as_that(scene):
    incidents, _, crew, listener = scene
    crew._client.outcomes = [WorkerWentAway("gone")]
    submit = crew._client.submit
    crew._client.submit = lambda *arguments: _uncancellable(submit(*arguments))
    incidents.hurry()
    await incidents.happen()
    assert "but it had failed: gone" in listener.said("CANCELLED")[0]


def _uncancellable(job):
    """A job that is over: CANCEL finds nothing."""

    async def cancel(why=""):
        return Answer(Code.COOKIE_NOT_FOUND, "no such job")

    job.cancel = cancel
    return job
