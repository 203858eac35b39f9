"""Rows 12, 13 and 14 of failures.md: cookies that are known already, packets of jobs that are not their sender's, and jobs of another
principal, which look exactly as if there were none. Over real sockets; a principal is known by where it connects from.
"""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from reasonchip_broker.broker import Broker
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import ENCODING_BYTES, NO_COOKIE, Code, PacketType, Role
from reasonchip_broker.protocol.frames import Frame
from tests.raw_peers import RawClient, echoed, hang_up, options, serving, worker_of

pytestmark = pytest.mark.process

MINE, OTHERS = "127.0.0.2", "127.0.0.3"


class ByAddress:
    """A connection's principal is the address that it comes from."""

    def principal(self, role: Role, address: str) -> str:
        return address.rpartition(":")[0] if role is Role.CLIENT else ""


@asynccontextmanager
async def broker_of_two(limits: Limits | None = None) -> AsyncIterator[Broker]:
    tcp = ("tcp://127.0.0.1:0",)
    async with serving(limits, clients=tcp, workers=tcp, principals=ByAddress()) as broker:
        yield broker


class Whole(RawClient):
    """A client that keeps every byte that it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = b""

    def data_received(self, data: bytes) -> None:
        self.bytes += data
        super().data_received(data)

    async def answer(self, *frames: bytes) -> bytes:
        """What is said to these, byte for byte, until a PING that follows them is answered."""
        before = len(self.bytes)
        self.heard.pop((PacketType.PONG, bytes(16)), None)
        self.send(*frames, packets.ping(99))
        await self.kind(PacketType.PONG)
        return self.bytes[before:]


async def client_from(broker: Broker, address: str) -> Whole:
    """A client that is welcome, of the principal of an address."""
    host, _, port = broker.client_urls[0].removeprefix("tcp://").rpartition(":")
    sock = socket.socket()
    sock.bind((address, 0))
    sock.connect((host, int(port)))
    sock.setblocking(False)
    client = Whole()
    await asyncio.get_running_loop().create_connection(lambda: client, sock=sock)
    await client.hello()
    return client


# Row 12


class Works:
    """A worker's work, counted by cookie: the jobs of "held" are kept, all others echoed."""

    def __init__(self) -> None:
        self.begun: Counter[bytes] = Counter()

    def __call__(self, frame: Frame) -> bytes | None:
        self.begun[frame[1]] += 1
        pipeline = schemas.run_options(decode(frame[2]).meta).p
        return None if pipeline == "held" else echoed(frame)


NONCE = b"the first"
STATES = ["queued", "running", "in backoff", "cancelling", "kept", "acknowledged", "expired early"]
SENDERS = ["same connection", "its principal", "another principal"]
SENT = {
    "replayed": {"nonce": NONCE},
    "another nonce": {"nonce": b"another"},
    "no nonce": {},
}


async def job_in(state: str, broker: Broker, client: Whole, works: Works) -> tuple[bytes, str, dict[str, Any]]:
    """A job in a state; its cookie, pipeline and options."""
    pipeline = {"queued": "unserved", "kept": "echo", "acknowledged": "echo", "expired early": "echo"}.get(state, "held")
    more: dict[str, Any] = {"att": 3, "back": 60_000} if state == "in backoff" else {}
    if state == "expired early":
        more["keep"] = 0
    worker = await worker_of(broker, 1, "held", "echo", works=works)
    cookie = os.urandom(16)
    client.send(packets.run(cookie, options(pipeline, nonce=NONCE, **more), b"first"))
    match state:
        case "queued":
            assert (await client.reply(cookie))[0] == Code.QUEUED
        case "running" | "cancelling" | "in backoff":
            await worker.holds(1)
            if state == "cancelling":
                client.send(packets.cancel(cookie, number=1))
                assert (await client.reply(cookie))[0] == Code.CANCELLING
            if state == "in backoff":
                worker.live.abort()
                await worker_of(broker, 1, "held", "echo", works=works)
                assert b"backoff" in await client.answer(packets.status(cookie))
        case _:
            await client.outcome(cookie)
            if state == "acknowledged":
                client.send(packets.ack(1))
                await client.ping()
    client.heard.clear()
    client.frames.clear()
    return cookie, pipeline, more


