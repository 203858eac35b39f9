"""`Worker`: what a worker author makes, decorates handlers with, and runs."""

import asyncio
import contextlib
import logging
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import Any, Literal, TypeVar

import msgspec

from reasonchip_broker.errors import ConnectionLost
from reasonchip_broker.limits import FRAME_BYTES_SETTABLE, NAME_CHARS_MAX, SESSION_GRACE_S_MAX, WORKER_CAPACITY_MAX, Limits
from reasonchip_broker.peer.session import Session
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.endpoints import client_transport
from reasonchip_broker.worker.channel import Send
from reasonchip_broker.worker.desk import Desk
from reasonchip_broker.worker.executors import Executor, Report, TaskExecutor, ThreadExecutor
from reasonchip_broker.worker.jobs import Job
from reasonchip_broker.worker.kindred import Kin
from reasonchip_broker.worker.link import Link
from reasonchip_broker.worker.loops import new_loop, run_and_close, stopped_by_signals
from reasonchip_broker.worker.mailbox import Mailbox
from reasonchip_broker.worker.pipelines import Pipeline, Pipelines, Runs

SOFTWARE = "reasonchip-broker worker (Python)"
DEFAULT_URL = "tcp://127.0.0.1:51510"
DRAIN_S = 30.0
"""As long as a service manager's usual patience: Kubernetes sends SIGKILL after 30 s."""

THREAD_END_S = 10.0
"""How long the connection's thread may take to end when nobody waits for jobs any more."""

logger = logging.getLogger("reasonchip_broker.worker")
F = TypeVar("F", bound=Callable[..., Any])


class _State(IntEnum):
    NEW = 1
    SERVING = 2
    OVER = 3


