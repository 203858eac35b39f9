"""Packs of outcomes: that outcomes are kept together is nobody's business."""

from collections.abc import Callable

import pytest

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import ENCODING_JSON, Code, PacketType
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.packs import SIZE_MAX, SMALL_BYTES, SPAN_S, Pack
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

from .making import make_peer
from .scenes import driven, inside, results

OPTIONS = RunOptions(p="p")
RESULT = b"r" * 50


class Reads:
    """How RESULTs come in: each test below is one of both ways."""

    one_by_one = False


@pytest.fixture(params=[False, True], ids=["in one read", "one by one"], autouse=True)
def reads(request: pytest.FixtureRequest) -> None:
    Reads.one_by_one = request.param


def packed(driver: SwitchboardDriver, client: FakeLink, worker: FakeLink, jobs: int) -> list[bytes]:
    """So many jobs are run, and their RESULTs come, and go out in order."""
    cookies = [driver.run(client) for _ in range(jobs)]
    frames = [packets.result(cookie, 1, RESULT, ENCODING_JSON) for cookie in cookies]
    for read in ([frame] for frame in frames) if Reads.one_by_one else (frames,):
        driver.send(worker, *read)
    assert results(client) == [(cookie, Code.OK) for cookie in cookies]
    worker.take()
    return cookies


def packs(driver: SwitchboardDriver) -> list[Pack]:
    """Those of which something is kept."""
    found = {id(pack): pack for _, pack in inside(driver).routes.packs() if pack.state is RouteState.OVER}
    return list(found.values())


def fetched(driver: SwitchboardDriver, link: FakeLink, cookie: bytes) -> Code:
    driver.attach(link, cookie)
    answer, *outcome = link.take()
    assert [packet.payload for packet in outcome] == ([RESULT] if answer.code == Code.OK else [])
    return Code(answer.code)


def all_fetched(driver: SwitchboardDriver, cookies: list[bytes]) -> str:
    """One letter for each job: K(ept), G(one) but for its cookie, or N(ot found)."""
    link = driver.client()
    letters = {Code.OK: "K", Code.OUTCOME_GONE: "G", Code.COOKIE_NOT_FOUND: "N"}
    return "".join(letters[fetched(driver, link, cookie)] for cookie in cookies)


def make_pack(now: float = 5.0) -> Pack:
    kind = EligibilityClass(1, "p", False, [])
    return Pack(Route(b"c" * 16, make_peer(), "", OPTIONS, kind, RouteState.DISPATCHED), now)


def make_route(pack: Pack, options: RunOptions) -> Route:
    """Another job of the same client and class."""
    return Route(b"d" * 16, pack.owner, "", options, pack.kind, RouteState.DISPATCHED)


# The pack itself


def test_a_pack_takes_jobs_with_the_same_options() -> None:
    pack = make_pack()
    assert pack.goes_on(make_route(pack, OPTIONS))
    assert not pack.goes_on(make_route(pack, RunOptions(p="p")))


def test_outcomes_that_are_not_forgotten_at_the_same_time_share_no_pack() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(20)
    for _ in range(4):
        packed(driver, client, worker, 4)
        driver.advance(1.1 * SPAN_S)
    assert [pack.size for pack in packs(driver)] == [4, 4, 4, 4]


@pytest.mark.parametrize("retention_s", [0.3, 7.0, 300.0])
def test_an_outcome_is_kept_for_its_retention_and_at_most_a_moment_longer(retention_s: float) -> None:
    driver = driven(retention_s=retention_s)
    outcomes = inside(driver).outcomes
    for _ in range(1000):
        driver.advance(0.00173)
        inside(driver).clock.now = driver.clock.now
        assert 0.0 < outcomes.deadline - driver.clock.now - retention_s <= SPAN_S + 1e-6


@pytest.mark.parametrize(
    "change",
    [
        lambda pack: setattr(pack, "size", SIZE_MAX),
        lambda pack: setattr(pack, "state", RouteState.FORGOTTEN),
        lambda pack: setattr(pack, "routes", []),
    ],
    ids=["full", "spent", "open"],
)
def test_a_pack_takes_no_more_once_it_is(change: Callable[[Pack], None]) -> None:
    pack = make_pack()
    route = make_route(pack, OPTIONS)
    change(pack)
    assert not pack.goes_on(route)
    assert not pack.mixes(route.kind)


