"""The conversation with the broker, from the other end: greeting, heartbeat, farewell. Frames are made by hand; time is a number."""

from typing import Any

import pytest

from reasonchip_broker.errors import ConnectionLost, RemoteProtocolError
from reasonchip_broker.limits import Limits
from reasonchip_broker.peer.session import Session
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode, encode
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import OVERSIZED, PREFACE, BinaryDecoder, Frame

COOKIE = bytes(range(16))
BEAT_S, DEAD_S = 10.0, 30.0


def frames_of(*encoded: bytes, frame_bytes_max: int = 1 << 20) -> list[Frame]:
    return BinaryDecoder(frame_bytes_max).feed(b"".join(encoded))


def welcome(frame: int = 1 << 20, beat: int = int(BEAT_S * 1000), dead: int = int(DEAD_S * 1000)) -> bytes:
    meta = schemas.WelcomeMeta(conn=b"c" * 16, broker=b"b" * 16, frame=frame, jobs=10, beat=beat, dead=dead, credit=1)
    return packets.welcome(meta)


def session(role: Role = Role.CLIENT, hello: schemas.HelloMeta | None = None) -> Session:
    return Session(role, hello or schemas.HelloMeta(), Limits(handshake_s=5.0))


def welcomed(role: Role = Role.CLIENT, at: float = 100.0) -> Session:
    fresh = session(role)
    fresh.check(at)
    assert fresh.receive(frames_of(welcome()), at) == ([], [])
    return fresh


# Greeting


def test_the_opening_is_the_preface_and_a_hello() -> None:
    opening = session(hello=schemas.HelloMeta(sw="lib", v="1", token="secret")).opening()
    assert opening.startswith(PREFACE)
    hello = decode(opening[len(PREFACE) :])
    assert hello.kind == PacketType.HELLO
    assert schemas.hello_meta(hello.meta) == schemas.HelloMeta(sw="lib", v="1", token="secret")


@pytest.mark.parametrize("hello", [{"name": "a\nb"}, {"name": ""}, {"sw": "x" * 300}, {"token": "x" * 5000}])
def test_a_hello_that_no_broker_takes_is_refused_at_once(hello: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="HELLO"):
        session(hello=schemas.HelloMeta(**hello))


def test_welcome_tells_the_limits_and_which_broker_it_is() -> None:
    fresh = session()
    assert fresh.welcome is None
    fresh.receive(frames_of(welcome(frame=5000)), 1.0)
    assert fresh.welcome is not None
    assert (fresh.welcome.frame, fresh.welcome.broker) == (5000, b"b" * 16)


def test_what_comes_with_welcome_in_one_piece_is_left_for_the_owner() -> None:
    reply = packets.reply(PacketType.REGISTER, Code.OK, "registered", number=1)
    answers, left = session(Role.WORKER).receive(frames_of(welcome(), reply), 1.0)
    assert answers == []
    assert [frame[2] for frame in left] == [reply]


@pytest.mark.parametrize("first", [packets.result(COOKIE, 1, b"", ""), packets.ping(), packets.pong(1)])
def test_anything_before_welcome_is_a_protocol_error(first: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="before WELCOME") as caught:
        session().receive(frames_of(first), 1.0)
    assert caught.value.reason == CloseReason.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "frame",
    [
        encode(PacketType.WELCOME),
        encode(PacketType.WELCOME, meta=b"\xc1"),
        welcome(beat=0),
        welcome(dead=int(BEAT_S * 1000)),
        welcome(frame=27),
    ],
    ids=["empty", "undecodable", "no beat", "dead within a beat", "no room for a frame"],
)
def test_a_welcome_that_makes_no_sense_is_a_protocol_error(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="WELCOME"):
        session().receive(frames_of(frame), 1.0)


def test_a_second_welcome_is_a_protocol_error() -> None:
    with pytest.raises(RemoteProtocolError, match="twice"):
        welcomed().receive(frames_of(welcome()), 101.0)


def test_a_broker_that_does_not_answer_hello_in_time_is_given_up() -> None:
    fresh = session()
    assert fresh.check_at == 0.0, "due at once, so that the handshake's time begins"
    assert fresh.check(100.0) is None
    assert fresh.check_at == 105.0
    with pytest.raises(ConnectionLost, match="HELLO within 5 s") as caught:
        fresh.check(105.0)
    assert caught.value.reason == CloseReason.HANDSHAKE_TIMEOUT


# What is whose


def test_a_ping_is_answered_with_its_own_number_and_is_nobody_elses_concern() -> None:
    answers, left = welcomed().receive(frames_of(packets.ping(77), packets.pong(1)), 101.0)
    assert answers == [packets.pong(77)]
    assert left == []


