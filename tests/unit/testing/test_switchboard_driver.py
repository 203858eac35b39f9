"""The driver notices what a switchboard may not do. Each rule is broken here once, by hand."""

import json

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import FRAME_BYTES_SETTABLE, Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import decode, encode
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import BinaryDecoder
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.routing.timers import TimerKind
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, json_packet, oversized, view


def sneak(driver: SwitchboardDriver, link: FakeLink, frame: bytes) -> None:
    """Let the switchboard send a packet of its own accord, in the next step."""
    link.peer.link = link
    driver.switchboard.effects.send(link.peer, frame)
    driver.advance(0)
    driver.send(driver.client(), packets.ping())


# What peers send and get


def test_view_is_what_a_decoder_returns() -> None:
    frame = encode(PacketType.RUN, 3, 4, b"k" * 16, 5, b"\x80", b"payload")
    assert [view(frame)] == BinaryDecoder(1 << 20).feed(frame)


def test_oversized_is_what_a_decoder_returns_for_a_frame_over_its_limit() -> None:
    frame = oversized(PacketType.RESULT, b"k" * 16, 3)
    assert [frame] == BinaryDecoder(FRAME_BYTES_SETTABLE - 1).feed(frame[2])


def test_json_packets_are_written_as_existing_peers_write_them() -> None:
    assert json_packet("RUN", b"\x11" * 16, pipeline="p", variables="{}", detach=False) == (
        b'{"packet_type":"RUN","cookie":"11111111-1111-1111-1111-111111111111","capacity":null,"pipeline":"p",'
        b'"variables":"{}","detach":false,"rc":null,"error":null,"stacktrace":null,"result":null}'
    )
    assert json.loads(json_packet("REGISTER", capacity=4))["cookie"] is None


def test_what_was_taken_is_not_taken_again() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.send(client, packets.ping(1), packets.ping(2))
    assert [packet.number for packet in client.take()] == [1, 2]
    assert client.take() == []


def test_what_was_expected_and_did_not_come_is_told() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    with pytest.raises(InternalError, match=r"expected one PONG, but link 0 was sent \[\]"):
        client.take_one(PacketType.PONG)


def test_every_kind_of_peer_is_made_ready() -> None:
    driver = SwitchboardDriver()
    for dialect in Dialect:
        client, worker = driver.client(dialect), driver.worker(3, dialect=dialect)
        assert (client.welcomed, worker.welcomed, client.take(), worker.take()) == (True, True, [], [])
        assert (client.role, worker.role, client.dialect) == (Role.CLIENT, Role.WORKER, dialect)
    assert driver.switchboard.free_slots("p", as_json=True) == 6


def test_a_worker_that_is_refused_is_an_error() -> None:
    with pytest.raises(InternalError, match="a worker that registered was answered with packet 6, code 32"):
        SwitchboardDriver().worker(0)


def test_json_that_ends_the_stream_is_an_error_of_the_test() -> None:
    driver = SwitchboardDriver()
    with pytest.raises(ValueError, match="no frame: not JSON"):
        driver.send_json(driver.client(Dialect.JSON), b"{")


def test_cookies_are_new_each_time_and_known_by_their_length() -> None:
    driver = SwitchboardDriver()
    cookies = {driver.new_cookie() for _ in range(100)}
    assert len(cookies) == 100
    assert {len(cookie) for cookie in cookies} == {16}


# What the switchboard may not do


def test_a_packet_to_a_closed_connection_is_an_error() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.disconnect(client)
    with pytest.raises(InternalError, match="packet 3 was sent to link 0, which is closed"):
        sneak(driver, client, packets.ping())


def test_a_packet_to_a_connection_that_was_not_welcomed_is_an_error() -> None:
    driver = SwitchboardDriver()
    link = driver.connect(Role.CLIENT)
    with pytest.raises(InternalError, match="packet 3 was sent to link 0, which was not welcomed"):
        sneak(driver, link, packets.ping())


def test_a_packet_that_a_json_peer_does_not_know_is_an_error() -> None:
    driver = SwitchboardDriver()
    client = driver.client(Dialect.JSON)
    with pytest.raises(InternalError, match="packet 3 was sent to link 0, whose protocol does not know it"):
        sneak(driver, client, packets.ping())


