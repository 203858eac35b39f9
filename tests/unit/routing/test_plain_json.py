"""The loops of existing peers' plain jobs: what they take themselves, what they leave to the handlers, and that nobody can tell."""

from random import Random
from typing import Any
from uuid import UUID

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Dialect, PacketType
from reasonchip_broker.scheduling import Limit, Scheduling
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, json_packet

from .scenes import inside
from .test_plain import handled

__all__ = ["handled"]

JSON = Dialect.JSON


def run(cookie: bytes, **fields: Any) -> bytes:
    return json_packet("RUN", cookie, **{"pipeline": "p", "variables": "{}", "detach": False, **fields})


def result(cookie: bytes, **fields: Any) -> bytes:
    return json_packet("RESULT", cookie, **{"rc": "OK", "result": "2", **fields})


def framed(*bodies: bytes) -> list[bytes]:
    return [len(body).to_bytes(4, "big") + body for body in bodies]


def learned(limits: Limits | None = None, **configured: Any) -> SwitchboardDriver:
    """A broker that has seen such jobs before, and whose peers have gone."""
    driver = SwitchboardDriver(limits or Limits(), **configured)
    client, worker = driver.client(JSON), driver.worker(dialect=JSON)
    for detach in (False, True):
        driver.send_json(client, run(b"l" * 16, detach=detach))
        driver.send_json(worker, result(b"l" * 16))
    driver.disconnect(client)
    driver.disconnect(worker)
    return driver


@pytest.mark.parametrize("capacity", [1, 2, 5])
@pytest.mark.parametrize("rest_ms", [0, None])
def test_plain_jobs_are_run_and_answered_without_a_handler_in_the_bytes_that_came(
    capacity: int, rest_ms: int | None, handled: list[str]
) -> None:
    driver = learned(json_slot_rest_ms=rest_ms)
    handled.clear()
    client, worker = driver.client(JSON), driver.worker(capacity, dialect=JSON)
    cookies = [bytes([letter]) * 16 for letter in b"abcde"[:capacity]]
    runs, answers = [run(cookie) for cookie in cookies], [result(cookie) for cookie in reversed(cookies)]
    driver.send_json(client, *runs)
    assert worker.unread == framed(*runs)
    assert (driver.switchboard.jobs, client.peer.unfinished, driver.switchboard.free_slots("p", as_json=True)) == (
        capacity,
        capacity,
        0,
    )
    driver.send_json(worker, *answers)
    assert (client.unread, handled, driver.switchboard.jobs, client.peer.unfinished) == (framed(*answers), [], 0, 0)
    driver.advance(1.0)
    assert driver.switchboard.free_slots("p", as_json=True) == capacity
    assert not any(cookie in inside(driver).routes for cookie in cookies)


def test_the_cookie_of_a_job_that_was_answered_may_run_another() -> None:
    driver = learned()
    client, worker = driver.client(JSON), driver.worker(dialect=JSON)
    for _ in range(3):
        driver.send_json(client, run(b"c" * 16))
        driver.send_json(worker, result(b"c" * 16))
    assert worker.unread == framed(run(b"c" * 16)) * 3
    assert client.unread == framed(result(b"c" * 16)) * 3


def test_a_binary_worker_is_sent_a_binary_run() -> None:
    driver = learned()
    client, worker = driver.client(JSON), driver.worker(dialect=Dialect.BINARY)
    driver.send_json(client, run(b"c" * 16))
    packet = worker.take_one(PacketType.RUN)
    assert (packet.cookie, packet.attempt, packet.payload) == (b"c" * 16, 1, b"{}")
    driver.result(worker, b"c" * 16)
    assert [answer["rc"] for answer in client.take_json()] == ["OK"]


