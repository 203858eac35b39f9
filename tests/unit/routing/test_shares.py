"""Fair shares: what is counted, when it is worth half, and what is forgotten."""

from itertools import pairwise

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import SHARES_KNOWN_MAX
from reasonchip_broker.routing.shares import TURN_S_MIN, Share, Shares
from reasonchip_broker.scheduling import Scheduling


def make_shares(now: float = 0.0, **scheduling: object) -> Shares:
    shares = Shares(Scheduling(**scheduling))  # type: ignore[arg-type]
    shares.advance(now)
    return shares


def runs(share: Share, since: float, until: float, slots: int = 1, jobs: int = 1) -> None:
    share.began(slots, since)
    share.ended(slots, jobs, until)


def test_slots_count_for_as_long_as_they_are_taken() -> None:
    share = make_shares(half_life_s=1e9).of_key("", "k")
    share.began(2, 10.0)
    share.began(1, 14.0)
    share.ended(2, 2, 15.0)
    share.ended(1, 1, 25.0)
    assert share.used_s(0.0) == pytest.approx(2 * 4 + 3 * 1 + 1 * 10, rel=0.001)
    assert share.running == 0


def test_what_was_used_is_worth_half_after_a_half_life() -> None:
    shares = make_shares(half_life_s=60.0)
    share = shares.of_key("", "k")
    runs(share, 0.0, 0.5, slots=100)
    before = share.used_s(0.0)
    for now in (60.0, 120.0):
        shares.advance(now)
        assert share.used_s(0.0) == pytest.approx(before / 2, rel=0.001)
        before = share.used_s(0.0)


def test_of_what_took_long_the_end_counts_for_more_than_the_beginning() -> None:
    share = make_shares(half_life_s=60.0).of_key("", "k")
    shares = share._shares
    share.began(1, 0.0)
    shares.advance(6000.0)
    share.ended(1, 1, 6000.0)
    # The integral of 2^(-t / 60) from 0 to long ago.
    assert share.used_s(0.0) == pytest.approx(60.0 / 0.6931, rel=0.01)


def test_a_slot_that_is_looked_at_often_counts_as_much_as_one_that_is_looked_at_once() -> None:
    shares = make_shares(half_life_s=60.0)
    often, once = shares.of_key("", "often"), shares.of_key("", "once")
    often.began(1, 0.0)
    once.began(1, 0.0)
    for second in range(1, 301):
        if second >= shares.advances_at:
            shares.advance(float(second))
        often.order(float(second))
    for share in (often, once):
        share.ended(1, 1, 300.0)
    assert often.used_s(0.0) == pytest.approx(once.used_s(0.0), rel=0.02)


def test_a_turn_is_charged_at_once_and_what_was_charged_is_corrected_at_the_end() -> None:
    share = make_shares(half_life_s=1e9).of_key("", "k")
    for turn in range(50):
        runs(share, 10.0 * turn, 10.0 * turn + 4.0)
    assert share.turn_s == pytest.approx(4.0, rel=0.05)
    before = share.order(500.0)
    share.began(1, 500.0)
    assert share.order(500.0) - before == pytest.approx(4.0, rel=0.05)
    share.ended(1, 1, 501.0)
    assert share.order(501.0) - before == pytest.approx(1.0 + TURN_S_MIN)


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_it_is_all_the_same_whether_jobs_end_one_by_one_or_many_at_a_time(batch: int) -> None:
    shares = make_shares(half_life_s=1e9)
    single, many = shares.of_key("", "single"), shares.of_key("", "many")
    for share in (single, many):
        share.began(batch, 0.0)
    many.ended(batch, batch, 3.0)
    for _ in range(batch):
        single.ended(1, 1, 3.0)
    assert single.turn_s == pytest.approx(many.turn_s)
    assert single.order(3.0) == pytest.approx(many.order(3.0))


def test_a_key_of_weight_3_counts_a_third() -> None:
    shares = make_shares(half_life_s=1e9, weights={"three": 3.0})
    one, three = shares.of_key("", "one"), shares.of_key("", "three")
    for share in (one, three):
        runs(share, 0.0, 30.0)
    assert one.order(30.0) == pytest.approx(3 * three.order(30.0))
    assert one.used_s(0.0) == pytest.approx(three.used_s(0.0))


def test_keys_are_found_by_principal_and_name_and_a_connection_is_its_own() -> None:
    shares = make_shares()
    assert shares.of_key("a", "k") is shares.of_key("a", "k")
    assert shares.of_key("a", "k") is not shares.of_key("b", "k")
    assert shares.of_key("a", "") is not shares.of_key("a", "k")
    assert shares.of_connection("", "1") is not shares.of_connection("", "1")


def test_other_weights_hold_from_the_moment_in_which_they_are_set() -> None:
    shares = make_shares(half_life_s=1e9)
    key, connection = shares.of_key("", "k"), shares.of_connection("", "k")
    for share in (key, connection):
        runs(share, 0.0, 10.0)
    before = key.order(10.0)
    shares.configure(Scheduling(half_life_s=1e9, weights={"k": 2.0}), 10.0)
    assert key.order(10.0) == pytest.approx(before / 2)
    assert connection.order(10.0) == before, "whoever calls itself by a name has no right to its weight"


def test_another_half_life_changes_nothing_that_was_counted() -> None:
    shares = make_shares(half_life_s=60.0)
    share = shares.of_key("", "k")
    runs(share, 0.0, 10.0)
    shares.advance(100.0)
    before = share.used_s(0.0)
    shares.configure(Scheduling(half_life_s=10.0), 100.0)
    shares.advance(100.0)
    assert share.used_s(0.0) == pytest.approx(before)
    shares.advance(110.0)
    assert share.used_s(0.0) == pytest.approx(before / 2)


def test_numbers_stay_finite_however_long_it_goes_on() -> None:
    shares = make_shares(half_life_s=1.0)
    share = shares.of_key("", "k")
    orders: list[float] = []
    for second in range(0, 5000, 100):
        factor = shares.advance(float(second))
        orders = [order * factor for order in orders]
        runs(share, float(second), float(second) + 0.5)
        orders.append(share.order(second + 0.5))
    assert all(before <= after < float("inf") for before, after in pairwise(orders))
    shares.advance(1e9)
    assert share.used_s(0.0) < 1e-100


def test_idle_keys_are_forgotten_beyond_a_bound_and_those_with_jobs_are_not() -> None:
    shares = make_shares()
    busy = shares.of_key("", "busy")
    busy.began(1, 0.0)
    used = shares.of_key("", "used")
    runs(used, 0.0, 100.0)
    for number in range(3 * SHARES_KNOWN_MAX):
        shares.of_key("", str(number))
    assert len(shares.all) <= SHARES_KNOWN_MAX
    assert shares.of_key("", "busy") is busy
    assert shares.of_key("", "used") is used, "who has used most is forgotten last"


def test_a_connection_that_leaves_is_forgotten_with_its_last_job() -> None:
    shares = make_shares()
    share = shares.of_connection("", "c")
    assert share not in shares.all, "it has had nothing yet"
    share.began(1, 0.0)
    shares.left(share)
    assert share in shares.all
    share.ended(1, 1, 1.0)
    shares.left(share)
    assert share not in shares.all


def test_the_invariants_notice_slots_that_are_miscounted() -> None:
    shares = make_shares()
    share = shares.of_key("", "k")
    share.began(2, 0.0)
    shares.invariants({share: 2, None: 5})
    for counted in ({share: 1}, {}):
        with pytest.raises(InternalError, match="counts 2 slots"):
            shares.invariants(counted)  # type: ignore[arg-type]