def test_a_json_frame_to_a_binary_peer_is_an_error() -> None:
    driver = SwitchboardDriver()
    client, body = driver.client(), json_packet("RESULT", b"k" * 16, rc="OK")
    with pytest.raises(InternalError, match="a JSON frame was sent to link 0, which speaks binary"):
        sneak(driver, client, len(body).to_bytes(4, "big") + body)


def test_to_close_a_connection_twice_is_an_error() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.disconnect(client)
    driver.switchboard.effects.closes.append(Close(client, CloseReason.NORMAL, "again"))
    with pytest.raises(InternalError, match="link 0 was closed twice"):
        driver.client()


def test_tables_that_disagree_are_an_error_at_once_unless_they_are_not_to_be_checked() -> None:
    for checks in (True, False):
        driver = SwitchboardDriver(checks=checks)
        worker = driver.worker(2)
        record = worker.peer.worker
        assert record is not None
        record.busy = 1
        if checks:
            with pytest.raises(InternalError):
                driver.send(worker, packets.ping())
        else:
            driver.send(worker, packets.ping())


# Time


def test_time_that_passes_wakes_the_switchboard_whenever_it_wants_to_be() -> None:
    driver = SwitchboardDriver(Limits(heartbeat_s=1.0, lease_s=10.0))
    client = driver.client()
    driver.advance(3.5)
    assert [packet.kind for packet in client.take()] == [PacketType.PING] * 3
    assert driver.clock.now == pytest.approx(1003.5)


def test_a_jump_wakes_it_once() -> None:
    driver = SwitchboardDriver(Limits(heartbeat_s=1.0, lease_s=10.0))
    client = driver.client()
    driver.run(client, left_ms=2000)
    driver.run(client, left_ms=3000)
    client.take()
    driver.jump(5)
    assert [packet.kind for packet in client.take() if packet.kind == PacketType.RESULT] == [PacketType.RESULT] * 2


def test_a_switchboard_that_wants_to_be_woken_for_ever_is_an_error() -> None:
    driver = SwitchboardDriver()
    timers, clock = driver.switchboard.timers, driver.clock
    timers.arm(TimerKind.REST, None, clock.now + 1)

    def want_more(*_: object) -> None:
        timers.arm(TimerKind.REST, None, clock.now - 1)

    driver.on_step = want_more
    with pytest.raises(InternalError, match="the switchboard wants to be woken at"):
        driver.advance(100)


# Looking on


def test_each_step_is_told_with_what_it_sent_and_whom_it_closed() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    seen: list[tuple[list[tuple[int, int]], list[int]]] = []
    driver.on_step = lambda sends, closes: seen.append(
        ([(link.number, decode(frame).kind) for link, frame in sends], [close.link.number for close in closes])
    )
    driver.run(client)
    driver.send(client, packets.goodbye(CloseReason.NORMAL, ""))
    assert seen == [([(worker.number, PacketType.RUN)], []), ([], [client.number])]
    assert client.close_reason == CloseReason.NORMAL


def test_a_replay_leaves_the_same_trace_and_another_story_another_one() -> None:
    traces = set()
    for pipeline in ("a", "b"):
        driver = SwitchboardDriver(records=True)
        client = driver.client()
        driver.run(client, pipeline)
        driver.worker(1, ["a"])
        driver.disconnect(client)
        driver.advance(20)
        assert driver.replay() == driver.trace
        traces.add(driver.trace)
    assert len(traces) == 2


def test_a_replay_notices_another_switchboard() -> None:
    driver = SwitchboardDriver(json_slot_rest_ms=100, records=True)
    client, worker = driver.client(), driver.worker(2, dialect=Dialect.JSON)
    driver.result(worker, driver.run(client))
    driver.advance(1)
    driver._settings["json_slot_rest_ms"] = 200
    assert driver.replay() != driver.trace


def test_refusals_and_codes_read_well() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    driver.run(client, queue=False)
    driver.run(client, queue=False)
    assert client.take_codes() == [(PacketType.REPLY, Code.NOT_SERVED)] * 2
    driver.run(client, queue=False)
    assert client.take_reply() == (Code.NOT_SERVED, "no connected worker serves this pipeline")