def expected(state: str, sender: str, sent: str) -> set[Code]:
    """What is promised; outcomes and refusals share one numbering."""
    if sender == "another principal" or sent != "replayed":
        # Of an acknowledged job the nonce is forgotten with all else: its principal is told that it is over.
        forgot = state in ("acknowledged", "expired early") and sent == "another nonce" and sender != "another principal"
        return {Code.OUTCOME_GONE} if forgot else {Code.COOKIE_COLLISION}
    return {
        "queued": {Code.QUEUED},
        "in backoff": {Code.QUEUED},
        "kept": {Code.OK},
        "acknowledged": {Code.OUTCOME_GONE},
        "expired early": {Code.OUTCOME_GONE},
    }.get(state, {Code.DISPATCHED})


@pytest.mark.parametrize("state", STATES)
async def test_row_12_a_known_cookie_never_begins_a_second_job(state: str) -> None:
    works = Works()
    async with broker_of_two() as broker:
        for sender in SENDERS:
            for sent, said in SENT.items():
                client = await client_from(broker, MINE)
                cookie, pipeline, more = await job_in(state, broker, client, works)
                begun, jobs = works.begun[cookie], broker.switchboard.jobs
                again = client
                if sender != "same connection":
                    again = await client_from(broker, MINE if sender == "its principal" else OTHERS)
                again.send(packets.run(cookie, options(pipeline, **{**more, **said}), b"second"))
                await again.ping()
                answers = {Code(frame[3]) for frame in again.frames if frame[1] == cookie}
                assert answers == expected(state, sender, sent), f"{state}, {sender}, {sent}"
                assert (works.begun[cookie], broker.switchboard.jobs) == (begun, jobs), f"{state}, {sender}, {sent}"
                for frame in again.frames:
                    if frame[1] == cookie and frame[0] == PacketType.RESULT:
                        assert decode(frame[2]).payload == b"first"
                await hang_up_all(broker, client, again)
                broker.switchboard.invariants()
    assert not works.begun or max(works.begun.values()) == 1


async def hang_up_all(broker: Broker, *clients: Whole) -> None:
    """Let a scene end: its workers and clients leave, and its job is cancelled or over."""
    for client in clients:
        client.live.abort()
    await hang_up()


# Row 13


def stray_results(cookie: bytes, attempt: int) -> list[bytes]:
    """RESULTs and PROGRESS that only who holds that attempt may send."""
    return [
        packets.progress(cookie, attempt, 1, b"stray", ENCODING_BYTES),
        packets.result(cookie, attempt, b"stray", ENCODING_BYTES),
        packets.failed(cookie, attempt, Code.EXCEPTION, "stray"),
    ]


async def test_row_13_result_and_progress_of_jobs_that_are_not_the_senders_are_dropped_and_counted() -> None:
    """Foreign, unknown, finished, of an earlier attempt, out of order: the owner's stream and outcome are what they would be."""
    async with broker_of_two() as broker:
        holder = await worker_of(broker, 3, "held", works=lambda frame: None)
        other = await worker_of(broker, 3, "other", works=lambda frame: None)
        client = await client_from(broker, MINE)
        cookie = client.run("held", follow=True)
        finished = client.run("held", follow=True)
        await holder.holds(2)
        holder.finish(holder.held[1])
        await client.outcome(finished)
        counters = broker.switchboard.counters
        before = counters.as_dict()
        silent = await client.answer()
        strays = [
            (other, stray_results(cookie, 1)),
            (other, stray_results(os.urandom(16), 1)),
            (other, stray_results(NO_COOKIE, 0)),
            (other, stray_results(finished, 1)),
            (holder, stray_results(finished, 1)),
            (holder, stray_results(os.urandom(16), 1)),
            (holder, stray_results(cookie, 0)),
            (holder, stray_results(cookie, 2)),
        ]
        for worker, frames in strays:
            worker.send(*frames)
            await worker.ping()
        # Of its own attempt, but not the next chunk: from the holder itself.
        holder.send(*(packets.progress(cookie, 1, number, b"early", ENCODING_BYTES) for number in (0, 2, 0xFFFFFFFF)))
        await holder.ping()
        assert await client.answer() == silent, "its owner heard of it"
        dropped = {name: count - before[name] for name, count in counters.as_dict().items() if count != before[name]}
        assert dropped == {"results_dropped": 2 * len(strays), "progress_dropped": len(strays) + 3}
        holder.send(packets.progress(cookie, 1, 1, b"one", ENCODING_BYTES))
        holder.finish(holder.held[0])
        assert (await client.outcome(cookie)).code == Code.OK
        chunks = [decode(frame[2]) for frame in client.frames if frame[0] == PacketType.PROGRESS]
        assert [(chunk.cookie, chunk.number, chunk.payload) for chunk in chunks] == [(cookie, 1, b"one")]
        holder.send(*stray_results(cookie, 1))
        await holder.ping()
        assert await client.answer() == silent, "there is nothing after the RESULT"


