"""The switchboard as a whole: a job's way through it, what it counts, and that the same inputs give the same outputs.

What it says to whom in which state is in `tests/unit/switchboard/`, a file for each subject; what no single test thinks of is in
`tests/property/test_switchboard_machine.py`.
"""

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import ENCODING_JSON, CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.testing.switchboard_driver import SwitchboardDriver

BOTH = (Dialect.BINARY, Dialect.JSON)


@pytest.mark.parametrize("worker_dialect", BOTH)
@pytest.mark.parametrize("client_dialect", BOTH)
def test_a_job_goes_to_the_worker_and_its_outcome_to_the_client_whatever_they_speak(
    client_dialect: Dialect, worker_dialect: Dialect
) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(client_dialect), driver.worker(dialect=worker_dialect)
    cookie = driver.run(client, "the.pipeline", variables=b'{"a": [1, 2]}')
    run = worker.take_one(PacketType.RUN)
    assert (run.cookie, run.attempt, run.payload) == (cookie, 1, b'{"a": [1, 2]}')
    assert schemas.run_options(run.meta).p == "the.pipeline"
    assert client.take() == []
    driver.result(worker, cookie, b'"done"')
    outcome = client.take_one(PacketType.RESULT)
    assert (outcome.cookie, outcome.code, outcome.attempt, outcome.payload) == (cookie, Code.OK, 1, b'"done"')
    assert schemas.result_meta(outcome.meta).enc == ENCODING_JSON
    assert driver.switchboard.jobs == 0


def test_between_binary_peers_frames_go_on_byte_for_byte() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    # Keys that the broker does not know, and a payload that is nothing in particular, are none of its business.
    meta = b"\x83\xa1p\xa1p\xa3enc\xa5bytes\xa4what\xc0"
    run = packets.run(b"k" * 16, meta, bytes(range(256)))
    driver.send(client, run)
    assert worker.unread == [run]
    result = packets.result(b"k" * 16, 1, b"\xff\xfe", "no encoding that anybody knows")
    driver.send(worker, result)
    assert client.unread == [result]


def test_between_json_peers_the_usual_frames_go_on_byte_for_byte() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(Dialect.JSON), driver.worker(dialect=Dialect.JSON)
    cookie = driver.run(client, variables=b'{"text": "\xc3\xa4\\u00e4"}')
    sent = worker.unread[0]
    assert sent[4:5] == b"{"
    assert worker.take_json()[0]["variables"] == '{"text": "ä\\u00e4"}'
    driver.result(worker, cookie, b"null")
    assert client.unread[0][4:5] == b"{"


@pytest.mark.parametrize("dialect", BOTH)
def test_no_variables_and_no_result_stay_what_they_are(dialect: Dialect) -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(dialect), driver.worker(dialect=Dialect.JSON)
    cookie = driver.run(client, variables=b"")
    assert worker.take_json()[0]["variables"] is None
    driver.result(worker, cookie, b"")
    assert client.take_one(PacketType.RESULT).payload == b""


def test_a_failure_keeps_its_error_and_says_that_the_job_may_have_run() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.send(worker, packets.failed(cookie, 1, Code.EXCEPTION, "boom", error_type="ValueError", stack=["line 1", "line 2"]))
    outcome = client.take_one(PacketType.RESULT)
    assert outcome.code == Code.EXCEPTION
    assert schemas.failure(outcome.payload) == schemas.Failure(error="boom", type="ValueError", stack=["line 1", "line 2"])
    assert schemas.result_meta(outcome.meta).ran


def test_frames_that_arrive_together_are_taken_in_order() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker(2)
    options = schemas.encode_meta(schemas.RunOptions(p="p"))
    cookies = [bytes([number]) * 16 for number in (1, 2, 3)]
    driver.send(client, *(packets.run(cookie, options, b"") for cookie in cookies), packets.cancel(cookies[2], number=1))
    assert [decode(frame).cookie for frame in worker.unread] == cookies[:2]
    assert client.take_codes() == [
        (PacketType.REPLY, Code.QUEUED),
        (PacketType.RESULT, Code.CANCELLED),
        (PacketType.REPLY, Code.OK),
    ]


