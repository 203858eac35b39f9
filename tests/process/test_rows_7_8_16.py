"""Rows 7, 8 and 16 of failures.md over real sockets: frames in pieces, frames that are too large, packets that are not this peer's."""

import asyncio
import json
import os
from collections.abc import Iterator
from itertools import accumulate, count, pairwise

import pytest

from reasonchip_broker.limits import MIB
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode, payload_of
from reasonchip_broker.protocol.codes import ENCODING_BYTES, CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import HEADER, PREFACE, Frame
from tests.process.rows import BrokerProcess, broker_process
from tests.raw_peers import HELLO, RawClient, RawPeer, RawWorker, connect, echoed, options

pytestmark = pytest.mark.process

GROWTH_KIB = 64
FRAME_LIMIT = 16 * MIB


def header(kind: PacketType, length: int, cookie: bytes = bytes(16), attempt: int = 1, meta_length: int = 0) -> bytes:
    """The header of a frame that says that it is `length` long."""
    return HEADER.pack(length, kind, 0, attempt, cookie, 0, meta_length)


# Row 7


WORKER_STREAM = HELLO + packets.register(schemas.RegisterMeta(cap=1, serves=["elsewhere"]), 5) + packets.ping(9)


def stream_of(role: Role, cookie: bytes = b"c" * 16) -> bytes:
    """What a peer of row 7 says; a client's job has this cookie."""
    if role is Role.WORKER:
        return WORKER_STREAM
    return HELLO + packets.run(cookie, options("echo"), b"variables") + packets.ping(9)


async def heard_after(
    broker: BrokerProcess, role: Role, pieces: list[bytes], cookie: bytes
) -> list[tuple[int, int, bool, bool, int]]:
    """What the broker says to a stream that comes in these pieces, each in a read of its own: kind, code, whether it has the cookie
    or none, number."""
    url = broker.clients[0] if role is Role.CLIENT else broker.workers[0]
    peer = await connect(url, RawPeer())
    for piece in pieces:
        peer.send(piece)
        await asyncio.sleep(0)
    await peer.until(lambda: len(peer.frames) == 3 or peer.is_lost, f"{len(peer.frames)} of 3 answers came")
    peer.live.abort()
    return sorted((frame[0], frame[3], frame[1] == cookie, not any(frame[1]), frame[5]) for frame in peer.frames)


def every_way(stream: bytes) -> Iterator[list[bytes]]:
    yield [stream[place : place + 1] for place in range(len(stream))]
    for place in range(1, len(stream)):
        yield [stream[:place], stream[place:]]


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name.lower())
async def test_row_7_frames_split_at_every_byte_mean_the_same(role: Role) -> None:
    async with broker_process() as broker:
        await broker.worker(1)
        cookies = (number.to_bytes(16, "big") for number in count(1))
        cookie = next(cookies)
        whole = await heard_after(broker, role, [stream_of(role, cookie)], cookie)
        assert len(whole) == 3
        for way, cookie in zip(every_way(stream_of(role)), cookies, strict=False):
            places = accumulate(map(len, way), initial=0)
            pieces = [stream_of(role, cookie)[begin:end] for begin, end in pairwise(places)]
            assert await heard_after(broker, role, pieces, cookie) == whole, f"split at {len(way[0])}"


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name.lower())
async def test_row_7_a_stream_that_ends_at_any_byte_ends_cleanly(role: Role) -> None:
    """No traceback: the broker process may log no warning at all."""
    stream = stream_of(role)
    async with broker_process() as broker:
        url = broker.clients[0] if role is Role.CLIENT else broker.workers[0]
        for place in range(len(stream)):
            for goes in ("eof", "abort"):
                peer = await connect(url, RawPeer())
                peer.send(stream[:place])
                if goes == "eof":
                    peer.live.write_eof()
                    await peer.until(lambda peer=peer: peer.is_lost, "half of a stream was not ended")  # type: ignore[misc]
                else:
                    peer.live.abort()
        state = await broker.becomes(lambda state: state["connections"] == 0, "somebody is left")
        assert state["waiting"] == state["jobs"] <= 1


