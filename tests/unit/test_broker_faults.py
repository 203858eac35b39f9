"""What a broker does about its own bugs, about peers that do not read, and about steps inside of steps."""

import json
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from reasonchip_broker import Broker
from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import KIB, Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.timers import TimerKind
from tests.raw_peers import RawClient, RawPeer, client_of, connect, echoed, kept, serving, until, worker_of

JsonObject = dict[str, Any]


class Bug(Exception):
    """A bug of ours."""


class Failing:
    """A switchboard that has a bug in one of its steps, for as long as `is_armed`; `spared` are peers that it spares."""

    def __init__(self, real: Any, step: str) -> None:
        self._real = real
        self._step = step
        self.is_armed = False
        self.spared: list[object] = []

    def __getattr__(self, name: str) -> Any:
        if name == self._step and self.is_armed:
            return self._fail
        return getattr(self._real, name)

    def _fail(self, *args: object, **kwargs: object) -> Any:
        if args and args[0] in self.spared:
            return getattr(self._real, self._step)(*args, **kwargs)
        raise Bug(self._step)


def fail_on(broker: Broker, kind: PacketType, do: Callable[[Any, Frame], None]) -> None:
    """Give every client's handler of one packet type another one."""
    for peer in broker.switchboard.peers.values():
        if peer.role == Role.CLIENT:
            peer.handlers[kind] = do


def raises(peer: object, frame: Frame) -> None:
    raise Bug("on purpose")


# Bugs of ours


async def test_a_bug_in_a_step_costs_the_peer_concerned_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as broker:
        worker = await worker_of(broker, 2)
        victim, other = await client_of(broker), await client_of(broker)
        fail_on(broker, PacketType.CANCEL, raises)
        victim.send(packets.cancel(b"c" * 16))
        reason, sentence = await victim.sent_away()
        assert reason is CloseReason.INTERNAL_ERROR
        assert "Bug" not in sentence
        await other.echo()
        assert not worker.is_lost
        assert broker.failure is None
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "Bug" in errors[0].getMessage()
    assert "\n" not in errors[0].getMessage()


async def test_what_came_in_the_same_read_before_the_bug_still_counts() -> None:
    async with serving() as broker:
        worker = await worker_of(broker, 2, works=kept)
        victim = await client_of(broker)
        fail_on(broker, PacketType.CANCEL, raises)
        cookie = b"j" * 16
        victim.send(
            packets.run(cookie, msgspec.msgpack.encode({"p": "echo"}), b"1"), packets.cancel(b"c" * 16), packets.ping(5)
        )
        assert (await victim.sent_away())[0] is CloseReason.INTERNAL_ERROR
        await worker.holds(1)
        assert (PacketType.PONG, bytes(16)) not in victim.heard


async def test_a_bug_that_breaks_the_tables_stops_the_broker_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as broker:
        await worker_of(broker)
        client = await client_of(broker)
        backlog = broker.switchboard._dispatcher.backlog

        def breaks(peer: object, frame: Frame) -> None:
            backlog.jobs += 1
            raise Bug("on purpose")

        fail_on(broker, PacketType.CANCEL, breaks)
        client.send(packets.cancel(b"c" * 16))
        await client.sent_away()
        assert broker.failed.is_set()
        assert isinstance(broker.failure, InternalError)
        assert "1 jobs" in str(broker.failure)
        backlog.jobs -= 1
        broker.failed.clear()
    assert [record.levelno for record in caplog.records if record.levelno == logging.CRITICAL] == [logging.CRITICAL]


async def test_tables_that_can_not_even_be_checked_are_broken() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        real = broker.switchboard
        broken = Failing(real, "invariants")
        broken.is_armed = True
        broker.switchboard = broken  # type: ignore[assignment]
        fail_on(broker, PacketType.CANCEL, raises)
        client.send(packets.cancel(b"c" * 16))
        await client.until(lambda: client.is_lost, "the peer concerned was not let go")
        broker.switchboard = real
        assert broker.failed.is_set()
        broker.failed.clear()


BIG = 8 * 1024 * KIB