@pytest.mark.parametrize("size", [10, SMALL_BYTES])
def test_what_is_shrunk_in_part_of_a_pack_is_counted_no_more_and_if_it_is_large_not_kept(size: int) -> None:
    pack = make_pack()
    frames = [packets.result(bytes(15) + bytes((number,)), 1, (size + number) * b"x", ENCODING_JSON) for number in range(5)]
    pack.frames, pack.size, pack.bytes = frames[:], 5, sum(map(len, frames))
    assert pack.shrink(2) == len(frames[0]) + len(frames[1])
    assert sum(map(len, pack.frames[:2])) < SMALL_BYTES
    assert pack.bytes == sum(map(len, frames[2:]))
    assert pack.cookies() == [bytes(15) + bytes((number,)) for number in range(5)]
    assert pack.shrink(5) == sum(map(len, frames[2:]))
    assert (pack.bytes, pack.spent) == (0, 5)


# What others see


def test_outcomes_of_several_reads_of_several_workers_share_a_pack_and_each_is_found() -> None:
    driver = driven()
    client, workers = driver.client(), [driver.worker(20, ("p",)), driver.worker(20, ("q",))]
    cookies = [driver.run(client, pipeline) for pipeline in "ppppqqqqpppp"]
    for worker in workers:
        frames = [packets.result(packet.cookie, 1, RESULT, ENCODING_JSON) for packet in worker.take()]
        driver.send(worker, *frames[:3])
        driver.send(worker, *frames[3:])
    assert [pack.size for pack in packs(driver)] == [8, 4]
    client.take()
    assert all_fetched(driver, cookies) == 12 * "K"
    assert packs(driver) == []


def test_an_outcome_in_a_pack_tells_its_age_from_when_its_job_was_taken() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(4)
    first = driver.run(client)
    driver.advance(3.0)
    second = driver.run(client)
    driver.send(worker, *(packets.result(cookie, 1, RESULT, ENCODING_JSON) for cookie in (first, second)))
    client.take()
    driver.advance(1.0)
    assert [driver.status(client, cookie).age for cookie in (first, second)] == [4000, 1000]


