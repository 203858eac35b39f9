"""The client from the outside, over a real broker in the same process: jobs run, end in every way that there is, and none hangs."""

import asyncio
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from reasonchip_broker import errors
from reasonchip_broker.broker import Broker
from reasonchip_broker.client import Client, JobState
from reasonchip_broker.client.client import default_limits
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.transports import tcp
from reasonchip_broker.transports.endpoints import server_transport
from tests.unit.client.ends import StubWorker, hold, raw_broker, real_broker, soon

CLIENTS, WORKERS = "memory://clients", "memory://workers"


async def test_a_job_goes_to_a_worker_and_its_result_comes_back() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker().connect(WORKERS)
        assert await client.run("greet", {"name": "Ada"}) == {"name": "Ada"}


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
@pytest.mark.parametrize("value", [0, 0.0, "", [], {}, False, None])
async def test_falsy_results_stay_what_they_are(value: object, encoding: str) -> None:
    async with real_broker(), Client(CLIENTS, encoding=encoding) as client:
        await StubWorker().connect(WORKERS)
        result = await client.run("echo", value)
        assert result == value
        assert type(result) is type(value)


@pytest.mark.parametrize(("value", "encoding"), [(b"", "bytes"), ("", "text"), (None, "bytes"), (None, "text")])
async def test_empty_bytes_and_text_are_not_none(value: object, encoding: str) -> None:
    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker().connect(WORKERS)
        assert await client.with_options(encoding=encoding).run("echo", value) == value


async def test_msgpack_carries_bytes_and_times() -> None:
    value = {"raw": b"\x00\xff", "at": datetime(2026, 11, 23, tzinfo=UTC)}
    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker().connect(WORKERS)
        assert await client.run("echo", value) == value


async def test_variables_may_be_named_like_options_because_they_are_a_value_of_their_own() -> None:
    named: dict[str, Any] = {"timeout": 1, "self": 2, "pipeline": 3, "variables": 4, "cookie": 5, "queue": False}
    async with real_broker(), Client(CLIENTS) as client:
        await StubWorker().connect(WORKERS)
        assert await client.run("echo", named, timeout=10) == named


async def test_a_job_that_waits_for_a_slot_says_so() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold, capacity=1).connect(WORKERS)
        first, second = client.submit("p"), client.submit("p")
        run = await worker.next_run()
        assert first.state is JobState.SENT
        await round_trip(client)
        states = [second.state]
        worker.succeed(run, 1)
        assert await first == 1
        worker.succeed(await worker.next_run(), 2)
        assert await second == 2
        states.append(second.state)
        assert states == [JobState.QUEUED, JobState.OVER]


async def round_trip(client: Client) -> None:
    """What the broker had said before this is known after it: a CANCEL of nothing is answered in its turn."""
    assert (await soon(client.cancel(uuid.uuid4()))).code == Code.COOKIE_NOT_FOUND


@pytest.mark.parametrize("code", sorted(errors.FAILURES_BY_CODE))
async def test_each_outcome_is_an_exception_of_its_own_with_the_remote_stack(code: int) -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        job = client.submit("p")
        worker.fail(await worker.next_run(), Code(code), "it broke", error_type="KeyError", stack=["line 1", "line 2"])
        with pytest.raises(errors.FAILURES_BY_CODE[code], match="it broke") as caught:
            await job
        assert caught.value.error_type == "KeyError"
        assert caught.value.stack == ("line 1", "line 2")
        assert caught.value.may_have_run
        assert "line 2" in str(caught.value)


@pytest.mark.parametrize("code", sorted(errors.REFUSALS_BY_CODE))
async def test_each_refusal_is_an_exception_of_its_own_with_the_hint_when_to_try_again(code: int) -> None:
    async with raw_broker() as broker, Client(broker.url, overload_patience_s=0) as client:
        connection = await broker.next_connection()
        job = client.submit("p")
        run = await broker.next_packet(PacketType.RUN)
        connection.send(packets.reply(PacketType.RUN, Code(code), "not now", cookie=run.cookie, retry_ms=1500))
        with pytest.raises(errors.REFUSALS_BY_CODE[code], match="not now") as caught:
            await job
        assert caught.value.retry_after_s == 1.5


async def test_a_job_that_must_not_wait_is_refused_when_there_is_no_slot() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        impatient = client.with_options(queue=False)
        with pytest.raises(errors.NotServed):
            await impatient.run("p")
        worker = await StubWorker(hold, capacity=1).connect(WORKERS)
        job = client.submit("p")
        run = await worker.next_run()
        with pytest.raises(errors.NoCapacity):
            await impatient.run("p")
        worker.succeed(run, None)
        assert await job is None


