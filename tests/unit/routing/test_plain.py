"""The loops of plain jobs: what they take themselves, what they leave to the handlers, and that nobody can tell which it was."""

from random import Random
from typing import Any

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import ENCODING_BYTES, ENCODING_JSON, NO_COOKIE, Code, Dialect, PacketType
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, view

from .scenes import inside

COOKIE = b"k" * 16


def run(encoding: str = ENCODING_BYTES, cookie: bytes = COOKIE, left_ms: int = 0, attempt: int = 1, **options: Any) -> bytes:
    meta = schemas.encode_meta(schemas.RunOptions(p="p", enc=encoding, **options))
    return packets.run(cookie, meta, b"v", left_ms=left_ms, attempt=attempt)


def learned(driver: SwitchboardDriver, encoding: str = ENCODING_BYTES) -> None:
    """The broker has seen these options before, and is as it was."""
    client, worker = driver.client(), driver.worker()
    driver.send(client, run(encoding, b"l" * 16))
    driver.result(worker, b"l" * 16)
    driver.disconnect(client)
    driver.disconnect(worker)


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the handlers' own steps were taken."""
    taken: list[str] = []
    for name in ("run", "open", "finish", "enqueue", "dispatch"):
        original = getattr(Dispatcher, name)

        def step(
            self: Dispatcher, *arguments: object, _original: object = original, _name: str = name, **named: object
        ) -> object:
            taken.append(_name)
            return _original(self, *arguments, **named)  # type: ignore[operator]

        monkeypatch.setattr(Dispatcher, name, step)
    return taken


def test_a_plain_job_is_run_and_answered_without_a_handler(handled: list[str]) -> None:
    driver = SwitchboardDriver()
    learned(driver)
    handled.clear()
    client, worker = driver.client(), driver.worker(2)
    frames = [run(cookie=cookie) for cookie in (b"a" * 16, b"b" * 16)]
    driver.send(client, *frames)
    assert worker.unread == frames
    answers = [packets.result(cookie, 1, b"2", ENCODING_BYTES) for cookie in (b"b" * 16, b"a" * 16)]
    driver.send(worker, *answers)
    assert (client.unread, handled, driver.switchboard.jobs) == (answers, [], 0)


