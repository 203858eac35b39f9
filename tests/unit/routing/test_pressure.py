"""Back-pressure: who may wait, and when it is worth while to come again."""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_JSON, Code, PacketType
from reasonchip_broker.routing.pressure import RETRY_MS, RETRY_MS_MAX, RETRY_MS_MIN, Drain, retry_ms
from reasonchip_broker.routing.shares import ANONYMOUS
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver
from tests.unit.routing.scenes import inside

EMPTY_BYTES = len(packets.run(bytes(16), schemas.encode_meta(schemas.RunOptions(p="p", enc=ENCODING_JSON)), b""))
MIDDLE = bytes(14) + b"\x80\x00"
"""The end of a cookie that spreads nothing."""


def hint(link: FakeLink) -> tuple[int, str]:
    """The milliseconds and the sentence of the refusal that came."""
    packet = link.take_kinds(PacketType.REPLY)[-1]
    assert packet.code == Code.OVERLOADED
    meta = schemas.reply_meta(packet.meta)
    return meta.retry, meta.msg


# The hint


def test_the_hint_is_the_time_until_there_should_be_room() -> None:
    drain = Drain()
    for number in range(100):
        drain.left(number / 10)
    assert drain.rate(10.0) == pytest.approx(10.0, rel=0.05)
    assert [round(drain.turned_away(10.0) or 0.0, 1) for _ in range(3)] == [0.1, 0.2, 0.3], "each one after those before"


def test_whoever_leaves_makes_room_for_one_who_was_turned_away() -> None:
    drain = Drain()
    for number in range(100):
        drain.left(number / 10)
    for _ in range(5):
        drain.turned_away(10.0)
    for number in range(5):
        drain.left(10.0 + number / 10)
    assert drain.outside == 0


def test_a_rate_is_known_early_and_follows_what_happens() -> None:
    drain = Drain()
    assert drain.rate(5.0) == 0.0
    assert drain.turned_away(5.0) is None
    for number in range(20):
        drain.left(5.0 + number / 20)
    assert drain.rate(6.0) == pytest.approx(20.0, rel=0.15), "after a second"
    assert drain.rate(26.0) < 5.0, "and 20 s later, in which nothing left"


def test_jobs_that_leave_in_one_moment_count_alike() -> None:
    one_by_one, at_once = Drain(), Drain()
    for number in range(20):
        one_by_one.left(5.0 + number * 1e-12)
        at_once.left(5.0)
    assert at_once.rate(6.0) == pytest.approx(one_by_one.rate(6.0))


def test_a_hint_is_bounded_and_spread_by_the_cookie() -> None:
    assert retry_ms(MIDDLE, None) == RETRY_MS
    assert (retry_ms(MIDDLE, 1e-6), retry_ms(MIDDLE, 1e6)) == (RETRY_MS_MIN, RETRY_MS_MAX)
    hints = [retry_ms(bytes(14) + end.to_bytes(2, "big"), 10.0) for end in range(0, 65536, 257)]
    assert (min(hints), max(hints)) == (7_500, 12_500)
    assert len(set(hints)) > 200


# The limits


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (
            {"owner_backlog_jobs_max": 3},
            "3 jobs of yours, 300 bytes, wait already, and at most 3 jobs or 268,435,456 bytes may",
        ),
        (
            {"owner_backlog_bytes_max": 399},
            "3 jobs of yours, 300 bytes, wait already, and at most 250,000 jobs or 399 bytes may",
        ),
        ({"backlog_jobs_max": 3}, "3 jobs of 300 bytes wait already"),
        ({"backlog_bytes_max": 399}, "3 jobs of 300 bytes wait already"),
    ],
)
def test_a_job_for_which_there_is_no_room_is_told_which_limit_that_is(limits: dict[str, int], sentence: str) -> None:
    driver = SwitchboardDriver(Limits(**limits))
    client = driver.client()
    for _ in range(3):
        driver.run(client, variables=b"1" * (100 - EMPTY_BYTES))
    client.unread.clear()
    driver.run(client, variables=b"1" * (100 - EMPTY_BYTES))
    assert hint(client)[1] == sentence


def test_one_who_has_as_much_as_it_may_is_not_in_the_way_of_others() -> None:
    driver = SwitchboardDriver(Limits(owner_backlog_jobs_max=2))
    first, second = driver.client(), driver.client()
    cookies = [driver.run(client) for client in (first, first, first, second, second, second)]
    assert [cookie in inside(driver).routes for cookie in cookies] == [True, True, False] * 2


