"""Jobs that belong together: parents and children, and batches."""

import gc
import sys
from typing import Any

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, Dialect, JobState, PacketType, Role
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

from .scenes import assert_nothing_is_left, chunks, driven, inside, kinds, outcome, ran, results, session

BATCH = b"b" * 16


def family(**options: Any) -> tuple[SwitchboardDriver, FakeLink, FakeLink, bytes]:
    """A parent that runs on the worker of `p`."""
    driver = driven()
    client, worker = driver.client(), driver.worker(4, ("p",), name="w")
    parent = driver.run(client, **options)
    client.take()
    worker.take()
    return driver, client, worker, parent


def child_of(driver: SwitchboardDriver, link: FakeLink, parent: bytes, **options: Any) -> bytes:
    """A child that waits, since nobody serves it."""
    cookie = driver.run(link, "child", parent=parent, **options)
    link.take()
    return cookie


def ends(link: FakeLink) -> list[tuple[bytes, Code]]:
    return [(packet.cookie, Code(packet.code)) for packet in link.take_kinds(PacketType.RESULT)]


# Children


@pytest.mark.parametrize("code", [Code.EXCEPTION, Code.CANCELLED, Code.PROCESSOR_EXCEPTION])
def test_when_a_job_fails_its_children_are_cancelled_but_for_loose_ones(code: Code) -> None:
    driver, _, worker, parent = family()
    child, loose = child_of(driver, worker, parent), child_of(driver, worker, parent, loose=True)
    driver.fail(worker, parent, code)
    assert ends(worker) == [(child, Code.CANCELLED)]
    assert driver.status(worker, loose).state == JobState.QUEUED


def test_when_a_job_ends_well_its_children_go_on() -> None:
    driver, _, worker, parent = family()
    child = child_of(driver, worker, parent)
    driver.result(worker, parent)
    assert ends(worker) == []
    status = driver.status(worker, child)
    assert (status.state, status.parent) == (JobState.QUEUED, b"")


def test_when_a_job_is_cancelled_its_children_are_cancelled_with_it_and_not_only_once_it_is_over() -> None:
    driver, client, worker, parent = family()
    other = driver.worker(1, ("child",))
    running = driver.run(worker, "child", parent=parent)
    waiting = child_of(driver, worker, parent)
    loose = child_of(driver, worker, parent, loose=True)
    other.take()
    driver.cancel(client, parent)
    taken = worker.take()
    assert [(packet.kind, packet.cookie) for packet in taken if packet.kind != PacketType.REPLY] == [
        (PacketType.CANCEL, parent),
        (PacketType.RESULT, waiting),
    ]
    assert other.take_one(PacketType.CANCEL).cookie == running
    driver.fail(worker, parent, Code.CANCELLED)
    driver.fail(other, running, Code.CANCELLED)
    assert ends(worker) == [(running, Code.CANCELLED)]
    assert driver.status(worker, loose).state == JobState.RUNNING


@pytest.mark.parametrize(("options", "code"), [({"left_ms": 1_000}, Code.DEADLINE_EXCEEDED), ({"rlim": 1_000}, Code.CANCELLED)])
def test_when_a_jobs_time_is_up_so_is_that_of_its_children(options: dict[str, int], code: Code) -> None:
    driver, _, worker, parent = family(**options)
    child = child_of(driver, worker, parent)
    driver.advance(1.1)
    assert ends(worker) == [(child, code)]
    assert inside(driver).live == 0


@pytest.mark.parametrize("options", [{}, {"att": 2}])
def test_when_a_job_loses_its_worker_its_children_are_cancelled(options: dict[str, int]) -> None:
    driver, _, worker, parent = family(**options)
    other = driver.worker(1, ("child",))
    child = driver.run(worker, "child", parent=parent)
    assert ran(other) == [(child, 1)]
    driver.disconnect(worker)
    assert other.take_one(PacketType.CANCEL).cookie == child


