import asyncio
import os
import signal
import subprocess
import sys
import uuid

import pytest

from benchmarks.watch import Watch
from reasonchip_broker.cli.exits import Exit, Fault
from reasonchip_broker.cli.processes import Children
from tests.process.cli.program import PATIENCE_S, descendants_of, environment, wait_for_end

pytestmark = pytest.mark.process

TARGET = "reasonchip_broker.cli.bench_jobs"


@pytest.fixture
def marked(monkeypatch):
    """Marks what this test starts; returns the processes that still run."""
    marker = str(uuid.uuid4())
    monkeypatch.setenv("MARKER", marker)
    return lambda: descendants_of(f"MARKER={marker}")


async def test_all_of_them_are_gone_when_the_block_is_left(marked):
    async with Children() as children:
        _, workers_url = await children.start_broker()
        worker = await children.start_worker("worker-1", TARGET, workers_url, 3)
        assert len(marked()) == 2
        assert worker.alive
        log = children.children["broker"].log
        with Watch(log) as watch:
            assert watch.until(lambda: "worker registered" in log.read_text(), PATIENCE_S)
        folder = worker.log.parent
    assert marked() == []
    assert not folder.exists()
    assert [child.process.returncode for child in children.children.values()] == [0, 0]


async def test_one_that_does_not_listen_is_killed(marked):
    async with Children() as children:
        await children.start_broker()
        os.kill(children.children["broker"].process.pid, signal.SIGSTOP)
        await children.end(0.1)
    assert marked() == []
    assert children.children["broker"].process.returncode == -signal.SIGKILL


async def test_an_error_or_a_cancellation_in_the_block_ends_them_too(marked):
    async def fail_in_it():
        async with Children() as children:
            await children.start_broker()
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        await fail_in_it()
    assert marked() == []

    started = asyncio.Event()

    async def wait_in_it():
        async with Children() as children:
            await children.start_broker()
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait_in_it())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert marked() == []


async def test_a_broker_that_does_not_start_is_told_with_what_it_said():
    async with Children() as children:
        with pytest.raises(Fault, match="no limit 'nonsense'") as failed:
            await children.start_broker("--limit", "nonsense=1")
        assert failed.value.code == Exit.UNREACHABLE


async def test_work_ends_when_a_process_that_it_needs_ends_by_itself(marked):
    async def work():
        await asyncio.Event().wait()

    async with Children() as children:
        _, workers_url = await children.start_broker()
        worker = await children.start_worker("worker-1", TARGET, workers_url, 1)
        guarded = asyncio.create_task(children.guard(work()))
        await asyncio.sleep(0)
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(Fault, match="worker-1 ended by itself"):
            await guarded
    assert marked() == []


async def test_one_that_is_killed_on_purpose_is_no_reason_to_end_the_work(marked):
    async with Children() as children:
        _, workers_url = await children.start_broker()
        await children.start_worker("worker-1", TARGET, workers_url, 1)

        async def work():
            await children.kill("worker-1")
            return len(marked())

        assert await children.guard(work()) == 1


async def test_the_works_own_error_is_what_is_raised():
    async def work():
        raise ValueError("bad")

    async with Children() as children:
        with pytest.raises(ValueError, match="bad"):
            await children.guard(work())


def test_they_do_not_outlive_a_parent_that_is_killed(tmp_path):
    code = (
        "import asyncio\n"
        "from reasonchip_broker.cli.processes import Children\n"
        "async def main():\n"
        "    async with Children() as children:\n"
        "        await children.start_broker()\n"
        "        print('started', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    marker = f"MARKER={uuid.uuid4()}"
    changes = environment(MARKER=marker.removeprefix("MARKER="), TMPDIR=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], env=changes, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        try:
            assert parent.stdout.readline() == b"started\n"
            started = descendants_of(marker)
            assert len(started) == 2
        finally:
            parent.kill()
    wait_for_end(started)
    assert not descendants_of(marker)
