"""Outcomes are kept until they are acknowledged, or until their retention ends by time, count or bytes; their cookies run no second
job meanwhile."""

from itertools import pairwise

import pytest

from reasonchip_broker.limits import SPENT_SHARDS
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.routing.packs import SIZE_MAX
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

from .scenes import assert_nothing_is_left, driven, inside, kinds, outcome, results

HUGE = 4 * 1024 * 1024


def done(driver: SwitchboardDriver, client: FakeLink, worker: FakeLink, jobs: int = 1, **options: object) -> list[bytes]:
    """Some jobs are run, and their RESULTs have come."""
    cookies = [driver.run(client, **options) for _ in range(jobs)]  # type: ignore[arg-type]
    for cookie in cookies:
        driver.result(worker, cookie)
    client.take()
    worker.take()
    return cookies


def fetched(driver: SwitchboardDriver, link: FakeLink, cookie: bytes) -> Code:
    """How an ATTACH is answered; OK, if the outcome came as well."""
    driver.attach(link, cookie)
    taken = link.take()
    assert len(taken) == (2 if taken[0].code == Code.OK else 1)
    return Code(taken[0].code)


# Time


def test_an_outcome_is_kept_for_its_retention_and_then_forgotten() -> None:
    driver = driven(retention_s=10.0)
    client, worker = driver.client(), driver.worker()
    (cookie,) = done(driver, client, worker)
    driver.advance(9.9)
    assert fetched(driver, client, cookie) is Code.OK
    driver.advance(2.0)
    assert fetched(driver, client, cookie) is Code.COOKIE_NOT_FOUND
    driver.run(client, cookie=cookie)
    assert worker.take_one(PacketType.RUN).cookie == cookie


@pytest.mark.parametrize("keep_ms", [3_000, 20_000])
def test_a_job_says_itself_how_long_its_outcome_is_kept(keep_ms: int) -> None:
    driver = driven(retention_s=10.0)
    client, worker = driver.client(), driver.worker()
    (cookie,) = done(driver, client, worker, keep=keep_ms)
    driver.advance(keep_ms / 1000 - 0.1)
    assert fetched(driver, client, cookie) is Code.OK
    driver.advance(0.2)
    assert fetched(driver, client, cookie) is Code.COOKIE_NOT_FOUND


def test_an_outcome_is_kept_no_longer_than_the_longest_retention() -> None:
    driver = driven(retention_s_max=20.0)
    client, worker = driver.client(), driver.worker()
    (cookie,) = done(driver, client, worker, keep=1_000_000)
    driver.advance(20.1)
    assert fetched(driver, client, cookie) is Code.COOKIE_NOT_FOUND


def test_an_outcome_that_is_not_to_be_kept_is_sent_and_leaves_its_cookie() -> None:
    driver = driven(retention_s=10.0)
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client, keep=0)
    driver.result(worker, cookie)
    assert results(client) == [(cookie, Code.OK)]
    assert inside(driver).outcomes.count == 0
    assert fetched(driver, client, cookie) is Code.OUTCOME_GONE
    driver.run(client, cookie=cookie)
    assert client.take_reply()[0] is Code.COOKIE_COLLISION
    driver.advance(25.0)
    assert fetched(driver, client, cookie) is Code.COOKIE_NOT_FOUND


# Count and bytes


def test_the_oldest_outcomes_make_room_for_more_than_may_be_kept() -> None:
    driver = driven(outcomes_max=3)
    client, worker = driver.client(), driver.worker(5)
    cookies = done(driver, client, worker, 5)
    answers = [fetched(driver, client, cookie) for cookie in cookies]
    assert answers == [Code.OUTCOME_GONE] * 2 + [Code.OK] * 3


def test_the_oldest_outcomes_make_room_for_more_bytes_than_may_be_kept() -> None:
    driver = driven(outcomes_bytes_max=2_500)
    client, worker = driver.client(), driver.worker(3)
    cookies = [driver.run(client) for _ in range(3)]
    for cookie in cookies:
        driver.result(worker, cookie, b'"' + 1000 * b"x" + b'"')
    client.take()
    assert [fetched(driver, client, cookie) for cookie in cookies] == [Code.OUTCOME_GONE, Code.OK, Code.OK]


@pytest.mark.parametrize("keep", [60_000, None])
def test_outcomes_with_a_retention_of_their_own_make_room_too(keep: int | None) -> None:
    driver = driven(outcomes_max=3)
    client, worker = driver.client(), driver.worker(6)
    cookies = []
    for number in range(6):
        cookies += done(driver, client, worker, keep=60_000 if number % 2 else keep)
        driver.advance(0.1)
    assert inside(driver).outcomes.count == 3
    assert [fetched(driver, client, cookie) for cookie in cookies] == [Code.OUTCOME_GONE] * 3 + [Code.OK] * 3


