import os
import time

import pytest

from benchmarks.procstat import TICKS_PER_SECOND, read_cpu, read_memory
from benchmarks.stats import Spread, middle_half, percentile, ratios, spread


def test_a_percentile_is_a_value_that_was_measured():
    ordered = list(range(1, 1001))
    assert percentile(ordered, 0.5) == 500
    assert percentile(ordered, 0.99) == 990
    assert percentile(ordered, 0.999) == 999
    assert percentile(ordered, 1) == 1000
    assert percentile([7], 0.999) == 7
    assert percentile([], 0.5) == 0


def test_a_spread_is_the_median_with_the_extremes():
    assert spread([3.0, 1.0, 8.0]) == Spread(median=3.0, low=1.0, high=8.0, count=3)
    assert spread([]) is None


def test_the_middle_half_leaves_out_a_quarter_at_each_end():
    assert middle_half([9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 3.5]) == (2.0, 4.0)
    assert middle_half([7.0]) == (7.0, 7.0)


def test_a_ratio_needs_both_figures_of_a_round():
    assert ratios({1: 2.0, 2: 3.0, 4: 9.0}, {1: 4.0, 2: 2.0, 3: 1.0}) == [0.5, 1.5]


def test_processor_time_is_counted_and_agrees_with_the_ticks():
    before = read_cpu(os.getpid())
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    after = read_cpu(os.getpid())
    used = (after.total_ns - before.total_ns) / 1e9
    ticks = (after.user_ticks + after.system_ticks - before.user_ticks - before.system_ticks) / TICKS_PER_SECOND
    assert 0.2 <= used < 0.4
    assert ticks == pytest.approx(used, abs=0.05)


def test_memory_is_read_in_bytes():
    now, peak = read_memory(os.getpid())
    assert 5_000_000 < now <= peak


def test_a_process_that_is_gone_is_told():
    with pytest.raises(ProcessLookupError):
        read_cpu(2**22 + 1)
    with pytest.raises(ProcessLookupError):
        read_memory(2**22 + 1)
