"""What peers should not send: each gets a code and a sentence, or is let go for a reason; nobody else notices."""

import pytest

from reasonchip_broker.limits import WORKER_CAPACITY_MAX, Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode, encode
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import OVERSIZED
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, json_packet, view

CLIENT_SENDS = {
    *(PacketType.RUN, PacketType.CANCEL, PacketType.ACK, PacketType.ATTACH, PacketType.STATUS, PacketType.DRAIN),
    *(PacketType.INPUT, PacketType.CREDIT, PacketType.QUEUE),
}
WORKER_SENDS = CLIENT_SENDS - {PacketType.QUEUE} | {
    *(PacketType.RESULT, PacketType.REGISTER, PacketType.PROGRESS),
    *(PacketType.PARK, PacketType.RESUME, PacketType.EXTEND),
}
"""A worker submits jobs for those that it holds, and is their client."""

EITHER_SENDS = {PacketType.HELLO, PacketType.PING, PacketType.PONG, PacketType.GOODBYE, PacketType.REPLY}


def peer(driver: SwitchboardDriver, role: Role) -> FakeLink:
    return driver.client() if role == Role.CLIENT else driver.worker()


def reply_of(link: FakeLink) -> tuple[int, Code, bytes, int, str]:
    """To which request the one REPLY is, its code, cookie, number and sentence."""
    packet = link.take_one(PacketType.REPLY)
    meta = schemas.reply_meta(packet.meta)
    return meta.to, Code(packet.code), packet.cookie, packet.number, meta.msg


# Types


@pytest.mark.parametrize("role", [Role.CLIENT, Role.WORKER])
@pytest.mark.parametrize("kind", [0, 7, 15, 31, 32, 99, 254, 255])
def test_an_unknown_packet_type_is_answered_as_unsupported_and_the_connection_lives(role: Role, kind: int) -> None:
    driver = SwitchboardDriver()
    link = peer(driver, role)
    driver.send(link, encode(kind, cookie=b"k" * 16, number=9, meta=b"\xc1", payload=b"?"))
    sentence = f"Packet type not supported on this {role.name.lower()}"
    assert reply_of(link) == (kind, Code.UNSUPPORTED_PACKET_TYPE, b"k" * 16, 9, sentence)
    driver.send(link, packets.ping())
    link.take_one(PacketType.PONG)


@pytest.mark.parametrize("kind", sorted(set(PacketType) - CLIENT_SENDS - EITHER_SENDS))
def test_row_16_worker_and_broker_packets_on_a_client_listener_are_unsupported_and_have_no_effect(kind: PacketType) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    worker.take()
    meta = schemas.encode_meta(schemas.RegisterMeta(cap=5, serves=["*"]))
    driver.send(client, encode(kind, attempt=1, cookie=cookie, number=1, meta=meta))
    assert reply_of(client)[:3] == (kind, Code.UNSUPPORTED_PACKET_TYPE, cookie)
    assert (driver.switchboard.jobs, driver.switchboard.free_slots("p"), worker.take(), client.closed) == (1, 0, [], False)
    assert driver.switchboard.counters.results_dropped == 0


@pytest.mark.parametrize("kind", sorted(set(PacketType) - WORKER_SENDS - EITHER_SENDS))
def test_row_16_broker_packets_on_a_worker_listener_are_unsupported_and_have_no_effect(kind: PacketType) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    worker.take()
    driver.send(worker, encode(kind, cookie=cookie, meta=schemas.encode_meta(schemas.RunOptions(p="p"))))
    assert reply_of(worker)[:3] == (kind, Code.UNSUPPORTED_PACKET_TYPE, cookie)
    assert (driver.switchboard.jobs, client.take(), worker.closed) == (1, [], False)


