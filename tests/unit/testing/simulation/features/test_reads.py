"""Reads of many frames: what comes of them, and what the model says if it is not what would have come of one after the other."""

from collections import Counter
from random import Random
from typing import Any

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code, JobState
from reasonchip_broker.protocol.schemas import JobStatus
from reasonchip_broker.routing import followers
from reasonchip_broker.routing.outcomes import Outcomes
from reasonchip_broker.routing.packs import Pack
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.plain import PlainPath
from reasonchip_broker.routing.status import Status
from reasonchip_broker.routing.table import RouteTable
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.features.reads import Reads
from reasonchip_broker.testing.simulation.world import World
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, PEERS, PLAIN, WORKER, found, nothing, told

OTHER, BACK = 3, 4
JOBS = [b"cookie%10d" % number for number in range(8)]
ROOMY = "connect worker", WORKER, 1, 4, ("*",)
OTHERS = ("connect client", CLIENT, 1), ("connect client", OTHER, 1), ROOMY


def plain(cookie: bytes, *more: Any) -> tuple[Any, ...]:
    return "run", cookie, "p.a", False, *more


def runs(*cookies: bytes) -> tuple[Any, ...]:
    return "requests", CLIENT, tuple(map(plain, cookies))


def results(*cookies: bytes) -> tuple[Any, ...]:
    return "reports", WORKER, tuple(("result", cookie) for cookie in cookies)


def ask(*requests: tuple[Any, ...], id: int = CLIENT) -> tuple[Any, ...]:
    return "requests", id, requests


def seen(*story: tuple[Any, ...]) -> World:
    """The world after a story of two clients and a worker with four slots."""
    world = World(PLAIN)
    for operation in (*OTHERS, *story):
        world.apply(operation)
    return world


def wrong(*story: tuple[Any, ...]) -> str:
    """What is wrong with such a story."""
    return told(*OTHERS, *story, alone=True)


def test_runs_of_one_read_take_the_slots_that_there_are_and_the_rest_waits() -> None:
    world = seen(ask(plain(JOBS[0]), plain(JOBS[1], True, True), *map(plain, JOBS[2:6])))
    assert [job.waits for job in world.model.jobs.values()] == [False] * 4 + [True] * 2
    assert not world.model.step.answers


def test_a_request_sees_what_the_ones_before_it_led_to() -> None:
    status = ("status", JOBS[0]), ("status", JOBS[5])
    assert wrong(ask(*map(plain, JOBS[:6]), *status, ("cancel", JOBS[5]), *status, ("cancel", JOBS[0]), *status)) == ""
    assert told(ask(plain(JOBS[0]), plain(JOBS[0]), plain(JOBS[1], True, True), ("attach", JOBS[0], 1, True))) == ""


def test_a_job_that_is_asked_to_stop_twice_in_a_read_is_told_so_twice() -> None:
    assert told(ask(plain(JOBS[0]), ("cancel", JOBS[0]), ("cancel", JOBS[0], True))) == ""


def test_an_ack_is_about_what_came_before_its_read() -> None:
    world = seen(runs(*JOBS[:4]), results(*JOBS[:3]), ask(("ack", 1), ("cancel", JOBS[3])))
    client = world.model.clients[CLIENT]
    assert (client.acknowledged, len(client.results)) == (2, 3)
    assert wrong(runs(*JOBS[:6]), results(*JOBS[:3]), ask(("ack", 1), ("cancel", JOBS[5]), ("ack", 0), ("ack", -1))) == ""


def test_reports_of_one_read_end_jobs_of_several_clients_and_one_ack_is_for_all() -> None:
    mixed = ("progress", JOBS[1], b"chunk"), ("result", JOBS[0]), ("result", JOBS[2]), ("result", JOBS[1], Code.EXCEPTION)
    session = "connect worker", BACK, 1, 4, ("*",), "ann", b"first process" + bytes(3), 3
    asked = ask(plain(JOBS[0]), plain(JOBS[1])), ask(plain(JOBS[2]), id=OTHER)
    assert told(*OTHERS[:2], session, *asked, ("reports", BACK, mixed), alone=True) == ""
    assert wrong(*asked, ("reports", WORKER, (*mixed, ("result", JOBS[2]), ("park", JOBS[2])))) == ""


