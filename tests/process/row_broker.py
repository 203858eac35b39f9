"""A broker in a process of its own that answers questions about itself: `python row_broker.py JSON`.

The JSON object says `clients` and `workers` (URLs), `limits`, `scheduling`, `loop` (uvloop or asyncio), and whether it
`notes_losses`. It sets its process up as `serve` does, prints where it listens, one JSON object a line, then answers each line of
its standard input in the same way: `state` (counts, the tables' verdict on themselves, memory), `losses` (those noted since the
last time), `stop`. Its log goes to standard error.
"""

import asyncio
import gc
import json
import logging
import os
import resource
import sys
import time
from typing import Any

import uvloop

from reasonchip_broker.broker import Broker
from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import Code, Role
from reasonchip_broker.scheduling import Scheduling
from reasonchip_broker.transports.endpoints import server_transport


def rss_kib() -> int:
    """Resident memory of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def unserved_s(pid: int | str = "self") -> float:
    """For how many seconds of its life a process's first thread was ready to run, and the machine ran something else. 0 where the
    kernel does not say."""
    try:
        with open(f"/proc/{pid}/schedstat") as figures:
            return int(figures.read().split()[1]) / 1e9
    except OSError:
        return 0.0


class Losses:
    """Notes, for each job that was lost with its worker, when its owner's RESULT was written: on the monotonic clock, and for how long
    this process had been kept from running until then."""

    def __init__(self) -> None:
        self._noted: dict[str, tuple[float, float]] = {}

    def outcome(self, cookie: bytes, frame: bytes) -> None:
        """The RESULT is in its owner's outbox by now, and the flush of that is due before anything that is asked for here."""
        if decode(frame).code == Code.WORKER_WENT_AWAY:
            asyncio.get_running_loop().call_soon(self._written, cookie.hex())

    def _written(self, cookie: str) -> None:
        self._noted[cookie] = time.monotonic(), unserved_s()

    def taken(self) -> dict[str, tuple[float, float]]:
        """What was noted since the last time."""
        noted, self._noted = self._noted, {}
        return noted


def state(broker: Broker) -> dict[str, Any]:
    try:
        broker.switchboard.invariants()
        verdict = ""
    except InternalError as error:
        verdict = str(error)
    pools = broker.switchboard._dispatcher.roster.pools.values()
    return {
        "jobs": broker.switchboard.jobs,
        "waiting": broker.switchboard.waiting,
        "connections": broker.connections,
        "peers": len(broker.switchboard.peers),
        "free": sum(pool.free for pool in pools),
        "capacity": sum(worker.capacity for pool in pools for worker in pool.workers),
        "kept": broker.switchboard._dispatcher.outcomes.count,
        "reserved": len(broker.switchboard._dispatcher.slots.reserved),
        "timers": len(broker.switchboard.timers),
        "counters": broker.switchboard.counters.as_dict(),
        "verdict": verdict,
        "failed": broker.failed.is_set(),
        "rss_kib": rss_kib(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def serve(settings: dict[str, Any]) -> None:
    losses = Losses()
    broker = Broker(
        [server_transport(url, Role.CLIENT) for url in settings["clients"]],
        [server_transport(url, Role.WORKER) for url in settings["workers"]],
        limits=Limits(**settings["limits"]),
        scheduling=Scheduling(**settings.get("scheduling", {})),
        outcomes=losses if settings.get("notes_losses") else None,
    )
    await broker.start()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    gc.collect()
    gc.freeze()
    gc.disable()
    say({"clients": broker.client_urls, "workers": broker.worker_urls})
    while (asked := await reader.readline()) in (b"state\n", b"losses\n"):
        say(state(broker) if asked == b"state\n" else losses.taken())
    await broker.stop()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    logging.basicConfig(level=given.get("log", "WARNING"), format="%(message)s")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    factory = asyncio.new_event_loop if given.get("loop") == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(given))
