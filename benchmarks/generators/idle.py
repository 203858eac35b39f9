"""Many connections that do nothing, and what they cost the broker in memory."""

import asyncio
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.generators.connection import Connection, all_ready, connect
from benchmarks.generators.peers import make_client
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.spec import Spec
from benchmarks.procstat import raise_file_limit, read_memory

FIRST = 64
"""Connections opened before memory is read the first time: what the broker loads and allocates once is not counted as theirs."""
WAVE = 50
"""Connections opened at once, so that no accept queue overflows."""
PER_ADDRESS = 200
"""Connections from one loopback address; brokers limit how many one address may have before they are known."""
SETTLE_S = 2.0
SPARE_FILES = 64


@dataclass(frozen=True, slots=True)
class IdleResult:
    """Resident memory of the broker before and after."""

    connections: int
    """How many were open and welcomed between the two readings, beside the first few."""
    before_bytes: int
    after_bytes: int
    per_connection_bytes: float
    """Memory of the broker process; what the kernel keeps for a socket is not in it."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def run_idle(spec: Spec) -> IdleResult:
    """Open the connections of `spec`, and read the broker's memory. Raises ConnectionError if the broker does not take them all."""
    wanted = spec.idle_connections
    room = raise_file_limit() - SPARE_FILES
    if wanted > room:
        raise ConnectionError(f"{wanted} connections need more open files than this process may have ({room + SPARE_FILES})")
    recorder = Recorder(spec.broker_pid)
    opened: list[Connection] = []
    first = min(FIRST, wanted // 2)
    try:
        await _open(spec, recorder, opened, first)
        await asyncio.sleep(SETTLE_S)
        before, _ = read_memory(spec.broker_pid)
        await _open(spec, recorder, opened, wanted)
        await asyncio.sleep(SETTLE_S)
        recorder.check()
        after, _ = read_memory(spec.broker_pid)
    finally:
        for connection in opened:
            connection.close()
    return IdleResult(wanted - first, before, after, (after - before) / (wanted - first))


async def _open(spec: Spec, recorder: Recorder, opened: list[Connection], total: int) -> None:
    """Open connections, a wave at a time, until there are `total`."""
    while len(opened) < total:
        numbers = range(len(opened), min(len(opened) + WAVE, total))
        wave = await asyncio.gather(*(_connect_one(spec, recorder, number) for number in numbers))
        opened += wave
        await all_ready(wave, recorder)


async def _connect_one(spec: Spec, recorder: Recorder, number: int) -> Connection:
    """Connection `number`, from the loopback address that is its turn."""
    client = make_client(spec, number, recorder)
    high, low = divmod(number // PER_ADDRESS, 250)
    await connect(spec.clients_url, client, local_host=f"127.0.{high}.{low + 1}")
    return client
