"""The table of jobs."""

import sys

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import SPENT_SHARDS
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.packs import Pack
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.table import AGES, RouteTable
from tests.unit.routing.making import make_peer

OWNER = make_peer()
OPTIONS = RunOptions(p="pipeline")
ALL = 1_000_000
"""No dict has so many entries."""

KIND = EligibilityClass(1, "pipeline", False, [])


def cookie_of(number: int, last: int = 7) -> bytes:
    return number.to_bytes(15, "big") + bytes((last,))


def over(table: RouteTable, cookie: bytes, principal: str = "p") -> Route:
    route = Route(cookie, OWNER, principal, OPTIONS, KIND, RouteState.OVER)
    table.add(route)
    return route


def packed(table: RouteTable, cookies: list[bytes]) -> Pack:
    """A complete pack of these jobs, in the table."""
    routes = [over(table, cookie) for cookie in cookies]
    pack = Pack(routes[0], 5.0)
    for route in routes:
        pack.frames.append(bytes(8) + route.cookie + bytes(8) + b"result")
        pack.taken.append(route.taken_at)
        table.shards[route.cookie[15]][route.cookie] = pack
    pack.size = len(cookies)
    pack.bytes = sum(map(len, pack.frames))
    return pack


def test_a_job_is_found_by_its_cookie_until_it_is_removed() -> None:
    table = RouteTable(100)
    route = over(table, cookie_of(1))
    assert (table.get(route.cookie), table[route.cookie], list(table)) == (route, route, [route])
    table.remove(route)
    assert (table.get(route.cookie), route.cookie in table, table.routes) == (None, False, 0)
    with pytest.raises(KeyError):
        table[route.cookie]


def test_of_a_job_that_is_spent_only_whose_it_was_and_its_code_are_known() -> None:
    table = RouteTable(100)
    route = over(table, cookie_of(1))
    table.spend(route, 3)
    assert (table.get(route.cookie), route.cookie in table, table.spent_by(route.cookie)) == (None, True, ("p", 3))
    assert (table.routes, table.spent) == (0, 1)
    assert table.spent_by(cookie_of(2)) is None


def test_a_full_table_drops_its_oldest_marks_and_no_job() -> None:
    table = RouteTable(10)
    stays = over(table, cookie_of(0))
    cookies = [cookie_of(number) for number in range(1, 15)]
    for cookie in cookies:
        table.spend(over(table, cookie), 3)
    assert [table.spent_by(cookie) is not None for cookie in cookies] == [False] * 4 + [True] * 10
    assert (table.spent, table.get(stays.cookie)) == (10, stays)
    table.invariants()


def test_marks_that_are_all_in_one_dict_are_dropped_as_well() -> None:
    table = RouteTable(SPENT_SHARDS * 16)
    for number in range(SPENT_SHARDS * 16 + 1):
        table.spend(over(table, cookie_of(number, last=200)), 0)
    assert SPENT_SHARDS * 15 < table.spent <= SPENT_SHARDS * 16
    table.invariants()


