"""Fair shares through the switchboard: what clients of one broker can rely on, whoever else uses it."""

from heapq import heappop, heappush

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_BYTES, PacketType
from reasonchip_broker.scheduling import Scheduling
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

LIMITS = Limits(heartbeat_s=1e6, lease_s=2e6, client_jobs_max=1_000_000, backlog_jobs_max=1_000_000)


class Shop:
    """A broker, and one worker that is always busy."""

    def __init__(self, capacity: int, **scheduling: object) -> None:
        self.driver = SwitchboardDriver(LIMITS, checks=False, scheduling=Scheduling(**scheduling))  # type: ignore[arg-type]
        self.capacity = capacity
        self.running: list[tuple[float, int, bytes]] = []
        self.lengths: dict[bytes, float] = {}
        self.whose: dict[bytes, str] = {}
        self.used: dict[str, float] = {}
        self.begun: list[bytes] = []

    def open(self) -> None:
        """The worker comes, and takes what it can."""
        self.worker = self.driver.worker(self.capacity)
        self._take()

    def submit(self, link: FakeLink, whose: str, seconds: float, key: str = "") -> bytes:
        """A job that is going to take so long."""
        cookie = self.driver.new_cookie()
        self.lengths[cookie], self.whose[cookie] = seconds, whose
        meta = schemas.encode_meta(schemas.RunOptions(p="p", enc=ENCODING_BYTES, key=key))
        self.driver.send(link, packets.run(cookie, meta, b""))
        return cookie

    def next(self) -> None:
        """The job that ends first ends."""
        now, _, cookie = heappop(self.running)
        self.driver.advance(now - self.driver.clock.now)
        whose = self.whose[cookie]
        self.used[whose] = self.used.get(whose, 0.0) + self.lengths[cookie]
        self.driver.result(self.worker, cookie)
        self._take()

    def _take(self) -> None:
        for packet in self.worker.take_kinds(PacketType.RUN):
            self.begun.append(packet.cookie)
            heappush(self.running, (self.driver.clock.now + self.lengths[packet.cookie], len(self.begun), packet.cookie))


@pytest.mark.parametrize("others", [1, 5])
def test_row_23_a_newcomer_waits_for_at_most_one_turn_of_each_key_though_100_000_jobs_wait(others: int) -> None:
    shop = Shop(4)
    greedy = [shop.driver.client() for _ in range(others)]
    for client in greedy:
        for _ in range(100_000 // others):
            shop.submit(client, "greedy", 1.0)
    shop.open()
    for _ in range(20):
        shop.next()
    newcomer = shop.driver.client()
    came = len(shop.begun)
    waited = []
    for _ in range(20):
        cookie = shop.submit(newcomer, "newcomer", 1.0)
        before = len(shop.begun)
        while cookie not in shop.begun[before:]:
            shop.next()
        waited.append(len(shop.begun) - before - 1)
    assert waited[0] == 0, "its first job has the next turn"
    assert len(shop.begun) - came <= 20 * (others + 1) + others, "and from then on it is one turn each, on average"


@pytest.mark.parametrize("long_s", [1.0, 100.0])
def test_row_23_one_who_comes_again_waits_for_one_turn_though_the_jobs_of_others_took_long_before(long_s: float) -> None:
    """That the slots of a key were expected to be used for long costs that key turns, as long as it is expected, and nobody else."""
    shop = Shop(8)
    greedy = shop.driver.client()
    for place in range(1000):
        shop.submit(greedy, "greedy", long_s if place < 8 else 1.0)
    shop.open()
    for _ in range(16):
        shop.next()
    newcomer = shop.driver.client()
    for _ in range(50):
        cookie = shop.submit(newcomer, "newcomer", 1.0)
        before = len(shop.begun)
        while cookie not in shop.begun[before:]:
            shop.next()
        assert len(shop.begun) - before <= 2
        while any(cookie == running for _, _, running in shop.running):
            shop.next()


def test_two_keys_of_weight_3_and_1_get_slot_time_in_that_ratio_over_1_000_jobs_of_mixed_length() -> None:
    shop = Shop(8, weights={"three": 3.0})
    client = shop.driver.client()
    lengths = (0.2, 1.0, 3.0, 0.5, 2.0, 0.1, 5.0)
    for number in range(2000):
        shop.submit(client, "three", lengths[number % len(lengths)], key="three")
        shop.submit(client, "one", lengths[(number * 3) % len(lengths)], key="one")
    shop.open()
    for _ in range(1000):
        shop.next()
    assert shop.used["three"] / shop.used["one"] == pytest.approx(3.0, rel=0.05)


def test_who_has_taken_all_slots_with_long_jobs_waits_until_others_have_had_as_much() -> None:
    shop = Shop(4)
    first, second = shop.driver.client(), shop.driver.client()
    shop.open()
    for seconds in (100.0, 101.0, 102.0, 103.0):
        shop.submit(first, "first", seconds)
    shop._take()
    for _ in range(50):
        shop.submit(first, "first", 10.0)
        shop.submit(second, "second", 10.0)
    for _ in range(16):
        shop.next()
    begun = [shop.whose[cookie] for cookie in shop.begun[4:]]
    assert begun.count("second") >= 12


def test_the_jobs_of_a_job_take_its_turns() -> None:
    shop = Shop(2)
    client, other = shop.driver.client(), shop.driver.client()
    shop.open()
    parent = shop.submit(client, "parent", 100.0)
    filler = shop.submit(client, "filler", 1.0)
    shop._take()
    assert shop.begun == [parent, filler]
    child = shop.driver.new_cookie()
    meta = schemas.encode_meta(schemas.RunOptions(p="p", enc=ENCODING_BYTES, parent=parent))
    shop.driver.send(shop.worker, packets.run(child, meta, b""))
    shop.lengths[child], shop.whose[child] = 1.0, "child"
    newcomer = shop.submit(other, "newcomer", 1.0)
    shop.next()
    assert shop.begun[2:] == [newcomer], "the child came first, but its parent's client has had turns"
