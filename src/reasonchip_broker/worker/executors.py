"""Where handlers run: tasks of the main loop, and threads. (Processes are in `processes`.)

An executor is told of jobs by the connection's thread, and reports each job's RESULT through `report`, from wherever it ended.
It runs a job only if it can claim it, and reports a job that it claimed exactly once.
"""

import asyncio
import contextvars
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker.jobs import Job, perform, perform_async
from reasonchip_broker.worker.mailbox import Mailbox

logger = logging.getLogger("reasonchip_broker.worker")

Report: TypeAlias = Callable[[Job, bytes], None]
"""Takes a job and its RESULT, from any thread."""

ABANDON_S = 1.0
"""How long a task may take to stop at once. One that takes longer swallows its cancellation, and may do so for ever."""


class Executor(ABC):
    """Runs jobs. All of its methods are called in the connection's thread and return at once, but for `close`."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Run a job."""

    @abstractmethod
    def stop(self, job: Job, *, at_once: bool) -> None:
        """Make a job end that was claimed; its context says `cancelled` by now."""

    def deliver(self, job: Job, frame: bytes) -> None:
        """Give a running job an INPUT, a CREDIT or a RESUME."""
        channel = job.channel
        if channel is not None:
            channel.received(decode(frame))

    def suspend(self, job: Job) -> None:
        """Tell a job that there is no connection: it is to send nothing."""
        contexts.suspend(job.context)

    def restart(self, job: Job, credit: int, window: int) -> None:
        """Tell a suspended job that there is a connection again, and what it may send on it at first."""
        contexts.restart(job.context, credit, window)

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; what still runs is not waited for. Called in the main loop's thread."""


class TaskExecutor(Executor):
    """Tasks of the main loop, which runs in the thread and context that this is made in."""

    def __init__(self, loop: asyncio.AbstractEventLoop, report: Report) -> None:
        self._loop = loop
        self._report = report
        # Handlers see what the caller of serve() has set, not what the connection's thread has.
        self._context = contextvars.copy_context()
        self._orders: Mailbox[Job | tuple[Job, bool]] = Mailbox(loop, self._obey)
        self._unbegun = self._task_over
        self._running: dict[Job, asyncio.Task[None]] = {}
        self._abandoned: dict[Job, asyncio.Task[None]] = {}
        """Kept, because the loop itself holds tasks only weakly."""

    def start(self, job: Job) -> None:
        """Make a task of the job."""
        self._orders.put(job)

    def stop(self, job: Job, *, at_once: bool) -> None:
        """Cancel its task. `at_once`: once more, and give it up if it goes on for another moment."""
        self._orders.put((job, at_once))

    def _obey(self, order: Job | tuple[Job, bool]) -> None:
        if isinstance(order, Job):
            if not order.claimed:
                task = self._loop.create_task(self._run(order), context=self._context.copy())
                order.task = self._running[order] = task
                task.add_done_callback(self._unbegun)
            return
        job, at_once = order
        if job in self._running:
            task = self._running[job]
            if task.cancel():
                contexts.mark_seen(job.context)
            if at_once:
                self._loop.call_later(ABANDON_S, self._abandon, job)

    async def _run(self, job: Job) -> None:
        # Here and not when the task is made: a task that is cancelled before its first step never takes that step.
        began = job.claim()
        # From here on nothing is raised, and the end is told here: a callback would cost each job another turn of the loop.
        if job.task is not None:
            job.task.remove_done_callback(self._unbegun)
        frame = await perform_async(job) if began else b""
        self._ended(job, frame)

    def _task_over(self, task: asyncio.Task[None]) -> None:
        """Somebody in this process has cancelled a task before its first step, after which that could not be."""
        job = next((job for job, each in self._running.items() if each is task), None)
        if job is not None:
            self._ended(job, job.raised(asyncio.CancelledError()) if job.claim() else b"")

    def _ended(self, job: Job, frame: bytes) -> None:
        job.task = None
        if self._running.pop(job, None) is None:
            self._abandoned.pop(job, None)
        elif frame:
            self._report(job, frame)

    def _abandon(self, job: Job) -> None:
        task = self._running.get(job)
        if task is not None and not task.done():
            self._abandoned[job] = self._running.pop(job)
            logger.warning("job abandoned, since it swallows its cancellation: %r", job.context)
            job.hush()
            self._report(job, job.cancelled("cancelled; it did not stop, and was abandoned"))

    def close(self) -> None:
        """Cancel every task that is left."""
        for task in (*self._running.values(), *self._abandoned.values()):
            task.cancel()


class ThreadExecutor(Executor):
    """As many threads as there are jobs, made when they are needed; of those that are idle `capacity` are kept.

    There may be more jobs than slots, since one that lends its slot out keeps its thread. Threads are daemons: a handler that
    never returns must not keep the process from ending.
    """

    def __init__(self, capacity: int, report: Report) -> None:
        self._capacity = capacity
        self._report = report
        self._context = contextvars.copy_context()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: set[threading.Thread] = set()
        self._made = 0

    def start(self, job: Job) -> None:
        """Give the job to a thread."""
        self._queue.put(job)
        if not self._idle.acquire(blocking=False):
            self._made += 1
            thread = threading.Thread(target=self._work, name=f"reasonchip-job-{self._made}", daemon=True)
            self._threads.add(thread)
            thread.start()

    def stop(self, job: Job, *, at_once: bool) -> None:
        """Nothing beyond what its context says: a thread can't be stopped, and its slot is not free before it ends."""

    def _work(self) -> None:
        stays = True
        while stays and (job := self._queue.get()) is not None:
            frame = self._context.copy().run(self._perform, job) if job.claim() else b""
            # In this order: the report may lead to the next job, which is to find this thread idle.
            stays = len(self._threads) <= self._capacity
            if stays:
                self._idle.release()
            else:
                self._threads.discard(threading.current_thread())
            if frame:
                self._report(job, frame)
            del job

    def _perform(self, job: Job) -> bytes:
        return perform(job)

    def close(self) -> None:
        """Send the threads home, those that still run a job as soon as it ends."""
        for _ in range(len(self._threads)):
            self._queue.put(None)