async def provoke(step: str, broker: Broker, victim: RawClient, failing: Failing) -> None:
    """Lead the broker to take a step that concerns the victim."""
    if step in ("congested", "writable"):
        failing.is_armed = step == "congested"
        victim.live.pause_reading()
        victim.run(variables=bytes(BIG))
        await until(lambda: broker.switchboard.counters.finished == 1, "the job did not end")
        await victim_turns(broker)
        failing.is_armed = True
        victim.live.resume_reading()
        await until(lambda: len(victim.frames) > 1 or victim.is_lost, "the victim reads, and nothing comes")
    else:
        failing.is_armed = True
        victim.send(bytes(64) if step == "offended" else packets.ping())
    if step == "disconnected":
        victim.live.abort()


async def victim_turns(broker: Broker) -> None:
    """Some round trips of somebody else."""
    bystander = await client_of(broker)
    for _ in range(5):
        await bystander.ping()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("received", marks=pytest.mark.needs_interpreted_core),
        "offended",
        "congested",
        "writable",
        "disconnected",
    ],
)
async def test_a_bug_in_any_step_of_a_connection_costs_that_connection_alone(step: str) -> None:
    async with serving(Limits(outbox_bytes_mark=1000), clients=("tcp://127.0.0.1:0",)) as broker:
        await worker_of(broker, 4)
        other = await client_of(broker)
        real = broker.switchboard
        failing = Failing(real, step)
        failing.spared = list(real.peers.values())
        victim = await client_of(broker)
        broker.switchboard = failing  # type: ignore[assignment]
        if step == "received":
            broker._steps.switchboard = failing  # type: ignore[assignment]
        for peer in real.peers.values():
            if peer.role == Role.WORKER:
                failing.spared.append(peer)
        await provoke(step, broker, victim, failing)
        await until(lambda: broker.failure is None and len(broker._connections) <= 4, "the broker failed")
        broker.switchboard = real
        if step == "received":
            broker._steps.switchboard = real
        await other.echo()
        await (await client_of(broker)).echo()
        victim.live.abort()


async def test_a_bug_in_one_timer_does_not_lose_the_others_that_are_due() -> None:
    async with serving() as broker:
        worker = await worker_of(broker, 1, works=kept)
        client = await client_of(broker)
        client.run()
        await worker.holds(1)
        late = client.run("nobody-serves", left_ms=100_000)
        await client.reply(late)
        held = next(route.assignment for route in broker.switchboard._dispatcher.routes if route.assignment)
        now = broker._time()
        broker.switchboard.timers.arm(TimerKind.REST, held, now)  # a slot that does not rest: this timer is a bug
        broker._time = lambda: now + 200
        broker._wake()
        assert (await client.outcome(late)).code == Code.DEADLINE_EXCEEDED


async def test_a_send_that_fails_does_not_stop_the_broker() -> None:
    class Broken:
        def send_all(self, frames: list[bytes]) -> None:
            raise Bug("on purpose")

        def send_at_once(self, frames: list[bytes], now: float) -> None:
            raise Bug("on purpose")

        def close(self, reason: CloseReason, sentence: str) -> None:
            """Nothing to close."""

    async with serving() as broker:
        await worker_of(broker)
        victim, other = await client_of(broker), await client_of(broker)
        fail_on(
            broker,
            PacketType.CANCEL,
            lambda peer, frame: broker.switchboard.effects.send(
                Peer(Broken(), bytes(16), Role.CLIENT, Dialect.BINARY, "", True, peer.share), b""
            ),
        )
        victim.send(packets.cancel(b"c" * 16))
        await other.echo()
        await (await client_of(broker)).echo()


# Results that no JSON client can be told


def json_frame(**fields: object) -> bytes:
    body = json.dumps(fields).encode()
    return len(body).to_bytes(4, "big") + body


