"""When marks are looked at, and how many of them in a step."""

from reasonchip_broker.limits import SPENT_SHARDS
from reasonchip_broker.routing.ageing import LOOKED_AT_ONCE, Ageing
from reasonchip_broker.routing.table import RouteTable
from tests.unit.routing.test_table import cookie_of, over

RETENTION_S = 300.0
EVERY_S = 1.0
PERIOD_S = RETENTION_S + EVERY_S


def marked(each: int) -> RouteTable:
    """A table with so many marks in each of its dicts."""
    table = RouteTable(1_000_000)
    for number in range(each):
        for last in range(SPENT_SHARDS):
            table.spend(over(table, cookie_of(number, last)), 0)
    return table


def test_in_a_period_each_dict_is_looked_through_once_so_that_marks_last_for_one_and_not_for_three() -> None:
    table = marked(1)
    ageing = Ageing(table, RETENTION_S, EVERY_S)
    ageing.begin(1000.0)
    now = 1000.0
    while now < 1000.0 + PERIOD_S - EVERY_S:
        now += EVERY_S
        assert ageing.go_on(now)
        assert table.spent == SPENT_SHARDS
    while now < 1000.0 + 2.2 * PERIOD_S:
        now += EVERY_S
        ageing.go_on(now)
    assert table.spent == 0


def test_a_step_looks_at_few_and_says_that_more_is_due() -> None:
    table = marked(LOOKED_AT_ONCE // 5 + 1)
    ageing = Ageing(table, 1.0, 1.0)
    ageing.begin(1000.0)
    # In a second half of the dicts are due, and a step is enough for four of them, or five.
    steps, now = 1, 1001.0
    while not ageing.go_on(now):
        steps += 1
    assert SPENT_SHARDS // 2 // 5 <= steps <= SPENT_SHARDS // 2 // 4


def test_a_step_that_ends_with_a_dict_says_so_too() -> None:
    ageing = Ageing(marked(LOOKED_AT_ONCE // 2), 1.0, 1.0)
    ageing.begin(1000.0)
    assert [ageing.go_on(1001.0) for _ in range(SPENT_SHARDS // 4)] == [False] * (SPENT_SHARDS // 4 - 1) + [True]


def test_a_dict_with_more_than_a_step_is_good_for_takes_several() -> None:
    table = RouteTable(1_000_000)
    for number in range(3 * LOOKED_AT_ONCE):
        table.spend(over(table, cookie_of(number, last=0)), 0)
    ageing = Ageing(table, RETENTION_S, EVERY_S)
    ageing.begin(1000.0)
    assert [ageing.go_on(1002.0) for _ in range(4)] == [False, False, False, True]


def test_what_was_not_looked_at_in_time_is_not_made_up_for() -> None:
    table = marked(1)
    ageing = Ageing(table, RETENTION_S, EVERY_S)
    ageing.begin(1000.0)
    assert ageing.go_on(1000.0 + 10 * PERIOD_S)
    for second in range(1, 100):
        assert ageing.go_on(1000.0 + 10 * PERIOD_S + second * EVERY_S)
    assert table.spent == SPENT_SHARDS, "a broker that stood still has not let its clients ask for a retention"
