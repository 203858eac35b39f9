"""What the model says that a broker must still have of a job's chunks."""

from reasonchip_broker.limits import Limits
from reasonchip_broker.testing.simulation.rings import Held

LIMITS = Limits(ring_chunks_max=4, ring_bytes_max=100)


def held(*sizes: int, taken: int | None = None, crowded: bool = False) -> Held:
    """After chunks of these sizes; each was taken before the next came, unless it is said how far."""
    chunks = Held(LIMITS)
    for place, size in enumerate(sizes):
        chunks.append(size, place if taken is None else taken, crowded=crowded)
    return chunks


def test_so_many_of_the_latest_chunks_are_there() -> None:
    assert [held(*[1] * count).lowest for count in (1, 4, 5, 9)] == [1, 1, 2, 6]


def test_so_many_bytes_of_the_latest_chunks_are_there_and_the_last_one_of_any_size() -> None:
    assert [held(*sizes).lowest for sizes in ((50, 50), (50, 51), (10, 20, 80), (10, 101), (101, 10))] == [1, 2, 2, 2, 2]


def test_what_nobody_has_taken_is_there_whatever_its_bytes() -> None:
    assert [held(60, 60, 60, taken=taken).lowest for taken in (0, 1, 2)] == [1, 2, 3]
    assert held(*[60] * 5, taken=0).lowest == 2


def test_where_all_jobs_together_have_too_much_only_what_nobody_has_taken_is_there() -> None:
    assert [held(1, 1, 1, taken=taken, crowded=True).lowest for taken in (0, 1, 2)] == [1, 2, 3]


def test_what_may_be_gone_is_not_there_again() -> None:
    chunks = held(1, 1, 1)
    chunks.drop()
    assert chunks.lowest == 4
    chunks.append(1, 0)
    assert chunks.lowest == 4
    chunks.drop(2)
    assert chunks.lowest == 7
    chunks.append(1, 6)
    assert chunks.lowest == 7


def test_there_are_no_more_bytes_than_those_of_so_many_chunks() -> None:
    assert [held().bytes_max, held(5, 6).bytes_max, held(5, 6, 7, 8, 9).bytes_max] == [0, 11, 30]
