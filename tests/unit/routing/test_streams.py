"""Progress out of a job and input into it: numbered, in order, no faster than whoever takes it, and never silently incomplete."""

from typing import Any

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import NUMBER_MAX, encode
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.protocol.frames import OVERSIZED
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver, view

from .scenes import chunks, credited, driven, inside, kinds, results, session

CREDIT = 4


def followed(
    *, worker_options: dict[str, Any] | None = None, limits: dict[str, Any] | None = None, **options: Any
) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    """A client that follows its job, and the worker that runs it."""
    driver = driven(**{"credit_frames": CREDIT, **(limits or {})})
    client = driver.client()
    worker = driver.worker(**(worker_options or {}))
    cookie = driver.run(client, **{"follow": True, **options})
    client.take()
    worker.take()
    return driver, client, worker, cookie


# Progress: order


def test_progress_comes_in_order_as_it_was_sent_and_the_result_after_it() -> None:
    driver, client, worker, cookie = followed()
    frames = [packets.progress(cookie, 1, number, b"%d" % number, "text") for number in (1, 2, 3)]
    driver.send(worker, *frames, packets.result(cookie, 1, b"2", "json"))
    assert client.unread[:3] == frames
    assert kinds(client.take())[3:] == [PacketType.RESULT]


@pytest.mark.parametrize("number", [0, 1, 3, 4, NUMBER_MAX])
def test_progress_with_another_number_than_the_next_is_dropped_and_counted(number: int) -> None:
    driver, client, worker, cookie = followed()
    driver.progress(worker, cookie, 1, number, 2)
    assert chunks(client.take()) == [(1,), (2,)]
    assert inside(driver).counters.progress_dropped == 1


def test_row_13_progress_of_who_does_not_hold_the_job_or_after_its_result_is_dropped_and_counted() -> None:
    driver, client, worker, cookie = followed()
    other = driver.worker()
    driver.progress(other, cookie, 1)
    driver.progress(worker, cookie, 1, attempt=2)
    driver.progress(worker, b"unknown".ljust(16), 1)
    driver.send(worker, encode(PacketType.PROGRESS, Code.GAP, 1, cookie, 1))
    driver.send(other, packets.progress(cookie, 1, 1, b"", ""))
    driver.result(worker, cookie)
    driver.progress(worker, cookie, 1)
    assert results(client) == [(cookie, Code.OK)]
    assert inside(driver).counters.progress_dropped == 6


def test_numbers_go_on_over_all_attempts() -> None:
    driver, client, worker, cookie = followed(att=3, again=["*"], back=0)
    driver.progress(worker, cookie, 1, 2)
    driver.fail(worker, cookie, Code.EXCEPTION)
    driver.advance(0.01)
    driver.progress(worker, cookie, 3, attempt=2)
    driver.progress(worker, cookie, 1, 2, attempt=2)
    taken = client.take()
    assert [(packet.number, packet.attempt) for packet in taken] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_a_number_that_no_frame_can_carry_is_dropped() -> None:
    driver, _, worker, cookie = followed(
        worker_options={"name": "w", "process": b"p" * 16, "grace_s": 10}, att=2, again=["*"], back=0
    )
    driver.disconnect(worker)
    worker = session(driver, held=[(cookie, 1)])
    driver.progress(worker, cookie, NUMBER_MAX)
    driver.fail(worker, cookie, Code.EXCEPTION)
    driver.advance(0.01)
    driver.progress(worker, cookie, 1, attempt=2)
    assert inside(driver).counters.progress_dropped == 1


def test_a_chunk_over_the_frame_limit_is_a_gap_and_is_credited() -> None:
    driver, client, worker, cookie = followed()
    head = view(packets.progress(cookie, 1, 1, b"", ""))
    driver.deliver(worker, [(head[0] + OVERSIZED, *head[1:])])
    driver.progress(worker, cookie, 2)
    assert chunks(client.take()) == [(1, 1), (2,)]
    assert credited(worker.take()) == 2


