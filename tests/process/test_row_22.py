"""Row 22 of failures.md: the broker is killed and started again, and 5,000 clients come back at once."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from reasonchip_broker.client import Client
from reasonchip_broker.errors import BrokerWentAway
from tests.process.rows import Moment, broker_process, own_address, peer_process, raise_descriptor_limit
from tests.raw_peers import kept

pytestmark = pytest.mark.process

CLIENTS = 5000
OWN_CLIENTS = 200
PROCESSES = 2
BACK_S = 10.0


async def test_row_22_five_thousand_clients_are_back_within_ten_seconds(
    record_property: Callable[[str, object], None],
) -> None:
    """From when the new broker listens until the last is welcome, in the new broker's own time: what it computed, slept and waited,
    but not for how long the machine ran something else."""
    raise_descriptor_limit()
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(broker_process(clients=own_address(), workers=own_address()))
        flocks = [
            await stack.enter_async_context(
                peer_process("row_flock", url=old.clients[0], count=CLIENTS // PROCESSES, seed=number)
            )
            for number in range(PROCESSES)
        ]
        for flock in flocks:
            assert (await flock.says())[0] == "all"
        assert (await old.state())["connections"] == CLIENTS
        await old.killed()
        new = await stack.enter_async_context(broker_process(clients=old.clients[0], workers=old.workers[0]))
        began = Moment(time.monotonic(), new.unserved_s())
        said = await asyncio.gather(*(flock.says() for flock in flocks))
        back_s = Moment(time.monotonic(), new.unserved_s()).own_s(began)
        assert [lost for _, lost, _ in said] == [CLIENTS // PROCESSES] * PROCESSES, (
            "each lost its connection once, and came back once"
        )
        for flock in flocks:
            flock.tell("ping")
        for flock in flocks:
            assert (await flock.says())[:2] == ["all", 0]
        state = await new.state()
        assert (state["connections"], state["peers"]) == (CLIENTS, CLIENTS)
        record_property("back_s", round(back_s, 2))
        record_property("by the clock_s", round(time.monotonic() - began.at, 2))
        record_property("dials of each", round(sum(attempts for _, _, attempts in said) / CLIENTS, 1))
        assert back_s <= BACK_S


async def test_row_22_our_own_clients_are_back_within_ten_seconds_and_not_all_at_once(
    record_property: Callable[[str, object], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Each with a job that it has to have: what the old broker had taken is BrokerWentAway, and the next one is done.

    That they don't come all at once is seen by the pauses that each says it makes: drawn from all that is possible, no two are alike.
    """
    async with AsyncExitStack() as stack:
        caplog.set_level(logging.INFO, "reasonchip_broker.client")
        old = await stack.enter_async_context(broker_process(clients=own_address(), workers=own_address()))
        worker = await old.worker(OWN_CLIENTS, "held", works=kept)
        clients = [await stack.enter_async_context(Client(old.clients[0])) for _ in range(OWN_CLIENTS)]
        jobs = [client.submit("held", number) for number, client in enumerate(clients)]
        await worker.holds(OWN_CLIENTS)
        await old.killed()
        new = await stack.enter_async_context(broker_process(clients=old.clients[0], workers=old.workers[0]))
        await new.worker(OWN_CLIENTS, "echo")
        began = Moment(time.monotonic(), new.unserved_s())
        came = [asyncio.create_task(back(client)) for client in clients]
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        times = sorted(await asyncio.gather(*came))
        back_s = Moment(time.monotonic(), new.unserved_s()).own_s(began)
        assert all(isinstance(outcome, BrokerWentAway) and outcome.may_have_run for outcome in outcomes), Counter(
            map(repr, outcomes)
        )
        pauses = [record.args[1] for record in caplog.records if isinstance(record.args, tuple) and len(record.args) == 3]
        assert len(pauses) >= OWN_CLIENTS
        assert len(set(pauses)) == len(pauses), "clients that lost one broker at one moment make the same pauses"
        record_property("back_s", round(back_s, 2))
        record_property("spread_s", round(times[-1] - times[0], 2))
        assert back_s <= BACK_S


async def back(client: Client) -> float:
    """Run a job; returns when it was done."""
    assert await client.run("echo", 1) == b"\x01"
    return time.monotonic()