def test_the_outcome_for_a_client_that_has_gone_is_counted_as_unheard_and_kept() -> None:
    driver = learned()
    client, worker, other = driver.client(JSON), driver.worker(dialect=JSON), driver.client()
    before = driver.switchboard.counters.results_unheard
    driver.send_json(client, run(b"c" * 16))
    driver.disconnect(client)
    driver.send_json(worker, result(b"c" * 16))
    assert driver.switchboard.counters.results_unheard == before + 1
    driver.attach(other, b"c" * 16)
    assert [packet.kind for packet in other.take()] == [PacketType.REPLY, PacketType.RESULT]


def test_a_job_that_a_binary_client_took_over_is_answered_to_that_client() -> None:
    driver = learned()
    client, worker, other = driver.client(JSON), driver.worker(dialect=JSON), driver.client()
    driver.send_json(client, run(b"c" * 16))
    driver.attach(other, b"c" * 16)
    other.take()
    driver.send_json(worker, result(b"c" * 16))
    assert other.take_one(PacketType.RESULT).payload == b"2"


def test_whoever_looks_on_is_told_the_outcome_as_well() -> None:
    driver = learned()
    client, worker, other = driver.client(JSON), driver.worker(dialect=JSON), driver.client()
    driver.send_json(client, run(b"c" * 16))
    driver.attach(other, b"c" * 16, take=False)
    other.take()
    driver.send_json(worker, result(b"c" * 16))
    assert client.unread == framed(result(b"c" * 16))
    assert other.take_one(PacketType.RESULT).payload == b"2"


def test_a_limit_of_the_operator_holds_back_jobs_of_existing_peers_too() -> None:
    limit = Limit(name="one at a time", concurrency=1)
    driver = learned(json_slot_rest_ms=0, scheduling=Scheduling(limits=(limit,)))
    client, worker = driver.client(JSON, queues=False), driver.worker(4, dialect=JSON)
    bodies = [run(bytes([letter]) * 16) for letter in b"abc"]
    driver.send_json(client, *bodies)
    assert worker.unread == framed(bodies[0])
    assert [answer["rc"] for answer in client.take_json()] == ["NO_CAPACITY"] * 2
    driver.send_json(worker, result(b"a" * 16))
    driver.send_json(client, *bodies[1:])
    assert worker.unread == framed(*bodies[:2])


@pytest.mark.parametrize("log_routes", [False, True])
def test_who_has_used_slots_by_such_jobs_waits_for_others_elsewhere(log_routes: bool) -> None:
    driver = learned(json_slot_rest_ms=0)
    driver.switchboard.effects.log_routes = log_routes
    client, worker = driver.client(JSON, principal="ada"), driver.worker(dialect=JSON)
    labelled = driver.worker(labels={"gpu": "yes"})
    other, ada, bob = (driver.client(principal=principal) for principal in ("carl", "ada", "bob"))
    occupant = driver.run(other, need={"gpu": "yes"})
    waiting = [driver.run(link, need={"gpu": "yes"}) for link in (ada, bob)]
    for number in range(1, 4):
        driver.send_json(client, run(number.to_bytes(16, "big")))
        driver.advance(5.0)
        driver.send_json(worker, result(number.to_bytes(16, "big")))
    labelled.take()
    driver.result(labelled, occupant)
    assert labelled.take_one(PacketType.RUN).cookie == waiting[1]


@pytest.mark.parametrize("text", ["0f8fad5b-d9cb-469f-a165-7086772895--", "---------d9cb-469f-a165-70867728950e"])
def test_a_run_whose_cookie_is_too_short_is_refused_and_those_before_it_in_the_read_are_counted(text: str) -> None:
    driver = learned()
    client, worker = driver.client(JSON), driver.worker(4, dialect=JSON)
    good = [run(bytes([letter]) * 16) for letter in b"ab"]
    bad = run(b"c" * 16).replace(str(UUID(bytes=b"c" * 16)).encode(), text.encode())
    driver.send_json(client, *good, bad, run(b"d" * 16))
    assert worker.unread == framed(*good, run(b"d" * 16))
    assert [answer["rc"] for answer in client.take_json()] == ["BAD_PACKET"]
    assert (driver.switchboard.jobs, client.peer.unfinished) == (3, 3)


