"""A broker that is sent more jobs at once than it can do: workers are heard in between, and nothing is lost."""

import os
from typing import Any

import pytest

from reasonchip_broker import Broker
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import CloseReason, Code
from reasonchip_broker.transports.pacing import Pacer
from tests.raw_peers import client_of, options, serving, until, worker_of
from tests.unit.test_broker_limits import OVER_TCP

MANY = 5000


def crowded(broker: Broker) -> bool:
    assert broker._steps.pacer is not None
    return broker._steps.pacer.crowded


def detached(count: int) -> list[bytes]:
    """RUNs of jobs that go on without their client."""
    return [packets.run(os.urandom(16), options("echo", detach=True), b"") for _ in range(count)]


@pytest.mark.parametrize("listeners", [{}, OVER_TCP], ids=["memory", "tcp"])
async def test_row_21_in_a_rush_of_short_jobs_most_find_a_slot_and_none_is_lost(listeners: dict[str, Any]) -> None:
    async with serving(**listeners) as broker:
        await worker_of(broker, capacity=64)
        clients = [await client_of(broker) for _ in range(2)]
        cookies = [(client, client.run_all("echo", MANY)) for client in clients]
        for client, its_own in cookies:
            for cookie in its_own:
                assert (await client.outcome(cookie)).code == Code.OK
        assert broker.switchboard.counters.finished == 2 * MANY
        assert broker.switchboard.counters.queued < MANY
        assert not crowded(broker)


async def test_as_soon_as_a_worker_is_heard_more_jobs_may_be_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bool] = []
    real = Pacer.heard

    def spy(pacer: Pacer) -> None:
        heard.append(pacer.crowded)
        real(pacer)

    monkeypatch.setattr(Pacer, "heard", spy)
    async with serving() as broker:
        await worker_of(broker, capacity=8)
        client = await client_of(broker)
        for cookie in client.run_all("echo", MANY):
            await client.outcome(cookie)
    assert len(heard) > 100
    assert all(heard)


async def test_many_clients_that_send_few_jobs_each_have_to_queue_too() -> None:
    async with serving() as broker:
        clients = [await client_of(broker) for _ in range(20)]
        assert not crowded(broker)
        for client in clients:
            client.run_all("echo", 10)
        await until(lambda: crowded(broker), "nobody has to queue")
        await until(lambda: broker.switchboard.waiting == 200, "jobs were not taken in")
        assert not crowded(broker)


async def test_long_jobs_are_all_taken_in_though_none_ends() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        client.run_all("echo", MANY)
        await until(lambda: broker.switchboard.waiting == MANY, "jobs were not taken in")
        assert not crowded(broker)


async def test_what_a_client_sent_before_it_left_is_taken_in() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        client.send(*detached(MANY))
        await until(lambda: broker.switchboard.jobs > 0, "nothing was taken in")
        assert broker.switchboard.jobs < MANY
        client.live.close()
        await until(lambda: broker.connections == 0, "the client is still there")
        assert broker.switchboard.jobs == MANY


async def test_another_client_s_job_need_not_wait_until_all_of_a_rush_is_taken_in() -> None:
    async with serving() as broker:
        flood, other = await client_of(broker), await client_of(broker)
        flood.run_all("echo", MANY)
        await until(lambda: crowded(broker), "nobody has to queue")
        cookie = other.run("echo")
        await until(lambda: cookie in broker.switchboard._dispatcher.routes, "the other's job was not taken in")
        assert broker.switchboard.jobs < MANY


async def test_nonsense_after_many_jobs_ends_the_connection_after_them() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        client.send(*detached(MANY), b"\0\0\0\1")
        assert (await client.sent_away())[0] == CloseReason.PROTOCOL_ERROR
        assert broker.switchboard.jobs == MANY


async def test_of_a_client_that_was_said_goodbye_to_nothing_more_is_taken_in() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        client.send(*detached(MANY))
        await until(lambda: crowded(broker), "nobody has to queue")
        (connection,) = broker._connections.values()
        connection.close(CloseReason.NORMAL, "enough")
        taken = broker.switchboard.jobs
        assert (await client.sent_away())[0] == CloseReason.NORMAL
        client.live.close()
        await until(lambda: broker.connections == 0, "the client is still there")
        assert broker.switchboard.jobs == taken


async def test_a_broker_that_stops_while_clients_queue_takes_nothing_more_in() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        client.send(*detached(MANY))
        await until(lambda: crowded(broker), "nobody has to queue")
