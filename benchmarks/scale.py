"""`python -m benchmarks.scale` (`make bench-scale`): many connections, and a million jobs that wait, at a real broker.

- *connections*: so many are opened as fast as they are taken; what one costs; what a job costs beside those that do nothing; and how
  long it takes until all of many thousands that were cut off at once are back.
- *backlog*: a million jobs for which there is no worker, submitted as fast as they are taken. What each takes up in memory, and how
  late deadlines come while so many wait.
- *stalls*: the same at a rate that leaves the broker time: for how long it stands still at worst while its tables grow, as a client
  sees it that asks it something all the time. (What this process itself is late is in that.)

The broker has its defaults, but for how many connections, and jobs that wait, it takes. Everything else is in this process, on another
core. Figures belong to one machine at one moment.
"""

import argparse
import asyncio
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.brokers import Commands, Running, our_command, running
from benchmarks.errors import BenchError, Missing
from benchmarks.generators import ours
from benchmarks.generators.connection import Connection, all_ready, connect
from benchmarks.generators.ours import OurClient, OurWorker
from benchmarks.generators.recorder import Recorder
from benchmarks.process import Cores, choose_cores, leave_in_order
from benchmarks.procstat import raise_file_limit, read_cpu, read_memory
from benchmarks.report import Table, print_table
from benchmarks.stats import percentile
from benchmarks.workloads import Socket, System

WAVE = 250
CLIENTS = 20
READ_BYTES = 64 * 1024
PAYLOAD_BYTES = 100
DEADLINES = 200
DEADLINE_MS, DEADLINE_EXCEEDED = 500, 4
ACTIVE_S = 2.0
TICK_S = 0.002
RATE = 40_000
"""Jobs a second that leave the broker time for other things."""

NOTHING_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    idle: int
    active: int
    back: int
    jobs: int


WHOLE = Sizes(idle=10_000, active=1_000, back=5_000, jobs=1_000_000)
QUICK = Sizes(idle=1_000, active=100, back=500, jobs=50_000)


class Asker(Connection):
    """A client that asks the broker something, again as soon as it has its answer: what it waits for is for how long it stood still."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__("who asks", recorder, ours.hello(), ours.frame_length)
        self.waits_ns: list[int] = []
        self._asked_at = 0
        self._asks = False

    def begin(self) -> None:
        """Ask from now on."""
        self.waits_ns.clear()
        if not self._asks:
            self._asks = True
            self._ask()

    def worst_ms(self) -> float:
        """The longest wait so far."""
        return max([*self.waits_ns, time.perf_counter_ns() - self._asked_at]) / 1e6

    def _ask(self) -> None:
        self._asked_at = time.perf_counter_ns()
        self.transport.write(ours.frame(ours.PING, number=1))

    def data_received(self, data: bytes) -> None:
        """WELCOME, and then answers."""
        for head in self.framing.feed(data):
            if head[4] == ours.WELCOME:
                self.set_ready()
            elif head[4] == ours.PONG:
                self.waits_ns.append(time.perf_counter_ns() - self._asked_at)
                self._ask()
            elif head[4] == ours.PING:
                self.transport.write(ours.frame(ours.PONG, number=int.from_bytes(head[24:28], "big")))


class Submitter(Connection):
    """A client that submits, and takes down when it is told of each outcome."""

    def __init__(self, number: int, recorder: Recorder) -> None:
        super().__init__(f"client {number}", recorder, ours.hello(), ours.frame_length)
        self._own = number.to_bytes(8, "big")
        self.submitted = self.queued = 0
        self.ended: dict[bytes, tuple[int, int]] = {}
        """By cookie: the code of its outcome, and when it came (ns)."""
        self.news = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    def pause_writing(self) -> None:
        """The broker does not read for now."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._may_write.set()

    async def submit(self, jobs: int, meta: dict[str, object], left_ms: int = 0, rate: float = 0) -> list[bytes]:
        """So many jobs, at most so many a second if there is a `rate`; returns their cookies."""
        template = ours.frame(ours.RUN, meta, b"v" * PAYLOAD_BYTES, attempt=1, cookie=bytes(16), number=left_ms)
        before, after = template[:8], template[24:]
        cookies: list[bytes] = []
        step = max(1, round(rate * TICK_S)) if rate else READ_BYTES // len(template)
        loop = asyncio.get_running_loop()
        due = loop.time()
        while jobs:
            new = range(self.submitted + 1, self.submitted + 1 + min(step, jobs))
            fresh = [self._own + number.to_bytes(8, "big") for number in new]
            self.submitted += len(fresh)
            jobs -= len(fresh)
            cookies += fresh
            self.transport.write(b"".join([before + cookie + after for cookie in fresh]))
            await self._may_write.wait()
            due += TICK_S
            await asyncio.sleep(max(0.0, due - loop.time()) if rate else 0)
        return cookies

    def data_received(self, data: bytes) -> None:
        """QUEUED for each job, and in the end its outcome."""
        now = time.perf_counter_ns()
        for head in self.framing.feed(data):
            kind, code = head[4], head[5]
            if kind == ours.REPLY and code == ours.QUEUED:
                self.queued += 1
            elif kind == ours.RESULT:
                self.ended[head[8:24]] = code, now
            elif kind == ours.WELCOME:
                self.set_ready()
            elif kind == ours.PING:
                self.transport.write(ours.frame(ours.PONG, number=int.from_bytes(head[24:28], "big")))
            else:
                self.fail(f"packet type {kind}, code {code}")
        self.news.set()

    async def until(self, queued: int, ended: int) -> None:
        """Wait until so many jobs are known to wait, and so many to be over. Raises TimeoutError."""
        async with asyncio.timeout(NOTHING_TIMEOUT_S):
            while self.queued < queued or len(self.ended) < ended:
                self.recorder.check()
                self.news.clear()
                await self.news.wait()


