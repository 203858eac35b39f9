"""Existing peers and binary peers on one broker: each side gets what it would get from its own kind."""

import json
from uuid import UUID

import msgspec
import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import Code, PacketType
from tests.captures.conftest import House
from tests.captures.recorded import recorded

COOKIE = bytes.fromhex("0f8fad5bd9cb469fa16570867728950e")
OK_CASES = ["run_ok", "run_ok_unicode", "run_ok_novars_null_result"]
CASES = [*OK_CASES, "run_processor_exception"]


def run(options: schemas.RunOptions, variables: bytes = b"", cookie: bytes = COOKIE, left_ms: int = 0) -> bytes:
    return packets.run(cookie, schemas.encode_meta(options), variables, left_ms=left_ms)


def cookie_of(frame: bytes) -> bytes:
    """The cookie of a JSON frame."""
    return UUID(json.loads(frame[4:])["cookie"]).bytes


@pytest.mark.parametrize("case", CASES)
async def test_a_json_client_is_served_by_a_binary_worker_and_does_not_notice(house: House, case: str) -> None:
    worker = await house.binary_worker()
    for number, answer in enumerate(recorded(case, "worker1-to-broker")[1:], 1):
        client = await house.client()
        (sent,) = recorded(case, f"client{number}-to-broker")
        client.send(sent)
        job = await worker.packet(PacketType.RUN)
        fields = json.loads(sent[4:])
        assert (job.cookie, job.attempt) == (cookie_of(sent), 1)
        assert schemas.run_options(job.meta) == schemas.RunOptions(p=fields["pipeline"], enc="json")
        assert job.payload == (fields["variables"] or "").encode()
        told = json.loads(answer[4:])
        if told["rc"] == "OK":
            worker.send(packets.result(job.cookie, 1, (told["result"] or "").encode(), "json"))
        else:
            worker.send(packets.failed(job.cookie, 1, Code[told["rc"]], told["error"], stack=told["stacktrace"]))
        assert [await client.frame()] == recorded(case, f"broker-to-client{number}")


@pytest.mark.parametrize("case", CASES)
async def test_a_binary_client_is_served_by_a_json_worker_which_does_not_notice(house: House, case: str) -> None:
    worker = await house.worker(case)
    client = await house.binary_client()
    for number, expected in enumerate(recorded(case, "broker-to-worker1"), 1):
        fields = json.loads(expected[4:])
        options = schemas.RunOptions(p=fields["pipeline"], enc="json")
        client.send(run(options, (fields["variables"] or "").encode(), cookie_of(expected)))
        assert await worker.frame() == expected
        answer = recorded(case, "worker1-to-broker")[number]
        worker.send(answer)
        told = json.loads(answer[4:])
        result = await client.packet(PacketType.RESULT)
        assert (result.cookie, result.code, result.attempt) == (cookie_of(expected), Code[told["rc"]], 1)
        if told["rc"] == "OK":
            assert schemas.result_meta(result.meta) == schemas.ResultMeta(enc="json")
            assert result.payload == (told["result"] or "").encode()
        else:
            assert schemas.result_meta(result.meta).ran
            assert schemas.failure(result.payload) == schemas.Failure(error=told["error"], stack=told["stacktrace"])


async def test_a_binary_job_is_passed_on_byte_for_byte(house: House) -> None:
    worker, client = await house.binary_worker(), await house.binary_client()
    sent = run(schemas.RunOptions(p="p", enc="bytes", nonce=b"n", reply=False), b"\xff\x00")
    client.send(sent)
    assert await worker.frame() == sent
    done = packets.result(COOKIE, 1, b"\x00\xff", "bytes")
    worker.send(done)
    assert await client.frame() == done


async def test_the_time_left_is_told_to_a_binary_worker_of_a_binary_client(house: House) -> None:
    worker, client = await house.binary_worker(), await house.binary_client()
    client.send(run(schemas.RunOptions(p="p", enc="json"), b"1", left_ms=60_000))
    job = await worker.packet(PacketType.RUN)
    assert 0 < job.number <= 60_000
    assert (job.attempt, job.payload) == (1, b"1")


@pytest.mark.parametrize("encoding", ["msgpack", "bytes", "text", ""])
async def test_only_json_variables_go_to_json_workers(house: House, encoding: str) -> None:
    await house.worker("run_ok")
    client = await house.binary_client()
    client.send(run(schemas.RunOptions(p="echo", enc=encoding, queue=False)))
    reply = await client.packet(PacketType.REPLY)
    assert (reply.code, reply.cookie) == (Code.NOT_SERVED, COOKIE)


