"""RESULTs that the broker has not acknowledged."""

import pytest

from reasonchip_broker.protocol.binary import NUMBER_MAX
from reasonchip_broker.worker import ledger as ledgers
from reasonchip_broker.worker.ledger import Key, Ledger


def key(n: int) -> Key:
    return bytes([n]) * 16, 1


def sent(count: int) -> Ledger:
    ledger = Ledger()
    for n in range(count):
        ledger.keep(key(n), b"frame %d" % n)
        ledger.sent(key(n))
    return ledger


def test_an_acknowledgement_counts_all_of_the_connection() -> None:
    ledger = sent(4)
    ledger.acknowledged(1)
    assert ledger.keys == [key(1), key(2), key(3)]
    ledger.acknowledged(3)
    ledger.acknowledged(3)
    assert ledger.keys == [key(3)]
    assert ledger.frame(key(3)) == b"frame 3"
    assert ledger.frame(key(0)) is None


@pytest.mark.parametrize("count", [5, NUMBER_MAX])
def test_what_was_never_sent_cannot_be_acknowledged(count: int) -> None:
    ledger = sent(4)
    ledger.acknowledged(count)
    assert len(ledger) == 4


def test_the_count_wraps() -> None:
    ledger = sent(2)
    ledger._acknowledged = NUMBER_MAX
    ledger.acknowledged(0)
    assert ledger.keys == [key(1)]


def test_a_new_connection_counts_anew_and_keeps_what_is_owed() -> None:
    ledger = sent(3)
    ledger.acknowledged(1)
    ledger.connected()
    assert ledger.keys == [key(1), key(2)]
    assert not ledger.was_sent(key(1))
    ledger.sent(key(2))
    ledger.acknowledged(1)
    assert ledger.keys == [key(1)]


def test_its_memory_is_bounded_however_little_is_acknowledged(monkeypatch) -> None:
    monkeypatch.setattr(ledgers, "RESULTS_MAX", 3)
    ledger = sent(10)
    assert ledger.keys == [key(7), key(8), key(9)]
    assert len(ledger._sent) == len(ledger._out) == 3
    ledger.acknowledged(8)
    assert ledger.keys == [key(8), key(9)]
    monkeypatch.setattr(ledgers, "RESULTS_BYTES_MAX", 10)
    ledger.keep(key(20), bytes(100))
    assert ledger.keys == [key(20)], "one is always kept"
    ledger.clear()
    assert (len(ledger), ledger._bytes) == (0, 0)
