"""Counters are plain integers from zero, and all of them are told."""

from reasonchip_broker.routing.counters import Counters


def test_all_counters_begin_at_zero() -> None:
    assert set(Counters().as_dict().values()) == {0}


def test_every_counter_is_told_by_its_name() -> None:
    counters = Counters()
    expected = {}
    for number, name in enumerate(Counters().as_dict(), 1):
        setattr(counters, name, number)
        expected[name] = number
    assert counters.as_dict() == expected
    assert set(expected) == {
        *("cancelled", "finished", "queued", "refused", "results_dropped", "results_unheard"),
        *("progress", "progress_dropped", "retried", "parking_dropped", "extends_dropped"),
    }


def test_what_was_told_does_not_change_later() -> None:
    counters = Counters()
    told = counters.as_dict()
    counters.finished += 1
    assert told["finished"] == 0