class Worker:
    """Offers functions to a broker as pipelines, and runs the jobs that come of it.

    `url` is where the broker listens for workers (`tcp://`, `tls://`, `unix://`). `capacity` is how many jobs run at a time, by
    default as many as this process may use processors; the broker sends no more. `labels` (`{"gpu": "h200"}`) are what jobs may
    require, or prefer, of their worker. `name` is shown to operators; no two workers that are connected may have the same, and by
    default it is made of the host's name, the process id and chance.
    `drain_s` is how many seconds running jobs get to finish in when the worker is stopped. `session_grace_s` is how many seconds
    (whole ones, at most 60) the broker waits for this worker when the connection is lost: running jobs go on meanwhile, and what
    they have to tell is delivered over the next connection. With 0 a lost connection loses its jobs. `token` is for brokers that
    ask for one. Raises EndpointError for a URL
    that names no endpoint, ValueError for anything else that no broker would take.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        capacity: int | None = None,
        name: str | None = None,
        token: str | None = None,
        limits: Limits | None = None,
        drain_s: float = DRAIN_S,
        session_grace_s: float = 0.0,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self.capacity = _processors() if capacity is None else capacity
        # Chance too: in containers many a process has number 1, and one process may have several workers.
        self.name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}" if name is None else name
        self.drain_s = drain_s
        self.session_grace_s = session_grace_s
        self._labels = dict(labels or {})
        # Any frame that a broker lets through is one that we take, and any result that it takes is one that we have room for.
        self._limits = limits or Limits(frame_bytes_max=FRAME_BYTES_SETTABLE, outbox_bytes_max=2 * FRAME_BYTES_SETTABLE)
        self._token = token
        self._pipelines = Pipelines()
        self._transport = client_transport(url, Role.WORKER)
        self._state = _State.NEW
        self._link: Link | None = None
        self._stop_requested = False
        self._ready = asyncio.Event()
        self._over = asyncio.Event()
        self._check()

    def _check(self) -> None:
        if not 1 <= self.capacity <= WORKER_CAPACITY_MAX:
            raise ValueError(f"capacity is 1 to {WORKER_CAPACITY_MAX}, not {self.capacity}")
        if not self.drain_s >= 0:
            raise ValueError(f"drain_s is a number of seconds, not {self.drain_s}")
        if not 0 <= self.session_grace_s <= SESSION_GRACE_S_MAX:
            raise ValueError(f"session_grace_s is 0 to {SESSION_GRACE_S_MAX:g} seconds, not {self.session_grace_s}")
        try:
            msgspec.convert(self.name, schemas.Name)
        except msgspec.ValidationError:
            rule = f"text of 1 to {NAME_CHARS_MAX} characters, no control characters or line ends among them"
            raise ValueError(f"name is {rule}, not {self.name!r}") from None
        Session(Role.WORKER, self._hello(""), self._limits)
        _check_labels(self._labels)

    def __repr__(self) -> str:
        return f"<Worker {self.name!r} at {self.url} serving {len(self._pipelines)} pipelines>"

    # What is served

    def pipeline(
        self, name: str, *, validate: bool = True, executor: Literal["thread", "process"] | None = None
    ) -> Callable[[F], F]:
        """Serve a pipeline with the decorated function, which is returned unchanged.

        `name` may be a glob (`reports.*`): the handler of an exact name goes first, then globs in the order they were given.
        `async def` runs in the main loop, plain functions in threads; `executor="process"` runs either in a process of its own,
        which may crash and is killed when the job is cancelled. The job's variables become arguments by name, converted to the
        annotations unless `validate` is False. Raises ValueError for a name that is no name or is taken, TypeError for what
        can't be a handler, RuntimeError once the worker serves.
        """
        if not isinstance(name, str):
            raise TypeError('the pipeline needs a name: @worker.pipeline("name")')

        def decorate(handler: F) -> F:
            self.add(name, handler, validate=validate, executor=executor)
            return handler

        return decorate

    def add(
        self,
        name: str,
        handler: Callable[..., Any],
        *,
        validate: bool = True,
        executor: Literal["thread", "process"] | None = None,
    ) -> None:
        """Serve a pipeline with a function: `pipeline` without the decorator, with the same errors."""
        if self._state is not _State.NEW:
            raise RuntimeError("pipelines are added before the worker serves: a worker registers once")
        self._pipelines.add(Pipeline(name, handler, validate=validate, executor=executor))

    def configure(
        self,
        *,
        url: str | None = None,
        capacity: int | None = None,
        name: str | None = None,
        session_grace_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        executor: Literal["process"] | None = None,
    ) -> None:
        """Change what was said when the worker was made, before it serves: for a command line that has the last word.

        `executor="process"` moves every handler into a process. Raises as making a worker does, and RuntimeError once it serves.
        """
        if self._state is not _State.NEW:
            raise RuntimeError("a worker is configured before it serves")
        if url is not None:
            self._transport = client_transport(url, Role.WORKER)
            self.url = url
        self.capacity = self.capacity if capacity is None else capacity
        self.name = self.name if name is None else name
        self.session_grace_s = self.session_grace_s if session_grace_s is None else session_grace_s
        self._labels = self._labels if labels is None else dict(labels)
        self._check()
        if executor is not None:
            for pipeline in self._pipelines:
                pipeline.runs = Runs(executor)

    @property
    def pipelines(self) -> list[str]:
        """The names and globs served."""
        return self._pipelines.names

    # Life

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, in an event loop of its own: what a worker's script ends with.

        At the first signal the worker takes no more jobs, gives those that run `drain_s` seconds, delivers their results and
        returns. At the second it stops what runs. At the third the process ends. Where logging is not configured, it logs to
        stderr. Raises as `serve` does.
        """
        with stopped_by_signals(_Signalled(self)), _heard():
            run_and_close(new_loop(), self.serve())

    async def serve(self) -> None:
        """Serve in the running loop until `stop`; connect again whenever the connection is lost. To cancel it is to stop at
        once.

        Raises TypeError for a handler that could never run, ConnectionLost when the broker said that this worker is not to come
        back (another one of its name replaced it, or its token is no good), RequestRefused when the broker refused what it
        registers; RuntimeError for a worker that has served already.
        """
        if self._state is not _State.NEW:
            raise RuntimeError("a worker serves once; make another")
        try:
            self._resolve()
        except BaseException:
            self._over.set()  # Whoever waits for `ready` waits for nothing.
            raise
        self._over.clear()
        self._state = _State.SERVING
        loop = asyncio.get_running_loop()
        network = new_loop()
        link = self._link = self._make_link(network, loop)
        reports: Mailbox[tuple[Job | None, bytes]] = Mailbox(network, link.report)

        def say(frame: bytes) -> None:
            reports.put((None, frame))

        executors = self._make_executors(loop, lambda job, frame: reports.put((job, frame)), say, link.kindred)
        session = self._grace_s > 0
        link.desk = Desk(self._pipelines, self.capacity, executors, link.transmit, say, link.kindred, session=session)
        ended: asyncio.Future[None] = loop.create_future()
        thread = threading.Thread(
            target=_serve_link, args=(network, link, self.drain_s, loop, ended), name="reasonchip-connection", daemon=True
        )
        thread.start()
        if self._stop_requested:
            link.leave()
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            link.leave()
            link.hurry()
            await asyncio.wait((ended,), timeout=THREAD_END_S)
            raise
        finally:
            self._state = _State.OVER
            self._ready.clear()
            for executor in executors.values():
                executor.close()
            self._over.set()
            if ended.done():
                thread.join(THREAD_END_S)

    def request_stop(self, *, at_once: bool = False) -> None:
        """What `stop` does, without waiting for it; from any thread, or from a signal handler. `at_once` stops the jobs that
        run."""
        self._stop_requested = True
        link = self._link
        if link is not None:
            link.leave()
            if at_once:
                link.hurry()

    async def stop(self, *, at_once: bool = False) -> None:
        """Take no more jobs, let those that run finish within `drain_s` (`at_once`: stop them), and end `serve`.

        A job that is stopped so is told to the broker as a lost one, unless it is done after all. Not to be awaited by a job:
        it would wait for itself.
        """
        if self._state is _State.SERVING:
            self.request_stop(at_once=at_once)
            await self._over.wait()

    async def ready(self) -> None:
        """Wait until the broker has taken this worker's registration; in the loop that `serve` runs in.

        Raises ConnectionLost if `serve` ends before that, or has ended; `serve` raises why.
        """
        waits = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._over)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self._ready.is_set():
            raise ConnectionLost("the worker serves no longer")

    # How it is put together

    def _resolve(self) -> None:
        if not len(self._pipelines):
            raise TypeError("the worker serves no pipeline; decorate a function with @worker.pipeline(name)")
        for pipeline in self._pipelines:
            pipeline.resolve()

    def _hello(self, version: str) -> schemas.HelloMeta:
        return schemas.HelloMeta(
            sw=SOFTWARE, v=version, token=self._token, name=self.name, inst=os.urandom(16), grace=self._grace_s
        )

    @property
    def _grace_s(self) -> int:
        return math.ceil(self.session_grace_s)

    def _make_link(self, network: asyncio.AbstractEventLoop, loop: asyncio.AbstractEventLoop) -> Link:
        changes = Mailbox(loop, self._changed)
        offer = schemas.RegisterMeta(cap=self.capacity, serves=self._pipelines.names, labels=self._labels)
        return Link(self._transport, self._hello(_version()), offer, self._limits, network, changes.put)

    def _make_executors(self, loop: asyncio.AbstractEventLoop, report: Report, say: Send, kin: Kin) -> dict[Runs, Executor]:
        executors: dict[Runs, Executor] = {
            Runs.TASK: TaskExecutor(loop, report),
            Runs.THREAD: ThreadExecutor(self.capacity, report),
        }
        in_processes = self._pipelines.using(Runs.PROCESS)
        if in_processes:
            # multiprocessing is loaded only for who needs it.
            from reasonchip_broker.worker.processes import ProcessExecutor

            executors[Runs.PROCESS] = ProcessExecutor(self.capacity, in_processes, report, say, kin)
        return executors

    def _changed(self, registered: bool) -> None:
        if registered:
            self._ready.set()
        else:
            self._ready.clear()


