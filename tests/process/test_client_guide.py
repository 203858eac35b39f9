"""The how-to pages for applications: each of their programs is run, and must print what the page says it prints."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.unit.client.ends import Answer, StubWorker
from tests.unit.client.thread_broker import thread_broker

pytestmark = pytest.mark.process

HOW_TO = Path(__file__).parents[2] / "docs/how-to"
PAGES = {
    "use-the-client": 8,
    "stream-progress": 3,
    "talk-to-a-running-job": 3,
    "survive-a-disconnect": 2,
    "run-batches": 3,
    "decide-who-goes-next": 2,
}
"""Each page, and how many programs it has."""

URL = "tcp://127.0.0.1:51500"
EXAMPLE = re.compile(
    r"^## (?P<title>.+?)$.*?```python\n(?P<program>.+?)```\n+```text\n(?P<output>.+?)```", re.MULTILINE | re.DOTALL
)


class Serving(StubWorker):
    """The worker that the pages' programs are written for."""

    def __init__(self, answer: Answer, capacity: int) -> None:
        super().__init__(answer, capacity, ["greet", "square", "sleep", "broken", "write", "flaky", "careful"])
        self.waiting: dict[bytes, tuple[Packet, str]] = {}

    def received(self, connection: Any, frames: Any) -> None:
        before = self.cancels.qsize()
        inputs = [decode(frame[2]) for frame in frames if frame[0] == PacketType.INPUT]
        super().received(connection, [frame for frame in frames if frame[0] not in (PacketType.INPUT, PacketType.CREDIT)])
        while self.cancels.qsize() > before:
            cancel = self.cancels.get_nowait()
            self.fail(cancel, Code.CANCELLED, "stopped")
        for packet in inputs:
            run, action = self.waiting.pop(packet.cookie)
            agreed = payloads.decode(packet.payload, schemas.chunk_meta(packet.meta).enc)
            self.succeed(run, f"{'done' if agreed else 'left alone'}: {action}")

    def report(self, run: Packet, *words: str) -> None:
        for number, word in enumerate(words, 1):
            self.connection.send(packets.progress(run.cookie, run.attempt, number, word.encode(), "text"))


def serve(worker: StubWorker, run: Packet) -> None:
    """Do what the pages say of each pipeline."""
    assert isinstance(worker, Serving)
    options = schemas.run_options(run.meta)
    named = payloads.decode(run.payload, options.enc)
    if options.p == "greet":
        worker.succeed(run, f"Hello, {named['name']}!")
    elif options.p == "square":
        worker.succeed(run, named["number"] ** 2)
    elif options.p == "sleep":
        asyncio.get_running_loop().call_later(named["seconds"], worker.succeed, run, None)
    elif options.p == "careful":
        worker.waiting[run.cookie] = run, named["action"]
        worker.report(run, f"{named['action']}?")
    elif options.p == "broken":
        stack = ["Traceback (most recent call last):", "ZeroDivisionError: division by zero"]
        worker.fail(run, Code.EXCEPTION, "division by zero", error_type="ZeroDivisionError", stack=stack)
    else:
        words = named["text"].split()
        if options.p == "flaky" and run.attempt == 1:
            worker.report(run, words[0])
            worker.fail(run, Code.EXCEPTION, "slow down", error_type="RateLimited")
        else:
            worker.report(run, *words)
            worker.succeed(run, len(words))


ONE_SLOT = ["decide-who-goes-next"]
"""Pages whose programs are for a worker that has one slot."""


def programs() -> Iterator[Any]:
    for page in PAGES:
        slots = 1 if page in ONE_SLOT else 64
        for example in EXAMPLE.finditer((HOW_TO / f"{page}.md").read_text("utf-8")):
            yield pytest.param(example["program"], example["output"], slots, id=f"{page}: {example['title']}")


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[int, str]]:
    with thread_broker(serve, worker=Serving) as many, thread_broker(serve, 1, worker=Serving) as one:
        yield {64: many.url, 1: one.url}


@pytest.mark.parametrize("page", PAGES)
def test_every_program_of_a_page_is_one_that_is_run(page: str) -> None:
    text = (HOW_TO / f"{page}.md").read_text("utf-8")
    assert text.count("```python") == len(EXAMPLE.findall(text)) == PAGES[page]


@pytest.mark.parametrize(("program", "output", "slots"), [*programs()])
def test_a_program_of_the_page_prints_what_the_page_says(program: str, output: str, slots: int, urls: dict[int, str]) -> None:
    assert URL in program
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace(URL, urls[slots])],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)
