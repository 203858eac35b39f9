"""`python -m benchmarks.peers.client_load SYSTEM URL IN_FLIGHT WARMUP_S WINDOW_S`: one client process that keeps so many jobs in flight
through a client library, as its users would, and prints what it found as JSON.

It runs in the environment of the library that it uses, and so imports it only when asked to.
"""

import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from benchmarks.stats import percentile

PAYLOAD = "x" * 100


class Window:
    """What ends within the window counts. `over` from its end on."""

    def __init__(self, warmup_s: float, window_s: float) -> None:
        now = time.perf_counter()
        self._begin, self._end = now + warmup_s, now + warmup_s + window_s
        self._window_s = window_s
        self._cpu: list[float] = []
        self._at: list[float] = []
        self.latencies: list[int] = []
        self.over = False

    def ended(self, since: float) -> None:
        """A job ended that was submitted at `since` (`time.perf_counter`)."""
        now = time.perf_counter()
        if now < self._begin:
            return
        if not self._at:
            self._mark(now)
            # Whoever measures the other processes looks at them now, and once more when this process says what it found.
            print("begin", flush=True)
        self.latencies.append(int((now - since) * 1e9))
        if now >= self._end and not self.over:
            self.over = True
            self._mark(now)
            print("end", flush=True)

    def _mark(self, now: float) -> None:
        self._at.append(now)
        self._cpu.append(time.process_time())

    def told(self) -> dict[str, Any]:
        """For JSON."""
        ordered = sorted(self.latencies)
        seconds = self._at[1] - self._at[0]
        return {
            "jobs": len(ordered),
            "seconds": seconds,
            "client_cpu_ns": int((self._cpu[1] - self._cpu[0]) * 1e9),
            **{f"p{name}_ns": percentile(ordered, part) for name, part in (("50", 0.5), ("99", 0.99), ("999", 0.999))},
        }


async def _closed_loop(run: Callable[[], Awaitable[object]], in_flight: int, window: Window) -> None:
    """So many at once, each as soon as the one before has ended."""

    async def one_after_the_other() -> None:
        while not window.over:
            since = time.perf_counter()
            await run()
            window.ended(since)

    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))


async def _ours(url: str, in_flight: int, make: Callable[[], Window]) -> Window:
    from reasonchip_broker.client import Client

    async with Client(url) as client:
        await client.run("bench", {"text": PAYLOAD})
        window = make()
        await _closed_loop(lambda: client.run("bench", {"text": PAYLOAD}), in_flight, window)
    return window


async def _nats(url: str, in_flight: int, make: Callable[[], Window]) -> Window:
    import nats  # type: ignore[import-not-found]

    connection = await nats.connect(url)
    data = PAYLOAD.encode()
    window = make()
    await _closed_loop(lambda: connection.request("bench", data, timeout=30), in_flight, window)
    await connection.close()
    return window


def _celery(url: str, in_flight: int, make: Callable[[], Window]) -> Window:
    os.environ["BENCH_REDIS"] = url
    from benchmarks.peers.celery_app import bench

    bench.delay(PAYLOAD).get(timeout=60)
    window = make()
    running = deque((time.perf_counter(), bench.delay(PAYLOAD)) for _ in range(in_flight))
    while not window.over:
        since, result = running.popleft()
        result.get(timeout=60)
        window.ended(since)
        running.append((time.perf_counter(), bench.delay(PAYLOAD)))
    for _, result in running:
        result.get(timeout=60)
    return window


def _echo(text: str, _: int) -> str:
    return text


def _dask(url: str, in_flight: int, make: Callable[[], Window]) -> Window:
    from distributed import Client, as_completed  # type: ignore[import-not-found]

    with Client(url) as client:
        client.submit(_echo, PAYLOAD, -1).result(timeout=60)
        window, numbers = make(), count()
        since = {}

        def submit() -> Any:
            future = client.submit(_echo, PAYLOAD, next(numbers), pure=False)
            since[future.key] = time.perf_counter()
            return future

        running = as_completed([submit() for _ in range(in_flight)], with_results=True)
        for future, _ in running:
            window.ended(since.pop(future.key))
            if window.over:
                break
            running.add(submit())
    return window


def main(system: str, url: str, in_flight: int, warmup_s: float, window_s: float) -> None:
    """Puts the load on, and prints `begin`, `end` and a line of JSON."""

    def make() -> Window:
        return Window(warmup_s, window_s)

    if system in ("celery", "dask"):
        window = {"celery": _celery, "dask": _dask}[system](url, in_flight, make)
    else:
        import uvloop

        window = uvloop.run({"nats": _nats, "ours": _ours}[system](url, in_flight, make))
    print(json.dumps(window.told()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