# Progress: credit


def test_a_worker_is_credited_only_as_the_owner_takes() -> None:
    driver, client, worker, cookie = followed()
    driver.progress(worker, cookie, *range(1, CREDIT + 1))
    assert (len(client.take()), credited(worker.take())) == (CREDIT, CREDIT)
    driver.progress(worker, cookie, *range(CREDIT + 1, 2 * CREDIT + 1))
    assert (client.take(), worker.take()) == ([], [])
    driver.credit(client, cookie, 3)
    assert (chunks(client.take()), credited(worker.take())) == ([(5,), (6,), (7,)], 3)


def test_credit_is_worth_no_more_than_what_is_under_way() -> None:
    driver, client, worker, cookie = followed()
    driver.credit(client, cookie, 1000)
    driver.progress(worker, cookie, *range(1, CREDIT + 1))
    client.take()
    driver.progress(worker, cookie, *range(CREDIT + 1, 2 * CREDIT + 1))
    assert client.take() == []
    driver.credit(client, cookie, NUMBER_MAX)
    assert len(client.take()) == CREDIT


def test_what_the_owner_did_not_take_comes_before_the_result_whatever_its_credit() -> None:
    driver, client, worker, cookie = followed()
    driver.progress(worker, cookie, *range(1, CREDIT + 1))
    driver.progress(worker, cookie, *range(CREDIT + 1, 2 * CREDIT + 1))
    client.take()
    driver.result(worker, cookie)
    taken = client.take()
    assert chunks(taken) == [(5,), (6,), (7,), (8,)]
    assert kinds(taken)[-1] is PacketType.RESULT


def test_a_worker_that_sends_more_than_it_may_loses_that_and_is_told_nothing() -> None:
    driver, client, worker, cookie = followed()
    driver.progress(worker, cookie, *range(1, 2 * CREDIT + 3))
    assert chunks(client.take()) == [(1,), (2,), (3,), (4,)]
    driver.credit(client, cookie, CREDIT)
    driver.credit(client, cookie, CREDIT)
    driver.progress(worker, cookie, 2 * CREDIT + 3)
    driver.result(worker, cookie)
    numbers = chunks(client.take())
    assert [number[-1] for number in numbers] == list(range(CREDIT + 1, 2 * CREDIT + 4))
    assert any(len(number) == 2 for number in numbers)


def seen_after(sizes: tuple[int, ...], **limits: int) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes, list[Any]]:
    """What an owner that does not read for a while is sent in the end, of chunks of these sizes."""
    driver, client, worker, cookie = followed(limits={"credit_bytes_max": 100, **limits})
    driver.congest(client)
    for number, size in enumerate(sizes, 1):
        driver.send(worker, packets.progress(cookie, 1, number, bytes(size), "bytes"))
    driver.unblock(client)
    return driver, client, worker, cookie, chunks(client.take())


def test_what_a_worker_sends_beyond_the_window_is_a_gap_and_what_came_before_it_stays() -> None:
    driver, client, worker, cookie, seen = seen_after((60, 40, 1), ring_bytes_max=150)
    assert (seen, credited(worker.take())) == ([(1,), (2,), (3, 3)], 3)
    assert inside(driver).counters.progress_dropped == 1
    driver.send(worker, packets.progress(cookie, 1, 4, bytes(100), "bytes"))
    assert chunks(client.take()) == [(4,)]


def test_a_chunk_of_any_size_is_taken_when_none_is_under_way_and_nothing_beside_it() -> None:
    driver, client, worker, cookie, seen = seen_after((5_000, 1), ring_bytes_max=150)
    assert seen == [(1,), (2, 2)]
    driver.send(worker, packets.progress(cookie, 1, 3, bytes(5_000), "bytes"))
    assert chunks(client.take()) == [(3,)]


def test_what_is_within_the_window_is_not_overwritten_though_all_rings_are_full() -> None:
    assert seen_after((25,) * CREDIT, rings_bytes_max=50)[-1] == [(1,), (2,), (3,), (4,)]