def test_all_connections_and_keys_of_a_principal_count_together() -> None:
    driver = SwitchboardDriver(Limits(owner_backlog_jobs_max=2))
    first, second = driver.client(principal="a"), driver.client(principal="a")
    cookies = [driver.run(first), driver.run(second, key="k"), driver.run(second, key="other"), driver.run(first)]
    assert [cookie in inside(driver).routes for cookie in cookies] == [True, True, False, False]


def test_where_nobody_is_authenticated_each_key_counts_by_itself() -> None:
    driver = SwitchboardDriver(Limits(owner_backlog_jobs_max=1))
    client = driver.client(principal=ANONYMOUS)
    cookies = [driver.run(client), driver.run(client, key="k"), driver.run(client, key="other"), driver.run(client, key="k")]
    assert [cookie in inside(driver).routes for cookie in cookies] == [True, True, True, False]


def test_nothing_is_remembered_of_an_owner_that_was_full_once_nothing_of_its_waits() -> None:
    driver = SwitchboardDriver(Limits(owner_backlog_jobs_max=1))
    client = driver.client()
    waiting = driver.run(client)
    driver.run(client)
    pressure = inside(driver).pressure
    assert len(pressure._drains) == 1
    driver.cancel(client, waiting)
    assert pressure._drains == {}


def test_jobs_that_wait_for_their_time_count_and_make_room_when_they_are_over() -> None:
    driver = SwitchboardDriver(Limits(owner_backlog_jobs_max=1))
    client = driver.client()
    later = driver.run(client, delay=10_000)
    driver.run(client)
    assert hint(client)[0] > 0
    driver.cancel(client, later)
    assert driver.run(client) in inside(driver).routes


def test_the_hint_follows_the_rate_at_which_jobs_leave_the_queue() -> None:
    hints = []
    for jobs_a_second in (2, 20):
        driver = SwitchboardDriver(Limits(backlog_jobs_max=300, lease_s=1e6, heartbeat_s=1e5))
        client, worker = driver.client(), driver.worker(1)
        running = [driver.run(client) for _ in range(250)]
        for cookie in running[:100]:
            driver.advance(1 / jobs_a_second)
            driver.result(worker, cookie)
        while driver.switchboard.waiting < 300:
            driver.run(client)
        client.unread.clear()
        driver.run(client, cookie=MIDDLE)
        hints.append(hint(client)[0])
    assert hints[0] == pytest.approx(500, rel=0.1)
    assert hints[1] == pytest.approx(50, rel=0.1)


def test_the_hint_of_an_owner_that_is_full_is_about_its_own_jobs() -> None:
    driver = SwitchboardDriver(Limits(owner_backlog_jobs_max=5, lease_s=1e6, heartbeat_s=1e5))
    slow, fast = driver.client(), driver.client()
    slow_worker, fast_worker = driver.worker(1, ["slow"]), driver.worker(1, ["fast"])
    running = {"slow": driver.run(slow, "slow"), "fast": driver.run(fast, "fast")}
    queues = {name: [driver.run(link, name) for _ in range(5)] for name, link in (("slow", slow), ("fast", fast))}
    for link, name in ((slow, "slow"), (fast, "fast")):
        driver.run(link, name)
    slow.unread.clear()
    fast.unread.clear()
    for step in range(100):
        driver.advance(0.1)
        driver.result(fast_worker, running["fast"])
        running["fast"] = queues["fast"].pop(0)
        queues["fast"].append(driver.run(fast, "fast"))
        if not step % 20:
            driver.result(slow_worker, running["slow"])
            running["slow"] = queues["slow"].pop(0)
            queues["slow"].append(driver.run(slow, "slow"))
    hints: list[int] = []
    for link, name in ((slow, "slow"), (fast, "fast")):
        link.unread.clear()
        driver.run(link, name, cookie=bytes([len(hints)]) + MIDDLE[1:])
        hints.append(hint(link)[0])
    assert hints[0] > 5 * hints[1]


def test_a_connection_with_as_many_jobs_as_it_may_have_is_told_when_one_should_be_over() -> None:
    driver = SwitchboardDriver(Limits(client_jobs_max=2, lease_s=1e6, heartbeat_s=1e5))
    client, worker = driver.client(), driver.worker(2)
    for _ in range(40):
        cookie = driver.run(client)
        driver.advance(8.0)
        driver.result(worker, cookie)
    for _ in range(2):
        driver.run(client)
    client.unread.clear()
    driver.run(client, cookie=MIDDLE)
    assert hint(client)[0] == pytest.approx(4_000, rel=0.1), "two run for 8 s each"
