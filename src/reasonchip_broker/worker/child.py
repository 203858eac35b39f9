"""The process that runs handlers, from the inside."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from reasonchip_broker.worker.jobs import Job, perform, perform_async
from reasonchip_broker.worker.pipelines import Pipeline

Offer = tuple[str, Callable[..., Any], bool]
"""A pipeline's name or glob, its handler, and whether variables are validated."""


class Order(msgspec.Struct, array_like=True):
    """What a process is told of a job. `pipeline` is the name asked for, `offer` the number of the handler that serves it."""

    offer: int
    pipeline: str
    cookie: bytes
    attempt: int
    encoding: str
    payload: bytes
    frame_bytes_max: int
    deadline: float | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Order).decode


def order_of(job: Job, offer: int) -> bytes:
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
    )
    return _encode(order)


def main(pipe: "Connection[bytes, bytes]", offers: list[Offer]) -> None:
    """Take orders from the pipe and answer each with a RESULT, until it is closed."""
    _leave_signals_to_the_worker()
    threading.Thread(target=_end_with_parent, name="reasonchip-parent", daemon=True).start()
    pipelines = [Pipeline(name, handler, validate=validate, executor="process") for name, handler, validate in offers]
    for pipeline in pipelines:
        pipeline.binding.resolve()
    runner: asyncio.Runner | None = None
    try:
        while True:
            try:
                order = _decode(pipe.recv_bytes())
            except EOFError:
                return
            job = Job(
                order.cookie,
                order.attempt,
                pipelines[order.offer],
                order.pipeline,
                order.encoding,
                order.payload,
                order.frame_bytes_max,
                order.deadline,
            )
            del order
            if job.pipeline.is_async:
                runner = runner or asyncio.Runner()
                frame = runner.run(perform_async(job))
            else:
                frame = perform(job)
            pipe.send_bytes(frame)
    finally:
        if runner is not None:
            runner.close()


def _leave_signals_to_the_worker() -> None:
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the worker drains, and ends its processes when their jobs
    # are done. A function and not SIG_IGN, which the programs that a handler starts would inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