class JsonClient(RawPeer):
    """An existing client, as far as bytes go."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.objects: list[JsonObject] = []

    def data_received(self, data: bytes) -> None:
        self.data += data
        while len(self.data) >= 4 and len(self.data) >= 4 + int.from_bytes(self.data[:4], "big"):
            end = 4 + int.from_bytes(self.data[:4], "big")
            self.objects.append(json.loads(self.data[4:end]))
            self.data = self.data[end:]
        self.changed()


@pytest.mark.parametrize(
    ("meta", "payload"),
    [
        (b"\xc1", b"\x01"),
        (b"\x93\x01\x02\x03", b"\x01"),
        (b"\x81\xa3enc\x05", b"\x01"),
        (b"\x81\xa3enc\xa7msgpack", b"\xc1"),
        (b"\x81\xa3enc\xa7msgpack", msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"x"))),
        (b"\x81\xa3enc\xa7msgpack", msgspec.msgpack.encode({(1, 2): 3})),
        (b"\x81\xa3enc\xa7msgpack", b"\x91" * 5000 + b"\x01"),
        (b"\x81\xa3enc\xa4text", b"\xff\xfe"),
        (b"\x81\xa3enc\xa5bytes", b"\x00"),
        (b"", b"\xff"),
    ],
    ids=["no-meta", "no-map", "wrong-type", "no-msgpack", "extension", "odd-key", "deep", "text", "bytes", "no-encoding"],
)
@pytest.mark.parametrize("code", [Code.OK, Code.EXCEPTION])
async def test_a_result_that_can_not_be_told_in_json_ends_its_own_job_alone(meta: bytes, payload: bytes, code: Code) -> None:
    def answer(frame: Frame) -> bytes:
        if frame[1] != b"j" * 16:
            return echoed(frame)
        return encode(PacketType.RESULT, code=code, attempt=frame[4], cookie=frame[1], meta=meta, payload=payload)

    async with serving() as broker:
        await worker_of(broker, 2, works=answer)
        other = await client_of(broker)
        old = await connect(broker.client_urls[0], JsonClient())
        cookie = "6a" * 16
        old.send(json_frame(packet_type="RUN", cookie=cookie, pipeline="echo", variables="{}", detach=False))
        await old.until(lambda: bool(old.objects), "the job's owner was not answered")
        assert old.objects[0]["packet_type"] == "RESULT"
        assert old.objects[0]["rc"] in ("OK", "EXCEPTION")
        assert old.objects[0]["cookie"].replace("-", "") == cookie
        await other.echo()


# Peers that do not read


async def test_a_worker_that_does_not_read_gets_no_more_jobs_and_others_do() -> None:
    async with serving(Limits(outbox_bytes_mark=10_000)) as broker:
        stuck = await worker_of(broker, 1000)
        client = await client_of(broker)
        stuck.live.pause_reading()
        cookies = []
        for _ in range(100):
            cookies.append(client.run(variables=bytes(1000)))
            await client.ping()
        assert broker.switchboard.waiting > 80
        good = await worker_of(broker, 10)
        done = [frame for frame in good.frames if frame[0] == PacketType.RUN]
        await client.until(
            lambda: sum((PacketType.RESULT, cookie) in client.heard for cookie in cookies) >= 80, "no others served"
        )
        assert len(done) <= 100
        stuck.live.resume_reading()
        for cookie in cookies:
            assert (await client.outcome(cookie)).code == Code.OK
        await client.echo()


async def test_a_client_that_does_not_read_is_a_slow_consumer_after_the_write_deadline() -> None:
    async with serving(Limits(outbox_bytes_mark=10_000, write_deadline_s=0.2)) as broker:
        await worker_of(broker, 100)
        stuck, other = await client_of(broker), await client_of(broker)
        stuck.live.pause_reading()
        for _ in range(100):
            stuck.run(variables=bytes(1000))
        await until(lambda: broker.connections == 2, "a client that does not read is still there")
        await other.echo()
        await until(lambda: broker.switchboard.jobs == 0, "jobs of a client that has gone did not end")
        assert stuck.farewell() is None


async def test_a_client_that_does_not_read_is_a_slow_consumer_at_the_hard_cap() -> None:
    limits = Limits(outbox_bytes_mark=10_000, outbox_bytes_max=50_000, write_deadline_s=60)
    async with serving(limits) as broker:
        worker = await worker_of(broker, 1000, works=kept)
        stuck, other = await client_of(broker), await client_of(broker)
        stuck.live.pause_reading()
        for _ in range(200):
            stuck.run(variables=bytes(1000))
        await worker.holds(200)
        for frame in worker.held[:]:
            worker.finish(frame)
            await other.ping()
        assert broker.connections == 2
        worker.works = echoed
        await other.echo()
        assert broker.switchboard.counters.results_unheard > 0


async def test_a_client_that_reads_late_misses_nothing() -> None:
    async with serving(Limits(outbox_bytes_mark=10_000)) as broker:
        await worker_of(broker, 100)
        late, other = await client_of(broker), await client_of(broker)
        late.live.pause_reading()
        cookies = [late.run(variables=number.to_bytes(4, "big") * 250) for number in range(100)]
        await until(lambda: any(peer.congested for peer in broker.switchboard.peers.values()), "nobody is congested")
        await other.echo()
        late.live.resume_reading()
        for number, cookie in enumerate(cookies):
            assert (await late.outcome(cookie)).payload == number.to_bytes(4, "big") * 250


# Steps inside of steps


async def test_a_farewell_that_congests_its_connection_is_no_trouble() -> None:
    """`close` flushes, a flush may congest, congestion is a step, and that inside the step that asked for the close."""
    async with serving(Limits(outbox_bytes_mark=1000, write_deadline_s=0.2)) as broker:
        await worker_of(broker)
        victim, other = await client_of(broker), await client_of(broker)

        def floods_and_closes(peer: Any, frame: Frame) -> None:
            peer.link.send(packets.ping() * 100)
            broker.switchboard._close(peer, CloseReason.LIMIT, "enough")

        fail_on(broker, PacketType.CANCEL, floods_and_closes)
        victim.send(packets.cancel(b"c" * 16))
        victim.live.pause_reading()
        await until(lambda: len(broker.switchboard.peers) == 2, "the victim was not let go")
        await other.echo()
        victim.live.resume_reading()
        assert (await victim.sent_away())[0] is CloseReason.LIMIT


@pytest.mark.needs_interpreted_core
@pytest.mark.parametrize("jobs", [1, 2])
async def test_a_step_that_comes_of_sending_what_is_plain_is_carried_out(monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    """None does so far, but a transport may find out at any time that its peer is gone."""
    async with serving() as broker:
        await worker_of(broker, 2)
        client, victim = await client_of(broker), await client_of(broker)
        await client.echo()
        await victim.echo()
        connection = list(broker.switchboard.peers.values())[-1].link
        send_all = type(connection).send_all

        def finds_out(self: Any, frames: list[bytes], *now: float) -> None:
            if self is connection:
                broker.offended(self, CloseReason.PROTOCOL_ERROR, "found out while it was sent to")
            send_all(self, frames)

        for sends in ("send_all", "send_at_once"):
            monkeypatch.setattr(type(connection), sends, finds_out)
        victim.run_all("echo", jobs)
        await client.echo()
        assert connection.reason is CloseReason.PROTOCOL_ERROR, "at once, and not when a timer was due"
        assert (await victim.sent_away())[1] == "found out while it was sent to"


async def test_a_worker_that_is_lost_to_the_hard_cap_while_it_is_given_jobs_tells_their_owners() -> None:
    """The send of a RUN ends the connection of the worker that it goes to: a loss in the middle of a step."""
    limits = Limits(outbox_bytes_mark=1000, outbox_bytes_max=3000, write_deadline_s=60)
    async with serving(limits) as broker:
        worker = await worker_of(broker, 1000)
        client = await client_of(broker)
        worker.live.pause_reading()
        cookies = client.run_all("echo", 20, bytes(500))
        await until(lambda: broker.switchboard.jobs == 20, "the jobs did not come")
        for cookie in cookies:
            client.send(packets.cancel(cookie, why="x" * 500))
        for cookie in cookies:
            outcome = await client.outcome(cookie)
            assert outcome.code in (Code.WORKER_WENT_AWAY, Code.CANCELLED)
        assert broker.connections == 1


async def test_a_worker_with_many_waiting_jobs_is_given_them_as_it_reads() -> None:
    async with serving(Limits(outbox_bytes_mark=5000)) as broker:
        client = await client_of(broker)
        cookies = [client.run(variables=bytes(1000)) for _ in range(200)]
        await until(lambda: broker.switchboard.waiting == 200, "the jobs did not come")
        worker = await worker_of(broker, 500, works=kept)
        await worker.holds(200)
        assert broker.switchboard.waiting == 0
        for frame in worker.held[:]:
            worker.finish(frame)
        for cookie in cookies:
            assert (await client.outcome(cookie)).code == Code.OK
