"""The measurement: connect workers, then clients; warm up; measure over a steady window."""

import asyncio
import sys
from typing import Any

from benchmarks.generators.closed_loop import Client
from benchmarks.generators.connection import Connection, all_ready, connect
from benchmarks.generators.open_loop import Clock, OpenClient, make_open_client
from benchmarks.generators.peers import make_client, make_worker
from benchmarks.generators.recorder import LoadResult, Recorder
from benchmarks.generators.spec import Spec

LOADED = "loaded"
"""What is printed when the window of a generator begins that is told when it ends."""
SETTLE_S = 0.3
"""A JSON worker's REGISTER is not answered; by then it has been taken."""


async def run_load(spec: Spec) -> LoadResult:
    """Put the load of `spec` on the broker. Raises ConnectionError as soon as anything is not as it should be."""
    recorder = Recorder(spec.broker_pid)
    opened: list[Connection] = []
    clients: list[Client] = []
    clock: Clock | None = None
    try:
        for number in range(spec.first, spec.first + spec.workers):
            worker = make_worker(spec, number, recorder)
            await connect(spec.workers_url, worker)
            opened.append(worker)
        await all_ready(opened, recorder)
        for number in range(spec.first, spec.first + spec.clients):
            client = make_open_client(spec, number, recorder) if spec.rate else make_client(spec, number, recorder)
            clients.append(client)
            for connection in (*client.companions(), client):
                await connect(spec.clients_url, connection)
                opened.append(connection)
        await all_ready(opened, recorder)
        await pause(SETTLE_S, recorder)
        for client in clients:
            client.start()
        if spec.rate:
            clock = Clock([client for client in clients if isinstance(client, OpenClient)], spec.rate)
        await pause(spec.warmup_s, recorder)
        recorder.begin()
        if spec.until_told:
            print(LOADED, flush=True)
            await until_told(recorder)
        else:
            await pause(spec.window_s, recorder)
        result = recorder.end()
    finally:
        if clock is not None:
            clock.stop()
        for connection in opened:
            connection.close()
    if not result.jobs:
        raise ConnectionError(f"no job came back in {result.seconds:.1f} s")
    return result


async def pause(seconds: float, recorder: Recorder) -> None:
    """Wait, unless something fails."""
    await asyncio.wait({recorder.failed}, timeout=seconds)
    recorder.check()


async def until_told(recorder: Recorder) -> None:
    """Wait until stdin ends, unless something fails."""
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()
    told = asyncio.Event()
    loop.add_reader(stdin, told.set)
    waiting = asyncio.ensure_future(told.wait())
    both: set[asyncio.Future[Any]] = {waiting, recorder.failed}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    loop.remove_reader(stdin)
    waiting.cancel()
    recorder.check()
