"""What a RUN is answered, and in which order it is checked: parse, permission, cookie, draining, limits."""

from uuid import UUID

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, Dialect, PacketType
from reasonchip_broker.protocol.frames import OVERSIZED
from reasonchip_broker.testing.switchboard_driver import SwitchboardDriver, json_packet, view

COOKIE = b"k" * 16
GOOD = schemas.encode_meta(schemas.RunOptions(p="p"))


def test_a_run_that_is_dispatched_at_once_is_not_answered() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    driver.run(client)
    assert (client.take(), worker.take_codes()) == ([], [(PacketType.RUN, Code.OK)])


@pytest.mark.parametrize("detach", [False, True])
def test_a_run_that_asks_for_a_reply_is_told_that_a_worker_has_it(detach: bool) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, reply=True, detach=detach)
    packet = client.take_one(PacketType.REPLY)
    assert (packet.code, packet.cookie, packet.number) == (Code.DISPATCHED, cookie, 0)
    assert schemas.reply_meta(packet.meta).to == PacketType.RUN
    worker.take_one(PacketType.RUN)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("reply", [False, True])
def test_a_run_that_is_queued_is_told_so_and_why(detach: bool, reply: bool) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    cookie = driver.run(client, detach=detach, reply=reply)
    packet = client.take_one(PacketType.REPLY)
    assert (packet.code, packet.cookie) == (Code.QUEUED, cookie)
    assert schemas.reply_meta(packet.meta).msg == "no connected worker serves this pipeline yet"
    driver.worker()
    driver.run(client, detach=detach, reply=reply)
    assert client.take_reply() == (Code.QUEUED, "every slot that serves this pipeline is taken")


@pytest.mark.parametrize(
    ("meta", "complaint"),
    [
        (b"", "missing required field `p`"),
        (b"\x80", "missing required field `p`"),
        (b"\x81\xa1p\xa0", "length >= 1"),
        (schemas.encode_meta(schemas.RunOptions(p="x" * 256)), "length <= 255"),
        (schemas.encode_meta(schemas.RunOptions(p="a\x1b[31mb")), "regex"),
        (b"\x81\xa1p\x01", "Expected `str`"),
        (b"\x82\xa1p\xa1p\xa5queue\x01", "Expected `bool`"),
        (b"\x82\xa1p\xa1p\xa3enc\xd9\x21" + b"e" * 33, "length <= 32"),
    ],
)
def test_options_that_make_no_sense_are_refused_as_a_bad_packet(meta: bytes, complaint: str) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    driver.send(client, packets.run(COOKIE, meta, b""))
    code, sentence = client.take_reply()
    assert code == Code.BAD_PACKET
    assert complaint in sentence
    assert (worker.take(), driver.switchboard.jobs, client.closed) == ([], 0, False)


@pytest.mark.parametrize("meta", [b"\xc1", b"\x01", b"\x81\xa1p", b"\x81\xa1p\xa2\xff\xfe", b"\x90"])
def test_options_that_do_not_decode_end_the_connection(meta: bytes) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.send(client, packets.run(COOKIE, meta, b""))
    assert client.close is not None
    assert (client.close.reason, client.take()) == (CloseReason.PROTOCOL_ERROR, [])
    assert client.close.sentence.startswith("RUN: ")


def test_a_run_without_a_cookie_is_a_bad_packet() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.run(client, cookie=NO_COOKIE)
    assert client.take_reply() == (Code.BAD_PACKET, "Missing cookie")


def test_a_cookie_in_use_is_a_collision_whoever_sends_it() -> None:
    driver = SwitchboardDriver()
    client, other, stranger = driver.client(), driver.client(Dialect.JSON), driver.client(principal="else")
    running, waiting = driver.run(client, "served"), driver.run(client, "not.served")
    worker = driver.worker(1, ["served"])
    assert worker.take_one(PacketType.RUN).cookie == running
    client.take()
    for link in (client, other, stranger):
        for cookie in (running, waiting):
            driver.run(link, cookie=cookie)
            assert link.take_reply() == (Code.COOKIE_COLLISION, "Already in use")
    assert (driver.switchboard.jobs, worker.take()) == (2, [])


def test_a_cookie_is_free_again_once_its_outcome_is_not_kept_any_more() -> None:
    driver = SwitchboardDriver(Limits(retention_s=1.0))
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.result(worker, cookie)
    driver.run(client, cookie=cookie)
    assert client.take_codes() == [(PacketType.RESULT, Code.OK), (PacketType.REPLY, Code.COOKIE_COLLISION)]
    driver.advance(3)
    driver.run(client, cookie=cookie)
    assert worker.take_codes() == [(PacketType.RUN, Code.OK)] * 2


def test_a_cookie_of_an_existing_client_is_free_again_once_its_outcome_is_delivered() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(Dialect.JSON), driver.worker()
    cookie = driver.run(client)
    driver.result(worker, cookie)
    driver.run(client, cookie=cookie)
    assert worker.take_codes() == [(PacketType.RUN, Code.OK)] * 2


def test_a_collision_with_a_detached_job_that_is_over_is_told_to_its_existing_client_with_the_cookie() -> None:
    """That job goes on no more, so whoever waits for this cookie waits for this answer."""
    driver = SwitchboardDriver()
    client, worker = driver.client(Dialect.JSON), driver.worker()
    cookie = driver.run(client, detach=True)
    driver.run(client, cookie=cookie)
    driver.result(worker, cookie)
    driver.run(client, cookie=cookie)
    during, after = client.take_json()
    assert (during["rc"], during["cookie"], after["rc"]) == ("COOKIE_COLLISION", None, "COOKIE_COLLISION")
    assert UUID(after["cookie"]).bytes == cookie


