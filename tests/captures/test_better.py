"""Where the existing broker did badly, and ours does what `docs/reference/protocol.md` says: the table at the end of that page."""

import asyncio
import json
import time
from typing import Any

import pytest

from reasonchip_broker.protocol import packets
from tests.captures.conftest import Build, House
from tests.captures.recorded import recorded
from tests.wire_peers import DEADLINE_S, JsonPeer, json_frame, until

COOKIES = [f"00000000-0000-4000-8000-{number:012x}" for number in range(1, 20)]


def run(client: JsonPeer, cookie: str, **fields: Any) -> None:
    client.say(packet_type="RUN", cookie=cookie, pipeline="echo", detach=False, **fields)


def answer(worker: JsonPeer, cookie: str, result: str = "1") -> None:
    worker.say(packet_type="RESULT", cookie=cookie, rc="OK", result=result)


def ok(cookie: str, result: str = "1") -> dict[str, Any]:
    return {"packet_type": "RESULT", "cookie": cookie, "rc": "OK", "result": result}


# CANCEL


async def cancelled(house: House) -> tuple[JsonPeer, JsonPeer, str]:
    """The case cancel_by_cookie, until its client has sent CANCEL."""
    case = "cancel_by_cookie"
    worker = await house.worker(case)
    client = await house.client()
    run_frame, cancel_frame = recorded(case, "client1-to-broker")
    client.send(run_frame)
    assert await worker.frame() == recorded(case, "broker-to-worker1")[0]
    client.send(cancel_frame)
    return worker, client, json.loads(run_frame[4:])["cookie"]


async def test_a_cancel_is_not_passed_to_a_json_worker_and_its_owner_is_told(house: House) -> None:
    worker, client, cookie = await cancelled(house)
    outcome = await client.packet()
    assert (outcome["packet_type"], outcome["cookie"], outcome["rc"]) == ("RESULT", cookie, "EXCEPTION")
    assert outcome["error"].startswith("CANCELLED: ")
    assert "may still finish" in outcome["error"]
    assert await client.settle() == []
    assert await worker.rest() == b""


async def test_the_slot_of_a_cancelled_job_is_withheld_until_its_worker_reports(build: Build) -> None:
    house = await build("tcp://127.0.0.1:0?json_queue=1")
    worker, client, cookie = await cancelled(house)
    await client.packet()
    other = await house.client()
    for number in range(3):
        run(other, COOKIES[number])
        assert (await worker.packet())["cookie"] == COOKIES[number]
    run(other, COOKIES[3])
    run(other, cookie)
    assert (await other.packet())["rc"] == "COOKIE_COLLISION"
    assert house.broker.switchboard.waiting == 1
    answer(worker, cookie, '"late"')
    assert (await worker.packet())["cookie"] == COOKIES[3]
    assert await client.settle() == []
    assert await other.settle() == []


async def test_a_worker_that_leaves_with_a_cancelled_job_is_no_second_outcome(house: House) -> None:
    worker, client, cookie = await cancelled(house)
    await client.packet()
    worker.close()
    await worker.ended()
    second = await house.registered(1)
    assert await client.settle() == []
    run(client, cookie)
    assert (await second.packet())["cookie"] == cookie


async def test_a_cancel_is_passed_on_where_that_was_asked_for_and_the_worker_leaves(build: Build) -> None:
    worker, client, cookie = await cancelled(await build(json_cancel=True))
    assert await worker.frame() == recorded("cancel_by_cookie", "broker-to-worker1")[1]
    assert await client.settle() == []
    worker.close()
    outcome = await client.packet()
    assert (outcome["cookie"], outcome["rc"]) == (cookie, "EXCEPTION")
    assert outcome["error"].startswith("CANCELLED: ")


@pytest.mark.parametrize(
    "fields",
    [
        {"variables": 5},
        {"pipeline": ["x"]},
        {"detach": "yes"},
        {"rc": 7},
        {"stacktrace": {}},
        {"junk": "x" * 100_000},
        {"junk": [[]] * 50_000},
        {"variables": 5, "junk": "x" * 100_000},
    ],
    ids=["variables", "pipeline", "detach", "rc", "stacktrace", "large", "costly", "large and wrong"],
)
async def test_whatever_is_wrong_with_a_cancel_is_not_taken_for_the_outcome_of_a_job_that_goes_on(
    house: House, fields: dict[str, Any]
) -> None:
    """The worker is a binary one, so that the job goes on until it says so."""
    worker = await house.binary_worker()
    client = await house.client()
    run(client, COOKIES[0])
    job = await worker.packet()
    client.say(packet_type="CANCEL", cookie=COOKIES[0], **fields)
    assert [packet for packet in await client.settle() if packet.get("cookie") == COOKIES[0]] == []
    await worker.settle()
    worker.send(packets.result(job.cookie, 1, b"1", "json"))
    assert await client.packet() == ok(COOKIES[0])


# Workers that leave


