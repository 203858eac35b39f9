"""Who is let in and for how long he may take to say who he is: connections, strangers, handshakes, leases, drips (row 20)."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import cast

import pytest

from reasonchip_broker import Broker
from reasonchip_broker.limits import HANDSHAKE_FRAME_BYTES_MAX, Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import PREFACE
from reasonchip_broker.testing.transport_peers import Peer
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from tests.raw_peers import HELLO, RawClient, RawPeer, client_of, connect, serving, until, worker_of
from tests.unit.transports.fakes import FakeTransport, ManualLoop

OVER_TCP = {"clients": ("tcp://127.0.0.1:0",), "workers": ("tcp://127.0.0.1:0",)}
_BODY = json.dumps({"packet_type": "CANCEL", "cookie": "6a" * 16}).encode()
JSON_CANCEL = len(_BODY).to_bytes(4, "big") + _BODY


class Gate:
    """A broker at work, and connections that come from wherever a test says."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.loop = ManualLoop()
        self._flusher = Flusher(cast(asyncio.AbstractEventLoop, self.loop))
        self._count = 0

    def come(self, host: str | None) -> FakeTransport:
        """A connection from a host; None for a Unix socket. Whether it is let in, `closing` tells."""
        self._count += 1
        transport = FakeTransport(self.loop, (host, self._count) if host else "")
        connection = Connection(self.broker, self._count.to_bytes(16, "big"), Role.CLIENT, self.broker.limits, self._flusher)
        transport.connection = connection
        connection.connection_made(transport)
        return transport

    def say(self, transport: FakeTransport, data: bytes) -> None:
        """The peer sends bytes."""
        assert transport.connection is not None
        transport.connection.data_received(data)
        self.loop.turn()

    def leave(self, transport: FakeTransport) -> None:
        """The peer goes away."""
        transport.lose()
        self.loop.turn()


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    limits = Limits(connections_max=100, connections_unwelcomed_per_address_max=5)
    async with serving(limits) as broker:
        gate = Gate(broker)
        yield gate
        for connection in list(broker._connections.values()):
            connection.abort(CloseReason.NORMAL)
        gate.loop.turn()


# How many


async def test_more_connections_than_the_limit_are_not_taken_and_room_is_made_by_those_that_leave() -> None:
    async with serving(Limits(connections_max=3)) as broker:
        await worker_of(broker)
        one, two = await client_of(broker), await client_of(broker)
        refused = await connect(broker.client_urls[0], RawClient())
        await refused.until(lambda: refused.is_lost, "a fourth connection was taken")
        assert refused.frames == []
        assert broker.connections == 3
        one.live.abort()
        await until(lambda: broker.connections == 2, "a connection that left is still counted")
        await (await client_of(broker)).echo()
        await two.echo()


async def test_strangers_of_one_address_are_limited(gate: Gate) -> None:
    crowd = [gate.come("10.0.0.1") for _ in range(6)]
    assert [transport.closing for transport in crowd] == [False] * 5 + [True]
    assert not gate.come("10.0.0.2").closing
    assert not gate.come("2001:db8::1").closing


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", None])
async def test_everybody_local_shares_an_address_and_is_exempt(gate: Gate, host: str | None) -> None:
    assert not any(gate.come(host).closing for _ in range(50))


async def test_ports_make_no_address_and_versions_of_ip_are_told_apart(gate: Gate) -> None:
    crowd = [gate.come("2001:db8::7") for _ in range(6)]
    assert [transport.closing for transport in crowd] == [False] * 5 + [True]
    assert not gate.come("2001:db8::8").closing


@pytest.mark.parametrize("how", ["hello", "json", "leave", "offend"])
async def test_a_stranger_that_is_known_or_gone_makes_room(gate: Gate, how: str) -> None:
    crowd = [gate.come("10.0.0.1") for _ in range(5)]
    if how == "hello":
        gate.say(crowd[0], HELLO)
    elif how == "json":
        gate.say(crowd[0], JSON_CANCEL)
    elif how == "offend":
        gate.say(crowd[0], PREFACE + bytes(64))
    else:
        gate.leave(crowd[0])
    assert not gate.come("10.0.0.1").closing
    assert gate.come("10.0.0.1").closing