@pytest.mark.parametrize("told", range(11))
@pytest.mark.parametrize("asks_first", [False, True])
def test_a_client_acknowledges_any_part_of_a_pack(told: int, asks_first: bool) -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(10)
    cookies = packed(driver, client, worker, 10)
    if asks_first:
        driver.status(client, cookies[3])
    for total in sorted({told // 2, told} - {0}):
        driver.ack(client, total)
    assert inside(driver).outcomes.count == 10 - told
    assert all_fetched(driver, cookies) == told * "G" + (10 - told) * "K"


def test_what_was_sent_between_two_parts_of_a_pack_is_acknowledged_in_the_order_of_sending() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(30)
    first = packed(driver, client, worker, 10)
    failed = driver.run(client)
    driver.fail(worker, failed, Code.EXCEPTION, "why")
    client.take()
    last = packed(driver, client, worker, 10)
    driver.ack(client, 11)
    assert driver.status(client, last[0]).out == Code.OK
    assert inside(driver).outcomes.count == 10
    assert all_fetched(driver, [*first, failed]) == 11 * "G"


def test_the_oldest_of_a_pack_make_room_one_by_one() -> None:
    driver = driven(outcomes_max=12)
    client, worker = driver.client(), driver.worker(10)
    cookies = packed(driver, client, worker, 10)
    for spent in range(8):
        assert inside(driver).outcomes.count == min(12, 10 + spent)
        cookies += packed(driver, client, worker, 1)
    assert all_fetched(driver, cookies) == 6 * "G" + 12 * "K"


def test_a_client_keeps_the_newest_of_its_own_and_what_it_says_later_still_counts() -> None:
    driver = driven(client_outcomes_max=6)
    client, worker = driver.client(), driver.worker(10)
    cookies = packed(driver, client, worker, 10)
    driver.ack(client, 7)
    assert all_fetched(driver, cookies) == 7 * "G" + 3 * "K"


def test_a_client_with_too_many_bytes_keeps_the_newest() -> None:
    driver = driven(client_outcomes_bytes_max=500)
    client, worker = driver.client(), driver.worker(10)
    cookies = packed(driver, client, worker, 10)
    kept = client.peer.kept_bytes
    assert 300 < kept <= 500
    gone = all_fetched(driver, cookies).count("G")
    assert all_fetched(driver, cookies) == gone * "G" + (10 - gone) * "K"


@pytest.mark.parametrize("told", [0, 4])
@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("asks_first", [False, True])
def test_a_pack_is_forgotten_in_its_time(told: int, leaves: bool, asks_first: bool) -> None:
    driver = driven(retention_s=10.0)
    client, worker = driver.client(), driver.worker(10)
    cookies = packed(driver, client, worker, 10)
    if told:
        driver.ack(client, told)
    if leaves:
        driver.disconnect(client)
    driver.advance(9.9)
    if asks_first:
        assert fetched(driver, driver.client(), cookies[5]) is Code.OK
    driver.advance(1.5)
    assert inside(driver).outcomes.count == 0
    assert all_fetched(driver, cookies) == told * "G" + (10 - told) * "N"
    driver.advance(25.0)
    assert all_fetched(driver, cookies) == 10 * "N"


def test_a_job_of_a_pack_that_somebody_else_took_over_is_acknowledged_by_him_alone() -> None:
    driver = driven()
    client, other, worker = driver.client(), driver.client(), driver.worker(10)
    cookies = packed(driver, client, worker, 10)
    assert fetched(driver, other, cookies[2]) is Code.OK
    driver.ack(client, 10)
    assert inside(driver).outcomes.count == 1
    driver.ack(other, 1)
    assert inside(driver).outcomes.count == 0
    assert all_fetched(driver, cookies) == 10 * "G"


def test_the_cookie_of_a_job_in_a_pack_is_taken_before_and_after_it_is_acknowledged() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(20)
    cookies = packed(driver, client, worker, 10)
    for _ in range(2):
        driver.run(client, cookie=cookies[4])
        assert client.take_reply()[0] is Code.COOKIE_COLLISION
        driver.ack(client, 10)
    assert worker.take() == []


def test_jobs_that_wait_get_the_slots_of_a_pack() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(10)
    cookies = [driver.run(client) for _ in range(15)]
    worker.take()
    driver.send(worker, *(packets.result(cookie, 1, RESULT, ENCODING_JSON) for cookie in cookies[:10]))
    assert [packet.cookie for packet in worker.take_kinds(PacketType.RUN)] == cookies[10:]
    assert driver.switchboard.free_slots("p") == 5


# Jobs that asked for other things


def mixed(driver: SwitchboardDriver) -> tuple[FakeLink, list[bytes]]:
    """Jobs of three keys are run, the first two of one, and their RESULTs come."""
    client, worker = driver.client(), driver.worker(20)
    cookies = [driver.run(client, key=key, nonce=key.encode()) for key in ("a", "a", "b", "c")]
    frames = [packets.result(cookie, 1, RESULT, ENCODING_JSON) for cookie in cookies]
    for read in ([frame] for frame in frames) if Reads.one_by_one else (frames,):
        driver.send(worker, *read)
    assert results(client) == [(cookie, Code.OK) for cookie in cookies]
    return client, cookies


def test_jobs_with_other_options_share_a_pack_and_each_keeps_its_own() -> None:
    driver = driven()
    _, cookies = mixed(driver)
    (pack,) = packs(driver)
    assert (pack.size, [pack.options_of(place).key for place in range(4)]) == (4, ["a", "a", "b", "c"])
    routes = inside(driver).routes
    assert [routes[cookie].options.nonce for cookie in cookies] == [b"a", b"a", b"b", b"c"], "it is open now"
    assert all_fetched(driver, cookies) == "KKKK"


def test_each_key_of_a_pack_has_its_own_slots_back() -> None:
    driver = driven()
    mixed(driver)
    shares = inside(driver).shares
    assert [(shares.of_key("", key).running, shares.of_key("", key).is_known) for key in "abc"] == [(0, True)] * 3


def test_a_pack_of_many_keys_is_acknowledged_as_any_other() -> None:
    driver = driven()
    client, cookies = mixed(driver)
    for told, left in ((3, 1), (4, 0)):
        driver.send(client, packets.ack(told))
        assert inside(driver).outcomes.count == left
    assert all_fetched(driver, cookies) == "GGGG"


def test_a_pack_does_not_go_on_as_it_is_for_a_key_that_was_forgotten_and_came_again() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(20)
    shares = inside(driver).shares
    for _ in range(2):
        cookie = driver.run(client, key="a")
        driver.result(worker, cookie)
        client.take()
        assert shares.of_key("", "a").running == 0
        del shares._named["", "a"], shares.all[next(iter(share for share in shares.all if share.name == "a"))]
