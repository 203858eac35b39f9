"""The client for code that is not asynchronous: from any thread, within a running loop, and never for ever."""

import asyncio
import gc
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest

from reasonchip_broker import errors
from reasonchip_broker.client import BlockingClient, JobState, Options, blocking
from reasonchip_broker.peer.options import changed
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import CloseReason, Code
from tests.unit.client.ends import StubWorker, hold
from tests.unit.client.thread_broker import thread_broker

RAW = "memory://raw"
WAIT_S = 10.0


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reasonchip client")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    for thread in client_threads():
        thread.join(WAIT_S)
    assert client_threads() == []


def test_a_job_runs_and_its_result_is_returned() -> None:
    with thread_broker() as ends, BlockingClient(ends.url) as client:
        assert client.run("greet", {"name": "Ada"}) == {"name": "Ada"}
        assert client.connected
    assert not client.connected


def test_options_are_keywords_of_whatever_submits() -> None:
    with thread_broker(hold) as ends, BlockingClient(ends.url) as client:
        mine = uuid.uuid4()
        assert client.submit_many("p", [], batch=mine).id == mine
        with pytest.raises(errors.DeadlineExceeded):
            client.run("p", deadline_s=0.01)
        with pytest.raises(errors.DeadlineExceeded):
            client.submit("p", deadline_s=0.01).result(WAIT_S)
        [late] = client.map("p", [1], return_exceptions=True, deadline_s=0.01)
        assert isinstance(late, errors.DeadlineExceeded)
        [(_, job)] = client.as_completed("p", [1], deadline_s=0.01)
        with pytest.raises(errors.DeadlineExceeded):
            job.result(WAIT_S)
        assert client.submit_many("p", [1], deadline_s=0.01).finish().failed == 1


def test_a_keyword_that_is_no_option_never_becomes_a_variable() -> None:
    client: Any = BlockingClient(RAW)
    for submits in (client.submit, client.run, client.map, client.as_completed, client.submit_many):
        with pytest.raises(TypeError, match="'dedline_s' is no option"):
            submits("p", [], dedline_s=1)


def test_the_variables_of_one_job_are_not_taken_for_those_of_many() -> None:
    client = BlockingClient(RAW)
    for submits in (client.map, client.as_completed, client.submit_many):
        with pytest.raises(TypeError, match="not one dict"):
            submits("p", {"a": 1})


def test_it_says_what_it_is() -> None:
    with thread_broker() as ends, BlockingClient(ends.url) as client:
        assert repr(client) == f"<BlockingClient of {ends.url}, connected>"
        batch = client.submit_many("p", [1, 2]).finish()
        assert repr(batch) == f"<BlockingBatch {batch.id}: 2 submitted, 2 succeeded, 0 failed>"
    assert repr(client) == f"<BlockingClient of {ends.url}, not connected>"


def test_one_cookie_is_not_given_to_many_jobs() -> None:
    client: Any = BlockingClient(RAW).with_options(cookie=uuid.uuid4())
    for submits in (client.map, client.as_completed, client.submit_many):
        with pytest.raises(ValueError, match="names one job"):
            submits("p", [])


@pytest.mark.parametrize("value", [0, "", [], {}, False, None, b""], ids=repr)
def test_falsy_results_stay_what_they_are(value: object) -> None:
    with thread_broker() as ends, BlockingClient(ends.url) as client:
        result = client.run("echo", value)
        assert result == value
        assert type(result) is type(value)


def test_it_connects_when_it_is_first_used_and_not_before() -> None:
    with thread_broker() as ends:
        client = BlockingClient(ends.url)
        assert client_threads() == []
        assert client.run("p", 1) == 1
        client.close()
        client.close()
        with pytest.raises(errors.ConnectionLost, match="closed"):
            client.run("p")
        with pytest.raises(errors.ConnectionLost, match="closed"):
            client.connect()
        unused = BlockingClient(ends.url)
        unused.close()
        with pytest.raises(errors.ConnectionLost, match="closed"):
            unused.connect()