@pytest.mark.parametrize("way", ["close", "kill"])
async def test_row_1_the_owners_of_a_worker_that_leaves_are_told_at_once_and_the_broker_goes_on(house: House, way: str) -> None:
    case = "worker_sigterm_midrun"
    worker = await house.worker(case)
    first, second = await house.client(), await house.client()
    first.send(*recorded(case, "client1-to-broker"))
    assert [await worker.frame()] == recorded(case, "broker-to-worker1")
    began = time.monotonic()
    worker.close() if way == "close" else worker.kill()
    outcome = await first.packet()
    assert time.monotonic() - began < 0.1
    cookie = json.loads(recorded(case, "client1-to-broker")[0][4:])["cookie"]
    assert (outcome["cookie"], outcome["rc"]) == (cookie, "WORKER_WENT_AWAY")
    second.send(*recorded(case, "client2-to-broker"))
    assert (await second.packet())["rc"] == "NO_CAPACITY"
    replacement = await house.worker(case)
    second.send(*recorded(case, "client2-to-broker"))
    assert await replacement.frame() == recorded(case, "client2-to-broker")[0]


async def test_row_1_a_thousand_workers_that_leave_leave_nobody_stuck(house: House) -> None:
    client = await house.client()
    for number in range(1000):
        worker = await house.registered(1)
        cookie = f"00000000-0000-4000-9000-{number:012x}"
        run(client, cookie)
        assert (await worker.packet())["cookie"] == cookie
        worker.kill()
        assert (await client.packet())["rc"] == "WORKER_WENT_AWAY"
    assert house.broker.switchboard.jobs == 0


# RESULTs that nobody asked for


async def test_row_13_a_result_for_an_unknown_cookie_is_dropped_and_the_worker_stays(house: House) -> None:
    worker = await house.worker("register")
    client = await house.client()
    for frame in recorded("run_ok", "worker1-to-broker")[1:]:
        worker.send(frame)
    answer(worker, COOKIES[0])
    worker.say(packet_type="RESULT", cookie=None, rc="OK")
    await until(lambda: house.dropped == 3)
    run(client, COOKIES[1])
    assert (await worker.packet())["cookie"] == COOKIES[1]


async def test_row_13_a_result_from_another_worker_does_not_count(house: House) -> None:
    holder = await house.registered(1)
    client = await house.client()
    run(client, COOKIES[0])
    await holder.packet()
    thief = await house.registered(1)
    answer(thief, COOKIES[0], '"stolen"')
    await until(lambda: house.dropped == 1)
    answer(holder, COOKIES[0], '"true"')
    assert await client.packet() == ok(COOKIES[0], '"true"')
    assert await client.settle() == []


async def test_row_13_a_second_result_does_not_count(house: House) -> None:
    worker = await house.registered(1)
    client = await house.client()
    run(client, COOKIES[0])
    await worker.packet()
    answer(worker, COOKIES[0], "1")
    answer(worker, COOKIES[0], "2")
    assert await client.packet() == ok(COOKIES[0])
    await until(lambda: house.dropped == 1)
    assert await client.settle() == []
    assert await worker.rest() == b""


@pytest.mark.parametrize("capacity", [0, -1, 2**31, True, 1.5, "4", None])
async def test_row_15_a_register_that_makes_no_sense_is_refused_with_a_reason(house: House, capacity: Any) -> None:
    worker = await house.worker()
    worker.say(packet_type="REGISTER", capacity=capacity)
    refusal = await worker.packet()
    assert (refusal["rc"], "cookie" in refusal) == ("BAD_PACKET", False)
    assert "cap" in refusal["error"]
    assert house.broker.switchboard.free_slots("echo", as_json=True) == 0


async def test_row_15_registering_twice_changes_nothing(house: House) -> None:
    worker = await house.registered(2)
    worker.say(packet_type="REGISTER", capacity=3)
    answer(worker, COOKIES[0])
    await until(lambda: house.dropped == 1)
    assert house.broker.switchboard.free_slots("echo", as_json=True) == 2
    assert await worker.rest() == b""


async def test_a_registered_worker_is_never_answered_since_it_would_leave(house: House) -> None:
    worker = await house.registered(1)
    client = await house.client()
    run(client, COOKIES[0])
    await worker.packet()
    for kind in ("RUN", "CANCEL", "SHUTDOWN", "NONSENSE", 5, None):
        worker.say(packet_type=kind, cookie=COOKIES[0])
    worker.say(packet_type="RUN", cookie="no cookie")
    answer(worker, COOKIES[0])
    assert await client.packet() == ok(COOKIES[0])
    assert await worker.rest() == b""


# Slots that rest


async def test_a_freed_slot_rests_before_it_is_used_again(house: House) -> None:
    worker = await house.registered(2)
    client = await house.client()
    for cookie in COOKIES[:2]:
        run(client, cookie)
        await worker.packet()
    answer(worker, COOKIES[0])
    assert await client.packet() == ok(COOKIES[0])
    freed = time.monotonic()
    run(client, COOKIES[2])
    assert (await worker.packet())["cookie"] == COOKIES[2]
    assert time.monotonic() - freed >= 0.024