@pytest.mark.parametrize("detach", [False, True])
def test_a_client_that_never_acknowledges_drives_out_its_own_outcomes_only(detach: bool) -> None:
    driver = driven(client_outcomes_max=3)
    client, other, worker = driver.client(), driver.client(), driver.worker(8)
    (kept,) = done(driver, other, worker)
    cookies = done(driver, client, worker, 5, detach=detach)
    assert fetched(driver, other, kept) is Code.OK
    assert inside(driver).outcomes.count == 4
    assert [fetched(driver, other, cookie) for cookie in cookies] == [Code.OUTCOME_GONE] * 2 + [Code.OK] * 3


@pytest.mark.parametrize("by", ["a worker", "the broker"])
def test_so_does_one_whose_outcomes_are_kept_one_by_one(by: str) -> None:
    driver = driven(client_outcomes_max=3)
    client, worker = driver.client(), driver.worker(1, ("p",) if by == "a worker" else ("q",))
    cookies = []
    for _ in range(5):
        cookies.append(driver.run(client))
        if by == "a worker":
            driver.fail(worker, cookies[-1], Code.EXCEPTION)
        else:
            driver.cancel(client, cookies[-1])
    assert inside(driver).outcomes.count == 3
    driver.ack(client, 3)
    assert inside(driver).outcomes.count == 2
    other = driver.client()
    assert [fetched(driver, other, cookie) for cookie in cookies] == [Code.OUTCOME_GONE] * 3 + [Code.OK] * 2


@pytest.mark.parametrize("detach", [False, True])
def test_a_client_keeps_so_many_bytes_of_its_own_outcomes(detach: bool) -> None:
    driver = driven(client_outcomes_bytes_max=2_500)
    client, worker = driver.client(), driver.worker(3)
    cookies = [driver.run(client, detach=detach) for _ in range(3)]
    for cookie in cookies:
        driver.result(worker, cookie, b'"' + 1000 * b"x" + b'"')
    client.take()
    assert [fetched(driver, driver.client(), cookie) for cookie in cookies] == [Code.OUTCOME_GONE, Code.OK, Code.OK]


def test_one_who_looks_on_and_never_acknowledges_drives_nothing_out() -> None:
    driver = driven(client_outcomes_max=2)
    worker, looker = driver.worker(4), driver.client()
    for _ in range(4):
        client = driver.client()
        cookie = driver.run(client)
        driver.attach(looker, cookie, take=False)
        driver.result(worker, cookie)
    assert inside(driver).outcomes.count == 4


@pytest.mark.parametrize("keep", [None, 60_000])
def test_outcomes_that_made_room_are_not_remembered_one_by_one(keep: int | None) -> None:
    """A client that never acknowledges has its own oldest outcomes forgotten: no queue must keep what is left of them."""
    driver = driven(client_outcomes_max=10)
    driver.checks = False
    client, worker = driver.client(), driver.worker(1)
    for _ in range(3_000):
        driver.result(worker, driver.run(client, keep=keep))
    outcomes = inside(driver).outcomes
    assert outcomes.count == 10
    assert len(outcomes.queue) + len(outcomes._own) < 2_000


@pytest.mark.parametrize("code", [Code.OK, Code.EXCEPTION])
def test_a_client_keeps_one_outcome_however_large_it_is(code: Code) -> None:
    driver = driven(client_outcomes_bytes_max=1_000)
    client, worker = driver.client(), driver.worker()
    for cookie in (b"first".ljust(16), b"second".ljust(16)):
        driver.run(client, cookie=cookie)
        ok, failed = packets.result(cookie, 1, bytes(5_000), "bytes"), packets.failed(cookie, 1, code, 5_000 * "x")
        driver.send(worker, ok if code is Code.OK else failed)
        client.take()
    assert inside(driver).outcomes.count == 1
    assert fetched(driver, driver.client(), b"second".ljust(16)) is Code.OK


# ACK


def test_what_is_acknowledged_is_gone_in_the_order_in_which_it_was_sent() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(3)
    first, second, third = (driver.run(client) for _ in range(3))
    for cookie in (second, first, third):
        driver.result(worker, cookie)
    client.take()
    driver.ack(client, 2)
    assert client.take() == []
    assert inside(driver).outcomes.count == 1
    for cookie, code in ((second, Code.OUTCOME_GONE), (first, Code.OUTCOME_GONE), (third, Code.OK)):
        assert fetched(driver, client, cookie) is code
    driver.run(client, cookie=second)
    assert client.take_reply()[0] is Code.COOKIE_COLLISION