def test_a_client_that_is_garbage_disconnects() -> None:
    with thread_broker() as ends:
        client = BlockingClient(ends.url)
        job = client.submit("p", 1)
        del client
        assert job.result() == 1, "a job keeps its client"
        del job
        gc.collect()
        for thread in client_threads():
            thread.join(WAIT_S)
        assert client_threads() == []


def test_options_of_one_job_are_checked_once_and_refused_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Options] = []

    def counted(options: Options, changes: Mapping[str, Any]) -> Options:
        made.append(changed(options, changes))
        return made[-1]

    monkeypatch.setattr(blocking, "changed", counted)
    with thread_broker() as ends, BlockingClient(ends.url) as client:
        assert [client.run("p", number, timeout=WAIT_S) for number in range(3)] == [0, 1, 2]
    assert len(made) == 1
    with pytest.raises(TypeError, match="no option"):
        client.run("p", 1, nonsense=1)  # type: ignore[call-arg]


async def test_it_works_where_a_loop_runs_already() -> None:
    with thread_broker() as ends, BlockingClient(ends.url) as client:
        assert client.run("p", 1) == 1
    assert asyncio.get_running_loop().is_running()


def test_many_threads_may_use_it_at_once_and_share_the_connection() -> None:
    with thread_broker() as ends:
        client = BlockingClient(ends.url)
        with ThreadPoolExecutor(16) as pool:
            assert [*pool.map(lambda number: client.run("p", number), range(500))] == [*range(500)]
        assert ends.broker.connections == 2
        client.close()


def test_a_broker_that_is_not_there_is_said_so_in_time() -> None:
    client = BlockingClient("tcp://127.0.0.1:1", connect_timeout_s=0.05)
    for _ in range(2):
        with pytest.raises(errors.ConnectError, match="can't connect"):
            client.run("p")


def test_connecting_once_tells_the_first_failure() -> None:
    with thread_broker() as ends:
        url = ends.url
        client = BlockingClient(url, connect_timeout_s=60)
        client.connect(once=True)
        assert client.run("p", 1) == 1
        client.close()
    client = BlockingClient(url, connect_timeout_s=60)
    with pytest.raises(errors.ConnectError, match="can't connect"):
        client.connect(once=True)


def test_parameters_that_make_no_sense_are_refused_without_a_connection() -> None:
    with pytest.raises(errors.EndpointError):
        BlockingClient("http://x")


def test_waiting_may_be_limited_and_goes_on_afterwards() -> None:
    with thread_broker(hold) as ends, BlockingClient(ends.url) as client:
        job = client.submit("p")
        run = ends.next_run()
        with pytest.raises(TimeoutError, match=r"0\.01 s; it goes on"):
            job.result(timeout=0.01)
        assert (job.done(), job.state) == (False, JobState.SENT)
        ends.succeed(run, "late")
        assert job.result(timeout=WAIT_S) == "late"
        assert job.result() == "late"
        assert ends.worker.cancels.empty()


def test_the_option_timeout_cancels_the_job() -> None:
    with thread_broker(hold) as ends, BlockingClient(ends.url) as client:
        with pytest.raises(TimeoutError, match="cancelled"):
            client.with_options(timeout=0.01).run("p")
        assert ends.next_cancel().cookie == ends.next_run().cookie


def test_cancel_says_what_the_broker_said() -> None:
    with thread_broker(hold) as ends, BlockingClient(ends.url) as client:
        job = client.submit("p")
        run = ends.next_run()
        assert job.cookie == uuid.UUID(bytes=run.cookie)
        assert job.cancel(why="enough").code is Code.CANCELLING
        assert ends.next_cancel().cookie == run.cookie
        assert client.cancel(uuid.uuid4()).code is Code.COOKIE_NOT_FOUND
        assert str(job.cookie) in repr(job)


