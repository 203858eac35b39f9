"""The process that runs handlers, from the inside.

Its main thread runs one job after the other. Another reads the pipe all the time: orders go to the main thread, and what is for the
job that runs (inputs, credit, its slot, its cancellation) goes to the job's channel, as the connection's thread would hand it
over in the worker. What the job says goes up the pipe as the frames that the worker sends on.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import msgspec

from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker.channel import Channel
from reasonchip_broker.worker.jobs import Job, perform, perform_async
from reasonchip_broker.worker.pipe_kin import PipeKin
from reasonchip_broker.worker.pipelines import Pipeline

Offer = tuple[str, Callable[..., Any], bool]
"""A pipeline's name or glob, its handler, and whether variables are validated."""

RESTARTED = b"r"
"""What a process says, instead of a frame, when a suspended job has heard that there is a connection again."""


class Order(msgspec.Struct, array_like=True, tag="job"):
    """What a process is told of a job. `pipeline` is the name asked for, `offer` the number of the handler that serves it; `suspended`
    is whether there is no connection at first."""

    offer: int
    pipeline: str
    cookie: bytes
    attempt: int
    encoding: str
    payload: bytes
    frame_bytes_max: int
    deadline: float | None
    attempts: int
    run_until: float | None
    credit: int
    window: int
    suspended: bool


class Heard(msgspec.Struct, array_like=True, tag="heard"):
    """A frame from the broker for a running job."""

    cookie: bytes
    attempt: int
    frame: bytes


class Answered(msgspec.Struct, array_like=True, tag="answered"):
    """What a child of the job was asked has an answer."""

    cookie: bytes
    attempt: int
    data: bytes


class Cancel(msgspec.Struct, array_like=True, tag="cancel"):
    """The job is to stop, and why."""

    cookie: bytes
    attempt: int
    why: str


class Suspend(msgspec.Struct, array_like=True, tag="suspend"):
    """The job has no connection."""

    cookie: bytes
    attempt: int


class Restart(msgspec.Struct, array_like=True, tag="restart"):
    """The job has a connection again, and what it may send at first."""

    cookie: bytes
    attempt: int
    credit: int
    window: int


Word = Heard | Answered | Cancel | Suspend | Restart

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Order | Word).decode


def order_of(job: Job, offer: int, *, suspended: bool = False) -> bytes:
    """The order for a job. The deadline is of `time.monotonic()`, which all processes of a machine share."""
    context = job.context
    order = Order(
        offer,
        context.pipeline,
        job.cookie,
        job.attempt,
        job.encoding,
        job.payload,
        job.frame_bytes_max,
        context.deadline,
        context.attempts,
        context.run_until,
        *job.allowance,
        suspended,
    )
    return encode(order)


class _Child:
    def __init__(self, pipe: "Connection[bytes, bytes]", pipelines: list[Pipeline]) -> None:
        self._pipe = pipe
        self._pipelines = pipelines
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._writing = threading.Lock()
        """Guards the pipe's outgoing end. Taken last: a channel says things with its own lock held."""
        self._job: Job | None = None
        self._task: asyncio.Task[bytes] | None = None
        self._runner: asyncio.Runner | None = None
        self._kin = PipeKin(self._say)
        self._interruptible = False
        """Whether a handler runs in the main thread that an exception may end."""

    # The thread that reads

    def listen(self) -> None:
        """Read the pipe until it is closed."""
        try:
            while True:
                word = _decode(self._pipe.recv_bytes())
                if isinstance(word, Order):
                    self._take(word)
                else:
                    self._hear(word)
        except (EOFError, OSError):
            self._orders.put(None)

    def _take(self, order: Order) -> None:
        channel = Channel(
            order.cookie,
            order.attempt,
            order.encoding,
            self._say,
            order.credit,
            order.window,
            order.frame_bytes_max,
        )
        if order.suspended:
            channel.suspend()
        # Before the next word is read, which may be for it.
        self._job = Job(
            order.cookie,
            order.attempt,
            self._pipelines[order.offer],
            order.pipeline,
            order.encoding,
            order.payload,
            order.frame_bytes_max,
            order.deadline,
            attempts=order.attempts,
            run_until=order.run_until,
            channel=channel,
            kin=self._kin,
        )
        self._orders.put(order)

    def _hear(self, word: Word) -> None:
        job = self._job
        if job is None or job.channel is None or (job.cookie, job.attempt) != (word.cookie, word.attempt):
            return
        if isinstance(word, Heard):
            job.channel.received(decode(word.frame))
        elif isinstance(word, Answered):
            self._kin.answered(word.data)
        elif isinstance(word, Cancel):
            job.why = word.why
            contexts.cancel(job.context)
            if self._task is not None:
                contexts.mark_seen(job.context)
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
            elif self._interruptible:
                _interrupt_main_thread()
        elif isinstance(word, Suspend):
            job.channel.suspend()
        else:
            # In this order: what comes up the pipe after this is for the new connection.
            self._say(RESTARTED)
            job.channel.restart(word.credit, word.window)

    def _say(self, data: bytes) -> None:
        with self._writing:
            self._pipe.send_bytes(data)

    # The main thread

    def work(self) -> None:
        """Do what is ordered, until the pipe is closed."""
        try:
            while self._orders.get() is not None:
                job = self._job
                if job is not None:
                    self._say(self._perform(job))
        finally:
            if self._runner is not None:
                self._runner.close()

    def _perform(self, job: Job) -> bytes:
        if not job.pipeline.is_async:
            return perform(job, partial(self._interruptibly, job))
        self._runner = self._runner or asyncio.Runner()
        return self._runner.run(self._perform_async(job))

    def _interruptibly(self, job: Job, *positional: Any, **named: Any) -> Any:
        self._interruptible = True
        try:
            if contexts.was_told(job.context):
                raise JobCancelled("cancelled")
            return job.pipeline.handler(*positional, **named)
        finally:
            self._interruptible = False

    async def _perform_async(self, job: Job) -> bytes:
        task = self._task = asyncio.ensure_future(perform_async(job))
        if contexts.was_told(job.context):
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError as error:
            # Before its first step, or by somebody else: once it runs nothing can be raised.
            return job.raised(error)
        finally:
            self._task = None

    def interrupted(self) -> None:
        """A signal says that the job is to stop: its handler is left by an exception, if it is still at it."""
        job = self._job
        if self._interruptible and job is not None and contexts.was_told(job.context):
            self._interruptible = False
            contexts.mark_seen(job.context)
            raise JobCancelled("cancelled")


def main(pipe: "Connection[bytes, bytes]", offers: list[Offer]) -> None:
    """Take orders from the pipe and answer each with a RESULT, until it is closed."""
    pipelines = [Pipeline(name, handler, validate=validate, executor="process") for name, handler, validate in offers]
    for pipeline in pipelines:
        pipeline.binding.resolve()
    child = _Child(pipe, pipelines)
    _take_signals(child.interrupted)
    threading.Thread(target=_end_with_parent, name="reasonchip-parent", daemon=True).start()
    threading.Thread(target=child.listen, name="reasonchip-pipe", daemon=True).start()
    child.work()


def _take_signals(interrupted: Callable[[], None]) -> None:
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the worker drains, and ends its processes when their jobs
    # are done. A function and not SIG_IGN, which the programs that a handler starts would inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda number, frame: interrupted())


def _interrupt_main_thread() -> None:
    """Wake the main thread from whatever it waits in, to run `interrupted`."""
    main_thread = threading.main_thread().ident
    if hasattr(signal, "SIGUSR1") and main_thread is not None:
        signal.pthread_kill(main_thread, signal.SIGUSR1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