def test_a_new_owner_misses_nothing_that_was_there_when_it_came() -> None:
    driver, _, worker, cookie = followed(limits={"ring_bytes_max": 200}, follow=False)
    driver.progress(worker, cookie, *range(1, 5))
    owner = driver.client()
    driver.congest(owner)
    driver.attach(owner, cookie, first=1)
    driver.progress(worker, cookie, *range(5, 9))
    driver.result(worker, cookie)
    assert chunks(owner.take()) == [(number,) for number in range(1, 9)]


@pytest.mark.parametrize("options", [{"follow": False}, {"follow": False, "detach": True}])
def test_without_a_reader_the_worker_is_credited_freely_and_the_ring_keeps_the_latest(options: dict[str, Any]) -> None:
    driver, client, worker, cookie = followed(limits={"ring_chunks_max": 5}, **options)
    for number in range(1, 20):
        driver.progress(worker, cookie, number)
        assert credited(worker.take()) == 1
    driver.attach(client, cookie, first=1)
    assert chunks(client.take()) == [(1, 14), (15,), (16,), (17,)]


def test_a_json_client_holds_nobody_up() -> None:
    driver = driven(credit_frames=CREDIT)
    client, worker = driver.client(Dialect.JSON), driver.worker()
    cookie = driver.run(client)
    worker.take()
    for number in range(1, 3 * CREDIT):
        driver.progress(worker, cookie, number)
    assert credited(worker.take()) == 3 * CREDIT - 1
    driver.result(worker, cookie)
    assert [answer["packet_type"] for answer in client.take_json()] == ["RESULT"]
    assert inside(driver).streams.budget.bytes == 0


def test_when_its_owner_goes_the_worker_is_credited_freely() -> None:
    driver, client, worker, cookie = followed()
    driver.progress(worker, cookie, *range(1, CREDIT + 1))
    driver.progress(worker, cookie, *range(CREDIT + 1, 2 * CREDIT + 1))
    worker.take()
    driver.disconnect(client)
    assert credited(worker.take()) == CREDIT


def test_nothing_goes_to_a_congested_follower_and_its_worker_waits() -> None:
    driver, client, worker, cookie = followed()
    driver.congest(client)
    driver.progress(worker, cookie, 1, 2)
    assert (client.take(), worker.take()) == ([], [])
    driver.unblock(client)
    assert (chunks(client.take()), credited(worker.take())) == ([(1,), (2,)], 2)


def test_a_congested_onlooker_holds_nobody_up_and_is_told_what_it_missed() -> None:
    driver, client, worker, cookie = followed(limits={"ring_chunks_max": CREDIT})
    looker = driver.client()
    driver.attach(looker, cookie, first=1, take=False)
    looker.take()
    driver.congest(looker)
    for number in range(1, 4 * CREDIT + 1):
        driver.progress(worker, cookie, number)
        driver.credit(client, cookie, 1)
    assert credited(worker.take()) == 4 * CREDIT
    driver.unblock(looker)
    assert chunks(looker.take()) == [(1, 12), (13,), (14,), (15,)]
    driver.result(worker, cookie)
    assert chunks(looker.take()) == [(16,)]


def test_each_attempt_begins_with_the_full_credit() -> None:
    driver, client, worker, cookie = followed(att=2, again=["*"], back=0)
    driver.progress(worker, cookie, *range(1, CREDIT + 1))
    driver.progress(worker, cookie, *range(CREDIT + 1, 2 * CREDIT + 1))
    driver.fail(worker, cookie, Code.EXCEPTION)
    driver.advance(0.01)
    client.take()
    driver.progress(worker, cookie, *range(1, CREDIT + 1), attempt=2)
    driver.result(worker, cookie, attempt=2)
    assert chunks(client.take()) == [(number,) for number in range(5, 13)]


# Progress: a break


