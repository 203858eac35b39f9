"""The clock stands still until it is told to move, and never goes back."""

import pytest

from reasonchip_broker.testing.virtual_clock import VirtualClock


def test_it_stands_still() -> None:
    clock = VirtualClock(5.0)
    assert (clock.now, clock(), clock()) == (5.0, 5.0, 5.0)


def test_it_moves_as_far_as_it_is_told() -> None:
    clock = VirtualClock(5.0)
    assert clock.advance(0.5) == 5.5
    assert clock.advance_to(9.0) == 9.0
    assert clock() == 9.0
    assert clock.advance(0) == 9.0


@pytest.mark.parametrize("back", [-1.0, -0.001])
def test_it_does_not_go_back(back: float) -> None:
    clock = VirtualClock(5.0)
    with pytest.raises(ValueError, match="a monotonic clock does not go back, from 5"):
        clock.advance(back)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance_to(5.0 + back)
    assert clock.now == 5.0