@pytest.mark.parametrize(
    "frame",
    [
        run(left_ms=1000),
        run(attempt=7),
        run(ENCODING_JSON),
        run(reply=True),
        run(queue=False),
        run(detach=True),
        run(cookie=NO_COOKIE),
        encode(PacketType.RUN, attempt=1, cookie=COOKIE),
        encode(PacketType.RUN, attempt=1, cookie=COOKIE, meta=b"\xc0"),
        encode(PacketType.STATUS, cookie=COOKIE),
        packets.ping(3),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_nobody_can_tell_whether_a_frame_went_through_the_loops(frame: bytes, workers: int) -> None:
    drivers = [SwitchboardDriver(), SwitchboardDriver()]
    drivers[1].switchboard.effects.log_routes = True
    seen = []
    for driver in drivers:
        learned(driver)
        client = driver.client()
        served = [driver.worker(2) for _ in range(workers)]
        driver.send(client, frame, frame, run(cookie=b"x" * 16))
        for worker in served:
            for packet in worker.take():
                driver.result(worker, packet.cookie)
        counts = driver.switchboard.counters.as_dict()
        seen.append((client.unread, client.close_reason, counts, driver.switchboard.jobs))
    assert seen[0] == seen[1]


def test_a_client_at_its_limit_is_refused_the_next_job() -> None:
    driver = SwitchboardDriver(Limits(client_jobs_max=2))
    learned(driver)
    client = driver.client()
    driver.worker(10)
    driver.send(client, *(run(cookie=bytes([letter]) * 16) for letter in b"abc"))
    assert client.take_reply()[0] == Code.OVERLOADED


def test_a_client_at_its_limit_is_refused_the_next_job_also_after_a_frame_that_is_none() -> None:
    driver = SwitchboardDriver(Limits(client_jobs_max=3))
    learned(driver)
    client, worker = driver.client(), driver.worker(10)
    cookies = [bytes([letter]) * 16 for letter in b"abcd"]
    driver.send(client, run(cookie=cookies[0]), packets.ping(3), *(run(cookie=cookie) for cookie in cookies[1:]))
    assert [packet.cookie for packet in worker.take()] == cookies[:3]
    assert [(packet.kind, packet.cookie) for packet in client.take()] == [
        (PacketType.PONG, NO_COOKIE),
        (PacketType.REPLY, cookies[3]),
    ]


def test_results_reach_a_client_in_their_order_whichever_way_each_goes() -> None:
    driver = SwitchboardDriver()
    learned(driver)
    client, worker = driver.client(), driver.worker(3)
    cookies = [bytes([letter]) * 16 for letter in b"abc"]
    driver.send(client, *(run(cookie=cookie) for cookie in cookies))
    answers = [packets.result(cookie, 1, b"2", ENCODING_BYTES) for cookie in cookies]
    answers[1] = packets.failed(cookies[1], 1, Code.EXCEPTION, "why")
    driver.send(worker, *answers)
    assert client.unread == answers


def test_results_that_come_one_by_one_are_taken_without_a_handler_and_share_a_pack(handled: list[str]) -> None:
    driver = SwitchboardDriver()
    learned(driver)
    client, worker = driver.client(), driver.worker(3)
    cookies = [bytes([letter]) * 16 for letter in b"abc"]
    driver.send(client, *(run(cookie=cookie) for cookie in cookies))
    handled.clear()
    answers = [packets.result(cookie, 1, b"2", ENCODING_BYTES) for cookie in cookies]
    for answer in answers:
        driver.send(worker, answer)
    assert (client.unread, handled, driver.switchboard.jobs) == (answers, [], 0)
    assert len({id(pack) for cookie, pack in inside(driver).routes.packs() if cookie in cookies}) == 1
    assert driver.switchboard.free_slots("p") == 3


def test_whoever_carries_effects_out_is_told_when_there_are_none_but_sends() -> None:
    driver = SwitchboardDriver()
    learned(driver)
    client, worker = driver.client(), driver.worker(1)

    def plain(link: FakeLink, *frames: bytes) -> bool:
        return driver.switchboard.received(link.peer, [view(frame) for frame in frames], driver.clock.now)

    result = packets.result(COOKIE, 1, b"2", ENCODING_BYTES)
    assert plain(client, run())
    assert plain(worker, result)
    assert plain(client, run(cookie=b"a" * 16), run(cookie=b"b" * 16)), "one waits, and is told so"
    assert plain(worker, packets.result(b"a" * 16, 1, b"2", ENCODING_BYTES)), "it was given the slot"
    assert plain(worker, packets.result(b"b" * 16, 1, b"2", ENCODING_BYTES), packets.ping()) is False
    driver.switchboard.effects.log_routes = True
    assert plain(client, run(cookie=b"c" * 16)) is False


def test_the_result_of_a_plain_job_for_a_client_that_has_gone_is_counted_as_unheard() -> None:
    driver = SwitchboardDriver()
    learned(driver)
    client, worker = driver.client(), driver.worker()
    driver.send(client, run())
    driver.disconnect(client)
    driver.result(worker, COOKIE)
    assert (driver.switchboard.counters.results_unheard, driver.switchboard.jobs) == (1, 0)


def test_a_plain_result_gives_its_slot_to_the_job_that_waits() -> None:
    driver = SwitchboardDriver()
    learned(driver)
    client, worker = driver.client(), driver.worker()
    driver.send(client, run(), run(cookie=b"w" * 16))
    worker.take()
    driver.result(worker, COOKIE)
    assert worker.take_one(PacketType.RUN).cookie == b"w" * 16


def test_a_json_clients_plain_looking_job_is_answered_in_json() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(Dialect.JSON), driver.worker()
    cookie = driver.run(client)
    driver.result(worker, cookie)
    assert [packet["rc"] for packet in client.take_json()] == ["OK"]


# Jobs that wait


def keyed(cookie: bytes, key: str, **options: Any) -> bytes:
    return run(cookie=cookie, key=key, **options)


def answer(cookie: bytes) -> bytes:
    return packets.result(cookie, 1, b"2", ENCODING_BYTES)


def test_a_plain_job_waits_and_takes_the_slot_of_another_without_a_handler(handled: list[str]) -> None:
    driver = SwitchboardDriver()
    learned(driver)
    client, worker = driver.client(), driver.worker()
    handled.clear()
    cookies = [bytes([letter]) * 16 for letter in b"abc"]
    driver.send(client, *(run(cookie=cookie) for cookie in cookies))
    assert [(packet.kind, packet.code, packet.cookie) for packet in client.take()] == [
        (PacketType.REPLY, Code.QUEUED, cookie) for cookie in cookies[1:]
    ]
    for cookie in cookies:
        assert worker.take_one(PacketType.RUN).cookie == cookie
        driver.send(worker, answer(cookie))
    assert (handled, driver.switchboard.waiting, driver.switchboard.free_slots("p")) == ([], 0, 1)


def test_a_plain_job_of_a_named_key_is_that_keys_from_its_slot_to_its_result(handled: list[str]) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(2)
    first, *cookies = [bytes([letter]) * 16 for letter in b"abc"]
    driver.send(client, keyed(first, "k"))
    driver.send(worker, answer(first))
    handled.clear()
    driver.send(client, *(keyed(cookie, "k") for cookie in cookies))
    share = inside(driver).shares.of_key("", "k")
    assert (share.running, client.peer.share.running) == (2, 0)
    driver.send(worker, *map(answer, cookies))
    assert (share.running, handled) == (0, [])


LITTLE_ROOM = Limits(owner_backlog_jobs_max=3, backlog_jobs_max=8, client_jobs_max=14)


@pytest.mark.parametrize("limits", [Limits(), LITTLE_ROOM], ids=["room", "little room"])
@pytest.mark.parametrize("seed", range(25))
def test_whoever_waits_has_the_same_turn_whichever_way_the_jobs_went(seed: int, limits: Limits) -> None:
    """Keys, priorities, jobs of every kind, in reads of several RUNs; RESULTs one at a time, some of them late."""
    seen = []
    for log_routes in (False, True):
        driver, random, trace = SwitchboardDriver(limits), Random(seed), []
        driver.switchboard.effects.log_routes = log_routes
        clients = [driver.client(), driver.client()]
        workers = [driver.worker(2), driver.worker(2), driver.worker(1, serves=["p", "q"])]
        held: list[tuple[FakeLink, bytes, int]] = []
        for step in range(120):
            driver.advance(random.random() * 0.01)
            if random.random() < 0.5:
                frames = [odd_run(random, bytes([1 + number]) + step.to_bytes(15)) for number in range(random.randint(1, 4))]
                driver.send(random.choice(clients), *frames)
            elif held:
                worker, cookie, attempt = held.pop(random.randrange(len(held)))
                driver.send(worker, packets.result(cookie, attempt, b"2", ENCODING_BYTES))
            for client in clients:
                trace.append([*client.unread])
                results = sum(packet.kind == PacketType.RESULT for packet in client.take())
                if results:
                    driver.send(client, packets.ack(client.peer.acknowledged + results))
            for worker in workers:
                trace.append([*worker.unread])
                held += [(worker, packet.cookie, packet.attempt) for packet in worker.take() if packet.kind == PacketType.RUN]
        shares = [(share.name, share.running, round(share.usage, 9)) for share in inside(driver).shares.all if share.is_named]
        seen.append((trace, driver.switchboard.counters.as_dict(), driver.switchboard.waiting, shares))
    assert seen[0] == seen[1]


def odd_run(random: Random, cookie: bytes) -> bytes:
    """A RUN, as a rule of a plain job."""
    options: dict[str, Any] = {"key": random.choice(["", "a", "b", "c", "d"]), "prio": random.choice([4, 4, 4, 7])}
    odd: dict[str, Any] = random.choice(
        [{}] * 8 + [{"att": 2}, {"reply": True}, {"queue": False}, {"left_ms": 50}, {"detach": True}]
    )
    encoding = random.choice([ENCODING_BYTES] * 6 + [ENCODING_JSON])
    return run(encoding, cookie, attempt=random.choice([1] * 9 + [3]), **options, **odd)


def test_many_slots_of_one_read_are_given_in_order_and_the_rest_is_free() -> None:
    seen = []
    for log_routes in (False, True):
        driver = SwitchboardDriver()
        learned(driver)
        driver.switchboard.effects.log_routes = log_routes
        client, worker = driver.client(), driver.worker(4)
        cookies = [bytes([letter]) * 16 for letter in b"abcdef"]
        driver.send(client, *(run(cookie=cookie) for cookie in cookies))
        driver.send(worker, *map(answer, cookies[:4]))
        seen.append((worker.unread, client.unread, driver.switchboard.free_slots("p"), driver.switchboard.waiting))
        assert [packet.cookie for packet in worker.take()] == cookies
        driver.send(client, *(run(cookie=bytes([letter]) * 16) for letter in b"xyz"))
        assert (len(worker.take()), driver.switchboard.waiting) == (2, 1)
    assert seen[0] == seen[1]


def test_slots_of_a_worker_that_leaves_are_not_given_again() -> None:
    driver = SwitchboardDriver()
    learned(driver)
    client, worker = driver.client(), driver.worker(1)
    driver.send(client, run(), run(cookie=b"w" * 16))
    driver.send(worker, packets.drain())
    worker.take()
    driver.result(worker, COOKIE)
    assert (worker.take(), driver.switchboard.waiting) == ([], 1)