def test_what_was_lost_on_the_way_in_a_break_is_a_gap_and_numbers_go_on() -> None:
    driver, client, worker, cookie = followed(worker_options={"name": "w", "process": b"p" * 16, "grace_s": 10})
    driver.progress(worker, cookie, 1, 2)
    driver.disconnect(worker)
    worker = session(driver, held=[(cookie, 1)])
    lost = CREDIT
    driver.progress(worker, cookie, *range(3 + lost, 3 + lost + CREDIT))
    driver.result(worker, cookie)
    assert chunks(client.take()) == [(1,), (2,), (3, 6), (7,), (8,), (9,), (10,)]


def test_a_number_is_skipped_once_after_a_break() -> None:
    driver, client, worker, cookie = followed(worker_options={"name": "w", "process": b"p" * 16, "grace_s": 10})
    driver.disconnect(worker)
    worker = session(driver, held=[(cookie, 1)])
    driver.progress(worker, cookie, 2, 4, 3)
    assert chunks(client.take()) == [(1, 1), (2,), (3,)]


def test_what_the_owner_has_not_taken_is_not_overwritten_in_a_break() -> None:
    driver, client, worker, cookie = followed(worker_options={"name": "w", "process": b"p" * 16, "grace_s": 10})
    driver.progress(worker, cookie, *range(1, CREDIT + 1))
    driver.progress(worker, cookie, *range(CREDIT + 1, 2 * CREDIT + 1))
    driver.disconnect(worker)
    worker = session(driver, held=[(cookie, 1)])
    driver.progress(worker, cookie, *range(2 * CREDIT + 1, 3 * CREDIT + 1))
    driver.result(worker, cookie)
    assert chunks(client.take()) == [(number,) for number in range(1, 3 * CREDIT + 1)]


# Input


def test_input_goes_to_the_worker_and_is_credited_when_it_is_sent_on() -> None:
    driver, client, worker, cookie = followed()
    driver.input(client, cookie, 1, 2)
    taken = worker.take()
    assert [(packet.number, packet.attempt, packet.payload) for packet in taken] == [(1, 1, b"4"), (2, 1, b"4")]
    (credit,) = client.take()
    assert (credit.kind, credit.attempt, credit.number) == (PacketType.CREDIT, 0, 2)


def test_input_waits_for_the_worker_to_take_it() -> None:
    driver, client, worker, cookie = followed()
    driver.input(client, cookie, *range(1, CREDIT + 1))
    driver.input(client, cookie, *range(CREDIT + 1, 2 * CREDIT + 1))
    assert (chunks(worker.take()), credited(client.take())) == ([(1,), (2,), (3,), (4,)], CREDIT)
    driver.credit(worker, cookie, 2, attempt=2)
    driver.credit(driver.worker(), cookie, 2, attempt=1)
    assert worker.take() == []
    driver.credit(worker, cookie, 2, attempt=1)
    assert (chunks(worker.take()), credited(client.take())) == ([(5,), (6,)], 2)
    assert driver.status(client, cookie).inp == 2 * CREDIT


def test_a_job_that_waits_takes_so_much_input_in_advance_and_credits_it_when_it_runs() -> None:
    driver = driven(credit_frames=CREDIT)
    client = driver.client()
    cookie = driver.run(client)
    client.take()
    driver.input(client, cookie, *range(1, CREDIT + 1))
    assert client.take() == []
    driver.input(client, cookie, CREDIT + 1)
    answer = client.take_one(PacketType.REPLY)
    assert (answer.code, answer.number, schemas.reply_meta(answer.meta).to) == (Code.OVERLOADED, CREDIT + 1, PacketType.INPUT)
    worker = driver.worker()
    assert chunks(worker.take()) == [(1,), (2,), (3,), (4,)]
    assert credited(client.take()) == CREDIT
    driver.input(client, cookie, CREDIT + 1)
    assert client.take() == []