@pytest.mark.parametrize("parent", [None, b"k" * 16, b"another's job..."])
@pytest.mark.parametrize("new", [False, True])
def test_row_16_a_run_on_a_worker_listener_without_a_job_that_the_worker_holds_is_refused_and_has_no_effect(
    parent: bytes | None, new: bool
) -> None:
    driver = SwitchboardDriver()
    client, worker, other = driver.client(), driver.worker(1, ["p"]), driver.worker(2, ["q"])
    cookie = driver.run(client)
    driver.run(client, "q", cookie=b"another's job...")
    worker.take()
    other.take()
    options = schemas.RunOptions(p="q", parent=parent)
    cookie = driver.new_cookie() if new else cookie
    driver.send(worker, packets.run(cookie, schemas.encode_meta(options), b""))
    assert reply_of(worker)[:3] == (PacketType.RUN, Code.NOT_ALLOWED, cookie)
    assert (driver.switchboard.jobs, client.take(), other.take(), worker.closed) == (2, [], [], False)


@pytest.mark.parametrize(
    ("role", "kind"), [(Role.CLIENT, PacketType.CANCEL), (Role.CLIENT, 99), (Role.WORKER, PacketType.REGISTER)]
)
def test_a_frame_over_the_limit_that_is_no_job_is_answered_and_the_connection_lives(role: Role, kind: int) -> None:
    driver = SwitchboardDriver()
    link = driver.client() if role == Role.CLIENT else driver.connect(role)
    if role == Role.WORKER:
        driver.greet(link)
    _, cookie, raw, code, attempt, number, _ = view(encode(kind, cookie=b"k" * 16, number=4))
    driver.deliver(link, [(kind + OVERSIZED, cookie, raw, code, attempt, number, 0)])
    to, code, cookie, number, sentence = reply_of(link)
    assert (to, code, cookie, number) == (kind, Code.UNSUPPORTED_PACKET_TYPE, b"k" * 16, 4)
    assert sentence.endswith("over the frame limit")
    assert not link.closed


# RESULT over the limit


def oversized_result(cookie: bytes, attempt: int = 1) -> tuple[int, bytes, bytes, int, int, int, int]:
    raw = encode(PacketType.RESULT, attempt=attempt, cookie=cookie, payload=bytes(6000))
    return PacketType.RESULT + OVERSIZED, cookie, raw[:32], 0, attempt, 0, 0


def test_row_8_a_result_over_the_limit_costs_only_its_own_job() -> None:
    driver = SwitchboardDriver(Limits(frame_bytes_max=5000))
    client, worker = driver.client(), driver.worker(2)
    large, small = driver.run(client), driver.run(client)
    driver.deliver(worker, [oversized_result(large)])
    outcome = client.take_one(PacketType.RESULT)
    assert (outcome.cookie, outcome.code, outcome.attempt) == (large, Code.TOO_LARGE, 1)
    assert schemas.failure(outcome.payload).error == "the worker's RESULT: a frame of 6028 bytes is over the limit of 5000"
    assert (worker.closed, driver.switchboard.free_slots("p")) == (False, 1)
    driver.result(worker, small)
    assert client.take_one(PacketType.RESULT).code == Code.OK


@pytest.mark.parametrize(("held", "attempt"), [(False, 1), (True, 2)])
def test_row_13_a_result_over_the_limit_counts_only_from_the_holder(held: bool, attempt: int) -> None:
    driver = SwitchboardDriver(Limits(frame_bytes_max=5000))
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.deliver(worker if held else driver.worker(), [oversized_result(cookie, attempt)])
    assert (client.take(), driver.switchboard.counters.results_dropped) == ([], 1)


# REGISTER


