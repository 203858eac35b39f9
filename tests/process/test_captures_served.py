"""The recorded traffic of existing peers against `python -m reasonchip_broker serve`, a real process, over TCP and a Unix socket."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.captures.recorded import recorded
from tests.wire_peers import DEADLINE_S, JsonPeer

pytestmark = pytest.mark.process


@dataclass
class Served:
    """A broker in a process of its own."""

    process: asyncio.subprocess.Process
    clients: str
    workers: str
    stack: AsyncExitStack

    async def peer(self, url: str) -> JsonPeer:
        peer = await JsonPeer.dial(url)
        self.stack.push_async_callback(peer.gone)
        return peer

    async def worker(self, case: str) -> JsonPeer:
        peer = await self.peer(self.workers)
        peer.send(recorded(case, "worker1-to-broker")[0])
        return peer

    async def client(self, case: str, number: int = 1) -> JsonPeer:
        """A client that has sent what it sent in that case."""
        peer = await self.peer(self.clients)
        peer.send(*recorded(case, f"client{number}-to-broker"))
        return peer


@pytest.fixture(params=["tcp", "unix"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    """Clients' jobs wait for a slot here, since an existing worker is not told when it has been registered."""
    urls = {role: f"unix://{tmp_path}/{role}.sock" for role in ("clients", "workers")}
    if request.param == "tcp":
        urls = dict.fromkeys(urls, "tcp://127.0.0.1:0")
    command = [sys.executable, "-m", "reasonchip_broker", "serve", "--json-queue", "--log-level", "warning"]
    for role, url in urls.items():
        command += [f"--{role}", url]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(DEADLINE_S):
            word, *ready = (await process.stdout.readline()).decode().split()
        assert word == "ready"
        said = dict(part.split("=", 1) for part in ready)
        try:
            yield Served(process, said["clients"], said["workers"], stack)
        finally:
            if process.returncode is None:
                process.kill()
            _, errors = await process.communicate()
            assert b"Traceback" not in errors, errors.decode()


@pytest.mark.parametrize("case", ["run_ok", "run_ok_unicode", "run_ok_novars_null_result", "run_processor_exception"])
async def test_jobs_go_there_and_back_as_they_were_recorded(served: Served, case: str) -> None:
    worker = await served.worker(case)
    for number, run in enumerate(recorded(case, "broker-to-worker1"), 1):
        client = await served.client(case, number)
        assert await worker.frame() == run
        worker.send(recorded(case, "worker1-to-broker")[number])
        assert [await client.frame()] == recorded(case, f"broker-to-client{number}")


async def test_bad_packets_are_answered_as_they_were_recorded_and_the_connection_lives_on(served: Served) -> None:
    client = await served.client("bad_and_unsupported", 2)
    answers = recorded("bad_and_unsupported", "broker-to-client2")
    assert [await client.frame() for _ in answers] == answers
    assert await client.settle() == []


async def test_row_1_a_worker_that_is_terminated_costs_only_its_own_jobs(served: Served) -> None:
    case = "worker_sigterm_midrun"
    worker = await served.worker(case)
    first = await served.client(case, 1)
    assert [await worker.frame()] == recorded(case, "broker-to-worker1")
    worker.kill()
    assert (await first.packet())["rc"] == "WORKER_WENT_AWAY"
    replacement = await served.worker(case)
    second = await served.client(case, 2)
    assert [await replacement.frame()] == recorded(case, "client2-to-broker")
    assert await second.settle() == []


async def test_a_cancelled_job_is_over_for_its_owner_and_its_worker_lives(served: Served) -> None:
    case = "cancel_by_cookie"
    worker = await served.worker(case)
    run, cancel = recorded(case, "client1-to-broker")
    client = await served.peer(served.clients)
    client.send(run)
    assert [await worker.frame()] == recorded(case, "broker-to-worker1")[:1]
    client.send(cancel)
    assert (await client.packet())["error"].startswith("CANCELLED: ")
    second = await served.client(case, 2)
    assert [await worker.frame()] == recorded(case, "client2-to-broker")
    assert await second.settle() == []


async def test_row_6_sigterm_lets_existing_workers_finish_and_ends_well(served: Served) -> None:
    case = "run_ok"
    worker = await served.worker(case)
    client = await served.client(case)
    assert [await worker.frame()] == recorded(case, "broker-to-worker1")
    served.process.send_signal(signal.SIGTERM)
    assert await worker.packet() == {"packet_type": "SHUTDOWN"}
    worker.send(recorded(case, "worker1-to-broker")[1])
    assert [await client.frame()] == recorded(case, "broker-to-client1")
    assert await worker.ended() == await client.ended() == b""
    async with asyncio.timeout(DEADLINE_S):
        assert await served.process.wait() == 0
