"""What peers ask, packet by packet: read, checked, answered."""

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import OVERSIZED
from reasonchip_broker.testing.switchboard_driver import view

from .scenes import driven, inside, kinds, outcome, ran, session

WITH_META = (PacketType.CANCEL, PacketType.ATTACH, PacketType.STATUS, PacketType.DRAIN)
SILENT = (PacketType.ACK, PacketType.PROGRESS, PacketType.CREDIT, PacketType.PARK, PacketType.RESUME, PacketType.EXTEND)
BAD_MAP = b"\x83\xa3now\x01\xa4take\x01\xa4tree\x01"


@pytest.mark.parametrize("kind", WITH_META)
def test_a_map_that_makes_no_sense_is_a_bad_packet_with_the_requests_number(kind: PacketType) -> None:
    driver = driven()
    client = driver.client()
    driver.send(client, encode(kind, cookie=b"k" * 16, number=5, meta=BAD_MAP))
    reply = client.take_one(PacketType.REPLY)
    meta = schemas.reply_meta(reply.meta)
    assert (reply.code, reply.number, reply.cookie, meta.to) == (Code.BAD_PACKET, 5, b"k" * 16, kind)
    assert kind.name in meta.msg


@pytest.mark.parametrize("kind", WITH_META)
def test_what_is_no_map_ends_the_connection(kind: PacketType) -> None:
    driver = driven()
    client = driver.client()
    driver.send(client, encode(kind, cookie=b"k" * 16, meta=b"\xc1"))
    assert client.close_reason is CloseReason.PROTOCOL_ERROR


@pytest.mark.parametrize("kind", SILENT)
@pytest.mark.parametrize("role", list(Role))
def test_what_is_no_request_is_never_answered_by_a_reply_from_who_may_send_it(kind: PacketType, role: Role) -> None:
    driver = driven()
    link = driver.client() if role is Role.CLIENT else driver.worker()
    frame = encode(kind, 9, 3, b"k" * 16, 77)
    driver.send(link, frame)
    is_a_workers = kind in (PacketType.PROGRESS, PacketType.PARK, PacketType.RESUME, PacketType.EXTEND)
    if role is Role.CLIENT and is_a_workers:
        assert link.take_reply()[0] is Code.UNSUPPORTED_PACKET_TYPE
    else:
        assert link.take() == []
    assert not link.closed


@pytest.mark.parametrize("kind", [PacketType.RESULT, PacketType.REGISTER, *SILENT[1:2], *SILENT[3:]])
def test_row_16_what_only_a_worker_may_send_has_no_effect_from_a_client(kind: PacketType) -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, rlim=1_000)
    worker.take()
    driver.send(client, encode(kind, 0, 1, cookie, 1))
    assert client.take_reply()[0] is Code.UNSUPPORTED_PACKET_TYPE
    assert (worker.take(), driver.switchboard.jobs) == ([], 1)


def test_cancel_of_no_job_is_a_bad_packet() -> None:
    driver = driven()
    client = driver.client()
    driver.cancel(client, NO_COOKIE)
    assert client.take_reply()[0] is Code.BAD_PACKET


# Draining a worker


def test_an_operator_drains_a_worker_by_its_name() -> None:
    driver = driven()
    operator, worker = driver.client(), session(driver)
    driver.drain_worker(operator, "w", number=4)
    reply = operator.take_one(PacketType.REPLY)
    assert (reply.code, reply.number, schemas.reply_meta(reply.meta).to) == (Code.OK, 4, PacketType.DRAIN)
    assert kinds(worker.take()) == [PacketType.DRAIN]
    driver.run(operator)
    assert worker.take() == []


@pytest.mark.parametrize("principal", ["", "another"])
def test_there_may_be_none_of_that_name(principal: str) -> None:
    driver = driven()
    worker = session(driver)
    if not principal:
        driver.disconnect(worker)
    operator = driver.client(principal=principal)
    driver.drain_worker(operator, "w")
    assert operator.take_reply()[0] is Code.WORKER_NOT_FOUND
    driver.send(operator, packets.drain(3))
    assert operator.take_reply()[0] is Code.BAD_PACKET


def test_one_that_has_not_registered_yet_gets_nothing_when_it_does() -> None:
    driver = driven()
    operator, link = driver.client(), driver.connect(Role.WORKER)
    driver.greet(link, schemas.HelloMeta(name="w"))
    driver.drain_worker(operator, "w")
    driver.run(operator)
    driver.register(link, 1)
    assert kinds(link.take()) == [PacketType.DRAIN, PacketType.REPLY, PacketType.DRAIN]


def test_a_worker_drains_itself_and_finishes_what_it_has() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2)
    cookie = driver.run(client)
    worker.take()
    driver.drain_worker(worker, number=6)
    reply = worker.take_one(PacketType.REPLY)
    assert (reply.code, reply.number) == (Code.OK, 6)
    driver.run(client)
    assert worker.take() == []
    client.take()
    driver.result(worker, cookie)
    assert client.take_one(PacketType.RESULT).cookie == cookie


# Registering


def test_a_worker_registers_once() -> None:
    driver = driven()
    worker = driver.worker()
    driver.register(worker, 5, number=2)
    reply = worker.take_one(PacketType.REPLY)
    assert (reply.code, reply.number) == (Code.NOT_ALLOWED, 2)


def test_a_worker_of_a_broker_that_drains_is_told_so() -> None:
    driver = driven()
    driver.drain()
    link = driver.connect(Role.WORKER)
    driver.greet(link)
    driver.register(link, 1)
    assert kinds(link.take()) == [PacketType.REPLY, PacketType.DRAIN]


def test_what_a_worker_without_a_session_says_that_it_holds_takes_its_slots() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(held=[(b"stale".ljust(16), 1), (b"other".ljust(16), 2)])
    cookie = driver.run(client)
    assert (worker.kept, ran(worker)) == ([], [])
    driver.result(worker, b"stale".ljust(16))
    assert ran(worker) == [(cookie, 1)]
    driver.disconnect(worker)
    assert not inside(driver).slots.reserved


def test_a_result_over_the_frame_limit_costs_its_own_job() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    head = view(packets.result(cookie, 1, b"", ""))
    driver.deliver(worker, [(head[0] + OVERSIZED, *head[1:])])
    code, may_have_run, _ = outcome(client)
    assert (code, may_have_run) == (Code.TOO_LARGE, True)


def test_a_json_peer_knows_none_of_all_this() -> None:
    driver = driven()
    client, worker = driver.client(Dialect.JSON), driver.worker(dialect=Dialect.JSON)
    driver.run(client)
    assert [packet["packet_type"] for packet in worker.take_json()] == ["RUN"]
    driver.drain()
    assert [packet["packet_type"] for packet in worker.take_json()] == ["SHUTDOWN"]
