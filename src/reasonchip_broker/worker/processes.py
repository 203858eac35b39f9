"""Handlers in processes of their own: one that exits, crashes or must be stopped takes nothing with it but its job.

Each process has a thread here that waits for it, so nothing of this is on the connection's thread or in the main loop. A
process is spawned, not forked: forking a process with threads and an event loop copies locks in whatever state they are.
"""

import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue

from reasonchip_broker.worker import outcomes
from reasonchip_broker.worker.child import main, order_of
from reasonchip_broker.worker.executors import Executor, Report
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.pipelines import Pipeline

logger = logging.getLogger("reasonchip_broker.worker")

CLOSE_S = 2.0
"""How long an idle process may take to end by itself before it is killed."""

_spawn = multiprocessing.get_context("spawn")
_birth_and_death = threading.Lock()
"""multiprocessing keeps its list of children without a lock of its own. Taken last, after a lane's `_lock`, and never held
while a job runs."""


class ProcessExecutor(Executor):
    """At most `capacity` processes, spawned when they are needed and kept for the next job."""

    def __init__(self, capacity: int, pipelines: list[Pipeline], report: Report) -> None:
        self._capacity = capacity
        self._report = report
        self._pipelines = pipelines
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lanes: list[_Lane] = []
        self._threads: list[threading.Thread] = []

    def start(self, job: Job) -> None:
        """Give the job to a process."""
        self._queue.put(job)
        if not self._idle.acquire(blocking=False) and len(self._lanes) < self._capacity:
            lane = _Lane(self._pipelines)
            name = f"reasonchip-process-{len(self._lanes) + 1}"
            thread = threading.Thread(target=self._work, args=(lane,), name=name, daemon=True)
            self._lanes.append(lane)
            self._threads.append(thread)
            thread.start()

    def stop(self, job: Job, *, at_once: bool) -> None:
        """Kill its process."""
        for lane in self._lanes:
            lane.kill(job)

    def _work(self, lane: "_Lane") -> None:
        while (job := self._queue.get()) is not None:
            frame = lane.run(job) if job.claim() else b""
            self._idle.release()
            if frame:
                self._report(job, frame)
            del job
        lane.end()

    def close(self) -> None:
        """End every process; those that run a job are killed."""
        for _ in self._threads:
            self._queue.put(None)
        for lane in self._lanes:
            lane.kill(None)
        for thread in self._threads:
            thread.join(CLOSE_S * 2)


class _Lane:
    """A process, or the place for one, and the job that it runs."""

    def __init__(self, pipelines: list[Pipeline]) -> None:
        self._offers = [(pipeline.name, pipeline.handler, pipeline.validate) for pipeline in pipelines]
        self._numbers = {pipeline: number for number, pipeline in enumerate(pipelines)}
        self._process: SpawnProcess | None = None
        self._pipe: Connection[bytes, bytes] | None = None
        self._lock = threading.Lock()
        """Guards `_job` and `_killed`, so that who kills a job can't hit the next one."""
        self._job: Job | None = None
        self._killed = False

    def run(self, job: Job) -> bytes:
        """Have the job done, and return its RESULT."""
        with self._lock:
            self._job, self._killed = job, False
        problem = ""
        frame = None
        try:
            pipe, process = self._ready()
            if not self._killed:
                frame = _ask(pipe, process, order_of(job, self._numbers[job.pipeline]))
        except OSError as error:
            problem = f"could not be started: {error}"
        job.payload = b""
        with self._lock:
            self._job = None
            killed = self._killed
        if frame is not None and not killed:
            return frame
        ending = self._bury(kill=killed)
        if frame is not None:
            # It was done before it was killed.
            return frame
        if killed:
            return job.cancelled("cancelled; its process was killed")
        return outcomes.died(job.cookie, job.attempt, f"the handler's process {problem or ending}")

    def kill(self, job: Job | None) -> None:
        """Kill the process if it runs this job (None: any)."""
        with self._lock:
            if self._job is not None and job in (self._job, None):
                self._killed = True
                if self._process is not None:
                    self._process.kill()

    def end(self) -> None:
        """Let the process end: it does so when its pipe is closed."""
        if self._pipe is not None and self._process is not None:
            self._pipe.close()
            self._process.join(CLOSE_S)
            self._bury()

    def _ready(self) -> "tuple[Connection[bytes, bytes], SpawnProcess]":
        """The process and its pipe; a new one if the old one is gone. Raises OSError if none can be made."""
        if self._process is not None and self._pipe is not None:
            if self._process.is_alive():
                return self._pipe, self._process
            self._bury()
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(target=main, args=(theirs, self._offers), name="reasonchip-handler")
        try:
            with _birth_and_death:
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        with self._lock:
            self._process, self._pipe = process, ours
        return ours, process

    def _bury(self, *, kill: bool = False) -> str:
        """Make sure that the process is gone. Returns how it ended, in words."""
        with self._lock:
            process, self._process = self._process, None
            pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return "is gone"
        if not kill and process.is_alive():
            process.join(CLOSE_S)
        process.kill()
        with _birth_and_death:
            process.join()
            code = process.exitcode
        if code is not None and code < 0:
            return f"was killed by {_signal_name(-code)}"
        return f"exited with code {code}"


def _ask(pipe: "Connection[bytes, bytes]", process: SpawnProcess, order: bytes) -> bytes | None:
    """What the process answers to an order, or None if it ends without an answer.

    The end of the pipe alone would not tell: a process that the handler has forked may hold it open.
    """
    watch = -1
    try:
        pipe.send_bytes(order)
        if process.pid and hasattr(os, "pidfd_open"):
            watch = os.pidfd_open(process.pid)
        end = watch if watch >= 0 else process.sentinel
        while pipe not in wait([pipe, end]):
            if not pipe.poll():
                return None
        return pipe.recv_bytes()
    except (EOFError, OSError):
        return None
    finally:
        if watch >= 0:
            os.close(watch)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
