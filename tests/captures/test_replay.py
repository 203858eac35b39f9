"""What existing peers sent, replayed: where the existing broker answered well, ours answers the same, byte for byte."""

import pytest

from tests.captures.conftest import House
from tests.captures.recorded import all_recorded, recorded
from tests.wire_peers import JsonPeer, until

CASES = sorted({name.partition(".")[0] for name in all_recorded()})


async def serve(worker: JsonPeer, case: str, number: int = 0) -> None:
    """The worker of a case gets its job as it did then, and answers as it did then. `number` counts its jobs."""
    assert await worker.frame() == recorded(case, "broker-to-worker1")[number]
    worker.send(recorded(case, "worker1-to-broker")[1 + number])


def test_every_recorded_case_is_replayed() -> None:
    """The names below and in `test_better`, so that a case that is added later is not forgotten."""
    replayed = {"register", "run_ok", "run_ok_unicode", "run_ok_novars_null_result", "run_processor_exception", "no_capacity"}
    replayed |= {"cookie_collision", "cookie_not_found", "bad_and_unsupported", "two_runs_one_connection", "detach"}
    assert set(CASES) == replayed | {"client_gone_midrun", "cancel_by_cookie", "worker_sigterm_midrun"}


async def test_register_is_not_answered_and_counts(house: House) -> None:
    worker = await house.worker("register")
    assert house.broker.switchboard.free_slots("anything", as_json=True) == 4
    assert await worker.rest() == b""


@pytest.mark.parametrize("pieces", ["whole", "byte by byte"])
@pytest.mark.parametrize("case", ["run_ok", "run_ok_unicode", "run_ok_novars_null_result", "run_processor_exception"])
async def test_jobs_go_there_and_back(house: House, case: str, pieces: str) -> None:
    worker = await house.worker(case)
    jobs = len(recorded(case, "broker-to-worker1"))
    for number in range(jobs):
        client = await house.client()
        for frame in recorded(case, f"client{number + 1}-to-broker"):
            for piece in [frame] if pieces == "whole" else [frame[at : at + 1] for at in range(len(frame))]:
                client.send(piece)
                await client.writer.drain()
        await serve(worker, case, number)
        assert [await client.frame()] == recorded(case, f"broker-to-client{number + 1}")
        assert await client.settle() == []


async def test_two_runs_on_one_connection_are_answered_out_of_order(house: House) -> None:
    case = "two_runs_one_connection"
    worker = await house.worker(case)
    client = await house.client()
    client.send(*recorded(case, "client1-to-broker"))
    assert [await worker.frame(), await worker.frame()] == recorded(case, "broker-to-worker1")
    worker.send(*recorded(case, "worker1-to-broker")[1:])
    assert [await client.frame(), await client.frame()] == recorded(case, "broker-to-client1")


async def test_no_capacity_is_told_at_once(house: House) -> None:
    case = "no_capacity"
    first, second, third = await house.client(), await house.client(), await house.client()
    first.send(*recorded(case, "client1-to-broker"))
    assert [await first.frame()] == recorded(case, "broker-to-client1")
    worker = await house.worker(case)
    second.send(*recorded(case, "client2-to-broker"))
    assert [await worker.frame()] == recorded(case, "broker-to-worker1")
    third.send(*recorded(case, "client3-to-broker"))
    assert [await third.frame()] == recorded(case, "broker-to-client3")
    worker.send(recorded(case, "worker1-to-broker")[1])
    assert [await second.frame()] == recorded(case, "broker-to-client2")


async def test_row_12_a_live_cookie_is_a_collision_and_a_spent_one_is_free(house: House) -> None:
    case = "cookie_collision"
    worker = await house.worker(case)
    first, second = await house.client(), await house.client()
    first.send(*recorded(case, "client1-to-broker"))
    assert [await worker.frame()] == recorded(case, "broker-to-worker1")
    second.send(*recorded(case, "client2-to-broker"))
    assert [await second.frame()] == recorded(case, "broker-to-client2")
    worker.send(recorded(case, "worker1-to-broker")[1])
    assert [await first.frame()] == recorded(case, "broker-to-client1")
    second.send(*recorded(case, "client2-to-broker"))
    assert (await worker.packet())["pipeline"] == "echo"


async def test_a_cookie_that_is_not_known_can_not_be_cancelled(house: House) -> None:
    case = "cookie_not_found"
    worker = await house.worker(case)
    client = await house.client()
    client.send(*recorded(case, "client1-to-broker"))
    assert [await client.frame()] == recorded(case, "broker-to-client1")
    assert await worker.rest() == b""


@pytest.mark.parametrize("number", [1, 2])
async def test_row_16_bad_and_unsupported_packets_are_answered_and_the_connection_lives_on(house: House, number: int) -> None:
    case = "bad_and_unsupported"
    worker = await house.worker(case)
    client = await house.client()
    answers = recorded(case, f"broker-to-client{number}")
    client.send(*recorded(case, f"client{number}-to-broker"))
    assert [await client.frame() for _ in answers] == answers
    client.send(*recorded("run_ok", "client1-to-broker"))
    await serve(worker, "run_ok")
    assert [await client.frame()] == recorded("run_ok", "broker-to-client1")


async def test_the_client_of_a_detached_job_may_leave(house: House) -> None:
    case = "detach"
    worker = await house.worker(case)
    first = await house.client()
    first.send(*recorded(case, "client1-to-broker"))
    await serve(worker, case, 0)
    await until(lambda: not house.jobs)
    assert await first.settle() == []
    first.close()
    second = await house.client()
    second.send(*recorded(case, "client2-to-broker"))
    await serve(worker, case, 1)
    assert [await second.frame()] == recorded(case, "broker-to-client2")


@pytest.mark.parametrize("way", ["close", "kill"])
async def test_row_2_a_client_that_vanishes_costs_nobody_anything(house: House, way: str) -> None:
    case = "client_gone_midrun"
    worker = await house.worker(case)
    first = await house.client()
    first.send(*recorded(case, "client1-to-broker"))
    assert await worker.frame() == recorded(case, "broker-to-worker1")[0]
    first.close() if way == "close" else first.kill()
    second = await house.client()
    second.send(*recorded(case, "client2-to-broker"))
    assert (await second.packet())["rc"] == "NO_CAPACITY"  # the worker, of capacity 1, is still at it
    worker.send(recorded(case, "worker1-to-broker")[1])
    await until(lambda: not house.jobs)
    second.send(*recorded(case, "client2-to-broker"))
    await serve(worker, case, 1)
    assert [await second.frame()] == recorded(case, "broker-to-client2")