def test_a_refused_cookie_may_be_used_again() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    cookie = driver.run(client, queue=False)
    assert client.take_reply()[0] == Code.NOT_SERVED
    worker = driver.worker()
    driver.run(client, cookie=cookie, queue=False)
    worker.take_one(PacketType.RUN)


def test_a_draining_broker_refuses() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.drain()
    driver.run(client)
    assert client.take_reply() == (Code.DRAINING, "the broker is stopping and takes no more jobs")


def test_a_client_has_so_many_unfinished_jobs_and_no_more() -> None:
    driver = SwitchboardDriver(Limits(client_jobs_max=2))
    client, other, worker = driver.client(), driver.client(), driver.worker()
    running = driver.run(client)
    driver.run(client)
    client.take()
    driver.run(client)
    packet = client.take_one(PacketType.REPLY)
    assert packet.code == Code.OVERLOADED
    meta = schemas.reply_meta(packet.meta)
    assert (meta.to, meta.msg) == (PacketType.RUN, "2 jobs of this connection are unfinished")
    assert 750 <= meta.retry <= 1250
    driver.run(other)
    assert other.take_reply()[0] == Code.QUEUED
    driver.result(worker, running)
    client.take()
    driver.run(client)
    assert client.take_reply()[0] == Code.QUEUED


def test_detached_jobs_count_among_the_unfinished_jobs_of_their_client() -> None:
    driver = SwitchboardDriver(Limits(client_jobs_max=2))
    client = driver.client()
    for _ in range(3):
        driver.run(client, detach=True)
    assert (client.take_codes()[-1], driver.switchboard.jobs) == ((PacketType.REPLY, Code.OVERLOADED), 2)


def test_checks_come_in_order_parse_cookie_draining_limits() -> None:
    driver = SwitchboardDriver(Limits(client_jobs_max=1))
    client = driver.client()
    driver.run(client, cookie=COOKIE)
    driver.switchboard.effects.draining = True
    client.take()
    # Everything is wrong with the first, and one thing less with each that follows.
    driver.send(client, packets.run(COOKIE, b"\x80", b""))
    driver.run(client, cookie=COOKIE)
    driver.run(client)
    driver.switchboard.effects.draining = False
    driver.run(client)
    assert [code for _, code in client.take_codes()] == [
        Code.BAD_PACKET,
        Code.COOKIE_COLLISION,
        Code.DRAINING,
        Code.OVERLOADED,
    ]


def test_limits_are_looked_at_last_of_all() -> None:
    driver = SwitchboardDriver(Limits(client_jobs_max=1, backlog_jobs_max=1))
    client, other = driver.client(), driver.client()
    driver.run(client)
    client.take()
    driver.run(client, queue=False)
    assert client.take_reply() == (Code.OVERLOADED, "1 jobs of this connection are unfinished")
    driver.run(other, queue=False)
    assert other.take_reply()[0] == Code.NOT_SERVED


def test_a_run_over_the_frame_limit_is_refused_and_the_connection_lives() -> None:
    driver = SwitchboardDriver(Limits(frame_bytes_max=5000))
    client, worker = driver.client(), driver.worker()
    kind, cookie, raw, code, attempt, number, _ = view(packets.run(COOKIE, GOOD, bytes(6000)))
    driver.deliver(client, [(kind + OVERSIZED, cookie, raw[:32], code, attempt, number, 0)])
    packet = client.take_one(PacketType.REPLY)
    assert (packet.code, packet.cookie) == (Code.TOO_LARGE, COOKIE)
    assert schemas.reply_meta(packet.meta).msg == f"a frame of {len(raw) - 4} bytes is over the limit of 5000"
    assert (worker.take(), client.closed, driver.switchboard.jobs) == ([], False, 0)
    driver.run(client, cookie=COOKIE)
    worker.take_one(PacketType.RUN)


def test_json_clients_are_answered_in_words_that_they_know() -> None:
    driver = SwitchboardDriver()
    client = driver.client(Dialect.JSON)
    driver.send_json(
        client,
        json_packet("RUN", COOKIE, pipeline=""),
        json_packet("RUN", pipeline="p"),
        json_packet("RUN", COOKIE, pipeline="p"),
    )
    assert [(told["packet_type"], told["rc"], told["error"]) for told in client.take_json()] == [
        ("RESULT", "BAD_PACKET", "Missing pipeline"),
        ("RESULT", "BAD_PACKET", "Missing cookie"),
        ("RESULT", "NO_CAPACITY", "No capacity available"),
    ]


def test_nothing_good_is_told_to_a_json_client_before_the_outcome() -> None:
    driver = SwitchboardDriver()
    client = driver.client(Dialect.JSON, queues=True)
    driver.run(client)
    assert client.take_json() == []
    driver.cancel(client, driver.new_cookie())
    assert [told["rc"] for told in client.take_json()] == ["COOKIE_NOT_FOUND"]


@pytest.mark.parametrize("attempt", [0, 2, 7, 65535])
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("queued", [False, True])
def test_whatever_attempt_a_client_claims_the_first_one_is_number_1(attempt: int, encoding: str, queued: bool) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    worker = None if queued else driver.worker()
    cookie = driver.run(client, attempt=attempt, encoding=encoding)
    client.take()
    worker = worker or driver.worker()
    run = worker.take_one(PacketType.RUN)
    assert run.attempt == 1
    driver.result(worker, cookie, attempt=run.attempt)
    assert client.take_one(PacketType.RESULT).code == Code.OK


def test_an_unknown_key_in_the_options_is_ignored() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    driver.send(client, encode(PacketType.RUN, attempt=1, cookie=COOKIE, meta=b"\x82\xa1p\xa1p\xa4zzzz\x93\x01\x02\x03"))
    worker.take_one(PacketType.RUN)
