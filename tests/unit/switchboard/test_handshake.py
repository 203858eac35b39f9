"""How a connection begins: HELLO, WELCOME, and what happens without them."""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import CloseReason, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import OVERSIZED
from reasonchip_broker.testing.switchboard_driver import SwitchboardDriver, view

ROLES = (Role.CLIENT, Role.WORKER)
BEFORE_HELLO = {
    "run": packets.run(b"k" * 16, schemas.encode_meta(schemas.RunOptions(p="p")), b""),
    "cancel": packets.cancel(b"k" * 16),
    "register": packets.register(schemas.RegisterMeta(cap=1, serves=["*"])),
    "result": packets.result(b"k" * 16, 1, b"", ""),
    "ping": packets.ping(),
    "pong": packets.pong(0),
    "drain": packets.drain(),
    "unknown": encode(99),
}


@pytest.mark.parametrize("role", ROLES)
def test_hello_is_answered_with_welcome_and_then_packets_are_taken(role: Role) -> None:
    driver = SwitchboardDriver()
    link = driver.connect(role)
    assert not link.welcomed
    driver.greet(link, schemas.HelloMeta(sw="lib", v="2", name="me", inst=b"i" * 16, grace=3))
    assert link.welcomed
    driver.send(link, packets.ping(5))
    assert link.take_one(PacketType.PONG).number == 5


def test_hello_is_logged_with_who_says_it() -> None:
    driver = SwitchboardDriver()
    link = driver.connect(Role.WORKER)
    driver.greet(link, schemas.HelloMeta(sw="lib", v="2", name="me"))
    assert driver.logs == [
        ("info", "connection welcomed", {"connection": link.id.hex(), "software": "lib 2", "name": "me"}),
    ]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("packet", BEFORE_HELLO)
def test_row_16_anything_before_hello_closes_the_connection_and_has_no_effect(role: Role, packet: str) -> None:
    driver = SwitchboardDriver()
    link = driver.connect(role)
    driver.send(link, BEFORE_HELLO[packet], packets.hello(schemas.HelloMeta()), BEFORE_HELLO[packet])
    assert link.close is not None
    assert (link.close.reason, link.take()) == (CloseReason.PROTOCOL_ERROR, [])
    assert link.close.sentence.startswith("HELLO comes first")
    assert (driver.switchboard.jobs, driver.switchboard.free_slots("p"), len(driver.switchboard.timers)) == (0, 0, 0)


def test_row_16_an_oversized_packet_before_hello_closes_the_connection() -> None:
    driver = SwitchboardDriver()
    link = driver.connect(Role.CLIENT)
    kind, cookie, raw, code, attempt, number, _ = view(BEFORE_HELLO["run"])
    driver.deliver(link, [(kind + OVERSIZED, cookie, raw[:32], code, attempt, number, 0)])
    assert (link.close_reason, link.take()) == (CloseReason.PROTOCOL_ERROR, [])


@pytest.mark.parametrize("role", ROLES)
def test_a_second_hello_closes_the_connection(role: Role) -> None:
    driver = SwitchboardDriver()
    link = driver.connect(role)
    driver.greet(link)
    driver.send(link, packets.hello(schemas.HelloMeta()))
    assert link.close is not None
    assert (link.close.reason, link.take()) == (CloseReason.PROTOCOL_ERROR, [])
    assert link.close.sentence.startswith("HELLO comes once")


@pytest.mark.parametrize(
    "meta",
    [
        b"\xc1",
        b"\x01",
        b"\x81",
        b"\x81\xa4name\xa0",
        b"\x81\xa4name\xa3a\nb",
        b"\x81\xa4inst\xc4\x01a",
        b"\x81\xa2sw\x01",
        schemas.encode_meta(schemas.HelloMeta(sw="x" * 256)),
    ],
)
def test_a_hello_that_makes_no_sense_closes_the_connection_with_a_sentence(meta: bytes) -> None:
    driver = SwitchboardDriver()
    link = driver.connect(Role.CLIENT)
    driver.send(link, encode(PacketType.HELLO, meta=meta))
    assert link.close is not None
    assert link.close.reason == CloseReason.PROTOCOL_ERROR
    assert link.close.sentence.startswith("HELLO: ")


def test_hello_may_say_nothing_at_all_and_keys_that_nobody_knows() -> None:
    driver = SwitchboardDriver()
    for meta in (b"", b"\x80", b"\x81\xa6future\xc3"):
        link = driver.connect(Role.CLIENT)
        driver.send(link, encode(PacketType.HELLO, meta=meta))
        link.take_one(PacketType.WELCOME)


@pytest.mark.parametrize("role", ROLES)
def test_goodbye_is_taken_before_and_after_welcome(role: Role) -> None:
    driver = SwitchboardDriver()
    early, late = driver.connect(role), driver.connect(role)
    driver.greet(late)
    for link in (early, late):
        driver.send(link, packets.goodbye(CloseReason.NORMAL, "bye"))
        assert (link.close_reason, link.take()) == (CloseReason.NORMAL, [])


def test_without_hello_a_connection_is_closed_when_its_time_is_up_and_not_before() -> None:
    driver = SwitchboardDriver(Limits(handshake_s=4.0))
    link = driver.connect(Role.CLIENT)
    driver.advance(3.99)
    assert not link.closed
    driver.advance(0.02)
    assert link.close is not None
    assert (link.close.reason, link.close.sentence) == (CloseReason.HANDSHAKE_TIMEOUT, "no HELLO within 4 s")


def test_one_who_said_hello_in_time_is_not_closed_for_it() -> None:
    driver = SwitchboardDriver(Limits(handshake_s=4.0))
    link = driver.connect(Role.CLIENT)
    driver.advance(3.99)
    driver.greet(link)
    driver.advance(5)
    assert (link.closed, link.take()) == (False, [])


@pytest.mark.parametrize("role", ROLES)
def test_json_peers_know_no_handshake_and_no_heartbeat(role: Role) -> None:
    driver = SwitchboardDriver()
    link = driver.connect(role, Dialect.JSON)
    assert link.welcomed
    driver.advance(10_000)
    assert (link.closed, link.take(), len(driver.switchboard.timers)) == (False, [], 0)


@pytest.mark.parametrize("greeted", [False, True])
def test_what_is_no_frame_ends_the_connection_for_the_reason_given(greeted: bool) -> None:
    driver = SwitchboardDriver()
    link = driver.connect(Role.CLIENT)
    if greeted:
        driver.greet(link)
    driver.offend(link, CloseReason.FRAME_TOO_LARGE, "much too large")
    assert link.close is not None
    assert (link.close.reason, link.close.sentence) == (CloseReason.FRAME_TOO_LARGE, "much too large")
    assert len(driver.switchboard.timers) == 0


def test_a_connection_that_breaks_in_its_handshake_leaves_nothing() -> None:
    driver = SwitchboardDriver()
    link = driver.connect(Role.WORKER)
    driver.disconnect(link)
    assert (len(driver.switchboard.peers), len(driver.switchboard.timers)) == (0, 0)


def test_the_principal_is_what_the_caller_says() -> None:
    driver = SwitchboardDriver()
    assert driver.connect(Role.CLIENT, principal="somebody").peer.principal == "somebody"
