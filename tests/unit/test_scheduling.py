"""What an operator may decide about scheduling."""

import pytest

from reasonchip_broker.scheduling import Scheduling


def test_nothing_need_be_decided() -> None:
    assert Scheduling() == Scheduling(half_life_s=60.0, ageing_s=0.0, weights={})


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"half_life_s": 0.0}, "half_life_s must be over 0, not 0.0"),
        ({"ageing_s": -1.0}, "ageing_s must not be below 0, not -1.0"),
        ({"weights": {"a": 0.0}}, "the weight of 'a' must be over 0 and at most 1,000,000, not 0.0"),
        ({"weights": {"a": 1.0, "b": 2e6}}, "the weight of 'b' must be over 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(settings: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Scheduling(**settings)  # type: ignore[arg-type]
