"""Rings: contiguous, bounded, and honest about what they no longer hold."""

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.allowance import Allowance
from reasonchip_broker.routing.replay import Budget, Ring


def ring(budget: Budget | None = None, chunks: int = 4, size: int = 100) -> Ring:
    return Ring(budget or Budget(1_000), chunks, size, Allowance(chunks, size))


def filled(numbers: int, frame: bytes = b"x" * 10, **options: int) -> Ring:
    made = ring(**options)  # type: ignore[arg-type]
    for _ in range(numbers):
        made.append(frame)
        made.taken = made.last
        made.invariants()
    return made


def test_an_empty_ring_expects_the_first_chunk() -> None:
    made = ring()
    assert (made.first, made.last, made.bytes, made.taken) == (1, 0, 0, 0)


def test_chunks_are_found_by_their_number() -> None:
    made = ring()
    for frame in (b"a", b"b", b"c"):
        made.append(frame)
    assert [made.get(number) for number in (1, 2, 3)] == [b"a", b"b", b"c"]
    assert (made.first, made.last, made.bytes) == (1, 3, 3)


def test_the_oldest_go_when_there_are_too_many_or_too_many_bytes() -> None:
    assert (filled(6).first, filled(6).last) == (3, 6)
    assert (filled(6, size=25).first, filled(6, size=25).bytes) == (5, 20)


def test_one_chunk_is_kept_whatever_its_size() -> None:
    made = filled(3, b"x" * 500)
    assert (made.first, made.last, made.bytes) == (3, 3, 500)


def test_what_is_not_taken_stays_whatever_its_size_and_goes_once_it_is() -> None:
    made = ring(size=25)
    for frame in (b"x" * 1_000, b"y", b"z"):
        made.append(frame)
    assert (made.first, made.bytes) == (1, 1_002)
    made.taken = 1
    made.append(b"x" * 10)
    assert (made.first, made.bytes) == (2, 12)


def test_to_make_room_for_other_rings_what_was_credited_goes_though_it_is_not_taken() -> None:
    made = ring(Budget(25), size=1_000)
    for _ in range(3):
        made.append(b"x" * 10)
    assert (made.first, made.bytes) == (1, 30)
    made.allowance.credited = 1
    made.append(b"x" * 10)
    assert (made.first, made.bytes) == (2, 30)


def test_so_many_chunks_are_never_passed_even_by_what_is_not_taken() -> None:
    made = ring(size=1000)
    for _ in range(9):
        made.append(b"x")
        made.invariants()
    assert (made.first, made.last) == (6, 9)


def test_after_a_skip_numbers_go_on_from_there() -> None:
    made = filled(2)
    made.skip_to(9)
    assert (made.first, made.last, made.bytes, made.taken, made.allowance.credited) == (9, 8, 0, 8, 8)
    made.append(b"y")
    assert (made.last, made.get(9)) == (9, b"y")
    made.invariants()


def test_a_cleared_ring_gives_its_bytes_back_and_goes_on() -> None:
    budget = Budget(1_000)
    made = ring(budget)
    made.append(b"x" * 10)
    made.clear()
    assert (budget.bytes, made.bytes, made.first, made.last) == (0, 0, 2, 1)
    made.append(b"y")
    assert (made.get(2), budget.bytes) == (b"y", 1)


def test_rings_of_jobs_that_are_over_make_room_for_others_oldest_first() -> None:
    budget = Budget(30)
    rings = [ring(budget) for _ in range(3)]
    for made in rings:
        made.append(b"x" * 10)
    budget.retire(rings[1])
    budget.retire(rings[0])
    ring(budget).append(b"x" * 10)
    assert [made.bytes for made in rings] == [10, 0, 10]
    assert budget.bytes == 30


def test_a_ring_that_lives_makes_room_with_its_own_when_no_other_is_over() -> None:
    budget = Budget(30)
    one, other = ring(budget), ring(budget)
    for _ in range(3):
        one.append(b"x" * 10)
    one.taken = 3
    other.append(b"x" * 10)
    assert budget.bytes == 40
    one.append(b"x" * 10)
    assert (budget.bytes, one.first, one.last) == (30, 3, 4)


def test_the_budget_forgets_rings_that_are_empty_though_an_older_one_is_not() -> None:
    budget = Budget(1_000)
    for number in range(100):
        made = ring(budget)
        made.append(b"x")
        budget.retire(made)
        if number:
            made.clear()
    empty = ring(budget)
    budget.retire(empty)
    assert (len(budget._retired), budget.bytes) == (1, 1)


@pytest.mark.parametrize(("field", "value"), [("bytes", 3), ("taken", 9)])
def test_a_ring_that_is_miscounted_is_noticed(field: str, value: int) -> None:
    made = filled(2)
    setattr(made, field, value)
    with pytest.raises(InternalError):
        made.invariants()