def test_each_role_is_left_what_a_broker_may_say_to_it_in_order() -> None:
    result = packets.result(COOKIE, 1, b"", "")
    reply = packets.reply(PacketType.RUN, Code.QUEUED, "", cookie=COOKIE)
    run = packets.run(COOKIE, b"", b"")
    for role, sent in (
        (Role.CLIENT, [result, reply]),
        (Role.WORKER, [run, reply, packets.cancel(COOKIE), packets.drain()]),
    ):
        answers, left = welcomed(role).receive(frames_of(*sent, packets.ping(), *sent), 101.0)
        assert answers == [packets.pong(0)]
        assert [frame[2] for frame in left] == [*sent, *sent]


@pytest.mark.parametrize(("role", "kind"), [(Role.CLIENT, PacketType.RESULT), (Role.WORKER, PacketType.RUN)])
def test_what_is_over_this_ends_own_limit_is_left_to_the_owner_as_such(role: Role, kind: PacketType) -> None:
    large = encode(kind, cookie=COOKIE, payload=b"x" * 2000)
    answers, left = welcomed(role).receive(frames_of(large, frame_bytes_max=1000), 101.0)
    assert answers == []
    assert [(frame[0], frame[1]) for frame in left] == [(kind + OVERSIZED, COOKIE)]


@pytest.mark.parametrize(
    ("role", "frame"),
    [
        (Role.CLIENT, packets.run(COOKIE, b"", b"")),
        (Role.WORKER, packets.attach(COOKIE, number=3)),
        (Role.CLIENT, encode(99, cookie=COOKIE, number=5)),
    ],
)
def test_a_packet_that_is_not_for_this_role_is_answered_and_changes_nothing(role: Role, frame: bytes) -> None:
    answers, left = welcomed(role).receive(frames_of(frame), 101.0)
    assert left == []
    [answer] = [decode(answer) for answer in answers]
    sent = decode(frame)
    assert (answer.kind, answer.code, answer.cookie, answer.number) == (
        PacketType.REPLY,
        Code.UNSUPPORTED_PACKET_TYPE,
        sent.cookie,
        sent.number,
    )
    assert schemas.reply_meta(answer.meta).to == sent.kind


# Farewell


def test_goodbye_says_why_and_is_the_last_word() -> None:
    talk = welcomed()
    result = packets.result(COOKIE, 1, b"", "")
    goodbye = packets.goodbye(CloseReason.SHUTTING_DOWN, "the broker is stopping")
    _, left = talk.receive(frames_of(result, goodbye, result), 101.0)
    assert [frame[2] for frame in left] == [result]
    assert talk.goodbye == (CloseReason.SHUTTING_DOWN, "the broker is stopping")
    assert talk.receive(frames_of(result, packets.ping()), 102.0) == ([], [])


def test_goodbye_may_come_instead_of_welcome() -> None:
    fresh = session()
    fresh.receive(frames_of(packets.goodbye(CloseReason.NOT_AUTHENTICATED, "no")), 1.0)
    assert fresh.goodbye == (CloseReason.NOT_AUTHENTICATED, "no")
    assert fresh.welcome is None


@pytest.mark.parametrize("frame", [encode(PacketType.GOODBYE, code=7, meta=b"\xc1"), encode(PacketType.GOODBYE)])
def test_a_goodbye_that_can_not_be_read_is_still_a_goodbye(frame: bytes) -> None:
    talk = welcomed()
    talk.receive(frames_of(frame), 101.0)
    assert talk.goodbye == (CloseReason.NORMAL, "")


# Heartbeat


def test_a_silent_broker_is_asked_after_a_beat_and_given_up_when_dead() -> None:
    talk = welcomed(at=100.0)
    assert talk.check_at == 110.0
    assert [(talk.check_at, talk.check(talk.check_at)) for _ in range(2)] == [(110.0, packets.ping()), (120.0, packets.ping())]
    assert talk.check_at == 130.0
    with pytest.raises(ConnectionLost) as caught:
        talk.check(130.0)
    assert caught.value.reason == CloseReason.HEARTBEAT_TIMEOUT


def test_any_sign_of_life_counts_even_a_part_of_a_frame() -> None:
    talk = welcomed(at=100.0)
    talk.receive([], 109.0)
    assert talk.check(110.0) is None
    assert talk.check_at == 119.0


def test_the_own_standstill_is_not_held_against_the_broker() -> None:
    talk = welcomed(at=100.0)
    assert talk.check(170.0) == packets.ping(), "this process slept; say at once that it lives"
    assert talk.check_at == 180.0
    assert talk.check(180.0) == talk.check(190.0) == packets.ping()
    with pytest.raises(ConnectionLost):
        talk.check(200.0)


def test_with_a_quick_heartbeat_a_short_standstill_counts_as_one() -> None:
    talk = session()
    talk.receive(frames_of(welcome(beat=200, dead=600)), 100.0)
    assert talk.check_at == pytest.approx(100.2)
    assert talk.check(100.9) == packets.ping()


def test_time_in_which_this_end_did_not_read_is_not_held_against_the_broker() -> None:
    talk = welcomed(at=100.0)
    talk.excuse(129.0)
    talk.check_at = 130.0
    assert talk.check(130.0) is None