def test_an_interrupted_run_cancels_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with thread_broker(hold) as ends, BlockingClient(ends.url) as client:
        monkeypatch.setattr("reasonchip_broker.client.blocking.BlockingJob.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.run("p")
        assert ends.next_cancel().cookie == ends.next_run().cookie


def test_closing_from_another_thread_ends_every_wait() -> None:
    with thread_broker(hold) as ends:
        client = BlockingClient(ends.url)
        waits = [threading.Thread(target=swallow, args=(client.run, "p")) for _ in range(5)]
        for wait in waits:
            wait.start()
        for _ in waits:
            ends.next_run()
        client.close()
        for wait in waits:
            wait.join(WAIT_S)
        assert not any(wait.is_alive() for wait in waits)


def swallow(call: Any, *arguments: Any) -> None:
    with pytest.raises(errors.ReasonChipError):
        call(*arguments)


def test_a_broker_that_goes_away_ends_every_wait() -> None:
    with thread_broker(hold) as ends, BlockingClient(ends.url, reconnect=False) as client:
        job = client.submit("p")
        ends.next_run()
        ends.wait(abort_clients(ends.broker))
        with pytest.raises(errors.BrokerWentAway):
            job.result(WAIT_S)


async def abort_clients(broker: Any) -> None:
    for connection in list(broker._connections.values()):
        if connection.role == 1:
            connection.abort(CloseReason.NORMAL)


def test_waiting_in_the_clients_own_thread_is_refused_rather_than_for_ever() -> None:
    with thread_broker(hold) as ends, BlockingClient(ends.url) as client:
        said: SimpleQueue[BaseException] = SimpleQueue()

        def callback(_: object) -> None:
            try:
                client.run("p")
            except RuntimeError as error:
                said.put(error)

        client.submit("p")._landed.add_done_callback(callback)
        ends.succeed(ends.next_run(), None)
        assert "own thread" in str(said.get(timeout=WAIT_S))
        assert ends.next_cancel().cookie == ends.next_run().cookie, "what was submitted there is given up"


def test_map_keeps_the_order_and_reads_no_further_than_there_is_room() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    with thread_broker() as ends, BlockingClient(ends.url) as client:
        assert [*client.map("p", range(200), in_flight=7)] == [*range(200)]
        results = client.map("p", endless(), in_flight=5)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert len(taken) <= 8


def test_as_completed_gives_each_job_with_its_variables() -> None:
    with thread_broker() as ends, BlockingClient(ends.url) as client:
        pairs = [(variables, job.result()) for variables, job in client.as_completed("p", range(100), in_flight=7)]
        assert sorted(pairs) == [(number, number) for number in range(100)]


def fail_the_second(worker: StubWorker, run: Packet) -> None:
    if run.payload == b"\x01":
        worker.fail(run, Code.EXCEPTION, "the second one fails")
    elif run.payload == b"\x00":
        worker.succeed(run, "fine")


def test_a_failure_ends_the_map_and_cancels_the_rest() -> None:
    with thread_broker(fail_the_second) as ends, BlockingClient(ends.url) as client:
        results = client.map("p", range(4), in_flight=4)
        assert next(results) == "fine"
        with pytest.raises(errors.JobException):
            next(results)
        assert len({ends.next_cancel().cookie for _ in range(2)}) == 2
        kinds = [type(result) for result in client.map("p", range(2), return_exceptions=True)]
        assert kinds == [str, errors.JobException]


@pytest.mark.parametrize("how", ["map", "as_completed"])
def test_a_break_cancels_the_rest(how: str) -> None:
    with thread_broker(fail_the_second) as ends, BlockingClient(ends.url) as client:
        for _ in getattr(client, how)("p", [0, 2, 3], in_flight=3):
            break
        assert len({ends.next_cancel().cookie for _ in range(2)}) == 2


@pytest.mark.parametrize("how", ["map", "as_completed"])
def test_no_room_at_all_is_a_mistake_that_is_told_at_once(how: str) -> None:
    with pytest.raises(ValueError, match="in_flight"):
        getattr(BlockingClient("tcp://127.0.0.1:1"), how)("p", [], in_flight=0)


def test_views_share_the_connection() -> None:
    with thread_broker() as ends, BlockingClient(ends.url) as client:
        view = client.with_options(encoding="json", deadline_s=60.0)
        assert view.run("p", [1]) == [1]
        assert (view.options.encoding, client.options.encoding) == ("json", "msgpack")
        assert ends.broker.connections == 2
        with pytest.raises(TypeError, match="JSON"):
            view.run("p", b"bytes")
