"""Leases: who is silent is asked, who does not answer is let go, and the broker's own standing still is nobody's fault."""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

LIMITS = Limits(heartbeat_s=10.0, lease_s=30.0, handshake_s=5.0)
ROLES = (Role.CLIENT, Role.WORKER)
PING = [(PacketType.PING, Code.OK)]


def peer(driver: SwitchboardDriver, role: Role) -> FakeLink:
    return driver.client() if role == Role.CLIENT else driver.worker()


@pytest.mark.parametrize("role", ROLES)
def test_a_silent_peer_is_asked_once_a_heartbeat_and_then_let_go(role: Role) -> None:
    driver = SwitchboardDriver(LIMITS)
    link = peer(driver, role)
    driver.advance(9.99)
    assert link.take() == []
    driver.advance(0.02)
    assert link.take_codes() == PING
    driver.advance(10)
    assert link.take_codes() == PING
    driver.advance(9.95)
    assert not link.closed
    driver.advance(0.1)
    assert link.close is not None
    assert (link.close.reason, link.close.sentence) == (CloseReason.HEARTBEAT_TIMEOUT, "nothing was heard for 30 s")
    assert len(driver.switchboard.timers) == 0


def test_a_lease_that_is_no_multiple_of_the_heartbeat_ends_when_it_says() -> None:
    driver = SwitchboardDriver(Limits(heartbeat_s=10.0, lease_s=14.0))
    link = driver.client()
    driver.advance(13.98)
    assert not link.closed
    driver.advance(0.05)
    assert link.closed


@pytest.mark.parametrize("sign", ["pong", "ping", "run", "part of a frame", "answer to a refusal"])
def test_any_sign_of_life_renews_the_lease(sign: str) -> None:
    driver = SwitchboardDriver(LIMITS)
    link = driver.client()
    for _ in range(10):
        driver.advance(9)
        if sign == "pong":
            driver.send(link, packets.pong(0))
        elif sign == "ping":
            driver.send(link, packets.ping())
        elif sign == "run":
            driver.run(link, queue=False)
        elif sign == "part of a frame":
            driver.deliver(link, [])
        else:
            driver.cancel(link, b"k" * 16)
    assert not link.closed
    assert PacketType.PING not in [packet.kind for packet in link.take()]


def test_what_the_broker_sends_is_no_sign_of_life() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker(100)
    for _ in range(4):
        driver.advance(9)
        driver.run(client)
    assert (worker.close_reason, client.closed) == (CloseReason.HEARTBEAT_TIMEOUT, False)


def test_a_worker_whose_lease_ends_loses_its_jobs_and_their_owners_are_told() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker()
    driver.run(client)
    for _ in range(4):
        driver.advance(8)
        driver.send(client, packets.ping())
    assert worker.closed
    assert (PacketType.RESULT, Code.WORKER_WENT_AWAY) in client.take_codes()


def test_row_4_what_a_worker_says_after_its_lease_ended_is_not_heard() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    for _ in range(4):
        driver.advance(8)
        driver.send(client, packets.ping())
    client.take()
    driver.result(worker, cookie)
    assert client.take() == []
    assert driver.switchboard.counters.results_unheard == 0


def test_json_peers_have_no_lease() -> None:
    driver = SwitchboardDriver(LIMITS)
    client, worker = driver.client(Dialect.JSON), driver.worker(dialect=Dialect.JSON)
    driver.advance(100_000)
    assert (client.closed, worker.closed, client.take(), worker.take()) == (False, False, [], [])


# Row 5: a jump of the clock


@pytest.mark.parametrize("still_s", [20.5, 60.0, 86_400.0])
def test_row_5_a_broker_that_stood_still_evicts_nobody(still_s: float) -> None:
    driver = SwitchboardDriver(LIMITS)
    links = [peer(driver, role) for role in ROLES for _ in range(50)]
    cookies = [driver.run(link) for link in links[:50]]
    driver.advance(3)
    driver.jump(still_s)
    assert [link for link in links if link.closed] == []
    for link in links:
        driver.send(link, packets.pong(0))
    driver.advance(9.9)
    assert [link for link in links if link.closed] == []
    assert driver.switchboard.jobs == len(cookies)


