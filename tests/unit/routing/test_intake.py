"""Intake: options that are read once, and forgotten in time. (What a RUN is answered: `tests/unit/switchboard/test_run_answers.py`.)"""

import pytest

from reasonchip_broker.limits import OPTIONS_CACHED_BYTES_MAX, OPTIONS_CACHED_MAX
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType
from reasonchip_broker.testing.switchboard_driver import SwitchboardDriver


def meta(nonce: int = 0) -> bytes:
    return schemas.encode_meta(schemas.RunOptions(p="p", nonce=b"%d" % nonce))


def test_the_same_options_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    original = schemas.run_options

    def run_options(meta: bytes) -> schemas.RunOptions:
        decoded.append(meta)
        return original(meta)

    monkeypatch.setattr(schemas, "run_options", run_options)
    driver = SwitchboardDriver()
    client = driver.client()
    for number in range(5):
        driver.send(client, packets.run(b"%016d" % (number + 1), meta(), b""))
    assert decoded == [meta()]


def test_options_are_kept_for_no_more_than_so_many_and_so_long() -> None:
    driver = SwitchboardDriver(checks=False)
    client = driver.client()
    known = driver.switchboard._intake.known
    sizes = []
    for number in range(OPTIONS_CACHED_MAX + 2):
        driver.send(client, packets.run(b"%016d" % (number + 1), meta(number), b""))
        sizes.append(len(known))
    assert (max(sizes), sizes[-1]) == (OPTIONS_CACHED_MAX, 2)
    unread = bytes(OPTIONS_CACHED_BYTES_MAX)
    long = b"\x82\xa1p\xa1p\xa1x\xc5" + len(unread).to_bytes(2, "big") + unread
    driver.send(client, packets.run(b"l" * 16, long, b""))
    assert (long in known, driver.switchboard.jobs) == (False, OPTIONS_CACHED_MAX + 3)


def test_options_that_are_no_map_end_the_connection_and_bad_ones_only_the_run() -> None:
    driver = SwitchboardDriver()
    good, bad = driver.client(), driver.client()
    driver.send(good, packets.run(b"a" * 16, b"\x80", b""))
    driver.send(bad, packets.run(b"b" * 16, b"\xc0", b""))
    assert (good.take_codes(), bad.close_reason) == ([(PacketType.REPLY, Code.BAD_PACKET)], CloseReason.PROTOCOL_ERROR)
