"""A broker and a worker that tests of commands share: one of each for a file of tests."""

import pytest

from tests.process.cli.program import Broker, Program

JOBS = """
import asyncio
import os
import sys

from reasonchip_broker.worker import JobContext, PipelineFailed, Worker

worker = Worker(capacity=8)


@worker.pipeline("greet")
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@worker.pipeline("give")
def give(value: object = None) -> object:
    return value


@worker.pipeline("fail")
def fail() -> None:
    raise ValueError("bad \\x1b[2J thing\\nand more")


@worker.pipeline("fail.politely")
def fail_politely() -> None:
    raise PipelineFailed("the model had no opinion")


@worker.pipeline("wait")
async def wait() -> None:
    await asyncio.sleep(600)


@worker.pipeline("cookie")
async def cookie(context: JobContext) -> str:
    return str(context.cookie)


@worker.pipeline("die")
def die() -> None:
    os._exit(3)


@worker.pipeline("process")
def process() -> int:
    return os.getpid()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where jobs.py is, and logs."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "jobs.py").write_text(JOBS)
    return folder


@pytest.fixture(scope="module")
def broker(folder):
    """A broker on free ports."""
    with Broker(folder / "broker.log", "--log-level", "debug") as broker:
        yield broker


@pytest.fixture(scope="module")
def worker(folder, broker):
    """A worker that serves jobs.py."""
    with Program(
        folder / "worker.log", "worker", "jobs", "--broker", broker.workers[0], "--name", "shared", cwd=folder
    ) as worker:
        broker.wait_for_event("worker registered", name="shared")
        yield worker