async def test_the_deadline_is_the_brokers_to_keep_and_ends_a_running_job() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        job = client.with_options(deadline_s=0.05).submit("p")
        run = await worker.next_run()
        assert 0 < run.number <= 50
        with pytest.raises(errors.DeadlineExceeded):
            await soon(job)


async def test_a_timeout_cancels_the_job_at_its_worker() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        with pytest.raises(TimeoutError, match=r"0\.01 s"):
            await client.with_options(timeout=0.01).run("p")
        run = await worker.next_run()
        assert (await worker.next_cancel()).cookie == run.cookie


async def test_waiting_for_a_while_is_not_giving_up() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        job = client.submit("p")
        run = await worker.next_run()
        with pytest.raises(TimeoutError, match="goes on"):
            await job.result(timeout=0.01)
        assert not job.done()
        worker.succeed(run, "late")
        assert await job.result(timeout=5) == "late"
        assert worker.cancels.empty()


async def test_cancelling_whoever_awaits_run_cancels_the_job() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        task = asyncio.create_task(client.run("p"))
        run = await worker.next_run()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        assert (await worker.next_cancel()).cookie == run.cookie


async def test_a_job_may_be_awaited_in_all_the_usual_ways() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker().connect(WORKERS)
        assert [*await asyncio.gather(client.submit("p", 1), client.submit("p", 2))] == [1, 2]
        assert await asyncio.wait_for(client.submit("p", 3), 5) == 3
        async with asyncio.TaskGroup() as group:
            task = group.create_task(client.run("p", 4))
        assert task.result() == 4
        worker.answer = hold
        shielded, exposed = client.submit("shielded"), client.submit("exposed")
        for job in (asyncio.shield(shielded), exposed):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(job, 0.01)
        assert [shielded.done(), exposed.done()] == [False, True]
        assert (await worker.next_cancel()).cookie == exposed.cookie.bytes
        runs = {run.cookie: run for run in [await worker.next_run() for _ in range(6)]}
        worker.succeed(runs[shielded.cookie.bytes], "undisturbed")
        assert await shielded == "undisturbed"


async def test_cancelling_one_of_two_who_wait_leaves_the_job_to_the_other() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        job = client.submit("p")
        tasks = [asyncio.create_task(job.result()) for _ in range(2)]
        run = await worker.next_run()
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        worker.succeed(run, 5)
        assert await soon(tasks[1]) == 5
        assert worker.cancels.empty()


async def test_cancel_says_what_the_broker_said_and_the_outcome_comes_by_itself() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold, capacity=1).connect(WORKERS)
        running, queued = client.submit("p"), client.submit("p")
        run = await worker.next_run()
        answer = await queued.cancel(why="changed my mind")
        assert answer.code is Code.OK
        with pytest.raises(errors.JobCancelled, match="changed my mind") as caught:
            await queued
        assert not caught.value.may_have_run
        answer = await running.cancel(at_once=True, why="too slow")
        assert answer.code is Code.CANCELLING
        cancel = schemas.cancel_meta((await worker.next_cancel()).meta)
        assert (cancel.now, cancel.why) == (True, "too slow")
        worker.succeed(run, "I was quicker")
        assert await running == "I was quicker"
        assert (await running.cancel()).code is Code.COOKIE_NOT_FOUND


async def test_a_job_may_be_cancelled_by_its_cookie_from_another_client() -> None:
    async with real_broker(), Client(CLIENTS) as one, Client(CLIENTS) as other:
        worker = await StubWorker(hold).connect(WORKERS)
        job = one.submit("p")
        run = await worker.next_run()
        assert (await other.cancel(job.cookie)).code is Code.CANCELLING
        worker.fail(run, Code.CANCELLED, "stopped")
        with pytest.raises(errors.JobCancelled):
            await job


async def test_a_detached_job_is_done_when_the_broker_has_it() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold, capacity=1).connect(WORKERS)
        detached = client.with_options(detach=True)
        dispatched = detached.submit("p")
        assert await soon(dispatched) is None
        assert await soon(detached.run("p")) is None, "a queued one is accepted just as well"
        run = await worker.next_run()
        assert (await dispatched.cancel()).code is Code.CANCELLING
        worker.succeed(run, 1)


async def test_a_detached_job_outlives_the_client() -> None:
    async with real_broker():
        worker = await StubWorker(hold).connect(WORKERS)
        async with Client(CLIENTS) as client:
            client.with_options(detach=True).submit("p", 1)
        assert (await worker.next_run()).payload == b"\x01"
        assert worker.cancels.empty()


async def test_a_chosen_cookie_names_the_job() -> None:
    cookie = uuid.uuid4()
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        mine = client.with_options(cookie=cookie)
        job = mine.submit("p")
        assert job.cookie == cookie
        run = await worker.next_run()
        assert run.cookie == cookie.bytes
        with pytest.raises(errors.CookieCollision):
            await mine.run("p")
        async with Client(CLIENTS) as other:
            with pytest.raises(errors.CookieCollision):
                await other.with_options(cookie=cookie).run("p")
        worker.succeed(run, 1)
        assert await job == 1


