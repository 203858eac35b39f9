"""The table "Errors: what is answered, and what ends the connection" of docs/reference/protocol.md, row by row, on a real socket."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest

from reasonchip_broker.broker import Broker
from reasonchip_broker.limits import HANDSHAKE_FRAME_BYTES_MAX, Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode, encode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import HEADER, PREFACE
from reasonchip_broker.transports.endpoints import server_transport
from tests.golden.table import COOKIE
from tests.wire_peers import BinaryPeer, JsonPeer, binary_frames

LIMIT = 8192
HELLO = packets.hello(schemas.HelloMeta())
RUN_META = schemas.encode_meta(schemas.RunOptions(p="p", enc="json"))
RUN = packets.run(COOKIE, RUN_META, b"1")
REGISTER = packets.register(schemas.RegisterMeta(cap=1, serves=["*"]))
ABOUT_A_JOB = (PacketType.ATTACH, PacketType.STATUS, PacketType.INPUT)
OF_WORKERS = (PacketType.PROGRESS, PacketType.PARK, PacketType.RESUME, PacketType.EXTEND)


@dataclass
class House:
    """A broker with small limits, and who has come in."""

    broker: Broker
    peers: list[BinaryPeer] = field(default_factory=list)

    async def stranger(self, role: Role = Role.CLIENT) -> BinaryPeer:
        url = (self.broker.client_urls if role == Role.CLIENT else self.broker.worker_urls)[0]
        self.peers.append(await BinaryPeer.dial(url))
        return self.peers[-1]

    async def welcomed(self, role: Role = Role.CLIENT) -> BinaryPeer:
        peer = await self.stranger(role)
        await peer.greet()
        return peer

    async def worker(self) -> BinaryPeer:
        peer = await self.stranger(Role.WORKER)
        await peer.register(1)
        return peer


@pytest.fixture
async def house() -> AsyncIterator[House]:
    limits = Limits(frame_bytes_max=LIMIT, handshake_s=0.3, client_jobs_max=2)
    clients, workers = (server_transport("tcp://127.0.0.1:0", role) for role in (Role.CLIENT, Role.WORKER))
    broker = Broker([clients], [workers], limits=limits)
    await broker.start()
    house = House(broker)
    yield house
    for peer in house.peers:
        await peer.gone()
    broker.switchboard.invariants()
    await broker.stop()


async def farewell(peer: BinaryPeer) -> tuple[CloseReason, str]:
    """The GOODBYE that is the last thing the broker says before it ends the connection."""
    *_, last = binary_frames(await peer.ended())
    packet = decode(last)
    assert packet.kind == PacketType.GOODBYE
    return CloseReason(packet.code), schemas.goodbye_meta(packet.meta).msg


def replied(packet: Packet) -> tuple[int, Code, bytes, int]:
    """What a REPLY answers, its code, cookie and number."""
    assert packet.kind == PacketType.REPLY
    return schemas.reply_meta(packet.meta).to, Code(packet.code), packet.cookie, packet.number


# What ends the connection


@pytest.mark.parametrize("version", [0, 2, 9, 255])
async def test_an_unknown_version_is_told_which_are_spoken(house: House, version: int) -> None:
    peer = await house.stranger()
    peer.send(PREFACE[:3], bytes((version,)), HELLO)
    packet = await peer.packet(PacketType.GOODBYE)
    assert packet.code == CloseReason.UNSUPPORTED_VERSION
    assert schemas.goodbye_meta(packet.meta).versions == [1]
    assert await peer.ended() == b""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\x00\x00\x00\x1b" + bytes(40), CloseReason.PROTOCOL_ERROR),
        (HEADER.pack(30, PacketType.RUN, 0, 1, COOKIE, 0, 3) + b"123", CloseReason.PROTOCOL_ERROR),
        (HELLO, CloseReason.PROTOCOL_ERROR),
        (encode(PacketType.RUN, cookie=COOKIE, meta=b"\xc1"), CloseReason.PROTOCOL_ERROR),
        (encode(PacketType.CANCEL, cookie=COOKIE, meta=b"\x90"), CloseReason.PROTOCOL_ERROR),
        (encode(PacketType.ATTACH, cookie=COOKIE, meta=b"\x90"), CloseReason.PROTOCOL_ERROR),
        (encode(PacketType.STATUS, cookie=COOKIE, meta=b"\xc1"), CloseReason.PROTOCOL_ERROR),
        (encode(PacketType.DRAIN, meta=b"\xa1x"), CloseReason.PROTOCOL_ERROR),
        (packets.goodbye(CloseReason.NORMAL, "bye"), CloseReason.NORMAL),
    ],
    ids=[
        *("short", "meta", "hello twice", "run without a map", "cancel without a map", "attach without a map"),
        *("status without a map", "drain without a map", "goodbye"),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection_and_what_came_before_it_counts(
    house: House, said: bytes, reason: CloseReason
) -> None:
    worker, peer = await house.worker(), await house.welcomed()
    peer.send(RUN, said, RUN)
    assert (await farewell(peer))[0] == reason
    assert await worker.frame() == RUN
    assert await worker.settle() == []


async def test_a_register_that_is_no_map_ends_the_connection(house: House) -> None:
    peer = await house.welcomed(Role.WORKER)
    peer.send(encode(PacketType.REGISTER, meta=b"\xa1x"))
    assert (await farewell(peer))[0] == CloseReason.PROTOCOL_ERROR


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (RUN, CloseReason.PROTOCOL_ERROR),
        (packets.ping(), CloseReason.PROTOCOL_ERROR),
        (encode(PacketType.HELLO, meta=msgspec.msgpack.encode({"name": "a\n"})), CloseReason.PROTOCOL_ERROR),
        (encode(PacketType.HELLO, meta=b"\xc1"), CloseReason.PROTOCOL_ERROR),
        (encode(PacketType.HELLO, payload=bytes(HANDSHAKE_FRAME_BYTES_MAX)), CloseReason.FRAME_TOO_LARGE),
        (b"\xff\xff\xff\xff", CloseReason.FRAME_TOO_LARGE),
        (packets.goodbye(CloseReason.NORMAL, ""), CloseReason.NORMAL),
    ],
    ids=["run", "ping", "bad name", "no map", "large hello", "4 GiB", "goodbye"],
)
async def test_row_16_before_hello_nothing_else_is_taken(house: House, role: Role, said: bytes, reason: CloseReason) -> None:
    peer = await house.stranger(role)
    peer.send(PREFACE, said)
    assert (await farewell(peer))[0] == reason
    assert house.broker.switchboard.jobs == 0


@pytest.mark.parametrize("said", [b"R", b"RCB", PREFACE, PREFACE + HELLO[:-1]])
async def test_row_20_a_handshake_that_is_not_finished_in_time_is_ended(house: House, said: bytes) -> None:
    peer = await house.stranger()
    peer.send(said)
    assert (await farewell(peer))[0] == CloseReason.HANDSHAKE_TIMEOUT


async def test_row_20_a_json_frame_that_is_not_complete_in_time_is_told_and_ended(house: House) -> None:
    peer = await JsonPeer.dial(house.broker.client_urls[0])
    peer.send(b"\x00\x00\x00\xff{")
    told = await peer.packet()
    assert (told["rc"], "cookie" in told) == ("BAD_PACKET", False)
    assert await peer.ended() == b""
    await peer.gone()


# What is answered, and the connection lives on


ANSWERED = {
    "run without a pipeline": (encode(PacketType.RUN, cookie=COOKIE, meta=b"\x80"), (17, Code.BAD_PACKET, COOKIE, 0)),
    "run without a cookie": (packets.run(NO_COOKIE, RUN_META, b""), (17, Code.BAD_PACKET, NO_COOKIE, 0)),
    "run over the limit": (packets.run(COOKIE, RUN_META, bytes(LIMIT)), (17, Code.TOO_LARGE, COOKIE, 0)),
    "cancel that makes no sense": (
        encode(PacketType.CANCEL, cookie=COOKIE, number=5, meta=b"\x81\xa3now\x01"),
        (19, Code.BAD_PACKET, COOKIE, 5),
    ),
    "cancel without a cookie": (packets.cancel(NO_COOKIE, number=6), (19, Code.BAD_PACKET, NO_COOKIE, 6)),
    "cancel of nothing": (packets.cancel(COOKIE, number=7), (19, Code.COOKIE_NOT_FOUND, COOKIE, 7)),
    "cancel over the limit": (
        encode(PacketType.CANCEL, cookie=COOKIE, number=8, payload=bytes(LIMIT)),
        (19, Code.UNSUPPORTED_PACKET_TYPE, COOKIE, 8),
    ),
    "result": (packets.result(COOKIE, 1, b"", ""), (18, Code.UNSUPPORTED_PACKET_TYPE, COOKIE, 0)),
    "register": (REGISTER, (16, Code.UNSUPPORTED_PACKET_TYPE, NO_COOKIE, 1)),
    "drain of nobody": (packets.drain(4), (29, Code.BAD_PACKET, NO_COOKIE, 4)),
    "drain of a worker that is not there": (packets.drain(4, worker="w"), (29, Code.WORKER_NOT_FOUND, NO_COOKIE, 4)),
    "attach that makes no sense": (
        encode(PacketType.ATTACH, cookie=COOKIE, number=5, meta=b"\x81\xa4take\x01"),
        (24, Code.BAD_PACKET, COOKIE, 5),
    ),
    "status that makes no sense": (
        encode(PacketType.STATUS, cookie=COOKIE, number=5, meta=b"\x81\xa4tree\x01"),
        (25, Code.BAD_PACKET, COOKIE, 5),
    ),
    "input over the limit": (
        encode(PacketType.INPUT, cookie=COOKIE, number=1, payload=bytes(LIMIT)),
        (22, Code.TOO_LARGE, COOKIE, 1),
    ),
    "unknown": (encode(200, cookie=COOKIE, number=9), (200, Code.UNSUPPORTED_PACKET_TYPE, COOKIE, 9)),
    **{kind.name: (encode(kind, cookie=COOKIE, number=1), (kind, Code.COOKIE_NOT_FOUND, COOKIE, 1)) for kind in ABOUT_A_JOB},
    **{
        kind.name: (encode(kind, cookie=COOKIE, number=1), (kind, Code.UNSUPPORTED_PACKET_TYPE, COOKIE, 1))
        for kind in OF_WORKERS
    },
    **{
        f"{kind.name} over the limit": (
            encode(kind, cookie=COOKIE, number=1, payload=bytes(LIMIT)),
            (kind, Code.UNSUPPORTED_PACKET_TYPE, COOKIE, 1),
        )
        for kind in (PacketType.ACK, PacketType.CREDIT, PacketType.ATTACH, PacketType.STATUS)
    },
}


@pytest.mark.parametrize(("said", "answer"), ANSWERED.values(), ids=ANSWERED)
async def test_row_16_a_client_is_answered_and_lives_on(
    house: House, said: bytes, answer: tuple[int, Code, bytes, int]
) -> None:
    peer = await house.welcomed()
    peer.send(said)
    assert [replied(packet) for packet in await peer.settle()] == [answer]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (RUN, (17, Code.NOT_ALLOWED, COOKIE, 0)),
        (packets.cancel(COOKIE, number=3), (19, Code.COOKIE_NOT_FOUND, COOKIE, 3)),
        (encode(PacketType.WELCOME, cookie=COOKIE, number=3), (2, Code.UNSUPPORTED_PACKET_TYPE, COOKIE, 3)),
        (encode(201, cookie=COOKIE, number=3), (201, Code.UNSUPPORTED_PACKET_TYPE, COOKIE, 3)),
        (encode(PacketType.REGISTER, number=2, meta=b"\x80"), (16, Code.BAD_PACKET, NO_COOKIE, 2)),
        (REGISTER, (16, Code.OK, NO_COOKIE, 1)),
        (packets.drain(5), (29, Code.OK, NO_COOKIE, 5)),
    ],
    ids=["run", "cancel", "welcome", "unknown", "bad register", "register", "drain"],
)
async def test_row_16_a_worker_is_answered_and_lives_on(
    house: House, said: bytes, answer: tuple[int, Code, bytes, int]
) -> None:
    peer = await house.welcomed(Role.WORKER)
    peer.send(said)
    assert [replied(packet) for packet in await peer.settle()] == [answer]


@pytest.mark.parametrize(
    "said",
    [packets.reply(17, Code.UNSUPPORTED_PACKET_TYPE, "what?", cookie=COOKIE), packets.pong(99)],
    ids=["reply", "pong"],
)
@pytest.mark.parametrize("role", Role)
async def test_an_answer_is_not_answered(house: House, said: bytes, role: Role) -> None:
    peer = await house.welcomed(role)
    peer.send(said)
    assert await peer.settle() == []


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    "said",
    [encode(PacketType.ACK, number=5), encode(PacketType.CREDIT, cookie=COOKIE, number=5, attempt=1)],
    ids=["ack", "credit"],
)
async def test_an_acknowledgement_of_what_was_not_sent_is_not_answered(house: House, said: bytes, role: Role) -> None:
    peer = await house.welcomed(role)
    peer.send(said)
    assert await peer.settle() == []


@pytest.mark.parametrize("payload", [b"", bytes(LIMIT)], ids=["small", "over the limit"])
async def test_what_a_worker_says_of_a_job_that_it_does_not_hold_is_not_answered(house: House, payload: bytes) -> None:
    peer = await house.worker()
    said = [encode(kind, cookie=COOKIE, attempt=1, number=1) for kind in OF_WORKERS]
    peer.send(*said, encode(PacketType.PROGRESS, cookie=COOKIE, attempt=1, number=1, payload=payload))
    assert await peer.settle() == []


async def test_row_13_a_result_that_nobody_waits_for_is_not_answered(house: House) -> None:
    peer = await house.worker()
    peer.send(packets.result(COOKIE, 1, b"", ""), packets.result(NO_COOKIE, 0, b"", ""))
    assert await peer.settle() == []


async def test_row_8_a_result_over_the_limit_ends_its_job_and_nothing_else(house: House) -> None:
    worker, client = await house.worker(), await house.welcomed()
    for cookie in (COOKIE, bytes((1,)) * 16):
        run = packets.run(cookie, RUN_META, b"1")
        client.send(run)
        assert await worker.frame() == run
        worker.send(packets.result(cookie, 1, bytes(LIMIT), "bytes"))
        result = await client.packet(PacketType.RESULT)
        assert (result.code, result.cookie, schemas.result_meta(result.meta).ran) == (Code.TOO_LARGE, cookie, True)
    assert await worker.settle() == []


async def test_a_result_whose_meta_makes_no_sense_is_the_clients_concern(house: House) -> None:
    worker, client = await house.worker(), await house.welcomed()
    client.send(RUN)
    assert await worker.frame() == RUN
    said = encode(PacketType.RESULT, attempt=1, cookie=COOKIE, meta=b"\xc1", payload=b"\xff")
    worker.send(said)
    assert await client.frame() == said


# The order of a RUN's checks


async def test_a_run_is_checked_in_the_order_that_the_page_has(house: House) -> None:
    client = await house.welcomed()
    first, second, third = (bytes((number,)) * 16 for number in (1, 2, 3))
    impatient = schemas.encode_meta(schemas.RunOptions(p="p", queue=False))

    async def answer(*frames: bytes) -> list[Code]:
        client.send(*frames)
        return [replied(packet)[1] for packet in await client.settle()]

    assert await answer(packets.run(third, impatient, b"")) == [Code.NOT_SERVED]
    assert await answer(packets.run(first, RUN_META, b"")) == [Code.QUEUED]
    assert await answer(packets.run(first, impatient, b"")) == [Code.COOKIE_COLLISION]
    assert await answer(packets.run(second, RUN_META, b"")) == [Code.QUEUED]
    assert await answer(packets.run(third, impatient, b"")) == [Code.OVERLOADED]  # two jobs are the limit here
    assert await answer(packets.run(first, RUN_META, b"")) == [Code.COOKIE_COLLISION]
    house.broker.switchboard.effects.draining = True
    assert await answer(packets.run(third, RUN_META, b"")) == [Code.DRAINING]
    assert await answer(packets.run(first, RUN_META, b"")) == [Code.COOKIE_COLLISION]
    assert await answer(packets.run(NO_COOKIE, RUN_META, b"")) == [Code.BAD_PACKET]
    assert await answer(encode(PacketType.RUN, cookie=first, meta=b"\x80")) == [Code.BAD_PACKET]
    assert await answer(packets.run(first, RUN_META, bytes(LIMIT))) == [Code.TOO_LARGE]


async def test_a_job_that_must_not_wait_is_refused_by_what_there_is(house: House) -> None:
    worker, client = await house.worker(), await house.welcomed()
    impatient = schemas.encode_meta(schemas.RunOptions(p="p", enc="bytes", queue=False, reply=True))
    client.send(packets.run(COOKIE, impatient, b""), packets.run(bytes((2,)) * 16, impatient, b""))
    assert [replied(packet)[1] for packet in await client.settle()] == [Code.DISPATCHED, Code.NO_CAPACITY]
    assert (await worker.packet(PacketType.RUN)).cookie == COOKIE
