"""docs/how-to/use-the-client.md: each of its programs is run, and must print what the page says it prints."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code
from tests.unit.client.ends import Answer, StubWorker
from tests.unit.client.thread_broker import thread_broker

pytestmark = pytest.mark.process

PAGE = Path(__file__).parents[2] / "docs/how-to/use-the-client.md"
URL = "tcp://127.0.0.1:51500"
EXAMPLE = re.compile(
    r"^## (?P<title>.+?)$.*?```python\n(?P<program>.+?)```\n+```text\n(?P<output>.+?)```", re.MULTILINE | re.DOTALL
)


class Serving(StubWorker):
    """The worker that the page's programs are written for."""

    def __init__(self, answer: Answer, capacity: int) -> None:
        super().__init__(answer, capacity, ["greet", "square", "sleep", "broken"])

    def received(self, connection: Any, frames: Any) -> None:
        before = self.cancels.qsize()
        super().received(connection, frames)
        while self.cancels.qsize() > before:
            cancel = self.cancels.get_nowait()
            self.fail(cancel, Code.CANCELLED, "stopped")


def serve(worker: StubWorker, run: Packet) -> None:
    """greet, square, sleep and broken."""
    options = schemas.run_options(run.meta)
    named = payloads.decode(run.payload, options.enc)
    if options.p == "greet":
        worker.succeed(run, f"Hello, {named['name']}!")
    elif options.p == "square":
        worker.succeed(run, named["number"] ** 2)
    elif options.p == "sleep":
        asyncio.get_running_loop().call_later(named["seconds"], worker.succeed, run, None)
    else:
        stack = ["Traceback (most recent call last):", "ZeroDivisionError: division by zero"]
        worker.fail(run, Code.EXCEPTION, "division by zero", error_type="ZeroDivisionError", stack=stack)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with thread_broker(serve, worker=Serving) as ends:
        yield ends.url


def test_every_program_of_the_page_is_one_that_is_run() -> None:
    page = PAGE.read_text("utf-8")
    assert page.count("```python") == len(EXAMPLE.findall(page)) >= 6


@pytest.mark.parametrize(
    ("program", "output"),
    [
        pytest.param(example["program"], example["output"], id=example["title"])
        for example in EXAMPLE.finditer(PAGE.read_text())
    ],
)
def test_a_program_of_the_page_prints_what_the_page_says(program: str, output: str, url: str) -> None:
    assert URL in program
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace(URL, url)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)