def test_so_it_does_once_it_is_admitted() -> None:
    driver = SwitchboardDriver(admits=True)
    client, worker = driver.client(), driver.worker()
    cookie = driver.run(client)
    driver.input(client, cookie, 1)
    driver.admit(cookie)
    assert (chunks(worker.take()), credited(client.take())) == ([(1,)], 1)


def test_input_of_a_job_that_is_not_admitted_leaves_nothing() -> None:
    driver = SwitchboardDriver(admits=True)
    client = driver.client()
    cookie = driver.run(client)
    driver.input(client, cookie, 1)
    driver.reject(cookie)
    assert inside(driver).streams.budget.bytes == 0


def test_input_that_has_arrived_already_is_dropped_and_credited() -> None:
    driver, client, worker, cookie = followed()
    driver.input(client, cookie, 1)
    client.take()
    worker.take()
    again = driver.client()
    driver.input(again, cookie, 1, 0, 2)
    assert (credited(again.take()), chunks(worker.take())) == (3, [(2,)])


def test_input_that_is_not_the_next_is_a_bad_packet_that_says_which_was_expected() -> None:
    driver, client, worker, cookie = followed()
    driver.input(client, cookie, 1, 3, 4)
    answers = client.take_kinds(PacketType.REPLY)
    assert [(packet.code, packet.number) for packet in answers] == [(Code.BAD_PACKET, 3), (Code.BAD_PACKET, 4)]
    assert "input 2 was expected" in schemas.reply_meta(answers[0].meta).msg
    assert chunks(worker.take()) == [(1,)]


def test_input_of_more_bytes_than_the_window_is_refused_and_none_is_lost() -> None:
    driver = driven(credit_bytes_max=1_000, ring_bytes_max=1_500)
    client = driver.client()
    cookie = driver.run(client)
    client.take()
    driver.input(client, cookie, 1, payload=bytes(600))
    driver.input(client, cookie, 2, payload=bytes(400))
    assert client.take() == []
    driver.input(client, cookie, 3, payload=b"x")
    assert client.take_reply()[0] is Code.OVERLOADED
    assert chunks(driver.worker().take()) == [(1,), (2,)]


def test_one_input_of_any_size_is_taken_when_none_is_under_way() -> None:
    driver, client, worker, cookie = followed(limits={"credit_bytes_max": 1_000})
    driver.input(client, cookie, 1, payload=bytes(5_000))
    driver.input(client, cookie, 2, payload=bytes(5_000))
    assert (chunks(worker.take()), credited(client.take())) == ([(1,), (2,)], 2)


def test_row_14_input_for_what_is_unknown_over_or_anothers_is_answered_alike() -> None:
    driver, client, worker, cookie = followed()
    stranger = driver.client(principal="another")
    over = driver.run(client)
    driver.result(worker, cookie)
    worker.take()
    answers = []
    for link, asked in ((client, b"unknown".ljust(16)), (client, cookie), (stranger, over)):
        link.take()
        driver.input(link, asked, 1)
        answers.append(link.unread[0].replace(asked, bytes(16)))
        assert link.take()[0].code == Code.COOKIE_NOT_FOUND
    assert len(set(answers)) == 1


def test_input_for_a_json_worker_is_not_allowed_and_over_the_frame_limit_too_large() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker(dialect=Dialect.JSON)
    cookie = driver.run(client)
    driver.input(client, cookie, 1)
    assert client.take_reply()[0] is Code.NOT_ALLOWED
    head = view(packets.input_chunk(cookie, 1, b"", ""))
    driver.deliver(client, [(head[0] + OVERSIZED, *head[1:])])
    assert client.take_reply()[0] is Code.TOO_LARGE
    assert len(worker.take_json()) == 1


def test_a_later_attempt_gets_all_input_from_the_first_on() -> None:
    driver, client, worker, cookie = followed(att=2, again=["*"], back=0)
    driver.input(client, cookie, 1, 2)
    driver.fail(worker, cookie, Code.EXCEPTION)
    driver.input(client, cookie, 3)
    worker.take()
    driver.advance(0.01)
    taken = worker.take()
    assert kinds(taken) == [PacketType.RUN, *[PacketType.INPUT] * 3]
    assert [(packet.number, packet.attempt) for packet in taken[1:]] == [(1, 2), (2, 2), (3, 2)]