class _Signalled:
    """A worker, as signals stop it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def leave(self) -> None:
        self._worker.request_stop()

    def hurry(self) -> None:
        self._worker.request_stop(at_once=True)


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Log to stderr if nobody has said where to log to: a script whose broker is not there should not be silent about it."""
    package = logging.getLogger(logger.name.partition(".")[0])
    if logging.getLogger().handlers or not all(isinstance(handler, logging.NullHandler) for handler in package.handlers):
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = package.level
    package.addHandler(handler)
    package.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def _serve_link(
    network: asyncio.AbstractEventLoop,
    link: Link,
    drain_s: float,
    loop: asyncio.AbstractEventLoop,
    ended: "asyncio.Future[None]",
) -> None:
    """The connection's thread."""
    failure: BaseException | None = None
    try:
        run_and_close(network, link.run(drain_s))
    except BaseException as error:
        failure = error

    def tell() -> None:
        if not ended.done():
            if failure is None:
                ended.set_result(None)
            else:
                ended.set_exception(failure)

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:
        logger.debug("the main loop was closed before the worker had left")


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_labels(labels: Mapping[str, str]) -> None:
    """Raises ValueError for labels that a REGISTER can't carry."""
    offer = schemas.RegisterMeta(cap=1, serves=["any"], labels=dict(labels))
    try:
        schemas.register_meta(schemas.encode_meta(offer))
    except schemas.MetaInvalid as error:
        raise ValueError(f"labels: {error}") from error


def _version() -> str:
    # Loading this takes as long as loading all the rest of a worker.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("reasonchip-broker")
    except PackageNotFoundError:
        return ""
