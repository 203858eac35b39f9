"""Handlers in processes of their own: one that exits, crashes or must be stopped takes nothing with it but its job.

Each process has a thread here that waits for it, and another that tells it what is new of the job that it runs, so nothing of
this is on the connection's thread or in the main loop. A process is spawned, not forked: forking a process with threads and an
event loop copies locks in whatever state they are.

A job that is cancelled politely is told so, and its handler is left by an exception where it is. At once means that its process is
killed.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue

from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.worker import outcomes
from reasonchip_broker.worker.channel import Send
from reasonchip_broker.worker.child import (
    RESTARTED,
    Answered,
    Cancel,
    Heard,
    Offer,
    Restart,
    Suspend,
    Word,
    encode,
    main,
    order_of,
)
from reasonchip_broker.worker.executors import Executor, Report
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.kindred import Kin
from reasonchip_broker.worker.pipe_kin import MARK, PipeKinServer
from reasonchip_broker.worker.pipelines import Pipeline

logger = logging.getLogger("reasonchip_broker.worker")

CLOSE_S = 2.0
"""How long an idle process may take to end by itself before it is killed."""

_spawn = multiprocessing.get_context("spawn")
_birth_and_death = threading.Lock()
"""multiprocessing keeps its list of children without a lock of its own. Taken last, after a lane's `_lock`, and never held
while a job runs."""


class ProcessExecutor(Executor):
    """As many processes as there are jobs, spawned when they are needed; of those that are idle `capacity` are kept.

    `say` takes what jobs say besides their results; `kin` is whom they speak to about jobs of their own.
    """

    def __init__(self, capacity: int, pipelines: list[Pipeline], report: Report, say: Send, kin: Kin | None = None) -> None:
        self._capacity = capacity
        self._report = report
        self._say = say
        self._kin = kin
        self._pipelines = pipelines
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        """Guards which job is where, and what a job is to be told (`early`) before it is anywhere; so that who kills a job can't
        hit the next one."""
        self._at: dict[Job, _Lane] = {}
        """Where the jobs are that a process has."""
        self._lanes: list[_Lane] = []
        self._threads: list[threading.Thread] = []
        self._made = 0

    def start(self, job: Job) -> None:
        """Give the job to a process."""
        self._queue.put(job)
        if not self._idle.acquire(blocking=False):
            self._made += 1
            lane = _Lane(self._pipelines, self._say, self._lock, self._at, self._served)
            name = f"reasonchip-process-{self._made}"
            thread = threading.Thread(target=self._work, args=(lane,), name=name, daemon=True)
            self._lanes.append(lane)
            self._threads.append(thread)
            thread.start()

    def stop(self, job: Job, *, at_once: bool) -> None:
        """Tell its process; `at_once` kills it."""
        with self._lock:
            lane = self._at.get(job)
            if lane is not None and at_once:
                lane.kill()
            else:
                self._tell(job, Cancel(job.cookie, job.attempt, job.why))

    def deliver(self, job: Job, frame: bytes) -> None:
        """Pass a frame on to the job's process."""
        with self._lock:
            self._tell(job, Heard(job.cookie, job.attempt, frame))

    def suspend(self, job: Job) -> None:
        """Tell the job's process that there is no connection."""
        with self._lock:
            lane = self._at.get(job)
            if lane is not None:
                lane.mutes += 1
            self._tell(job, Suspend(job.cookie, job.attempt))

    def restart(self, job: Job, credit: int, window: int) -> None:
        """Tell the job's process that there is a connection again."""
        with self._lock:
            self._tell(job, Restart(job.cookie, job.attempt, credit, window))

    def _tell(self, job: Job, word: Word) -> None:
        lane = self._at.get(job)
        if lane is not None:
            lane.tell(word)
        else:
            job.early = (*job.early, word)

    def _served(self, job: Job) -> PipeKinServer | None:
        if self._kin is None:
            return None

        def answer(data: bytes) -> None:
            with self._lock:
                if job in self._at:
                    self._tell(job, Answered(job.cookie, job.attempt, data))

        return PipeKinServer(self._kin, answer)

    def _work(self, lane: "_Lane") -> None:
        stays = True
        while stays and (job := self._queue.get()) is not None:
            frame = lane.run(job) if job.claim() else b""
            stays = len(self._lanes) <= self._capacity
            if stays:
                self._idle.release()
            else:
                self._lanes.remove(lane)
                self._threads.remove(threading.current_thread())
            if frame:
                self._report(job, frame)
            del job
        lane.end()

    def close(self) -> None:
        """End every process; those that run a job are killed."""
        threads = tuple(self._threads)
        for _ in threads:
            self._queue.put(None)
        with self._lock:
            for lane in self._at.values():
                lane.kill()
        for thread in threads:
            thread.join(CLOSE_S * 2)