def test_a_later_attempt_is_told_of_input_that_is_no_longer_kept() -> None:
    driver, client, worker, cookie = followed(att=2, again=["*"], back=0, limits={"ring_chunks_max": CREDIT})
    for number in range(1, 2 * CREDIT + 1):
        driver.input(client, cookie, number)
        driver.credit(worker, cookie, 1, attempt=1)
    driver.fail(worker, cookie, Code.EXCEPTION)
    worker.take()
    driver.advance(0.01)
    assert chunks(worker.take()) == [(1, 4), (5,), (6,), (7,)]
    driver.credit(worker, cookie, 1, attempt=2)
    assert chunks(worker.take()) == [(8,)]


def test_after_a_break_input_comes_again_from_what_was_not_credited() -> None:
    driver, client, worker, cookie = followed(worker_options={"name": "w", "process": b"p" * 16, "grace_s": 10})
    driver.input(client, cookie, 1, 2, 3)
    driver.credit(worker, cookie, 1, attempt=1)
    driver.disconnect(worker)
    driver.input(client, cookie, 4)
    worker = session(driver, held=[(cookie, 1)])
    assert chunks(worker.take()) == [(2,), (3,), (4,)]
    assert credited(client.take()) == 4


def test_each_connection_is_credited_for_the_input_that_it_sent() -> None:
    driver = driven(credit_frames=CREDIT)
    client, other = driver.client(), driver.client()
    cookie = driver.run(client)
    client.take()
    driver.input(client, cookie, 1)
    driver.input(other, cookie, 2, 3)
    driver.input(client, cookie, 4)
    driver.worker()
    assert (credited(client.take()), credited(other.take())) == (2, 2)


def test_credit_for_a_job_that_is_over_or_unknown_or_anothers_changes_nothing() -> None:
    driver, client, worker, cookie = followed()
    driver.credit(driver.client(), cookie, 5)
    driver.credit(client, b"unknown".ljust(16), 5)
    driver.result(worker, cookie)
    driver.credit(client, cookie, 5)
    driver.credit(worker, cookie, 5, attempt=1)
    assert results(client) == [(cookie, Code.OK)]


def test_a_job_that_is_over_keeps_its_progress_for_who_comes_later_and_no_input() -> None:
    driver, client, worker, cookie = followed()
    driver.progress(worker, cookie, 1)
    driver.input(client, cookie, 1)
    driver.result(worker, cookie)
    route = inside(driver).routes[cookie]
    assert route.extras is not None
    assert route.extras.progress is not None
    assert inside(driver).streams.budget.bytes == route.extras.progress.bytes
    other = driver.client()
    driver.attach(other, cookie, first=1)
    assert kinds(other.take()) == [PacketType.REPLY, PacketType.PROGRESS, PacketType.RESULT]
    driver.ack(other, 1)
    assert inside(driver).streams.budget.bytes == 0


def test_input_of_a_number_that_somebody_else_has_sent_is_refused_and_not_lost_without_a_word() -> None:
    driver = SwitchboardDriver()
    first, second, worker = driver.client(), driver.client(), driver.worker()
    cookie = driver.run(first)
    worker.take()
    for link, payload in ((first, b"1"), (second, b"2"), (first, b"1")):
        driver.send(link, packets.input_chunk(cookie, 1, payload, "json"))
    assert [(packet.kind, packet.payload) for packet in worker.take()] == [(PacketType.INPUT, b"1")]
    code, sentence = second.take_reply()
    assert (code, "input 2 was expected" in sentence) == (Code.BAD_PACKET, True)
    assert [packet.kind for packet in first.take()] == [PacketType.CREDIT, PacketType.CREDIT]