@pytest.mark.parametrize(
    ("capacity", "complaint"),
    [
        (b"\x00", ">= 1"),
        (b"\xff", ">= 1"),
        (b"\xce\x80\x00\x00\x00", "<= 10000"),
        (b"\xcf" + b"\xff" * 8, "<= 10000"),
        (b"\xcd\x27\x11", "<= 10000"),
        (b"\xc3", "Expected `int`, got `bool`"),
        (b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", "Expected `int`, got `float`"),
        (b"\xa11", "Expected `int`, got `str`"),
        (b"\xc0", "Expected `int`"),
    ],
    ids=["0", "-1", "2**31", "2**64-1", "10001", "true", "1.5", "text", "null"],
)
def test_row_15_a_capacity_that_makes_no_sense_is_refused_with_a_reason(capacity: bytes, complaint: str) -> None:
    driver = SwitchboardDriver()
    worker = driver.connect(Role.WORKER)
    driver.greet(worker)
    driver.send(worker, encode(PacketType.REGISTER, number=6, meta=b"\x82\xa3cap" + capacity + b"\xa6serves\x91\xa1*"))
    to, code, _, number, sentence = reply_of(worker)
    assert (to, code, number) == (PacketType.REGISTER, Code.BAD_PACKET, 6)
    assert sentence.startswith("REGISTER: ")
    assert complaint in sentence
    assert (driver.switchboard.free_slots("p"), worker.closed) == (0, False)
    driver.register(worker, 2)
    assert (worker.take_reply()[0], driver.switchboard.free_slots("p")) == (Code.OK, 2)


@pytest.mark.parametrize("capacity", ["0", "-1", "2147483648", "true", "1.5", "null", '"1"', "1e400", "9" * 400, "[]"])
def test_row_15_a_json_workers_capacity_that_makes_no_sense_is_refused(capacity: str) -> None:
    driver = SwitchboardDriver()
    worker = driver.connect(Role.WORKER, Dialect.JSON)
    driver.send_json(worker, b'{"packet_type":"REGISTER","capacity":%s}' % capacity.encode())
    assert driver.switchboard.free_slots("p", as_json=True) == 0
    assert worker.peer.worker is None


@pytest.mark.parametrize("capacity", [1, WORKER_CAPACITY_MAX])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_smallest_and_the_largest_capacity_are_taken(capacity: int, dialect: Dialect) -> None:
    driver = SwitchboardDriver()
    driver.worker(capacity, dialect=dialect)
    assert driver.switchboard.free_slots("p", as_json=True) == capacity


@pytest.mark.parametrize("dialect", list(Dialect))
def test_row_15_a_second_register_is_refused_and_the_first_one_stands(dialect: Dialect) -> None:
    driver = SwitchboardDriver()
    worker = driver.worker(2, dialect=dialect)
    driver.register(worker, 7, number=8)
    if dialect == Dialect.BINARY:
        assert reply_of(worker)[:4] == (PacketType.REGISTER, Code.NOT_ALLOWED, bytes(16), 8)
    assert (driver.switchboard.free_slots("p", as_json=True), worker.closed) == (2, False)


@pytest.mark.parametrize(
    "serves",
    [
        b"\x90",
        b"\xa1*",
        b"\x91\xa0",
        b"\x91\x01",
        b"\x91\xa2a\n",
        b"\x91\xd9\xff" + b"a" * 255 + b"\xc0",
        b"\xdc\x03\xe9" + b"\xa1a" * 1001,
    ],
    ids=["empty", "no list", "empty name", "number", "line end", "surplus", "1001"],
)
def test_patterns_that_make_no_sense_are_refused_or_end_the_connection(serves: bytes) -> None:
    driver = SwitchboardDriver()
    worker = driver.connect(Role.WORKER)
    driver.greet(worker)
    driver.send(worker, encode(PacketType.REGISTER, meta=b"\x82\xa3cap\x01\xa6serves" + serves))
    assert worker.closed or reply_of(worker)[1] == Code.BAD_PACKET
    assert driver.switchboard.free_slots("p") == 0


def test_a_register_that_does_not_decode_ends_the_connection() -> None:
    driver = SwitchboardDriver()
    worker = driver.connect(Role.WORKER)
    driver.greet(worker)
    driver.send(worker, encode(PacketType.REGISTER, meta=b"\xc1"))
    assert worker.close is not None
    assert worker.close.reason == CloseReason.PROTOCOL_ERROR
    assert worker.close.sentence.startswith("REGISTER: ")


@pytest.mark.parametrize(
    "pattern", ["[", "[!", "[]", "*" * 200, "?" * 255, "[a-", "[z-a]", "(?i)x", "a{1000000}", "\\", "[[:alpha:]]*"]
)
def test_no_pattern_can_break_or_stop_the_broker(pattern: str) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.worker(1, [pattern])
    driver.run(client, "x" * 255)
    driver.run(client, pattern[:255])


# JSON


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"packet_type":null}',
        b'{"packet_type":5}',
        b'{"packet_type":"RUN","cookie":"not a uuid"}',
        b'{"packet_type":"RUN","cookie":7}',
        b'{"packet_type":"RUN","pipeline":7}',
        b'{"packet_type":"RUN","pipeline":"p","detach":"yes"}',
        b'{"packet_type":"CANCEL"}',
        b'{"packet_type":"RUN","pipeline":"p","variables":{}}',
        b'{"packet_type":"RUN","variables":"\\ud800","pipeline":"p"}',
    ],
)
def test_json_that_is_no_packet_is_answered_as_a_bad_packet_and_the_connection_lives(body: bytes) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(Dialect.JSON), driver.worker()
    driver.send_json(client, body)
    assert [(told["packet_type"], told["rc"], told["cookie"]) for told in client.take_json()] == [
        ("RESULT", "BAD_PACKET", None)
    ]
    driver.run(client)
    worker.take_one(PacketType.RUN)