def test_row_5_after_standing_still_a_peer_has_a_whole_lease_to_be_heard() -> None:
    driver = SwitchboardDriver(LIMITS)
    link = driver.client()
    driver.jump(60)
    driver.advance(29.9)
    assert not link.closed
    driver.advance(0.2)
    assert link.close_reason == CloseReason.HEARTBEAT_TIMEOUT


def test_row_5_one_whose_hello_was_not_read_meanwhile_is_given_time_for_it_once_more() -> None:
    driver = SwitchboardDriver(LIMITS)
    links = [driver.connect(role) for role in ROLES]
    driver.jump(86_400)
    driver.advance(4.9)
    driver.greet(links[0])
    driver.advance(0.2)
    assert [link.close_reason for link in links] == [None, CloseReason.HANDSHAKE_TIMEOUT]


# By when a grace of 10 s is over that had 1 s left when the broker stopped: it has the time yet that it was to have, and no more.
@pytest.mark.parametrize(("still_s", "has_s"), [(3.0, 2.0), (60.0, 10.0), (86_400.0, 10.0)])
def test_row_5_a_grace_that_ran_out_meanwhile_has_that_time_yet_and_no_more_than_all_of_it(
    still_s: float, has_s: float
) -> None:
    driver = SwitchboardDriver(LIMITS)
    owner, watcher = driver.client(), driver.client()
    worker = driver.worker(name="w", process=b"p" * 16, grace_s=10)
    suspended, orphan = driver.run(watcher), driver.run(owner, orphan=10_000)
    driver.disconnect(owner)
    driver.disconnect(worker)
    driver.advance(9.0)
    driver.jump(still_s)
    for after_s, expected in ((has_s - 0.1, ["suspended", "queued"]), (0.2, ["over", "over"])):
        driver.advance(after_s)
        watcher.take()
        assert [driver.status(watcher, cookie).state for cookie in (suspended, orphan)] == expected


def test_row_5_a_second_pause_is_forgiven_like_the_first() -> None:
    driver = SwitchboardDriver(LIMITS)
    link = driver.client()
    for _ in range(5):
        driver.jump(60)
    assert not link.closed


def test_row_5_only_a_pause_is_forgiven_not_a_wake_up_that_was_a_little_late() -> None:
    driver = SwitchboardDriver(LIMITS)
    link = driver.client()
    driver.advance(29.5)
    driver.jump(0.9)
    assert link.close_reason == CloseReason.HEARTBEAT_TIMEOUT


def test_row_5_deadlines_are_not_put_off_by_a_pause() -> None:
    driver = SwitchboardDriver(LIMITS)
    client = driver.client()
    driver.run(client, left_ms=5000)
    driver.jump(60)
    assert (PacketType.RESULT, Code.DEADLINE_EXCEEDED) in client.take_codes()


# Congestion


@pytest.mark.parametrize("role", ROLES)
def test_a_congested_peer_is_not_read_from_so_its_silence_does_not_count(role: Role) -> None:
    driver = SwitchboardDriver(LIMITS)
    link = peer(driver, role)
    driver.congest(link)
    driver.advance(1000)
    assert not link.closed
    driver.unblock(link)
    driver.advance(29)
    assert not link.closed
    driver.advance(2)
    assert link.close_reason == CloseReason.HEARTBEAT_TIMEOUT


def test_a_peer_that_is_congested_late_in_its_lease_is_not_expired_for_it() -> None:
    driver = SwitchboardDriver(LIMITS)
    link = driver.client()
    driver.advance(29.5)
    driver.congest(link)
    driver.advance(10)
    assert not link.closed