async def test_who_was_counted_once_is_discounted_once(gate: Gate) -> None:
    for _ in range(20):
        transport = gate.come("10.0.0.1")
        gate.say(transport, HELLO)
        gate.leave(transport)
        gate.leave(gate.come("10.0.0.1"))
    crowd = [gate.come("10.0.0.1") for _ in range(6)]
    assert [transport.closing for transport in crowd] == [False] * 5 + [True]
    for transport in crowd[:5]:
        gate.leave(transport)
    assert not gate.broker._strangers


async def test_who_has_said_hello_does_not_count_however_many_they_are(gate: Gate) -> None:
    for _ in range(50):
        transport = gate.come("10.0.0.1")
        assert not transport.closing
        gate.say(transport, HELLO)


# How long


def begins_with(kind: str) -> bytes:
    """The beginning of a conversation that stops in the middle of something."""
    return {
        "preface": PREFACE[:2],
        "nothing after the preface": PREFACE,
        "hello": HELLO[:-1],
        "header": HELLO[:10],
        "json length": b"\x00\x00",
        "json": JSON_CANCEL[:-1],
    }[kind]


KINDS = ["preface", "nothing after the preface", "hello", "header", "json length", "json"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_that_stops_in_its_first_words_is_ended_with_a_reason(kind: str) -> None:
    async with serving(Limits(handshake_s=0.1)) as broker:
        peer = await connect(broker.client_urls[0], RawPeer())
        peer.send(begins_with(kind))
        await peer.until(lambda: peer.is_lost, "it was not ended")
        assert broker.connections == 0
        if "json" not in kind:
            assert (await peer.sent_away())[0] is CloseReason.HANDSHAKE_TIMEOUT


@pytest.mark.parametrize("kind", ["hello", "json"])
async def test_a_drip_is_ended_in_time_however_steady_it_is(kind: str) -> None:
    """Each byte is a sign of life, and no reason to wait for longer."""
    async with serving(Limits(handshake_s=0.2)) as broker:
        peer = await connect(broker.client_urls[0], RawPeer())
        loop = asyncio.get_running_loop()
        began = loop.time()

        def drip(left: bytes) -> None:
            if left and not peer.is_lost:
                peer.send(left[:1])
                loop.call_later(0.02, drip, left[1:])

        drip({"hello": HELLO, "json": JSON_CANCEL}[kind])
        await peer.until(lambda: peer.is_lost, "a drip was not ended")
        assert loop.time() - began < len(HELLO) * 0.02


async def test_the_whole_handshake_has_one_time_limit_not_one_for_each_of_its_parts() -> None:
    async with serving(Limits(handshake_s=1)) as broker:
        peer = await connect(broker.client_urls[0], RawPeer())
        loop = asyncio.get_running_loop()
        began = loop.time()
        peer.send(PREFACE[:1])
        loop.call_later(0.9, peer.send, PREFACE[1:])
        await peer.until(lambda: peer.is_lost, "it was not ended")
        assert loop.time() - began < 1.5


async def test_who_is_welcome_or_says_nothing_is_not_hurried() -> None:
    async with serving(Limits(handshake_s=0.1, heartbeat_s=10, lease_s=30)) as broker:
        client = await client_of(broker)
        silent, old = [await connect(broker.client_urls[0], RawPeer()) for _ in range(2)]
        old.send(JSON_CANCEL)
        hurried = await connect(broker.client_urls[0], RawPeer())
        hurried.send(PREFACE)
        await hurried.sent_away()
        assert not any(peer.is_lost for peer in (client, silent, old))


async def test_row_20_a_thousand_drips_are_ended_in_time_and_real_clients_are_served_meanwhile() -> None:
    async with serving(Limits(handshake_s=1), **OVER_TCP) as broker:
        await worker_of(broker, 10)
        client = await client_of(broker)
        drips = [await connect(broker.client_urls[0], Peer()) for _ in range(1000)]
        loop = asyncio.get_running_loop()

        def drip(peer: Peer, left: bytes) -> None:
            if left and not peer.is_lost:
                peer.live.write(left[:1])
                loop.call_later(0.2, drip, peer, left[1:])

        for number, peer in enumerate(drips):
            begin = begins_with(KINDS[number % len(KINDS)])
            peer.live.write(begin[:4])
            drip(peer, (begin[4:] + bytes(100))[:100] if len(begin) > 4 else b"")
        began = loop.time()
        served = 0
        while not all(peer.is_lost for peer in drips):
            await client.echo()
            await (await client_of(broker)).echo()
            served += 2
            assert loop.time() - began < 15, f"{sum(not peer.is_lost for peer in drips)} drips were not ended"
        assert served > 20
        await until(lambda: not any(peer.state == 1 for peer in broker.switchboard.peers.values()), "a drip is still known")


# First words


async def test_an_unknown_version_is_told_which_are_spoken() -> None:
    async with serving() as broker:
        peer = await connect(broker.client_urls[0], RawPeer())
        peer.send(b"RCB\x02", packets.ping())
        reason, sentence = await peer.sent_away()
        assert reason is CloseReason.UNSUPPORTED_VERSION
        assert "2" in sentence
        assert peer.heard[PacketType.GOODBYE, bytes(16)][2].endswith(b"\xa8versions\x91\x01")


async def test_a_stranger_s_frame_is_small() -> None:
    async with serving() as broker:
        for size in (HANDSHAKE_FRAME_BYTES_MAX + 1, 17 << 20, 0xFFFFFFFF):
            peer = await connect(broker.client_urls[0], RawPeer())
            peer.send(PREFACE, size.to_bytes(4, "big"))
            reason, sentence = await peer.sent_away()
            assert reason is CloseReason.FRAME_TOO_LARGE
            assert str(size) in sentence


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", [kind for kind in PacketType if kind not in (PacketType.HELLO, PacketType.GOODBYE)])
async def test_row_16_before_hello_every_packet_ends_the_connection(role: Role, kind: PacketType) -> None:
    async with serving() as broker:
        await worker_of(broker)
        before = broker.switchboard.counters.as_dict()
        urls = broker.client_urls if role is Role.CLIENT else broker.worker_urls
        peer = await connect(urls[0], RawPeer())
        peer.send(PREFACE, packets.ping()[:4] + bytes((kind,)) + packets.ping()[5:])
        reason, sentence = await peer.sent_away()
        assert reason is CloseReason.PROTOCOL_ERROR
        assert str(int(kind)) in sentence
        assert broker.switchboard.counters.as_dict() == before


async def test_hello_comes_once() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        client.send(HELLO[4:])
        assert (await client.sent_away())[0] is CloseReason.PROTOCOL_ERROR


async def test_json_is_spoken_on_the_same_listener() -> None:
    async with serving() as broker:
        old = await connect(broker.client_urls[0], RawPeer())
        old.send(JSON_CANCEL)
        await until(lambda: any(peer.dialect == Dialect.JSON for peer in broker.switchboard.peers.values()), "no JSON peer")
        await (await client_of(broker)).ping()


# Leases


async def test_a_peer_that_answers_pings_lives_and_one_that_does_not_is_ended() -> None:
    async with serving(Limits(heartbeat_s=0.1, lease_s=0.3)) as broker:
        alive, dead = await client_of(broker), await client_of(broker)
        dead.hears = lambda frame: None  # type: ignore[method-assign]
        assert (await dead.sent_away())[0] is CloseReason.HEARTBEAT_TIMEOUT
        assert (PacketType.PING, bytes(16)) in dead.heard
        await alive.until(lambda: sum(frame[0] == PacketType.PING for frame in alive.frames) > 5, "it was not asked")
        assert not alive.is_lost


async def test_a_worker_that_falls_silent_loses_its_jobs() -> None:
    async with serving(Limits(heartbeat_s=0.1, lease_s=0.3)) as broker:
        silent = await worker_of(broker)
        client = await client_of(broker)
        silent.hears = lambda frame: None  # type: ignore[method-assign]
        assert (await client.outcome(client.run())).code == Code.WORKER_WENT_AWAY