@pytest.mark.parametrize("packet_type", ["REGISTER", "RESULT", "SHUTDOWN", "run", "PROGRESS", ""])
def test_row_16_json_packets_that_a_client_may_not_send_are_unsupported(packet_type: str) -> None:
    driver = SwitchboardDriver()
    client = driver.client(Dialect.JSON)
    driver.send_json(client, json_packet(packet_type, b"k" * 16, capacity=1, rc="OK"))
    told = client.take_json()
    assert [(packet["rc"], packet["error"]) for packet in told] == [
        ("UNSUPPORTED_PACKET_TYPE", "Packet type not supported on this client")
    ]
    assert told[0]["cookie"] == "6b6b6b6b-6b6b-6b6b-6b6b-6b6b6b6b6b6b"


@pytest.mark.parametrize(
    "fields",
    [
        {"packet_type": "PROGRESS"},
        {"packet_type": "RESULT", "rc": "OK"},
        {"packet_type": "RUN", "pipeline": 5},
        {"packet_type": "RUN", "pipeline": ""},
        {"packet_type": "RUN", "pipeline": "p", "detach": 1},
    ],
)
def test_no_complaint_to_a_json_client_carries_the_cookie_of_a_job_that_goes_on(fields: dict[str, object]) -> None:
    """An existing client takes any RESULT with its cookie for the outcome of that job."""
    driver = SwitchboardDriver()
    client, worker = driver.client(Dialect.JSON), driver.worker()
    cookie = driver.run(client)
    driver.send_json(client, json_packet(str(fields.pop("packet_type")), cookie, **fields))
    assert [told["cookie"] for told in client.take_json()] == [None]
    driver.result(worker, cookie)
    assert [told["rc"] for told in client.take_json()] == ["OK"]


# Nothing lost for others


def test_one_peers_nonsense_in_the_middle_of_a_batch_ends_that_peer_alone_and_what_came_before_it_counts() -> None:
    driver = SwitchboardDriver()
    bad, good, worker = driver.client(), driver.client(), driver.worker(3)
    options = schemas.encode_meta(schemas.RunOptions(p="p"))
    before, after = (packets.run(letter * 16, options, b"") for letter in (b"a", b"b"))
    driver.send(bad, before, encode(PacketType.RUN, cookie=b"x" * 16, meta=b"\xc1"), after)
    driver.run(good)
    assert bad.close_reason == CloseReason.PROTOCOL_ERROR
    assert [decode(frame).cookie for frame in worker.unread] == [b"a" * 16, b"cookie         1"]