async def test_a_job_over_the_brokers_frame_limit_is_refused_before_it_is_sent() -> None:
    async with real_broker(limits=Limits(frame_bytes_max=5000)), Client(CLIENTS) as client:
        worker = await StubWorker().connect(WORKERS)
        with pytest.raises(errors.TooLarge, match="5000") as caught:
            await client.run("p", b"x" * 5000)
        assert not caught.value.may_have_run
        assert await client.run("p", 1) == 1
        assert worker.runs.qsize() == 1


async def test_a_worker_that_goes_away_is_an_outcome() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        job = client.submit("p")
        await worker.next_run()
        worker.connection.abort(CloseReason.NORMAL)
        with pytest.raises(errors.WorkerWentAway):
            await soon(job)


async def test_who_waits_for_what_is_told_in_so_many_rows() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        for pipeline in ("p", "q", "r"):
            client.submit(pipeline, fairness_key="team", detach=True)
        report = await client.queue(rows=2)
        assert (report.waiting, report.lines_there, [key.name for key in report.keys]) == (3, 3, ["team"])
        assert [(line.pipeline, line.why) for line in report.lines] == [("p", "not_served"), ("q", "not_served")]
        for rows in (-1, 101):
            with pytest.raises(ValueError, match="rows must be from 0 to 100"):
                await client.queue(rows=rows)


async def test_a_broker_that_drains_refuses_and_stops_with_an_outcome_for_each_job() -> None:
    async with real_broker() as broker, Client(CLIENTS) as client:
        worker = await StubWorker(hold, capacity=1).connect(WORKERS)
        running, queued = client.submit("p"), client.submit("p")
        await worker.next_run()
        assert await broker.drain(limit_s=0.01) == 1
        with pytest.raises(errors.BrokerWentAway) as caught:
            await soon(queued)
        assert not caught.value.may_have_run
        with pytest.raises(errors.Draining):
            await client.run("p")
        await broker.stop()
        with pytest.raises(errors.BrokerWentAway) as caught:
            await soon(running)
        assert caught.value.may_have_run


@pytest.mark.parametrize("variables", [object(), float])
async def test_variables_that_can_not_be_encoded_are_refused_where_they_are_given(variables: object) -> None:
    async with real_broker(), Client(CLIENTS) as client:
        with pytest.raises(TypeError):
            client.submit("p", variables)


async def test_a_cookie_that_was_stored_as_text_is_told_to_be_none() -> None:
    text: Any = str(uuid.uuid4())
    async with real_broker(), Client(CLIENTS) as client:
        for ask in (client.cancel, client.cancel_batch, client.status):
            with pytest.raises(TypeError, match=r"must be a uuid\.UUID, not str"):
                await ask(text)
        with pytest.raises(TypeError, match=r"cookie must be a uuid\.UUID, not str"):
            client.attach(text)


async def test_a_client_that_was_not_connected_or_is_closed_takes_no_jobs() -> None:
    async with real_broker():
        client = Client(CLIENTS)
        with pytest.raises(errors.ConnectError, match="not connected"):
            client.submit("p")
        with pytest.raises(errors.ConnectError, match="not connected"):
            await client.cancel(uuid.uuid4())
        await client.close()
        async with client:
            assert client.connected
            assert repr(client) == "<Client of memory://clients, connected>"
        assert not client.connected
        assert repr(client) == "<Client of memory://clients, not connected>"
        with pytest.raises(errors.ConnectionLost, match="closed"):
            client.submit("p")


async def test_closing_fails_what_is_under_way_and_tells_nobody_else() -> None:
    async with real_broker():
        worker = await StubWorker(hold).connect(WORKERS)
        client = Client(CLIENTS)
        await client.connect()
        job = client.submit("p")
        await worker.next_run()
        await client.close()
        with pytest.raises(errors.BrokerWentAway, match="closed") as caught:
            await job
        assert caught.value.may_have_run
        assert worker.cancels.empty()


async def test_a_client_may_be_connected_again_after_it_was_closed() -> None:
    async with real_broker():
        await StubWorker().connect(WORKERS)
        client = Client(CLIENTS)
        for number in range(3):
            async with client:
                assert await client.run("p", number) == number


async def test_nobody_to_connect_to_is_one_line_within_the_time(free_port: int) -> None:
    client = Client(f"tcp://127.0.0.1:{free_port}", connect_timeout_s=0.05)
    with pytest.raises(errors.ConnectError, match=f"can't connect to tcp://127.0.0.1:{free_port}: "):
        await soon(client.connect())
    with pytest.raises(errors.ConnectError, match="can't connect"):
        await soon(Client(f"tcp://127.0.0.1:{free_port}", reconnect=False).connect())