@pytest.mark.parametrize("number", [3, 0, 2**32 - 1, 2**31])
def test_an_ack_beyond_what_was_sent_or_back_is_ignored(number: int) -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(2)
    first, second = (driver.run(client) for _ in range(2))
    driver.result(worker, first)
    driver.ack(client, 1)
    driver.result(worker, second)
    client.take()
    driver.ack(client, number)
    assert (client.take(), inside(driver).outcomes.count) == ([], 1)
    driver.ack(client, 2)
    assert inside(driver).outcomes.count == 0


def test_the_count_of_an_ack_goes_round() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(3)
    client.peer.acknowledged = 2**32 - 2
    done(driver, client, worker, 3)
    driver.ack(client, 2**32 - 1)
    driver.ack(client, 1)
    assert (inside(driver).outcomes.count, client.peer.acknowledged) == (0, 1)


def test_results_that_had_to_make_room_count_as_acknowledged() -> None:
    driver = driven(client_outcomes_max=2)
    client, worker = driver.client(), driver.worker(3)
    done(driver, client, worker, 3)
    driver.ack(client, 1)
    assert inside(driver).outcomes.count == 2
    driver.ack(client, 3)
    assert inside(driver).outcomes.count == 0


def test_the_broker_went_away_of_a_job_that_is_none_here_counts_among_the_results() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    driver.run(client, at=b"another instance")
    assert outcome(client)[0] is Code.BROKER_WENT_AWAY
    done(driver, client, worker)
    driver.ack(client, 1)
    assert inside(driver).outcomes.count == 1
    driver.ack(client, 2)
    assert inside(driver).outcomes.count == 0


def test_the_ack_of_one_who_only_looks_on_counts_for_nothing_even_when_the_owner_has_gone() -> None:
    driver = driven()
    client, looker, worker = driver.client(), driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.attach(looker, cookie, take=False)
    driver.disconnect(client)
    driver.result(worker, cookie)
    driver.ack(looker, 1)
    back = driver.client()
    assert fetched(driver, back, cookie) is Code.OK
    driver.ack(back, 1)
    assert inside(driver).outcomes.count == 0


def test_the_ack_of_who_fetched_an_outcome_counts_though_the_one_before_lives() -> None:
    driver = driven()
    client, other, worker = driver.client(), driver.client(), driver.worker()
    (cookie,) = done(driver, client, worker)
    assert fetched(driver, other, cookie) is Code.OK
    driver.ack(client, 1)
    assert inside(driver).outcomes.count == 1
    driver.ack(other, 1)
    assert inside(driver).outcomes.count == 0
    assert (client.peer.kept_bytes, other.peer.kept_bytes) == (0, 0)


# Cookies of what is over


@pytest.mark.parametrize("retention_s", [1.0, 7.0, 200.0, 300.0, 3600.0])
def test_the_cookie_of_an_acknowledged_job_is_known_until_its_retention_ends_and_not_much_longer(retention_s: float) -> None:
    driver = driven(retention_s=retention_s)
    driver.checks = False
    client, worker = driver.client(), driver.worker()
    cookies = [bytes(15) + bytes((number,)) for number in range(1, SPENT_SHARDS)]
    for cookie in cookies:
        driver.result(worker, driver.run(client, cookie=cookie))
    driver.ack(client, len(cookies))
    driver.advance(0.97 * retention_s)
    routes = inside(driver).routes
    assert [cookie for cookie in cookies if routes.spent_by(cookie) is None] == []
    driver.advance(1.2 * retention_s + 4.0)
    assert routes.spent == 0


def test_many_cookies_are_looked_through_in_steps_a_tick_apart() -> None:
    driver = driven(retention_s=1.0)
    driver.checks = False
    client, worker = driver.client(), driver.worker()
    cookies = [number.to_bytes(16, "big") for number in range(1, 256 * 20)]
    for cookie in cookies:
        driver.result(worker, driver.run(client, cookie=cookie))
    driver.ack(client, len(cookies))
    began = driver.clock.now
    driver.advance(1.1)
    # Of half of the 256 dicts, whose time has come, a step looks at 25.
    wakes = [began]
    while wakes[-1] < began + 4.5:
        wakes.append(driver.switchboard.timers.wake_at)
        driver.advance(wakes[-1] - driver.clock.now)
    assert sum(later - sooner < 0.02 for sooner, later in pairwise(wakes)) >= 8
    assert inside(driver).routes.spent == 0


