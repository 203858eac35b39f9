"""A worker as an author would write it, with handlers that misbehave in every way that the tests ask for.

python worker_app.py URL CAPACITY DRAIN_S [PATIENCE_S]

`begun` and `end` are named pipes, by which a handler tells that it has begun and is told to end. For what will not end, the worker
waits PATIENCE_S in place of the seconds that the product has for it. WORKER_GRACE_S in the environment gives it a session.
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from reasonchip_broker.worker import JobContext, Worker, executors, link, loops

URL, CAPACITY, DRAIN_S = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
for patience in sys.argv[4:]:
    executors.ABANDON_S = loops.WIND_UP_S = link.STOP_S = float(patience)
GRACE_S = int(os.environ.get("WORKER_GRACE_S", "0"))
worker = Worker(URL, capacity=CAPACITY, drain_s=DRAIN_S, name="the app", session_grace_s=GRACE_S)


@worker.pipeline("echo")
async def echo(value: Any = None) -> Any:
    return value


@worker.pipeline("pid")
def pid() -> int:
    return os.getpid()


@worker.pipeline("until")
async def until(begun: Path, end: Path) -> str:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    descriptor = os.open(end, os.O_RDONLY | os.O_NONBLOCK)
    loop.add_reader(descriptor, ended.set)
    try:
        begun.write_text("begun")
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return "finished"


@worker.pipeline("block")
async def block(begun: Path, seconds: float) -> str:
    begun.write_text("begun")
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        time.sleep(0.05)
    return "loaded"


@worker.pipeline("raise")
async def raising() -> None:
    raise LookupError("nothing there")


@worker.pipeline("unserialisable")
async def unserialisable() -> Any:
    return object()


@worker.pipeline("large")
async def large(size: int) -> bytes:
    return bytes(size)


@worker.pipeline("stubborn")
async def stubborn(begun: Path) -> None:
    begun.write_text("begun")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


@worker.pipeline("stuck thread")
def stuck(begun: Path) -> None:
    begun.write_text("begun")
    while True:
        time.sleep(3600)


@worker.pipeline("leave")
def leave(code: int) -> None:
    os._exit(code)


@worker.pipeline("process.leave", executor="process")
def leave_process(code: int) -> None:
    os._exit(code)


@worker.pipeline("process.until", executor="process")
def until_in_process(begun: Path, end: Path, context: JobContext) -> list[Any]:
    begun.write_text(str(os.getpid()))
    with end.open("rb", buffering=0) as word:
        word.read(1)
    return ["finished", context.attempt]


if __name__ == "__main__":
    worker.run()