def test_whoever_carries_effects_out_is_told_when_there_are_none_but_sends() -> None:
    driver = learned()
    client, worker = driver.client(JSON), driver.worker(2, dialect=JSON)
    board = driver.switchboard
    told: list[bool] = []
    original = board.received
    driver.switchboard = _Listening(board, lambda *step: told.append(original(*step)))  # type: ignore[assignment]
    driver.send_json(client, run(b"a" * 16), run(b"b" * 16))
    driver.send_json(client, run(b"c" * 16))
    driver.send_json(worker, result(b"a" * 16), result(b"b" * 16))
    driver.send_json(worker, result(b"b" * 16))
    assert told == [True, False, True, False]


class _Listening:
    """A switchboard whose `received` is another function."""

    def __init__(self, board: Any, received: Any) -> None:
        self._board = board
        self.received = received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._board, name)


FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"detach": True},
    {"detach": None},
    {"pipeline": "another"},
    {"variables": None},
    {"capacity": 3},
)
OUTCOMES: tuple[dict[str, Any], ...] = (
    {},
    {"rc": "EXCEPTION", "result": None, "error": "why"},
    {"result": None},
    {"pipeline": "p"},
    {"rc": "QUITE"},
)
LIMITS = (Limits(), Limits(client_jobs_max=3), Limits(backlog_jobs_max=2))


@pytest.mark.parametrize("rest_ms", [0, None])
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("seed", range(12))
def test_nobody_can_tell_which_way_the_jobs_went(seed: int, limits: Limits, rest_ms: int | None) -> None:
    """All of it is done twice: the second broker logs what becomes of each job, and so takes the long way."""
    seen = [
        walked(Random(seed), learned(limits, json_slot_rest_ms=rest_ms), log_routes=log_routes) for log_routes in (False, True)
    ]
    assert seen[0] == seen[1]


def walked(random: Random, driver: SwitchboardDriver, *, log_routes: bool) -> list[Any]:
    """What all peers were sent, in a life of jobs of all kinds, and what was counted after each step."""
    driver.switchboard.effects.log_routes = log_routes
    clients = [driver.client(JSON), driver.client(JSON), driver.client()]
    workers = [driver.worker(capacity, dialect=dialect) for capacity, dialect in ((1, JSON), (4, JSON), (2, Dialect.BINARY))]
    held: dict[int, list[bytes]] = {number: [] for number in range(len(workers))}
    cookies = [number.to_bytes(16, "big") for number in range(1, 200)]
    seen: list[Any] = []
    for _ in range(60):
        step = random.random()
        if step < 0.45:
            bodies = [run(random.choice(cookies), **random.choice(FORMS)) for _ in range(random.randint(1, 6))]
            driver.send_json(random.choice(clients[:2]), *bodies)
        elif step < 0.5:
            driver.run(clients[2])
        elif step < 0.9:
            number = random.randrange(len(workers))
            done = [held[number].pop(random.randrange(len(held[number]))) for _ in range(min(3, len(held[number])))]
            if workers[number].peer.dialect is JSON:
                if done:
                    driver.send_json(workers[number], *(result(cookie, **random.choice(OUTCOMES)) for cookie in done))
            else:
                for cookie in done:
                    driver.result(workers[number], cookie)
        elif step < 0.93:
            driver.attach(clients[2], random.choice(cookies))
        elif step < 0.95:
            number = random.randrange(2)
            driver.disconnect(clients[number])
            clients[number] = driver.client(JSON)
        else:
            driver.advance(random.choice((0.01, 0.2)))
        seen.append([link.unread[:] for link in (*clients, *workers)])
        for number, worker in enumerate(workers):
            held[number] += _runs(worker)
        for client in clients:
            client.unread.clear()
        seen.append((driver.switchboard.counters.as_dict(), driver.switchboard.jobs, driver.switchboard.free_slots("p")))
    return seen


def _runs(worker: FakeLink) -> list[bytes]:
    """The cookies of jobs that a worker was sent."""
    return [packet.cookie for packet in worker.take() if packet.kind == PacketType.RUN]