def test_when_a_job_begins_another_attempt_the_children_of_the_last_one_are_cancelled() -> None:
    driver, _, worker, parent = family(att=2, again=["*"], back=0)
    child = child_of(driver, worker, parent)
    driver.fail(worker, parent, Code.EXCEPTION)
    assert ends(worker) == [(child, Code.CANCELLED)]
    driver.advance(0.01)
    assert ran(worker) == [(parent, 2)]


def test_a_worker_that_is_away_keeps_its_children() -> None:
    driver = driven()
    client, worker = driver.client(), session(driver, serves=("p",))
    parent = driver.run(client)
    child = child_of(driver, worker, parent)
    driver.disconnect(worker)
    driver.advance(5.0)
    assert driver.status(driver.client(), child).state == JobState.QUEUED
    driver.advance(6.0)
    assert driver.status(driver.links[-1], child).out == Code.CANCELLED


def test_a_childs_deadline_is_at_most_its_parents() -> None:
    driver, _, worker, parent = family(left_ms=10_000)
    short, long, none = (child_of(driver, worker, parent, left_ms=ms) for ms in (2_000, 60_000, 0))
    assert [driver.status(worker, cookie).left for cookie in (short, long, none)] == [2_000, 10_000, 10_000]


def test_a_worker_names_a_parent_that_it_holds_or_is_not_allowed() -> None:
    driver, client, worker, parent = family()
    other = driver.worker(1, ("q",))
    running = driver.run(client, "q")
    other.take()
    for link, named in ((other, None), (other, parent), (worker, running), (worker, b"unknown".ljust(16))):
        driver.run(link, "child", parent=named)
        assert link.take_reply()[0] is Code.NOT_ALLOWED
    driver.result(worker, parent)
    driver.run(worker, "child", parent=parent)
    assert worker.take_reply()[0] is Code.NOT_ALLOWED


def test_a_client_at_the_address_for_workers_is_told_so() -> None:
    driver = driven()
    stray = driver.connect(Role.WORKER)
    driver.greet(stray)
    driver.run(stray, "p")
    code, sentence = stray.take_reply()
    assert (code, sentence) == (
        Code.NOT_ALLOWED,
        "this is the address for workers, and it takes no jobs: clients have another one",
    )


def test_a_client_names_any_job_of_its_principal_that_lives() -> None:
    driver, client, worker, parent = family()
    other = driver.client()
    child = child_of(driver, other, parent)
    assert driver.status(client, child).parent == parent
    driver.fail(worker, parent, Code.EXCEPTION)
    assert ends(other) == [(child, Code.CANCELLED)]
    driver.run(other, parent=parent)
    assert other.take_reply()[0] is Code.COOKIE_NOT_FOUND


def test_a_child_is_its_parents_principals() -> None:
    driver = driven()
    client, worker = driver.client(principal="p"), driver.worker(2)
    parent = driver.run(client)
    child = child_of(driver, worker, parent, batch=BATCH)
    assert driver.status(client, child).state == JobState.RUNNING
    driver.send(client, packets.cancel_batch(BATCH))
    assert client.take()[-1].code == Code.OK


def test_a_worker_is_the_client_of_its_children_even_of_one_that_it_runs_itself() -> None:
    driver = driven(credit_frames=2)
    client, worker = driver.client(), driver.worker(2)
    parent = driver.run(client)
    child = driver.run(worker, parent=parent, follow=True, reply=True)
    assert kinds(worker.take()) == [PacketType.RUN, PacketType.RUN, PacketType.REPLY]
    driver.progress(worker, child, 1, 2)
    taken = worker.take()
    assert [(packet.kind, packet.attempt) for packet in taken] == [
        (PacketType.PROGRESS, 1),
        (PacketType.PROGRESS, 1),
        (PacketType.CREDIT, 1),
    ]
    driver.progress(worker, child, 3)
    assert worker.take() == []
    driver.credit(worker, child, 1)
    assert kinds(worker.take()) == [PacketType.PROGRESS, PacketType.CREDIT]
    driver.input(worker, child, 1)
    assert [(packet.kind, packet.attempt) for packet in worker.take()] == [(PacketType.INPUT, 1), (PacketType.CREDIT, 0)]
    driver.credit(worker, child, 1, attempt=1)
    driver.result(worker, child)
    assert results(worker) == [(child, Code.OK)]
    driver.ack(worker, 1)
    assert inside(driver).outcomes.count == 0
    driver.result(worker, parent)
    assert results(client) == [(parent, Code.OK)]


