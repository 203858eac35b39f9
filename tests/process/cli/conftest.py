"""A broker and a worker that tests of commands share: one of each for a file of tests."""

import pytest

from tests.process.cli.program import Broker, Program

JOBS = """
import asyncio
import os
import sys

from reasonchip_broker.worker import JobContext, PipelineFailed, Worker

worker = Worker(capacity=16)


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


@worker.pipeline("story")
async def story(context: JobContext, lines: int = 2, end: str = "the end") -> str:
    for number in range(1, lines + 1):
        await context.progress(f"line {number}")
    await context.progress({"lines": lines})
    return end


@worker.pipeline("loud")
async def loud(context: JobContext) -> None:
    while True:
        await context.progress("x" * 1000)


@worker.pipeline("agent")
async def agent(context: JobContext) -> list:
    got = []
    await context.progress("ready")
    async for item in context.inputs():
        await context.progress({"got": item})
        got.append(item)
        if item == "stop":
            break
    return got


@worker.pipeline("stubborn")
async def stubborn(context: JobContext, succeeds_at: int) -> int:
    await context.progress(f"trying for the {context.attempt}. time")
    if context.attempt < succeeds_at:
        raise KeyError("not yet")
    return context.attempt


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
