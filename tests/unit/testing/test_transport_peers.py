"""The two ends that transports are checked with: that they wait, that they write down what happens, and that they complain."""

import asyncio

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.protocol.frames import PREFACE
from reasonchip_broker.testing import transport_peers
from reasonchip_broker.testing.transport_peers import Peer, Recorder, Watched, numbered, require
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.memory import MemoryClientTransport, MemoryServerTransport


async def listening() -> tuple[MemoryServerTransport, Recorder]:
    transport, recorder = MemoryServerTransport("here"), Recorder()
    await transport.start(Role.CLIENT, recorder, Limits(), Flusher(asyncio.get_running_loop()))
    return transport, recorder


async def test_until_returns_as_soon_as_it_holds() -> None:
    watched, seen = Watched(), [0]
    waiting = asyncio.ensure_future(watched.until(lambda: seen[0] == 2, "never"))
    for _ in range(2):
        await asyncio.sleep(0)
        assert not waiting.done()
        seen[0] += 1
        watched.changed()
    await waiting


async def test_until_says_what_did_not_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_peers, "DEADLINE_S", 0.01)
    with pytest.raises(AssertionError, match=r"within 0\.01 s, the sun did not rise"):
        await Watched().until(lambda: False, "the sun did not rise")


def test_a_rule_that_is_broken_is_named() -> None:
    require(True, "holds")
    with pytest.raises(AssertionError, match="does not hold"):
        require(False, "does not hold")


def test_no_two_numbered_frames_look_the_same() -> None:
    frames = [numbered(number, size) for number in range(3) for size in (0, 1, 4, 1000)]
    assert len(set(frames)) == len(frames)
    packet = decode(numbered(7, 9))
    assert (packet.number, packet.payload) == (7, b"\0\0\0\7\0\0\0\7\0")


async def test_a_recorder_writes_down_what_it_is_told() -> None:
    transport, recorder = await listening()
    peer = Peer()
    MemoryClientTransport("here").connect(peer)
    peer.live.write(PREFACE + numbered(1) + numbered(2))
    await recorder.until(lambda: recorder.count("received") == 1, "frames did not come")
    connection = recorder.connections[0]
    assert recorder.received_numbers(connection) == [1, 2]
    assert recorder.opened_ones == [connection]
    recorder.congested(connection)
    assert recorder.is_congested(connection)
    recorder.writable(connection)
    assert not recorder.is_congested(connection)
    peer.live.write(bytes(64))
    await peer.until(lambda: peer.is_lost, "an offence did not end the connection")
    assert recorder.offences[connection][0] is CloseReason.PROTOCOL_ERROR
    assert recorder.told[connection][-2:] == ["offended", "closed"] or recorder.told[connection][-1] == "offended"
    await transport.stop()


@pytest.mark.parametrize(
    ("events", "is_orderly"),
    [
        (["accepts"], True),
        (["accepts", "closed"], True),
        (["accepts", "opened", "received", "congested", "writable", "closed"], True),
        (["opened"], False),
        (["accepts", "received"], False),
        (["accepts", "accepts"], False),
        (["accepts", "opened", "opened"], False),
        (["accepts", "opened", "closed", "closed"], False),
        (["accepts", "opened", "closed", "received"], False),
    ],
)
async def test_a_recorder_knows_which_order_is_promised(events: list[str], is_orderly: bool) -> None:
    recorder = Recorder()
    flusher = Flusher(asyncio.get_running_loop())
    recorder.told[Connection(recorder, bytes(16), Role.CLIENT, Limits(), flusher)] = events
    if is_orderly:
        recorder.require_order()
    else:
        with pytest.raises(AssertionError, match="announced first"):
            recorder.require_order()


async def test_a_peer_reads_frames_and_the_farewell() -> None:
    transport, recorder = await listening()
    peer = Peer()
    with pytest.raises(AssertionError, match="no transport"):
        _ = peer.live
    MemoryClientTransport("here").connect(peer)
    peer.live.write(PREFACE)
    await recorder.until(lambda: recorder.count("opened") == 1, "it was not announced")
    assert peer.goodbye() is None
    recorder.connections[0].send(numbered(3))
    recorder.connections[0].close(CloseReason.REPLACED, "bye")
    await peer.until(lambda: peer.is_lost, "the connection did not end")
    assert peer.numbers() == [3]
    assert peer.goodbye() == (CloseReason.REPLACED, "bye")
    assert peer.data_bytes == len(numbered(3) + packets.goodbye(CloseReason.REPLACED, "bye"))
    await transport.stop()