# Row 14


def requests(cookie: bytes, batch: bytes) -> dict[str, bytes]:
    """Everything that can be asked or said about somebody's job."""
    return {
        "CANCEL": packets.cancel(cookie, number=1),
        "CANCEL at once": packets.cancel(cookie, at_once=True, why="mine", number=2),
        "CANCEL of its batch": packets.cancel_batch(batch, number=3),
        "ATTACH": packets.attach(cookie, number=4),
        "ATTACH from 1": packets.attach(cookie, first=1, take=False, number=5),
        "STATUS": packets.status(cookie, number=6),
        "STATUS of its tree": packets.status(cookie, tree=True, number=7),
        "INPUT": packets.input_chunk(cookie, 1, b"input", ENCODING_BYTES),
        "INPUT out of order": packets.input_chunk(cookie, 9, b"input", ENCODING_BYTES),
        "INPUT without a number": packets.input_chunk(cookie, 0, b"input", ENCODING_BYTES),
        "CREDIT": packets.credit(cookie, 0, 10),
        "EXTEND": packets.extend(cookie, 1, 10),
        "RUN of a child": packets.run(b"c" * 16, options("echo", parent=cookie), b""),
    }


@pytest.mark.parametrize("state", STATES)
async def test_row_14_another_principals_job_looks_exactly_like_an_unknown_one(state: str) -> None:
    """Answers of the same bytes, but for the cookie that was asked about; and nothing happens to the job, nor is its owner told."""
    async with broker_of_two() as broker:
        owner, stranger = await client_from(broker, MINE), await client_from(broker, OTHERS)
        cookie, _, _ = await job_in(state, broker, owner, Works())
        unknown, no_batch = os.urandom(16), os.urandom(16)
        batch = os.urandom(16)
        with_batch = owner.run("unserved", batch=batch)
        assert (await owner.reply(with_batch))[0] == Code.QUEUED
        before = await owner.answer(packets.status(cookie)), broker.switchboard.jobs
        theirs, nobodys = requests(cookie, batch), requests(unknown, no_batch)
        for name, frame in theirs.items():
            said = await stranger.answer(frame)
            assert said.replace(cookie, unknown).replace(batch, no_batch) == await stranger.answer(nobodys[name]), name
        after = await owner.answer(packets.status(cookie)), broker.switchboard.jobs
        assert steady(after[0]) == steady(before[0])
        assert after[1] == before[1]
        assert not any(frame[0] in (PacketType.RESULT, PacketType.PROGRESS) for frame in stranger.frames)
        # Its owner's other connections may do all of that.
        same = await client_from(broker, MINE)
        assert await same.answer(theirs["STATUS"]) != (await same.answer(nobodys["STATUS"])).replace(unknown, cookie)
        await hang_up_all(broker, owner, stranger, same)


def steady(answer: bytes) -> tuple[int, schemas.JobStatus | None]:
    """What an answer to STATUS says, but for the age of the job."""
    packet = decode(answer[: 4 + int.from_bytes(answer[:4], "big")])
    job = schemas.reply_meta(packet.meta).job
    return packet.code, None if job is None else msgspec.structs.replace(job, age=0)
