"""The measurement: connect workers, then clients; warm up; measure over a steady window."""

import asyncio

from benchmarks.generators.closed_loop import Client
from benchmarks.generators.connection import Connection, all_ready, connect
from benchmarks.generators.peers import make_client, make_worker
from benchmarks.generators.recorder import LoadResult, Recorder
from benchmarks.generators.spec import Spec

SETTLE_S = 0.3
"""A JSON worker's REGISTER is not answered; by then it has been taken."""


async def run_load(spec: Spec) -> LoadResult:
    """Put the load of `spec` on the broker. Raises ConnectionError as soon as anything is not as it should be."""
    recorder = Recorder(spec.broker_pid)
    opened: list[Connection] = []
    clients: list[Client] = []
    try:
        for number in range(spec.workers):
            worker = make_worker(spec, number, recorder)
            await connect(spec.workers_url, worker)
            opened.append(worker)
        await all_ready(opened, recorder)
        for number in range(spec.clients):
            client = make_client(spec, number, recorder)
            await connect(spec.clients_url, client)
            clients.append(client)
            opened.append(client)
        await all_ready(opened, recorder)
        await _pause(SETTLE_S, recorder)
        for client in clients:
            client.start()
        await _pause(spec.warmup_s, recorder)
        recorder.begin()
        await _pause(spec.window_s, recorder)
        result = recorder.end()
    finally:
        for connection in opened:
            connection.close()
    if not result.jobs:
        raise ConnectionError(f"no job came back in {spec.window_s:.1f} s")
    return result


async def _pause(seconds: float, recorder: Recorder) -> None:
    """Wait, unless something fails."""
    await asyncio.wait({recorder.failed}, timeout=seconds)
    recorder.check()