class Bytes(RawPeer):
    """A peer that keeps what it hears as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.changed()


def json_stream() -> bytes:
    """Two requests that are answered, and one between them that is not well-formed and is answered too."""
    bodies = [
        {"packet_type": "CANCEL", "cookie": "6a" * 16},
        {"packet_type": 5},
        {"packet_type": "CANCEL", "cookie": "6b" * 16},
    ]
    frames = [json.dumps(body).encode() for body in bodies]
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


async def test_row_7_json_frames_split_or_truncated_at_every_byte_mean_the_same_or_end_cleanly() -> None:
    async with broker_process() as broker:
        answer = b""
        for pieces in ([json_stream()], *every_way(json_stream())):
            peer = await connect(broker.clients[0], Bytes())
            for piece in pieces:
                peer.send(piece)
                await asyncio.sleep(0)
            said = await answer_of(peer)
            answer = answer or said
            assert said == answer
            peer.live.abort()
        assert answer.count(b'"RESULT"') == 3
        for place in range(len(json_stream())):
            peer = await connect(broker.clients[0], Bytes())
            peer.send(json_stream()[:place])
            peer.live.write_eof()
            await peer.until(lambda peer=peer: peer.is_lost, "half of a stream was not ended")  # type: ignore[misc]
        await broker.becomes(lambda state: state["connections"] == 0, "somebody is left")


async def answer_of(peer: Bytes) -> bytes:
    """All three answers to `json_stream`."""
    await peer.until(lambda: peer.data.count(b'"packet_type"') == 3 and peer.data.endswith(b"}"), "three answers did not come")
    return peer.data


# Row 8


SIZES = [17 * MIB, 100 * MIB, 0xFFFFFFFF]


async def refuse_all(broker: BrokerProcess, client: RawClient, worker: RawWorker) -> None:
    """Everything of row 8 once: too large from a stranger, from a client, from a worker."""
    for size in SIZES:
        for url in (broker.clients[0], broker.workers[0]):
            stranger = await connect(url, RawPeer())
            stranger.send(PREFACE, header(PacketType.RUN, size))
            reason, sentence = await stranger.sent_away()
            assert reason is CloseReason.FRAME_TOO_LARGE
            assert str(size) in sentence
    for size in SIZES:
        known = await broker.client()
        cookie = os.urandom(16)
        known.send(header(PacketType.RUN, size, cookie), bytes(1000))
        code, sentence = await known.reply(cookie)
        assert code == Code.TOO_LARGE
        assert str(size) in sentence
        known.live.abort()
    await client.echo()
    assert not worker.is_lost


async def test_row_8_what_is_too_large_is_refused_on_its_header_and_costs_no_memory() -> None:
    async with broker_process(log="ERROR") as broker:
        worker = await broker.worker(4)
        client = await broker.client()
        for _ in range(5):
            await refuse_all(broker, client, worker)
        before = await broker.state()
        for _ in range(20):
            await refuse_all(broker, client, worker)
        state = await broker.state()
        assert state["rss_kib"] - before["rss_kib"] <= GROWTH_KIB
        assert state["connections"] == 2


async def test_row_8_the_body_of_a_frame_that_is_too_large_is_skipped_unbuffered_and_the_next_one_counts() -> None:
    async with broker_process() as broker:
        await broker.worker(1)
        client, other = await broker.client(), await broker.client()

        async def skip(size: int) -> None:
            cookie = os.urandom(16)
            client.send(header(PacketType.RUN, size, cookie))
            left = size + 4 - 32
            while left:
                client.send(bytes(min(left, MIB)))
                left -= min(left, MIB)
                await other.ping()
            assert (await client.reply(cookie))[0] == Code.TOO_LARGE
            await client.echo()

        await skip(17 * MIB)
        before = await broker.state()
        await skip(17 * MIB)
        await skip(100 * MIB)
        assert (await broker.state())["rss_kib"] - before["rss_kib"] <= GROWTH_KIB


def too_large(frame: Frame) -> bytes:
    """A RESULT over the limit for jobs that ask for it; an echo for others."""
    if payload_of(frame[2]) != b"too large":
        return echoed(frame)
    return packets.result(frame[1], frame[4], bytes(FRAME_LIMIT + 1), ENCODING_BYTES)


async def test_row_8_a_result_over_the_limit_costs_its_own_job_alone() -> None:
    async with broker_process() as broker:
        worker = await broker.worker(3, works=too_large)
        client, other = await broker.client(), await broker.client()

        async def once() -> None:
            large, small = client.run(variables=b"too large"), client.run(variables=b"small")
            outcome = await client.outcome(large)
            assert outcome.code == Code.TOO_LARGE
            assert str(FRAME_LIMIT) in schemas.failure(outcome.payload).error
            assert schemas.result_meta(outcome.meta).ran
            assert (await client.outcome(small)).payload == b"small"
            await other.echo()

        await once()
        before = await broker.state()
        for _ in range(5):
            await once()
        state = await broker.state()
        assert not worker.is_lost
        assert (state["free"], state["jobs"]) == (3, 0)
        assert state["rss_kib"] - before["rss_kib"] <= GROWTH_KIB


async def test_row_8_the_largest_frame_that_is_allowed_passes_both_ways() -> None:
    async with broker_process() as broker:
        await broker.worker(1)
        client = await broker.client()
        meta = options("echo")
        variables = os.urandom(1000) * (FRAME_LIMIT // 1000)
        variables = (variables + bytes(1000))[: FRAME_LIMIT - 28 - len(meta)]
        cookie = os.urandom(16)
        client.send(packets.run(cookie, meta, variables))
        outcome = await client.outcome(cookie)
        assert (outcome.code, outcome.payload == variables) == (Code.OK, True)


# Row 16


NOT_FOR = {
    Role.CLIENT: [
        *(PacketType.RESULT, PacketType.REGISTER, PacketType.WELCOME, PacketType.PROGRESS),
        *(PacketType.PARK, PacketType.RESUME, PacketType.EXTEND),
    ],
    Role.WORKER: [PacketType.WELCOME, PacketType.QUEUE],
}
UNKNOWN = [0, 7, 15, 31, 99, 255]


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name.lower())
async def test_row_16_packets_of_the_other_role_are_answered_and_have_no_effect(role: Role) -> None:
    async with broker_process() as broker:
        worker = await broker.worker(1, "held", works=lambda frame: None)
        owner = await broker.client()
        cookie = owner.run("held")
        await worker.holds(1)
        peer = await connect(broker.clients[0] if role is Role.CLIENT else broker.workers[0], RawPeer())
        await peer.hello()
        before = await broker.state()
        for kind in [*NOT_FOR[role], *UNKNOWN]:
            peer.heard.pop((PacketType.REPLY, cookie), None)
            peer.send(encode(kind, code=0, attempt=1, cookie=cookie, number=77, payload=b"whatever"))
            answer = await peer.kind(PacketType.REPLY, cookie)
            assert (answer.code, answer.number) == (Code.UNSUPPORTED_PACKET_TYPE, 77)
            assert schemas.reply_meta(answer.meta).to == kind
        said = len(peer.frames)
        peer.send(packets.reply(PacketType.RUN, Code.NO_CAPACITY, "no", cookie=cookie), packets.pong(5))
        await peer.ping()
        assert len(peer.frames) == said + 1, "a REPLY or a PONG that nobody waits for is not answered"
        after = await broker.state()
        assert (after["counters"], after["jobs"], after["free"]) == (before["counters"], before["jobs"], before["free"])
        assert (PacketType.RESULT, cookie) not in owner.heard
        worker.finish(worker.held[0])
        assert (await owner.outcome(cookie)).code == Code.OK


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name.lower())
async def test_row_16_before_hello_nothing_has_an_effect_but_an_end_with_a_reason(role: Role) -> None:
    async with broker_process() as broker:
        await broker.worker(1)
        before = await broker.state()
        for kind in [*(kind for kind in PacketType if kind not in (PacketType.HELLO, PacketType.GOODBYE)), *UNKNOWN]:
            peer = await connect(broker.clients[0] if role is Role.CLIENT else broker.workers[0], RawPeer())
            peer.send(PREFACE, encode(kind, attempt=1, cookie=b"c" * 16, meta=options("echo")), HELLO[4:])
            reason, sentence = await peer.sent_away()
            assert reason is CloseReason.PROTOCOL_ERROR
            assert str(int(kind)) in sentence
            assert [frame[0] for frame in peer.frames] == [PacketType.GOODBYE]
        after = await broker.becomes(lambda state: state["connections"] == 1, "somebody is left")
        assert (after["counters"], after["free"]) == (before["counters"], before["free"])