@pytest.mark.parametrize("periods", [1, 3])
@pytest.mark.parametrize("last", [0, 100, 255])
@pytest.mark.parametrize("begin", [0, 37, 250])
def test_a_mark_lasts_for_its_periods_and_for_little_more_than_one_longer(begin: int, last: int, periods: int) -> None:
    table = RouteTable(100)
    for _ in range(begin):
        table.age(ALL)
    table.spend(over(table, cookie_of(1, last)), 0, periods)
    for _ in range(SPENT_SHARDS * periods):
        assert cookie_of(1, last) in table
        table.age(ALL)
    for _ in range(SPENT_SHARDS + SPENT_SHARDS // AGES):
        table.age(ALL)
    assert cookie_of(1, last) not in table
    assert table.spent == 0


def test_a_dict_of_many_entries_is_looked_through_a_part_at_a_time() -> None:
    table = RouteTable(10_000)
    cookies = [cookie_of(number, last=0) for number in range(95)]
    for cookie in cookies[:60]:
        table.spend(over(table, cookie), 0)
    stays = [over(table, cookie) for cookie in cookies[60:65]]
    for _ in range(SPENT_SHARDS * 2):
        table.age(ALL)
    assert [table.age(20) for _ in range(3)] == [False, False, False]
    assert table.spent == 60 - 35
    # Neither what comes meanwhile is lost, nor what goes.
    for cookie in cookies[65:]:
        table.spend(over(table, cookie), 0)
    table.remove(stays[0])
    assert [table.age(20) for _ in range(2)] == [False, True]
    assert (table.spent, table.looked_at, list(table)) == (30, 65, stays[1:])
    assert all(cookie in table for cookie in cookies[61:])
    table.invariants()


def test_a_dict_that_most_entries_leave_gives_its_memory_back() -> None:
    table = RouteTable(10_000)
    stays = over(table, cookie_of(0, last=0))
    for number in range(1, 1000):
        table.spend(over(table, cookie_of(number, last=0)), 0)
    before = sys.getsizeof(table.shards[0])
    for _ in range(SPENT_SHARDS * 2 + 1):
        table.age(ALL)
    assert (list(table), table.spent) == ([stays], 0)
    assert sys.getsizeof(table.shards[0]) < before / 20


def test_where_there_are_no_marks_nothing_is_looked_at() -> None:
    table = RouteTable(100)
    for number in range(100):
        over(table, cookie_of(number, last=0))
    assert (table.age(1), table.looked_at) == (True, 0)


def test_marks_of_cookies_that_are_forgotten_do_not_pile_up() -> None:
    table = RouteTable(SPENT_SHARDS * 8)
    for age in range(SPENT_SHARDS * 6):
        table.spend(over(table, cookie_of(age, age % SPENT_SHARDS), principal=f"principal {age}"), 0)
        table.age(ALL)
    assert len(table._marks) <= SPENT_SHARDS * 2


def test_who_asks_for_one_job_of_a_pack_finds_it_and_the_others_by_themselves() -> None:
    table = RouteTable(100)
    cookies = [cookie_of(number, number) for number in range(12)]
    pack = packed(table, cookies)
    assert list(table) == []
    table.spend_pack(pack, 2)
    table.invariants()
    route = table.get(cookies[5])
    assert route is not None
    assert (route.state, route.frame[-6:], route.cookie, route.attempt) == (RouteState.OVER, b"result", cookies[5], 1)
    assert [found.cookie for found in table] == cookies[2:]
    assert [table.spent_by(cookie) for cookie in cookies[:3]] == [("p", Code.OK), ("p", Code.OK), None]
    assert (table.routes, table.spent) == (10, 2)
    table.invariants()
    for _ in range(2 * SPENT_SHARDS + 2 * SPENT_SHARDS // AGES):
        table.age(ALL)
    assert (table.routes, table.spent) == (10, 0), "what it had shrunk to lasts no longer than other marks"


@pytest.mark.parametrize("size", [1, 7, 8, 20])
@pytest.mark.parametrize("begin", [0, 37, 250])
def test_a_pack_that_is_spent_is_the_mark_of_its_cookies_for_as_long_as_any_mark(begin: int, size: int) -> None:
    table = RouteTable(100)
    for _ in range(begin):
        table.age(ALL)
    cookies = [cookie_of(number, 255 - 13 * number) for number in range(size)]
    pack = packed(table, cookies)
    before = pack.bytes
    assert table.spend_pack(pack, size) == before
    assert [table.get(cookie) for cookie in cookies] == [None] * size
    assert [table.spent_by(cookie) for cookie in cookies] == [("p", Code.OK)] * size
    assert (table.routes, table.spent, pack.state) == (0, size, RouteState.FORGOTTEN)
    table.invariants()
    for _ in range(SPENT_SHARDS):
        table.age(ALL)
    assert [table.spent_by(cookie) for cookie in cookies] == [("p", Code.OK)] * size
    for _ in range(SPENT_SHARDS + SPENT_SHARDS // AGES):
        table.age(ALL)
    assert not any(table.shards)
    assert table.spent == 0


def test_marks_of_packs_make_room_too() -> None:
    table = RouteTable(16)
    for number in range(0, 100, 10):
        table.spend_pack(packed(table, [cookie_of(number + place, place) for place in range(10)]), 10)
    assert table.spent == 16
    table.invariants()


def test_marks_beyond_the_bound_go_however_many_come_at_once_and_end_in_the_same_byte() -> None:
    table = RouteTable(16)
    for number in range(0, 100, 20):
        table.spend_pack(packed(table, [cookie_of(number + place) for place in range(20)]), 20)
        assert table.spent == 16
    assert [cookie_of(number) in table for number in (83, 84, 99)] == [False, True, True]
    table.invariants()


def test_marks_of_a_pack_that_still_keeps_an_outcome_stay_until_it_is_spent() -> None:
    table = RouteTable(4)
    pack = packed(table, [cookie_of(place) for place in range(10)])
    table.spend_pack(pack, 9)
    assert table.spent == 9
    table.spend_pack(pack, 10)
    assert table.spent == 4
    table.invariants()


def test_a_pack_whose_time_is_over_leaves_the_marks_of_what_had_shrunk() -> None:
    table = RouteTable(100)
    cookies = [cookie_of(number, number) for number in range(12)]
    pack = packed(table, cookies)
    table.spend_pack(pack, 4)
    table.remove_pack(pack)
    assert [table.spent_by(cookie) for cookie in cookies] == [("p", Code.OK)] * 4 + [None] * 8
    assert [cookie in table for cookie in cookies] == [True] * 4 + [False] * 8
    table.invariants()


def test_the_invariants_notice_what_is_filed_in_the_wrong_place() -> None:
    table = RouteTable(100)
    route = over(table, cookie_of(1))
    table.shards[8][route.cookie] = table.shards[7].pop(route.cookie)
    with pytest.raises(InternalError, match="wrong place"):
        table.invariants()