async def test_a_client_may_start_before_its_broker() -> None:
    client = Client(CLIENTS)
    connecting = asyncio.create_task(client.connect())
    async with real_broker():
        await soon(connecting)
        await StubWorker().connect(WORKERS)
        assert await client.run("p", 1) == 1
        await client.close()


async def test_tls_and_unix_sockets_are_a_matter_of_the_url(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    listeners = [f"tls://127.0.0.1:0?cert={tmp_path}/server.pem", f"unix://{tmp_path}/clients.sock"]
    broker = Broker(
        [server_transport(url, Role.CLIENT) for url in listeners], [server_transport("memory://workers", Role.WORKER)]
    )
    await broker.start()
    await StubWorker().connect(WORKERS)
    tls_url, unix_url = broker.client_urls
    for url in (f"{tls_url}?ca={tmp_path}/ca.pem", unix_url):
        async with Client(url) as client:
            assert await client.run("p", b"x" * 100_000) == b"x" * 100_000
    with pytest.raises(errors.ConnectError, match="certificate"):
        await Client(tls_url, reconnect=False).connect()
    await broker.stop()


async def test_another_loops_client_is_refused_rather_than_corrupted() -> None:
    async with real_broker(), Client(CLIENTS) as client:

        async def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                client.submit("p")

        await asyncio.to_thread(asyncio.run, elsewhere())


async def test_the_token_and_the_name_are_told() -> None:
    async with raw_broker() as broker, Client(broker.url, token="secret", name="web-1") as client:
        hello = (await broker.next_connection()).context
        assert (hello.token, hello.name, hello.sw) == ("secret", "web-1", "reasonchip-client")
        assert "secret" not in repr(client)


@pytest.mark.parametrize(
    "how", [{"connect_timeout_s": 0}, {"encoding": "pickle"}, {"name": "a\nb"}, {"token": "x" * 5000}, {"url": "http://x"}]
)
def test_parameters_that_make_no_sense_are_refused_at_once(how: dict[str, Any]) -> None:
    with pytest.raises((ValueError, errors.EndpointError)):
        Client(**how)


def test_a_client_takes_frames_of_any_size_that_a_broker_may_be_set_to() -> None:
    largest = Limits(frame_bytes_max=64 * 1024 * 1024)
    assert default_limits().frame_bytes_max >= largest.frame_bytes_max


async def test_a_result_over_the_clients_own_limit_costs_only_that_job() -> None:
    async with real_broker(), Client(CLIENTS, limits=Limits(frame_bytes_max=5000)) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        job = client.submit("p")
        worker.succeed(await worker.next_run(), b"x" * 6000)
        with pytest.raises(errors.TooLarge, match="own frame limit"):
            await soon(job)
        worker.answer = lambda worker, run: worker.succeed(run, "small")
        assert await client.run("p") == "small"


async def test_a_result_that_can_not_be_read_is_that_jobs_own_error() -> None:
    async with real_broker(), Client(CLIENTS) as client:
        worker = await StubWorker(hold).connect(WORKERS)
        job = client.submit("p")
        run = await worker.next_run()
        worker.connection.send(packets.result(run.cookie, run.attempt, b"\xc1", "msgpack"))
        with pytest.raises(errors.RemoteProtocolError, match="can't be read"):
            await soon(job)
        assert client.connected


async def test_tens_of_thousands_of_jobs_at_once_overfill_nothing() -> None:
    """More bytes than an outbox may hold, and more jobs than the broker takes of one client: the rest waits at home."""
    body = b"x" * 2000
    async with real_broker("tcp", limits=Limits(client_jobs_max=1000)) as broker, Client(broker.client_urls[0]) as client:
        await StubWorker(capacity=1000).connect(broker.worker_urls[0])
        jobs = [client.submit("p", body) for _ in range(20_000)]
        for job in jobs:
            assert len(await soon(job)) == len(body)


def test_importing_the_client_is_quick_and_loads_no_broker() -> None:
    code = """
import sys, time
began = time.perf_counter()
import reasonchip_broker.client
took_s = time.perf_counter() - began
loaded = {"reasonchip_broker.broker", "reasonchip_broker.switchboard", "structlog", "click", "rich", "uvloop"} & set(sys.modules)
print(took_s, sorted(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took_s, loaded = done.stdout.split(maxsplit=1)
    assert loaded.strip() == "[]"
    assert float(took_s) < 2.0, "0.2 s on an idle machine; this one may be busy"


@pytest.fixture
async def free_port() -> int:
    """A port that nobody listens on."""
    server = tcp.TcpServerTransport("127.0.0.1", 0)
    (sock,) = await server._bind()
    port: int = sock.getsockname()[1]
    sock.close()
    return port