def test_a_parent_that_waits_for_its_child_lends_it_its_own_slot() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    parent = driver.run(client)
    child = driver.run(worker, parent=parent)
    worker.take()
    driver.park(worker, parent)
    assert ran(worker) == [(child, 1)]
    driver.result(worker, child)
    driver.resume(worker, parent)
    assert kinds(worker.take()) == [PacketType.RESULT, PacketType.RESUME]


def test_a_deep_chain_is_cancelled_without_a_deep_stack() -> None:
    driver = driven()
    driver.checks = False
    client = driver.client()
    cookies = [driver.run(client)]
    for _ in range(5_000):
        cookies.append(driver.run(client, parent=cookies[-1]))
    client.take()
    limit = sys.getrecursionlimit()
    driver.cancel(client, cookies[0])
    assert sys.getrecursionlimit() == limit
    assert [cookie for cookie, _ in ends(client)] == cookies
    driver.switchboard.invariants()


def test_nor_is_one_that_runs_and_its_status_is_told_as_far_as_it_may_be() -> None:
    driver = driven()
    driver.checks = False
    client, worker = driver.client(), driver.worker(6_000)
    cookies = [driver.run(client)]
    for _ in range(5_000):
        cookies.append(driver.run(worker, parent=cookies[-1]))
    client.take()
    status, depth = driver.status(client, cookies[0], tree=True), 0
    while status.kids:
        (status,) = status.kids
        depth += 1
    assert depth == 100
    worker.take()
    driver.disconnect(worker)
    assert results(client) == [(cookies[0], Code.WORKER_WENT_AWAY)]
    assert inside(driver).live == 0


# Batches


def test_a_batch_is_cancelled_wherever_its_jobs_are() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    running, waiting, over = (driver.run(client, batch=BATCH) for _ in range(3))
    other = driver.run(client, batch=b"c" * 16)
    driver.cancel(client, over)
    client.take()
    worker.take()
    driver.send(client, packets.cancel_batch(BATCH, number=4))
    result, reply = client.take()
    meta = schemas.reply_meta(reply.meta)
    assert (result.cookie, result.code) == (waiting, Code.CANCELLED)
    assert (reply.code, reply.number, meta.to, meta.n) == (Code.OK, 4, PacketType.CANCEL, 2)
    assert worker.take_one(PacketType.CANCEL).cookie == running
    assert driver.status(client, other).state == JobState.QUEUED


def test_owners_elsewhere_are_told_of_the_jobs_of_a_batch_that_are_to_stop() -> None:
    driver = driven()
    client, other = driver.client(), driver.client()
    driver.worker()
    cookie = driver.run(client, batch=BATCH)
    driver.send(other, packets.cancel_batch(BATCH))
    notice = client.take_one(PacketType.REPLY)
    assert (notice.code, notice.cookie, notice.number) == (Code.CANCELLING, cookie, 0)


@pytest.mark.parametrize("principal", ["", "another"])
def test_a_batch_without_a_live_job_or_anothers_is_not_found(principal: str) -> None:
    driver = driven()
    client = driver.client()
    cookie = driver.run(client, batch=BATCH)
    if not principal:
        driver.cancel(client, cookie)
    asker = driver.client(principal=principal)
    driver.send(asker, packets.cancel_batch(BATCH, number=4))
    reply = asker.take_one(PacketType.REPLY)
    assert (reply.code, reply.number) == (Code.COOKIE_NOT_FOUND, 4)


