"""The client behind the standard library's interface for work that is done elsewhere."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for
from typing import Any, Unpack

from reasonchip_broker.client.blocking import BlockingClient, BlockingSubmitter
from reasonchip_broker.client.blocking_job import BlockingJob
from reasonchip_broker.client.client import DEFAULT_URL
from reasonchip_broker.peer.options import OptionChanges


class JobFuture(Future[Any]):
    """The future of a job. `cancel` works until the job is over: the result is given up, and the broker told to cancel the job."""

    def __init__(self) -> None:
        super().__init__()
        self._fate = [self]
        """Whoever takes what is in it, an atomic step, decides how this ends."""
        self._job: BlockingJob | None = None

    def cancel(self) -> bool:
        """Give the job up; returns whether it was cancelled. Its worker is asked to stop, and may be at work for a while yet."""
        if not self._take_fate():
            return self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()
        if self._job is not None:
            self._job._abandon("its future was cancelled")
        return True

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, as `Future.result`. Raises RuntimeError in the client's own thread, where that would be for ever."""
        self._require_other_thread()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the exception, as `Future.exception`. Raises RuntimeError as `result` does."""
        self._require_other_thread()
        return super().exception(timeout)

    def _require_other_thread(self) -> None:
        if self._job is not None and not self.done():
            self._job._engine.require_other_thread()

    def _take_fate(self) -> bool:
        try:
            self._fate.pop()
        except IndexError:
            return False
        return True

    def _land(self, job: BlockingJob) -> None:
        """The job is over."""
        if self._take_fate():
            self.set_running_or_notify_cancel()
            try:
                value = job.result()
            except BaseException as error:
                self.set_exception(error)
            else:
                self.set_result(value)


class ClientExecutor(Executor):
    """Runs pipelines where a `concurrent.futures.Executor` is expected.

    ```python
    with ClientExecutor("tcp://127.0.0.1:51500") as executor:
        futures = [executor.submit("greet", {"name": name}) for name in names]
    ```

    `client` is a URL, for a client of its own that ends with it, or a `BlockingClient` (or a view of one, with options), which
    lives on. Callbacks of futures run in the client's thread: they may submit, and must not wait.
    """

    def __init__(self, client: str | BlockingSubmitter = DEFAULT_URL) -> None:
        self._own = BlockingClient(client) if isinstance(client, str) else None
        self._submitter: BlockingSubmitter = self._own if self._own is not None else client  # type: ignore[assignment]
        self._lock = threading.Lock()
        self._pending: dict[JobFuture, None] = {}
        self._shut = False

    def submit(  # type: ignore[override]
        self, pipeline: str, variables: Any = None, **options: Unpack[OptionChanges]
    ) -> JobFuture:
        """Submit a job (see `Submitter.submit` for what is raised); RuntimeError after `shutdown`."""
        future = JobFuture()
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._pending[future] = None
        try:
            job = self._submitter.submit(pipeline, variables, **options)
        except BaseException:
            self._forget(future)
            raise
        future._job = job
        job._wait()
        future.add_done_callback(self._forget)  # type: ignore[arg-type]
        job._landed.add_done_callback(lambda _: future._land(job))
        return future

    def map(  # type: ignore[override]
        self, pipeline: str, *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """Submit a job for each item of an iterable, all at once, and iterate over the results in order; as `Executor.map`.
        `chunksize` means nothing here. For endless iterables there is `BlockingClient.map`.
        """
        return super().map(pipeline, *iterables, timeout=timeout)  # type: ignore[arg-type]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs. `wait`: until all are over; without it they go on, and the own client ends with the last.
        `cancel_futures`: cancel them.
        """
        with self._lock:
            self._shut = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            wait_for(pending)
        self._close_if_done()

    def _forget(self, future: JobFuture) -> None:
        with self._lock:
            self._pending.pop(future, None)
        self._close_if_done()

    def _close_if_done(self) -> None:
        with self._lock:
            done = self._shut and not self._pending
        if done and self._own is not None:
            self._own.close()