async def test_while_a_slot_rests_one_job_waits_for_it_and_no_more(build: Build) -> None:
    house = await build(json_slot_rest_ms=60_000)
    worker = await house.registered(2)
    client = await house.client()
    run(client, COOKIES[0])
    await worker.packet()
    answer(worker, COOKIES[0])
    await client.packet()
    run(client, COOKIES[1])  # the other slot is not touched by that
    assert (await worker.packet())["cookie"] == COOKIES[1]
    run(client, COOKIES[2])
    run(client, COOKIES[3])
    refused = await client.packet()
    assert (refused["cookie"], refused["rc"]) == (COOKIES[3], "NO_CAPACITY")
    assert await client.settle() == []
    assert house.broker.switchboard.waiting == 1
    assert await worker.rest() == b""


async def test_a_worker_of_capacity_one_needs_no_rest(build: Build) -> None:
    house = await build(json_slot_rest_ms=60_000)
    worker = await house.registered(1)
    client = await house.client()
    for cookie in COOKIES[:3]:
        run(client, cookie)
        assert (await worker.packet())["cookie"] == cookie
        answer(worker, cookie)
        assert await client.packet() == ok(cookie)


class ExistingWorker:
    """What is known of existing workers of capacity over 1: they free a slot some time after they have sent the RESULT, and leave at a
    RUN that comes before that."""

    SLOW_S = 0.015

    def __init__(self, peer: JsonPeer, capacity: int) -> None:
        self.peer = peer
        self.free = capacity
        self.left = False

    def freed(self) -> None:
        self.free += 1

    async def work(self) -> None:
        while True:
            cookie = (await self.peer.packet())["cookie"]
            if not self.free:
                self.left = True
                self.peer.kill()
                return
            self.free -= 1
            answer(self.peer, cookie)
            asyncio.get_running_loop().call_later(self.SLOW_S, self.freed)


@pytest.mark.parametrize(("rest_ms", "survives"), [(None, True), (0, False)])
async def test_workers_that_free_their_slots_late_live_as_long_as_the_rest_is_long_enough(
    build: Build, rest_ms: int | None, survives: bool
) -> None:
    house = await build("tcp://127.0.0.1:0?json_queue=1", json_slot_rest_ms=rest_ms)
    worker = ExistingWorker(await house.registered(4), 4)
    working = asyncio.create_task(worker.work())
    client = await house.client()
    cookies = [f"00000000-0000-4000-a000-{number:012x}" for number in range(60)]
    for cookie in cookies:
        run(client, cookie)
    if survives:
        assert sorted([(await client.packet())["cookie"] for _ in cookies]) == cookies
        working.cancel()
    else:
        async with asyncio.timeout(DEADLINE_S):
            await working
    assert worker.left != survives


# Drain


async def test_workers_are_sent_shutdown_when_the_broker_drains_and_finish(house: House) -> None:
    busy = await house.worker("run_ok")
    client = await house.client()
    client.send(*recorded("run_ok", "client1-to-broker"))
    assert await busy.frame() == recorded("run_ok", "broker-to-worker1")[0]
    free = await house.registered(4)
    draining = asyncio.create_task(house.broker.drain())
    assert await busy.packet() == await free.packet() == {"packet_type": "SHUTDOWN"}
    run(client, COOKIES[0])
    refused = await client.packet()
    assert (refused["cookie"], refused["rc"]) == (COOKIES[0], "NO_CAPACITY")
    assert refused["error"].startswith("DRAINING: ")
    busy.send(recorded("run_ok", "worker1-to-broker")[1])
    assert [await client.frame()] == recorded("run_ok", "broker-to-client1")
    assert await draining == 0


# Streams that are none


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b"[" * 10_000], ids=range(6))
async def test_row_11_what_is_no_json_is_told_and_ends_the_connection_after_what_was_whole(house: House, body: bytes) -> None:
    worker = await house.worker("run_ok")
    client = await house.client()
    client.send(*recorded("run_ok", "client1-to-broker"), json_frame(body))
    told = await client.packet()
    assert (told["rc"], "cookie" in told) == ("BAD_PACKET", False)
    assert await client.ended() == b""
    assert await worker.frame() == recorded("run_ok", "broker-to-worker1")[0]


async def test_row_8_a_json_frame_over_the_limit_costs_only_its_own_job(house: House) -> None:
    worker = await house.worker("run_ok")
    client = await house.client()
    head = b'{"packet_type":"RUN","cookie":"' + COOKIES[0].encode() + b'","capacity":null,"pipeline":"p","variables":"'
    length = 17 * 1024 * 1024
    client.send(length.to_bytes(4, "big"), head, b"x" * (length - len(head)))
    client.send(*recorded("run_ok", "client1-to-broker"))
    refused = await client.packet()
    assert (refused["cookie"], refused["rc"]) == (COOKIES[0], "EXCEPTION")
    assert refused["error"].startswith("TOO_LARGE: ")
    assert await worker.frame() == recorded("run_ok", "broker-to-worker1")[0]