def test_a_parent_and_its_child_in_one_batch_are_each_cancelled_once() -> None:
    driver = driven()
    client = driver.client()
    parent = driver.run(client, batch=BATCH)
    child = driver.run(client, batch=BATCH, parent=parent)
    client.take()
    driver.send(client, packets.cancel_batch(BATCH))
    assert ends(client) == [(parent, Code.CANCELLED), (child, Code.CANCELLED)]
    assert not inside(driver).family.batches


# Nothing is left


def scene(driver: SwitchboardDriver) -> None:
    """A bit of everything, all of which ends."""
    client, looker, operator = driver.client(), driver.client(), driver.client()
    worker = session(driver, 4, serves=("p",))
    parent = driver.run(client, follow=True, nonce=b"n", batch=BATCH, rlim=100_000, left_ms=200_000, orphan=5_000)
    child = driver.run(worker, "p", parent=parent, follow=True, att=3, again=["*"], back=10)
    child_of(driver, worker, parent)
    driver.attach(looker, parent, first=1, take=False)
    driver.progress(worker, parent, 1, 2, 3)
    driver.input(client, parent, 1)
    driver.fail(worker, child, Code.EXCEPTION)
    driver.advance(0.02)
    driver.progress(worker, child, 1, attempt=2)
    driver.park(worker, parent)
    driver.resume(worker, parent)
    tried = driver.run(operator, att=2, back=0, detach=True, keep=3_000)
    driver.progress(worker, tried, 1)
    driver.disconnect(worker)
    driver.cancel(operator, child)
    worker = session(driver, 1, serves=("p",), held=[(parent, 1), (child, 2), (tried, 1), (b"stale".ljust(16), 1)])
    driver.fail(worker, child, Code.CANCELLED, attempt=2)
    driver.result(worker, parent)
    driver.result(worker, b"stale".ljust(16))
    driver.advance(0.1)
    driver.attach(looker, tried, first=1)
    driver.disconnect(client)
    driver.disconnect(operator)
    driver.disconnect(worker)
    driver.advance(30.0)
    rests = driver.worker(3, dialect=Dialect.JSON)
    driver.result(rests, driver.run(looker, left_ms=1_000))
    driver.run(looker, left_ms=1_000)
    driver.advance(2.0)
    driver.disconnect(rests)
    driver.drain()
    driver.disconnect(looker)
    driver.advance(2_000.0)
    for link in driver.links:
        link.take()


def test_nothing_is_left_once_all_is_over_and_its_time_has_passed() -> None:
    driver = driven(retention_s=20.0)
    scene(driver)
    assert_nothing_is_left(driver)


def test_no_cycle_keeps_a_job_or_what_belongs_to_it() -> None:
    """`serve` runs without the collector of cycles: what is over must go by itself."""
    kinds_of_interest = {"Route", "Pack", "Assignment", "Extras", "Follower", "Sender", "Ring", "Worker", "Session", "Timer"}

    def count() -> dict[str, int]:
        counts = dict.fromkeys(sorted(kinds_of_interest), 0)
        for thing in gc.get_objects():
            name = type(thing).__name__
            if name in kinds_of_interest and type(thing).__module__.startswith("reasonchip_broker.routing"):
                counts[name] += 1
        return counts

    gc.collect()
    before = count()
    gc.disable()
    try:
        driver = driven(retention_s=20.0)
        scene(driver)
        after = count()
    finally:
        gc.enable()
    assert after == before


def test_chunks_of_both_ends_are_told_apart() -> None:
    driver, client, worker, parent = family(follow=True)
    driver.progress(worker, parent, 1)
    driver.input(client, parent, 1)
    assert (chunks(client.take()), chunks(worker.take())) == ([(1,)], [(1,)])
    driver.fail(worker, parent, Code.EXCEPTION)
    assert outcome(client)[0] is Code.EXCEPTION