@pytest.mark.parametrize("keep_ms", [50_000, 1_000])
def test_so_is_that_of_a_job_with_a_retention_of_its_own(keep_ms: int) -> None:
    driver = driven(retention_s=10.0)
    client, worker = driver.client(), driver.worker()
    (cookie,) = done(driver, client, worker, keep=keep_ms)
    driver.ack(client, 1)
    driver.advance(0.97 * keep_ms / 1000)
    assert fetched(driver, client, cookie) is Code.OUTCOME_GONE
    driver.advance(0.1 * keep_ms / 1000 + 24.0)
    assert fetched(driver, client, cookie) is Code.COOKIE_NOT_FOUND


# JSON clients


def test_the_outcome_of_a_json_client_that_is_there_is_not_kept_and_its_cookie_is_free() -> None:
    driver = driven()
    client, worker = driver.client(Dialect.JSON), driver.worker()
    (cookie,) = done(driver, client, worker)
    assert inside(driver).outcomes.count == 0
    assert not client.peer.unacknowledged
    driver.run(client, cookie=cookie)
    assert worker.take_one(PacketType.RUN).cookie == cookie


def test_the_outcome_of_a_json_client_that_has_gone_is_kept() -> None:
    driver = driven()
    client, worker, other = driver.client(Dialect.JSON), driver.worker(), driver.client()
    cookie = driver.run(client)
    driver.disconnect(client)
    driver.result(worker, cookie)
    assert fetched(driver, other, cookie) is Code.OK
    json = driver.client(Dialect.JSON)
    driver.run(json, cookie=cookie)
    assert json.take_json()[0]["rc"] == "COOKIE_COLLISION"


def test_who_follows_the_job_of_a_json_client_gets_its_outcome_as_well() -> None:
    driver = driven()
    client, other, worker = driver.client(Dialect.JSON), driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.attach(other, cookie, take=False, first=1)
    driver.progress(worker, cookie, 1)
    other.take_kinds(PacketType.REPLY)
    driver.result(worker, cookie)
    assert [answer["rc"] for answer in client.take_json()] == ["OK"]
    assert results(other) == [(cookie, Code.OK)]
    driver.ack(other, 1)
    assert inside(driver).streams.budget.bytes == 0


def test_a_json_client_whose_job_was_taken_over_gets_its_outcome_and_need_not_acknowledge() -> None:
    driver = driven()
    client, other, worker = driver.client(Dialect.JSON), driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.attach(other, cookie)
    driver.result(worker, cookie)
    assert [answer["rc"] for answer in client.take_json()] == ["OK"]
    assert kinds(other.take()) == [PacketType.REPLY, PacketType.RESULT]
    assert not client.peer.unacknowledged


# Nothing is left


@pytest.mark.parametrize("keep", [None, 0, 1_000, 60_000])
@pytest.mark.parametrize("acknowledges", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_nothing_is_left_of_outcomes(keep: int | None, acknowledges: bool, detach: bool) -> None:
    driver = driven(retention_s=5.0)
    client, worker = driver.client(), driver.worker(5)
    done(driver, client, worker, 5, keep=keep, detach=detach)
    if acknowledges:
        driver.ack(client, 5)
    driver.disconnect(worker)
    driver.disconnect(client)
    driver.advance(150.0)
    assert_nothing_is_left(driver)


def test_a_hundred_thousand_outcomes_are_not_forgotten_in_one_step() -> None:
    driver = driven(retention_s=5.0)
    driver.checks = False
    client, worker = driver.client(), driver.worker(1)
    for _ in range(2_500):
        driver.result(worker, driver.run(client))
    driver.jump(20.0)
    left = [inside(driver).outcomes.count]
    while left[-1]:
        driver.advance(0.005)
        left.append(inside(driver).outcomes.count)
    # They go by the pack: a little more than 250 at a time.
    gone = [before - after for before, after in pairwise([2_500, *left])]
    assert max(gone) < 250 + SIZE_MAX
    assert len(gone) <= 2_500 / 250 + 2


@pytest.mark.parametrize("code", [Code.OK, Code.EXCEPTION])
def test_one_frame_larger_than_all_that_may_be_kept_reaches_its_client_and_leaves_its_cookie_for_a_while(code: Code) -> None:
    driver = driven(outcomes_bytes_max=1_000, retention_s=10.0)
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    ok, failed = packets.result(cookie, 1, bytes(HUGE), "bytes"), packets.failed(cookie, 1, code, HUGE * "x")
    driver.send(worker, ok if code is Code.OK else failed)
    assert results(client) == [(cookie, code)]
    assert inside(driver).outcomes.bytes == 0
    assert fetched(driver, client, cookie) is Code.OUTCOME_GONE
    driver.advance(25.0)
    assert fetched(driver, client, cookie) is Code.COOKIE_NOT_FOUND
