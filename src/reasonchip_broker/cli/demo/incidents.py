"""The trouble that the demo makes: a job is cancelled, a worker is killed, another one is started. All while the work goes on."""

import asyncio
import time
from collections import Counter

from reasonchip_broker.cli.demo.crew import Crew
from reasonchip_broker.cli.demo.progress import Narrator
from reasonchip_broker.cli.processes import Children
from reasonchip_broker.client import Job
from reasonchip_broker.errors import JobCancelled, JobFailed
from reasonchip_broker.protocol.codes import Code

TARGET = "reasonchip_broker.cli.demo.jobs"
CAPACITY = 2
PONDER_S = 600.0
NOTICE_S = 2.0
"""How long we wait to hear of jobs that were lost with a worker. It may have held none at that moment."""

CANCEL_AT = 0.25
KILL_AT = 0.5
"""When, as parts of the files."""


class Incidents:
    """Makes them happen once enough files are done. `done` is told of each."""

    def __init__(self, children: Children, workers_url: str, crew: Crew, narrator: Narrator, files: int) -> None:
        self._children = children
        self._workers_url = workers_url
        self._crew = crew
        self._narrator = narrator
        self._files = files
        self._done: Counter[str] = Counter()
        self._reached = {CANCEL_AT: asyncio.Event(), KILL_AT: asyncio.Event()}

    def done(self, worker: str) -> None:
        """A worker has measured a file."""
        self._done[worker] += 1
        for part, event in self._reached.items():
            if self._done.total() >= part * self._files:
                event.set()

    def hurry(self) -> None:
        """There will be no more files: whatever has not happened happens now."""
        for event in self._reached.values():
            event.set()

    async def happen(self) -> None:
        """All of it, in order. Raises whatever the client raises when it is not what was expected."""
        job = self._crew.submit("long job", "demo.ponder", {"seconds": PONDER_S})
        self._narrator.say(f"a job that would take {PONDER_S / 60:.0f} minutes was sent along, to be cancelled later")
        await self._reached[CANCEL_AT].wait()
        await self._cancel(job)
        await self._reached[KILL_AT].wait()
        await self._kill()

    async def _cancel(self, job: Job) -> None:
        began_at = time.monotonic()
        answer = await job.cancel(why="the demo shows how")
        try:
            await self._crew.outcome(job)
            became = "it was over already"
        except JobCancelled:
            stopped = f"its worker stopped it {_ms(time.monotonic() - began_at)} later"
            became = stopped if answer.code is Code.CANCELLING else "it never began"
        except JobFailed as error:
            became = f"but it had failed: {error}"
        self._narrator.say(f"CANCELLED the long job: the broker answered {answer.code.name}, and {became}")

    async def _kill(self) -> None:
        """Kill the busiest worker, wait for what the broker says to that, and start another."""
        workers = {name: child for name, child in self._children.children.items() if name != "broker"}
        victim = max((name for name, child in workers.items() if child.alive), key=lambda name: (self._done[name], name))
        process = self._children.children[victim].process
        before = len(self._crew.lost_at)
        self._crew.loss.clear()
        killed_at = time.monotonic()
        await self._children.kill(victim)
        self._narrator.gone.add(victim)
        try:
            async with asyncio.timeout(NOTICE_S):
                await self._crew.loss.wait()
        except TimeoutError:
            pass
        lost_at = self._crew.lost_at[before:]
        told = (
            f"{_ms(lost_at[0] - killed_at)} later the broker told us of the {len(lost_at)} jobs that it held "
            "(WORKER_WENT_AWAY); they are sent again, under new cookies"
            if lost_at
            else "it held no job at that moment"
        )
        self._narrator.say(f"KILLED {victim} (process {process.pid}) with SIGKILL: {told}")
        name = f"worker-{len(workers) + 1}"
        child = await self._children.start_worker(name, TARGET, self._workers_url, CAPACITY)
        self._narrator.say(f"STARTED {name} (process {child.process.pid}) in its place")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