def test_what_counts_only_if_a_slot_was_free_before_is_left_out_of_reports() -> None:
    world = seen(runs(*JOBS[:6]), results(JOBS[0], JOBS[4]))
    assert world.model.jobs[JOBS[4]].hold is not None
    parked = ("park", WORKER, JOBS[0]), ("resume", WORKER, JOBS[0])
    assert wrong(runs(*JOBS[:5]), *parked, results(JOBS[1], JOBS[0])) == ""


def test_what_may_have_made_room_by_then_is_not_asked_about() -> None:
    world = seen(runs(JOBS[0]), results(JOBS[0]))
    asked = world.find(Reads)._that_can_be_told(
        world.model.ends[CLIENT], [("cancel", JOBS[7]), ("status", JOBS[0]), ("nothing", b""), plain(JOBS[1]), plain(JOBS[1])]
    )
    assert [operation[:2] for operation, _ in asked] == [("cancel", JOBS[7]), ("run", JOBS[1])]


def test_what_is_nobodys_read_does_nothing() -> None:
    json = ("connect client", 7, 2), ("connect worker", 8, 2, 1, ("*",))
    assert told(*json, *(("requests", id, (plain(JOBS[0]),)) for id in (7, 9)), ("requests", CLIENT, ())) == ""
    assert told(*json, *(("reports", id, (("result", JOBS[0]),)) for id in (CLIENT, 8, 9)), ("reports", WORKER, ())) == ""


@needs_interpreted_core
def test_at_the_end_what_became_of_all_jobs_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    story = ("connect client", BACK, 1, "other"), runs(*JOBS[:3]), results(*JOBS[:3])
    assert wrong(*story) == ""
    monkeypatch.setattr(Status, "of", lambda *_, **__: JobStatus(state=JobState.OVER, out=Code.EXCEPTION))
    assert "an outcome is told wrongly" in wrong(*story)
    monkeypatch.undo()
    monkeypatch.setattr(followers, "may", lambda *_: True)
    assert "answered OK, and not COOKIE_NOT_FOUND" in wrong(*story)


def test_the_model_is_told_of_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reads, "_frame_of", lambda *_: packets.cancel(JOBS[0]))
    with pytest.raises(InternalError, match="another request than was sent"):
        seen(runs(JOBS[0]))
    world = seen()
    world.operations["cancel"] = lambda *_: None
    with pytest.raises(InternalError, match="was not told of cancel"):
        world.apply(ask(("cancel", JOBS[0])))


def test_most_reads_have_several_frames_and_some_have_of_every_kind() -> None:
    world = World(PLAIN)
    chooser = Chooser(Random(1), lambda: world)
    for operation in PEERS:
        world.apply(operation)
    asked, reported, _ = Reads.choices(chooser)
    kinds: Counter[str] = Counter()
    for _ in range(300):
        for _, choose in (asked, reported):
            chosen = choose()
            if chosen is not None:
                world.apply(chosen)
                kinds.update(f"{chosen[0]}: {name}" for name, *_ in chosen[2])
                kinds[chosen[0]] += 1
    assert kinds["requests: run"] > 2 * kinds["requests"]
    assert min(kinds[f"requests: {name}"] for name in ("ack", "attach", "status", "cancel")) > 10
    assert min(kinds[f"reports: {name}"] for name in ("result", "progress", "park")) > 10


@needs_interpreted_core
@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (PlainPath, "runs", "waits beside 2 free slots"),
        (Outcomes, "add", "missing: the outcome OK"),
        (RouteTable, "spend_pack", "answered OK, and not OUTCOME_GONE"),
    ],
)
def test_what_is_left_out_of_a_read_is_noticed(owner: type, name: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    story = runs(*JOBS[:2]), results(*JOBS[:2]), ask(("ack", 0), ("attach", JOBS[0], 0, True))
    by = {"spend_pack": lambda *_: 0}
    assert broken in found(monkeypatch, owner, name, *story, by=by.get(name, nothing))


@needs_interpreted_core
def test_an_outcome_that_is_not_acknowledged_yet_and_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Outcomes.acknowledge

    def acknowledge(self: Outcomes, peer: Peer, total: int) -> None:
        original(self, peer, total + isinstance((peer.unacknowledged or [None])[0], Pack))

    story = runs(*JOBS[:2]), results(*JOBS[:2]), ask(("ack", 1), ("attach", JOBS[1], 0, True))
    assert "answered OUTCOME_GONE, and not OK" in found(monkeypatch, Outcomes, "acknowledge", *story, by=acknowledge)