async def test_a_messagepack_result_reaches_a_json_client_as_json(house: House) -> None:
    worker, client = await house.binary_worker(), await house.client()
    client.send(*recorded("run_ok", "client1-to-broker"))
    job = await worker.packet(PacketType.RUN)
    worker.send(packets.result(job.cookie, 1, msgspec.msgpack.encode({"a": [1, None]}), "msgpack"))
    assert (await client.packet())["result"] == '{"a":[1,null]}'


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [(b"\xff", "bytes"), (b"\xd4\x01\x00", "msgpack"), (b"\x81\x91\x01\x01", "msgpack"), (b"\xc1", "msgpack")],
)
async def test_a_result_that_json_can_not_say_is_told_and_costs_nobody_anything(
    house: House, payload: bytes, encoding: str
) -> None:
    worker, client = await house.binary_worker(), await house.client()
    for _ in range(2):
        client.send(*recorded("run_ok", "client1-to-broker"))
        job = await worker.packet(PacketType.RUN)
        worker.send(packets.result(job.cookie, 1, payload, encoding))
        told = await client.packet()
        assert told["rc"] == "EXCEPTION"
        assert "can't be told in JSON" in told["error"]
        assert await worker.settle() == []
        assert await client.settle() == []


async def test_a_result_whose_meta_makes_no_sense_is_told_and_costs_nobody_anything(house: House) -> None:
    worker, client = await house.binary_worker(), await house.client()
    client.send(*recorded("run_ok", "client1-to-broker"))
    job = await worker.packet(PacketType.RUN)
    frame = bytearray(packets.result(job.cookie, 1, b"1", "json"))
    frame[32] = 0xC1
    worker.send(bytes(frame))
    assert (await client.packet())["rc"] == "EXCEPTION"
    assert await worker.settle() == []
    assert await client.settle() == []


async def test_a_failure_of_a_binary_worker_is_told_with_its_type_and_stack(house: House) -> None:
    worker, client = await house.binary_worker(), await house.client()
    client.send(*recorded("run_ok", "client1-to-broker"))
    job = await worker.packet(PacketType.RUN)
    worker.send(packets.failed(job.cookie, 1, Code.EXCEPTION, "no", error_type="ValueError", stack=["in f"]))
    told = await client.packet()
    assert (told["rc"], told["error"], told["stacktrace"]) == ("EXCEPTION", "ValueError: no", ["in f"])


async def test_a_binary_worker_is_told_of_a_json_clients_cancel_and_has_the_last_word(house: House) -> None:
    worker, client = await house.binary_worker(), await house.client()
    client.send(*recorded("cancel_by_cookie", "client1-to-broker"))
    job = await worker.packet(PacketType.RUN)
    assert (await worker.packet(PacketType.CANCEL)).cookie == job.cookie
    assert await client.settle() == []
    worker.send(packets.failed(job.cookie, 1, Code.CANCELLED, "stopped"))
    told = await client.packet()
    assert (told["rc"], told["error"]) == ("EXCEPTION", "CANCELLED: stopped")


async def test_a_binary_client_is_told_the_truth_about_cancelling_at_a_json_worker(house: House) -> None:
    worker, client = await house.worker("run_ok"), await house.binary_client()
    client.send(run(schemas.RunOptions(p="echo", enc="json")))
    await worker.frame()
    client.send(packets.cancel(COOKIE, why="enough", number=9))
    result = await client.packet(PacketType.RESULT)
    assert (result.code, schemas.result_meta(result.meta).ran) == (Code.CANCELLED, True)
    assert "enough" in schemas.failure(result.payload).error
    reply = await client.packet(PacketType.REPLY)
    assert (reply.code, reply.number, schemas.reply_meta(reply.meta).to) == (Code.OK, 9, PacketType.CANCEL)
    assert await worker.rest() == b""


async def test_a_cancelled_cookie_of_a_json_worker_may_be_cancelled_no_more(house: House) -> None:
    worker, client = await house.worker("run_ok"), await house.binary_client()
    client.send(run(schemas.RunOptions(p="echo", enc="json")))
    await worker.frame()
    client.send(packets.cancel(COOKIE, number=1), packets.cancel(COOKIE, number=2))
    codes = [decode(await client.frame()).code for _ in range(3)]
    assert codes == [Code.CANCELLED, Code.OK, Code.COOKIE_NOT_FOUND]


@pytest.mark.parametrize("vanishing", ["json", "binary"])
async def test_each_kind_of_client_is_told_of_each_kind_of_worker_that_vanishes(house: House, vanishing: str) -> None:
    client, binary = await house.client(), await house.binary_client()
    worker = await house.registered(2) if vanishing == "json" else await house.binary_worker(2)
    client.send(*recorded("run_ok", "client1-to-broker"))
    await worker.frame()
    binary.send(run(schemas.RunOptions(p="echo", enc="json")))
    await worker.frame()
    worker.kill()
    assert (await client.packet())["rc"] == "WORKER_WENT_AWAY"
    assert (await binary.packet(PacketType.RESULT)).code == Code.WORKER_WENT_AWAY
