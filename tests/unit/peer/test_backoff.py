"""The waits between attempts to connect: they grow, are bounded, and differ from peer to peer."""

from random import Random

import pytest

from reasonchip_broker.peer.backoff import Backoff


class Highest(Random):
    """Chance that always draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0.0
        return b


def test_the_bound_doubles_up_to_the_most() -> None:
    backoff = Backoff(0.5, 3.0, Highest())
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_by_default_the_first_wait_is_a_twentieth_of_a_second_at_most_and_none_is_over_five() -> None:
    backoff = Backoff(random=Highest())
    waits = [backoff.next_s() for _ in range(9)]
    assert (waits[0], waits[-2:]) == (0.05, [5.0, 5.0])


def test_reset_begins_anew() -> None:
    backoff = Backoff(0.5, 8.0, Highest())
    for _ in range(4):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_a_peer_may_wait_for_years_without_an_overflow() -> None:
    backoff = Backoff(0.05, 5.0, Highest())
    assert [backoff.next_s() for _ in range(5000)][-1] == 5.0


def test_peers_that_fail_together_do_not_return_together() -> None:
    waits = [Backoff(1.0, 1.0, Random(seed)).next_s() for seed in range(200)]
    assert len(set(waits)) == 200
    assert min(waits) < 0.1, "the wait is drawn from all of the span"
    assert max(waits) > 0.9


@pytest.mark.parametrize(("first_s", "most_s"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_bounds_that_make_no_sense_are_refused(first_s: float, most_s: float) -> None:
    with pytest.raises(ValueError, match="first_s"):
        Backoff(first_s, most_s)
