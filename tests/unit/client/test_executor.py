"""The client as a concurrent.futures.Executor."""

import threading
from concurrent.futures import CancelledError, Future, as_completed, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import BlockingClient, BlockingJob, ClientExecutor
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code
from tests.unit.client.ends import StubWorker, hold
from tests.unit.client.thread_broker import thread_broker

WAIT_S = 10.0


def fail(worker: StubWorker, run: Packet) -> None:
    worker.fail(run, Code.PROCESSOR_EXCEPTION, "no")


def test_futures_have_the_results() -> None:
    with thread_broker() as ends, ClientExecutor(ends.url) as executor:
        futures = [executor.submit("p", {"number": number}) for number in range(100)]
        assert {future.result(WAIT_S)["number"] for future in as_completed(futures, WAIT_S)} == {*range(100)}


def test_options_are_keywords_as_those_of_a_client() -> None:
    with thread_broker(hold) as ends, ClientExecutor(ends.url) as executor:
        with pytest.raises(errors.DeadlineExceeded):
            executor.submit("p", deadline_s=0.01).result(WAIT_S)
        with pytest.raises(TypeError, match="'number' is no option"):
            executor.submit("p", number=1)  # type: ignore[call-arg]


def test_a_job_that_is_scheduled_has_its_result_in_time() -> None:
    with thread_broker() as ends, ClientExecutor(ends.url) as executor:
        assert executor.submit("p", 5, not_before=0.01).result(WAIT_S) == 5


def test_map_gives_results_in_order() -> None:
    with thread_broker() as ends, ClientExecutor(ends.url) as executor:
        assert [*executor.map("p", range(50), timeout=WAIT_S)] == [*range(50)]


def test_a_failure_is_the_futures_exception() -> None:
    with thread_broker(fail) as ends, ClientExecutor(ends.url) as executor:
        future = executor.submit("p")
        assert isinstance(future.exception(WAIT_S), errors.PipelineFailed)
        with pytest.raises(errors.PipelineFailed):
            future.result()


def test_cancel_gives_the_job_up_and_tells_whoever_waits() -> None:
    with thread_broker(hold) as ends, ClientExecutor(ends.url) as executor:
        future = executor.submit("p")
        run = ends.next_run()
        called = threading.Event()
        future.add_done_callback(lambda _: called.set())
        assert future.cancel()
        assert future.cancel(), "again is fine"
        assert wait([future], WAIT_S).done == {future}
        assert called.is_set()
        with pytest.raises(CancelledError):
            future.result()
        assert ends.next_cancel().cookie == run.cookie


def test_what_is_over_can_not_be_cancelled() -> None:
    with thread_broker() as ends, ClientExecutor(ends.url) as executor:
        future = executor.submit("p", 1)
        assert future.result(WAIT_S) == 1
        assert not future.cancel()
        assert not future.cancelled()


def test_waiting_may_be_limited() -> None:
    with thread_broker(hold) as ends:
        executor = ClientExecutor(ends.url)
        future = executor.submit("p")
        with pytest.raises(FutureTimeoutError):
            future.result(0.01)
        executor.shutdown(cancel_futures=True)
        assert future.cancelled()


def test_shutdown_waits_for_what_is_under_way_and_takes_no_more() -> None:
    with thread_broker(hold) as ends:
        executor = ClientExecutor(ends.url)
        future = executor.submit("p")
        run = ends.next_run()
        shutting = threading.Thread(target=executor.shutdown)
        shutting.start()
        ends.succeed(run, "done")
        shutting.join(WAIT_S)
        assert future.result(0) == "done"
        with pytest.raises(RuntimeError, match="shutdown"):
            executor.submit("p")


def test_shutdown_without_waiting_lets_jobs_finish_and_disconnects_after_the_last() -> None:
    with thread_broker(hold) as ends:
        executor = ClientExecutor(ends.url)
        future = executor.submit("p")
        run = ends.next_run()
        executor.shutdown(wait=False)
        assert not future.done()
        ends.succeed(run, "done")
        assert future.result(WAIT_S) == "done"
        assert executor._own is not None
        engine = executor._own._engine
        assert engine is not None
        engine._thread.join(WAIT_S)
        assert not engine._thread.is_alive()


def test_progress_that_nobody_reads_does_not_hold_a_job_up() -> None:
    with thread_broker(hold) as ends, ClientExecutor(ends.url) as executor:
        future = executor.submit("p", follow=True)
        assert future._job is not None

        async def is_credited_as_it_comes(job: BlockingJob = future._job) -> bool:
            return job._job._stream is not None and job._job._stream._free

        is_credited = future._job._engine.call(is_credited_as_it_comes)
        ends.succeed(ends.next_run(), "done")
        assert future.result(WAIT_S) == "done"
        assert is_credited


def test_a_client_that_is_lent_lives_on() -> None:
    with thread_broker() as ends, BlockingClient(ends.url) as client:
        with ClientExecutor(client.with_options(encoding="json")) as executor:
            assert executor.submit("p", [1]).result(WAIT_S) == [1]
        assert client.run("p", 2) == 2


def test_callbacks_may_submit_but_not_wait() -> None:
    with thread_broker(hold) as ends, ClientExecutor(ends.url) as executor:
        refused: SimpleQueue[BaseException] = SimpleQueue()
        further: SimpleQueue[Future[object]] = SimpleQueue()

        def follow(_: object) -> None:
            second = executor.submit("p", "second")
            for wait_for in (second.result, second.exception):
                try:
                    wait_for(WAIT_S)
                except RuntimeError as error:
                    refused.put(error)
            further.put(second)

        executor.submit("p", "first").add_done_callback(follow)
        ends.succeed(ends.next_run(), None)
        ends.succeed(ends.next_run(), "done")
        assert further.get(timeout=WAIT_S).result(WAIT_S) == "done"
        assert all("own thread" in str(refused.get_nowait()) for _ in range(2))


def test_what_can_not_be_submitted_leaves_nothing_pending() -> None:
    with thread_broker() as ends:
        executor = ClientExecutor(ends.url)
        with pytest.raises(TypeError):
            executor.submit("p", object())
        assert executor._pending == {}
        executor.shutdown()
