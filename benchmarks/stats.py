"""Percentiles, medians with their spread, and ratios of what was measured in the same round."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, and the lowest and highest of them."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of `values`, or None if there are none."""
    if not values:
        return None
    return Spread(median=statistics.median(values), low=min(values), high=max(values), count=len(values))


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """Between which two of `values`, which are some, the middle half of them lies: a quarter is left out at each end."""
    ordered = sorted(values)
    aside = len(ordered) // 4
    return ordered[aside], ordered[-1 - aside]


def percentile(ordered: Sequence[int], fraction: float) -> int:
    """The smallest value that at least `fraction` (0 to 1) of `ordered` do not exceed (the nearest rank); 0 if there are none.

    `ordered` must be sorted. No value is interpolated: what is reported was measured.
    """
    if not ordered:
        return 0
    rank = math.ceil(fraction * len(ordered))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ours divided by theirs, for each round in which both were measured. Both map the number of a round to its figure."""
    return [value / theirs[number] for number, value in sorted(ours.items()) if theirs.get(number)]