def test_no_frames_are_a_sign_of_life_and_nothing_else() -> None:
    driver = SwitchboardDriver(Limits(heartbeat_s=1.0, lease_s=3.0))
    client = driver.client()
    for _ in range(10):
        driver.advance(0.9)
        driver.deliver(client, [])
    assert (client.take(), client.closed) == ([], False)


def test_it_counts_what_happens_to_jobs() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    first, second, third = (driver.run(client) for _ in range(3))
    driver.run(client, cookie=first)
    driver.cancel(client, third)
    driver.result(worker, first)
    driver.result(worker, first)
    driver.disconnect(client)
    driver.result(worker, second)
    assert driver.switchboard.counters.as_dict() == {
        "queued": 2,
        "finished": 3,
        "cancelled": 1,
        "refused": 1,
        "results_dropped": 1,
        "results_unheard": 1,
        "retried": 0,
        "progress": 0,
        "progress_dropped": 0,
        "parking_dropped": 0,
        "extends_dropped": 0,
    }


def test_it_tells_how_many_jobs_live_and_wait_and_how_many_slots_are_free() -> None:
    driver = SwitchboardDriver()
    board = driver.switchboard
    client = driver.client()
    driver.worker(3, ["a", "b.*"])
    driver.worker(2, dialect=Dialect.JSON)
    assert [board.free_slots(name) for name in ("a", "b.c", "b", "z")] == [3, 3, 0, 0]
    assert [board.free_slots(name, as_json=True) for name in ("a", "b.c", "b", "z")] == [5, 5, 2, 2]
    for _ in range(7):
        driver.run(client, "a")
    assert (board.jobs, board.waiting, board.free_slots("a", as_json=True)) == (7, 2, 0)


def test_the_same_steps_leave_the_same_trace() -> None:
    driver = SwitchboardDriver(records=True)
    clients = [driver.client() for _ in range(3)]
    workers = [driver.worker(capacity, ["p"]) for capacity in (1, 2, 3)]
    cookies = [driver.run(clients[number % 3]) for number in range(12)]
    driver.disconnect(workers[1])
    driver.cancel(clients[0], cookies[0])
    driver.advance(30)
    driver.stop()
    assert driver.replay() == driver.trace


def test_a_peer_is_told_the_truth_about_the_broker_it_speaks_to() -> None:
    limits = Limits(frame_bytes_max=5000, client_jobs_max=7, heartbeat_s=1.5, lease_s=4.0, credit_frames=3)
    driver = SwitchboardDriver(limits)
    link = driver.connect(Role.CLIENT)
    welcome = driver.greet(link)
    assert (welcome.conn, welcome.broker, welcome.sw, welcome.v) == (link.id, b"driven by a test", "reasonchip-broker", "0")
    assert (welcome.frame, welcome.jobs, welcome.beat, welcome.dead, welcome.credit) == (5000, 7, 1500, 4000, 3)


def test_nothing_more_is_heard_from_or_said_to_a_connection_that_is_gone() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), driver.worker()
    peer = worker.peer
    driver.disconnect(worker)
    driver.run(client)
    client.take()
    for frame in (packets.ping(), packets.register(schemas.RegisterMeta(cap=1, serves=["*"])), packets.drain()):
        driver.send(worker, frame)
    driver.congest(worker)
    driver.unblock(worker)
    driver.offend(worker, CloseReason.PROTOCOL_ERROR, "late")
    driver.switchboard.disconnected(peer, CloseReason.CONNECTION_LOST, driver.clock.now)
    assert (worker.take(), worker.close, client.take()) == ([], None, [])
    assert driver.switchboard.waiting == 1
