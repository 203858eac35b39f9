"""A broker with room for few jobs, and a client that submits many at once: it need not know."""

import asyncio

import pytest

from reasonchip_broker.client import Client, Overloaded
from tests.process.cli.conftest import JOBS
from tests.process.cli.program import Broker, Program

pytestmark = pytest.mark.process


@pytest.fixture
def full_broker(tmp_path):
    """A broker in which five jobs may wait, and a worker."""
    (tmp_path / "jobs.py").write_text(JOBS)
    with (
        Broker(tmp_path / "broker", "--limit", "backlog_jobs_max=5") as broker,
        Program(tmp_path / "worker", "worker", "jobs", "--capacity", "2", "--broker", broker.workers[0], cwd=tmp_path),
    ):
        broker.wait_for_event("worker registered")
        yield broker


async def test_all_of_many_jobs_are_run_though_few_may_wait(full_broker):
    async with Client(full_broker.clients[0]) as client:
        results = await asyncio.gather(*(client.run("greet", {"name": f"{number}"}) for number in range(300)))
    assert results == [f"Hello, {number}!" for number in range(300)]


async def test_who_has_no_patience_is_told_when_to_try_again(full_broker):
    async with Client(full_broker.clients[0], overload_patience_s=0) as client:
        jobs = [client.submit("wait") for _ in range(9)]
        for job in jobs[-2:]:
            with pytest.raises(Overloaded) as caught:
                await job
            assert caught.value.retry_after_s is not None
        assert not any(job.done() for job in jobs[:-2])
        for job in jobs[:-2]:
            await job.cancel()