async def opened(broker: Running, connections: Sequence[Connection], *, workers: bool = False, wave_size: int = WAVE) -> float:
    """Open and greet all of these, so many at once, and the next ones when those are greeted; returns how many seconds that took."""
    began = time.perf_counter()
    for first in range(0, len(connections), wave_size):
        wave = connections[first : first + wave_size]
        await asyncio.gather(*(connect(broker.workers if workers else broker.clients, one) for one in wave))
        await all_ready(wave, wave[0].recorder)
    return time.perf_counter() - began


async def active(broker: Running, clients: Sequence[OurClient], recorder: Recorder) -> dict[str, float]:
    """What a job costs while these clients have one in flight each, for a while."""
    recorder.begin()
    await asyncio.sleep(ACTIVE_S)
    recorder.check()
    found = recorder.end()
    return {
        "cpu_us_per_job": found.broker_cpu_ns / 1e3 / found.jobs,
        "jobs_per_s": found.jobs / found.seconds,
        "p50_ms": found.p50_ns / 1e6,
        "p99_ms": found.p99_ns / 1e6,
    }


async def connections(broker: Running, sizes: Sizes) -> dict[str, Any]:
    """Many connections, as the module says."""
    pid = broker.child.pid
    recorder = Recorder(pid)
    workers = [OurWorker(number, recorder, sizes.active // 4, PAYLOAD_BYTES) for number in range(4)]
    await opened(broker, workers, workers=True)
    clients = [OurClient(number, recorder, 1, PAYLOAD_BYTES, acks=True) for number in range(sizes.active)]
    await opened(broker, clients)
    for client in clients:
        client.start()
    await asyncio.sleep(0.5)
    alone = await active(broker, clients, recorder)
    # Those that are active are taken down, so that what opening costs is not theirs.
    for client in clients:
        client.close()
    others: list[Connection] = [OurClient(sizes.active + number, recorder, 1, PAYLOAD_BYTES) for number in range(sizes.idle)]
    memory, cpu = read_memory(pid)[0], read_cpu(pid).total_ns
    took_s = await opened(broker, others)
    cpu, memory = read_cpu(pid).total_ns - cpu, read_memory(pid)[0] - memory
    again = [OurClient(number, recorder, 1, PAYLOAD_BYTES, acks=True) for number in range(20_000, 20_000 + sizes.active)]
    await opened(broker, again)
    for client in again:
        client.start()
    await asyncio.sleep(0.5)
    beside = await active(broker, again, recorder)
    back_s = await reconnect(broker, others[: sizes.back], recorder)
    for connection in (*others[sizes.back :], *again, *workers):
        connection.close()
    return {
        "idle": sizes.idle,
        "active": sizes.active,
        "opened_per_s": sizes.idle / took_s,
        "cpu_us_per_connection": cpu / 1e3 / sizes.idle,
        "kib_per_connection": memory / 1024 / sizes.idle,
        "alone": alone,
        "beside_idle": beside,
        "back": sizes.back,
        "back_s": back_s,
    }


async def reconnect(broker: Running, cut: Sequence[Connection], recorder: Recorder) -> float:
    """Cut all of these off in one moment, and let as many come back at once; returns the seconds until the last is welcomed."""
    for connection in cut:
        connection.close()
    await asyncio.sleep(0)
    fresh = [OurClient(30_000 + number, recorder, 1, PAYLOAD_BYTES) for number in range(len(cut))]
    return await opened(broker, fresh, wave_size=len(fresh))


JOB: dict[str, object] = {"p": "nobody", "enc": "bytes"}


async def backlog(broker: Running, sizes: Sizes) -> dict[str, Any]:
    """Many jobs that wait, submitted as fast as they are taken: what they take up, and how late deadlines come under them."""
    pid = broker.child.pid
    recorder = Recorder(pid)
    asker = Asker(recorder)
    clients = [Submitter(number, recorder) for number in range(1, CLIENTS + 1)]
    await opened(broker, [asker, *clients])
    # One before all others, so that what is loaded and made for the first job is not counted as their memory.
    await clients[0].submit(1, JOB)
    await clients[0].until(queued=1, ended=0)
    memory, cpu = read_memory(pid)[0], read_cpu(pid).total_ns
    began = time.perf_counter()
    jobs = await fill(clients, sizes.jobs)
    took_s, cpu = time.perf_counter() - began, read_cpu(pid).total_ns - cpu
    memory = read_memory(pid)[0] - memory
    asker.begin()
    late = await deadlines(clients[0])
    found = {
        "jobs": jobs,
        "bytes_per_job": memory / jobs,
        "bytes_beside_frame": memory / jobs - len(ours.frame(ours.RUN, JOB, b"v" * PAYLOAD_BYTES)),
        "submitted_per_s": jobs / took_s,
        "cpu_us_per_job": cpu / 1e3 / jobs,
        "deadlines_late_ms": {"p50": percentile(late, 0.5) / 1e6, "max": late[-1] / 1e6, "first": late[0] / 1e6},
        "stood_still_under_it_ms": asker.worst_ms(),
    }
    for connection in (asker, *clients):
        connection.close()
    return found


async def stalls(broker: Running, sizes: Sizes) -> dict[str, Any]:
    """The same jobs, at a rate that leaves the broker time: for how long it stands still while its tables grow."""
    recorder = Recorder(broker.child.pid)
    asker = Asker(recorder)
    clients = [Submitter(number, recorder) for number in range(1, CLIENTS + 1)]
    await opened(broker, [asker, *clients])
    asker.begin()
    jobs = await fill(clients, sizes.jobs, RATE)
    waits = sorted(asker.waits_ns)
    found = {"jobs": jobs, "stood_still_ms": asker.worst_ms(), "asked": len(waits)}
    found |= {f"p{name}_ms": percentile(waits, part) / 1e6 for name, part in (("50", 0.5), ("99", 0.99), ("9999", 0.9999))}
    for connection in (asker, *clients):
        connection.close()
    return found


async def fill(clients: Sequence[Submitter], jobs: int, rate: float = 0) -> int:
    """So many jobs, of all clients together, until all are known to wait; returns how many they are."""
    each = jobs // len(clients)
    await asyncio.gather(*(client.submit(each, JOB, rate=rate / len(clients)) for client in clients))
    await asyncio.gather(*(client.until(queued=client.submitted, ended=0) for client in clients))
    return each * len(clients)


async def deadlines(client: Submitter) -> list[int]:
    """Some jobs with a deadline behind all others; how much too late (ns) their ends are told, in order."""
    late = []
    for _ in range(DEADLINES):
        due = time.perf_counter_ns() + DEADLINE_MS * 1_000_000
        (cookie,) = await client.submit(1, JOB, DEADLINE_MS)
        late.append((cookie, due))
        await asyncio.sleep(0.005)
    await client.until(queued=0, ended=DEADLINES)
    codes = {client.ended[cookie][0] for cookie, _ in late}
    if codes != {DEADLINE_EXCEEDED}:
        raise ConnectionError(f"jobs whose deadline came ended with codes {sorted(codes)}")
    return sorted(client.ended[cookie][1] - due for cookie, due in late)


@contextmanager
def fresh(python: str, cores: Cores, sizes: Sizes) -> Iterator[Running]:
    """A broker of its own, on its core."""
    connections_max = 2 * (sizes.idle + sizes.active + sizes.back)
    limits = f"connections_max={connections_max}", f"backlog_jobs_max={2 * sizes.jobs}"
    commands = Commands(ours=our_command(python), nats=None, limits=limits)
    with (
        tempfile.TemporaryDirectory(prefix="rcb-bench-") as name,
        running(System.BINARY, Socket.TCP, commands, cores.broker, Path(name)) as broker,
    ):
        yield broker


MEASURES = {"connections": connections, "backlog": backlog, "stalls": stalls}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the connections, a twentieth of the jobs")
    parser.add_argument("--broker-python", default=sys.executable, metavar="PATH", help="the Python that our broker runs on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    options.broker_python = os.path.abspath(shutil.which(options.broker_python) or options.broker_python)
    leave_in_order()
    sizes = QUICK if options.quick else WHOLE
    raise_file_limit()
    # A collection here would show as one of the broker's stalls.
    gc.disable()
    import uvloop

    found: dict[str, Any] = {}
    try:
        cores = choose_cores()
        for name, measure in MEASURES.items():
            with fresh(options.broker_python, cores, sizes) as broker:
                found[name] = uvloop.run(measure(broker, sizes))
    except (BenchError, Missing, OSError, TimeoutError) as error:
        print(f"benchmark: {error if str(error) else type(error).__name__}", file=sys.stderr)
        return 1
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def show(found: dict[str, Any]) -> None:
    """The tables, on stdout."""
    many, queued, still = found["connections"], found["backlog"], found["stalls"]
    alone, beside = many["alone"], many["beside_idle"]
    rows = [
        (f"{many['idle']:,} connections opened, a second", f"{many['opened_per_s']:,.0f}"),
        ("processor time of each, µs", f"{many['cpu_us_per_connection']:,.0f}"),
        ("memory of each, KiB", f"{many['kib_per_connection']:.1f}"),
        (f"a job of {many['active']:,} active clients, µs", f"{alone['cpu_us_per_job']:.1f}"),
        ("the same beside those that do nothing, µs", f"{beside['cpu_us_per_job']:.1f}"),
        ("× what it costs without them", f"{beside['cpu_us_per_job'] / alone['cpu_us_per_job']:.2f}"),
        ("p99 of it, without and with them, ms", f"{alone['p99_ms']:.1f}, {beside['p99_ms']:.1f}"),
        (f"{many['back']:,} cut off at once are back after, s", f"{many['back_s']:.2f}"),
    ]
    print_table(Table("Many connections", ("", "figure"), rows))
    late = queued["deadlines_late_ms"]
    rows = [
        (f"{queued['jobs']:,} jobs that wait: bytes of each beside its frame", f"{queued['bytes_beside_frame']:.0f}"),
        ("submitted a second", f"{queued['submitted_per_s']:,.0f}"),
        ("processor time of each, µs", f"{queued['cpu_us_per_job']:.1f}"),
        (f"deadlines of {DEADLINE_MS} ms under it: late by at most, ms", f"{late['max']:.1f}"),
        ("half of them by at most, ms", f"{late['p50']:.1f}"),
        ("early by at most, ms", f"{max(0.0, -late['first']):.1f}"),
        ("longest wait for an answer under it, ms", f"{queued['stood_still_under_it_ms']:.1f}"),
        (f"submitted at {RATE:,} a second: longest wait for an answer, ms", f"{still['stood_still_ms']:.1f}"),
        ("99.99% and 99% of them, ms", f"{still['p9999_ms']:.1f}, {still['p99_ms']:.1f}"),
    ]
    print_table(Table("Jobs that wait", ("", "figure"), rows))


if __name__ == "__main__":
    sys.exit(main())
