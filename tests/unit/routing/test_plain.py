"""The loops of plain jobs: what they take themselves, what they leave to the handlers, and that nobody can tell which it was."""

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
    for name in ("run", "open", "finish"):
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
    assert plain(client, run(cookie=b"a" * 16), run(cookie=b"b" * 16)) is False, "one had to wait"
    assert plain(worker, packets.result(b"a" * 16, 1, b"2", ENCODING_BYTES)) is False, "it was given the slot"
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
