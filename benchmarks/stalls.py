"""`python -m benchmarks.stalls`: how long the core's longest steps are while very many jobs wait.

For as long as a step takes, everybody else waits: one frame of a peer, or what is due at one moment. The switchboard alone is measured,
without sockets, each step by the time that the processor spent on it in this thread: what the machine does meanwhile for others counts
for nothing. As in `serve`, Python's cyclic collector is off.

Jobs are submitted one by one, and wait; then slots come free, and each is given to the next that waits, while acknowledged cookies grow
more than are kept. Then the clients go, deadlines end, and the time of outcomes and cookies that are kept."""

import argparse
import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.counted import LIMITS, MARK, PAYLOAD, End, Load, Template, run_template
from benchmarks.growth import collector_off
from benchmarks.stats import percentile
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import ENCODING_BYTES, CloseReason, PacketType

CLIENTS = 20
SLOTS = 100
TURN = 64
"""So many steps make a turn of the loop, which takes what was sent."""

DEADLINES, DEADLINE_MS = 1_000, 20_000
TICK_S = 0.005
LONGEST = 0.9999


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much there is of everything."""

    jobs: int = 1_000_000
    ended: int = 300_000
    """So many of them get a slot, and end; a tenth of them is not acknowledged."""
    spent_max: int = 200_000


class Steps:
    """Nanoseconds of the processor's time, by what was done."""

    def __init__(self) -> None:
        self.ns: dict[str, list[int]] = defaultdict(list)

    def timed(self, what: str, step: Callable[..., object], *arguments: Any) -> None:
        """Do something, and remember how long it took."""
        began = time.thread_time_ns()
        step(*arguments)
        self.ns[what].append(time.thread_time_ns() - began)


class Scene:
    """A switchboard with very many jobs."""

    def __init__(self, sizes: Sizes, steps: Steps) -> None:
        self._sizes = sizes
        self._steps = steps
        self.load = Load(CLIENTS, 1, SLOTS, limits=limits_for(sizes))
        self._result = Template(packets.result(MARK, 1, PAYLOAD, ENCODING_BYTES))
        self._received = [0] * CLIENTS

    def submit(self) -> None:
        """All jobs come, one by one: few find a slot."""
        usual, urgent = run_template(), run_template(DEADLINE_MS)
        every = max(1, self._sizes.jobs // DEADLINES)
        for number in range(self._sizes.jobs):
            frame = (urgent if number % every == every - 1 else usual).of(self.load.cookie())
            self._steps.timed("RUN that waits", self.load.clients[number % CLIENTS].say, frame)
            if not number % TURN:
                self._turn(acknowledged=False)

    def run(self) -> None:
        """Many end, and others get their slots; all but the last tenth are acknowledged."""
        worker = self.load.workers[0]
        ended = 0
        while ended < self._sizes.ended:
            for frame in worker.take():
                self._steps.timed("RESULT that gives its slot on", worker.say, self._result.of(frame[8:24]))
                ended += 1
            self._turn(acknowledged=ended < self._sizes.ended * 0.9)

    def _turn(self, *, acknowledged: bool) -> None:
        for number, client in enumerate(self.load.clients):
            results = sum(frame[4] == PacketType.RESULT for frame in client.take())
            self._received[number] += results
            if results and acknowledged:
                self._steps.timed("ACK of several", client.say, packets.ack(self._received[number]))
        self.load.passed()

    def leave(self) -> None:
        """A quarter of the clients goes."""
        for client in self.load.clients[: CLIENTS // 4]:
            self._steps.timed("client that leaves its jobs", self._left, client)

    def _left(self, client: End) -> None:
        self.load.board.disconnected(client.peer, CloseReason.CONNECTION_LOST, self.load.now)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        load = self.load
        timers, until = load.board.timers, load.now + seconds
        while timers.wake_at <= until:
            load.now = max(timers.wake_at, load.now + TICK_S)
            self._steps.timed("what is due at one moment", load.board.wake, load.now)
            self._turn(acknowledged=False)
        load.now = until


def limits_for(sizes: Sizes) -> Limits:
    """Room for all of it."""
    most, size = 2 * sizes.jobs, 1 << 40
    return Limits(
        heartbeat_s=LIMITS.heartbeat_s,
        lease_s=LIMITS.lease_s,
        client_jobs_max=most,
        backlog_jobs_max=most,
        backlog_bytes_max=size,
        owner_backlog_jobs_max=most,
        owner_backlog_bytes_max=size,
        spent_max=sizes.spent_max,
    )


def measured(sizes: Sizes) -> Steps:
    """All steps of a scene of this size."""
    steps = Steps()
    scene = Scene(sizes, steps)
    gc.collect()
    with collector_off():
        scene.submit()
        scene.run()
        scene.leave()
        scene.wait(2.5 * Limits().retention_s)
    return steps


def table(steps: Steps, sizes: Sizes) -> Table:
    """By what was done: how often, and how long it took."""
    shown = Table(title=f"{sizes.jobs:,} jobs that wait: microseconds of the processor's time for one step")
    for name in ("step", "of them", "median", f"{LONGEST:.2%}", "longest"):
        shown.add_column(name, justify="left" if name == "step" else "right")
    for what, taken in steps.ns.items():
        figures = [percentile(sorted(taken), share) for share in (0.5, LONGEST, 1.0)]
        shown.add_row(what, f"{len(taken):,}", *(f"{figure / 1000:,.0f}" for figure in figures))
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stalls", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="20,000 jobs instead of a million")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the median and the longest step there, in nanoseconds")
    options = parser.parse_args(arguments)
    sizes = Sizes(jobs=20_000, ended=6_000, spent_max=4_000) if options.quick else Sizes()
    steps = measured(sizes)
    Console().print(table(steps, sizes))
    if options.json is not None:
        found = {what: {"median": percentile(sorted(ns), 0.5), "longest": max(ns)} for what, ns in steps.ns.items()}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