class _Process:
    """A process, its pipe, and the thread that writes into that: whoever tells the process something must not wait for it."""

    def __init__(self, offers: list[Offer]) -> None:
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(target=main, args=(theirs, offers), name="reasonchip-handler")
        try:
            with _birth_and_death:
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.process = process
        self.pipe: Connection[bytes, bytes] = ours
        self._words: SimpleQueue[bytes | None] = SimpleQueue()
        threading.Thread(target=self._write, name="reasonchip-pipe", daemon=True).start()

    def tell(self, words: bytes) -> None:
        """Tell it something, after all that it was told before."""
        self._words.put(words)

    def _write(self) -> None:
        try:
            while (words := self._words.get()) is not None:
                self.pipe.send_bytes(words)
        except (OSError, ValueError):
            pass  # It has ended, which is seen where it is waited for.

    def bury(self, *, kill: bool = False) -> str:
        """Make sure that it is gone. Returns how it ended, in words."""
        process = self.process
        self._words.put(None)
        self.pipe.close()
        if not kill and process.is_alive():
            process.join(CLOSE_S)
        process.kill()
        with _birth_and_death:
            process.join()
            code = process.exitcode
        if code is not None and code < 0:
            return f"was killed by {_signal_name(-code)}"
        return f"exited with code {code}"


class _Lane:
    """A process, or the place for one. `lock` is its executor's, and guards `at`, which tells the lane of each job."""

    def __init__(
        self,
        pipelines: list[Pipeline],
        say: Send,
        lock: threading.Lock,
        at: "dict[Job, _Lane]",
        served: Callable[[Job], PipeKinServer | None],
    ) -> None:
        self._offers: list[Offer] = [(pipeline.name, pipeline.handler, pipeline.validate) for pipeline in pipelines]
        self._numbers = {pipeline: number for number, pipeline in enumerate(pipelines)}
        self._say = say
        self._lock = lock
        self._at = at
        self._served = served
        self._process: _Process | None = None
        self._killed = False
        self.mutes = 0
        """How often the job was told that it has no connection, less how often it has heard of a new one: while there is any,
        what comes up the pipe is from before, and its credit gone."""

    def run(self, job: Job) -> bytes:
        """Have the job done, and return its RESULT."""
        problem = ""
        frame = None
        begun = True
        self._killed = False
        try:
            process = self._ready()
            begun = self._begin(job, process)
            if begun:
                kin = self._served(job)
                frame = self._follow(process, kin)
                if kin is not None:
                    kin.end()
        except OSError as error:
            problem = f"could not be started: {error}"
        job.payload = b""
        with self._lock:
            self._at.pop(job, None)
            killed = self._killed
        if not begun:
            return job.cancelled("cancelled before it ran", may_have_run=False)
        if frame is not None and not killed:
            return frame
        ending = self._bury(kill=killed)
        if frame is not None:
            # It was done before it was killed.
            return frame
        if killed:
            return job.cancelled("cancelled; its process was killed")
        return outcomes.died(job.cookie, job.attempt, f"the handler's process {problem or ending}")

    def tell(self, word: Word) -> None:
        """Tell the process. To be called with the lock held."""
        if self._process is not None:
            self._process.tell(encode(word))

    def kill(self) -> None:
        """Kill the process. To be called with the lock held, which keeps it from being another job's."""
        self._killed = True
        if self._process is not None:
            self._process.process.kill()

    def end(self) -> None:
        """Let the process end: it does so when its pipe is closed."""
        if self._process is not None:
            self._bury()

    def _begin(self, job: Job, process: _Process) -> bool:
        """Give the job to the process, and what came for it meanwhile. Returns False if it was cancelled by then."""
        with self._lock:
            words, job.early = job.early, ()
            if any(isinstance(word, Cancel) for word in words):
                return False
            self.mutes = sum(isinstance(word, Suspend) for word in words)
            self._at[job] = self
            # Told with the order, since the handler may speak before the words that follow it are read.
            process.tell(order_of(job, self._numbers[job.pipeline], suspended=self.mutes > 0))
            for word in words:
                process.tell(encode(word))
            return True

    def _follow(self, process: _Process, kin: PipeKinServer | None) -> bytes | None:
        """Pass on what the job says, until its RESULT, which is returned; None if the process ends without one.

        The end of the pipe alone would not tell: a process that the handler has forked may hold it open.
        """
        pipe, pid = process.pipe, process.process.pid
        watch = -1
        try:
            if pid and hasattr(os, "pidfd_open"):
                watch = os.pidfd_open(pid)
            end = watch if watch >= 0 else process.process.sentinel
            while True:
                while pipe not in wait([pipe, end]):
                    if not pipe.poll():
                        return None
                data = pipe.recv_bytes()
                if data == RESTARTED:
                    with self._lock:
                        self.mutes -= 1
                elif data[:1] == MARK:
                    if kin is not None:
                        kin.heard(data)
                elif data[4] == PacketType.RESULT:
                    return data
                elif not (self.mutes and data[4] == PacketType.PROGRESS):
                    self._say(data)
        except (EOFError, OSError):
            return None
        finally:
            if watch >= 0:
                os.close(watch)

    def _ready(self) -> _Process:
        """The process; a new one if the old one is gone. Raises OSError if none can be made."""
        process = self._process
        if process is not None:
            if process.process.is_alive():
                return process
            self._bury()
        process = self._process = _Process(self._offers)
        return process

    def _bury(self, *, kill: bool = False) -> str:
        with self._lock:
            process, self._process = self._process, None
        return "is gone" if process is None else process.bury(kill=kill)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
