"""What the model says when connections are not treated as they should be."""

from typing import Any

import pytest

from reasonchip_broker.routing.leases import Leases
from reasonchip_broker.routing.requests import Requests
from reasonchip_broker.routing.sessions import Sessions
from reasonchip_broker.switchboard import Switchboard
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, nothing, told


def test_a_connection_comes_and_goes() -> None:
    story = [("connect stranger", 3, 2), ("ping", CLIENT), ("congest", WORKER), ("unblock", WORKER), ("drain worker", WORKER)]
    assert told(*story, ("register", WORKER, 1, ("*",)), ("disconnect", CLIENT), ("disconnect", CLIENT)) == ""


def test_what_is_not_there_does_nothing() -> None:
    names = ("register", "disconnect", "congest", "unblock", "silence", "ping", "drain worker")
    assert told(*((name, 9, 1, ("*",)) if name == "register" else (name, 9) for name in names), alone=True) == ""


ANN = "connect worker", 3, 1, 2, ("*",), "ann", b"first process" + bytes(3), 3
STRANGER, JSON = ("connect client", 4, 1, "other"), ("connect client", 5, 2)


def test_an_operator_drains_a_worker_by_its_name_also_for_when_it_comes_back() -> None:
    jobs = [("run", CLIENT, b"cookie%10d" % number, "p.a") for number in range(6)]
    drains = [("drain named", id, "ann") for id in (4, 5, WORKER, 9, CLIENT, CLIENT)]
    again = *ANN[:1], 6, *ANN[2:]
    assert told(STRANGER, JSON, ANN, jobs[0], jobs[1], *drains, ("drain named", CLIENT, "bob"), *jobs[2:]) == ""
    assert told(ANN, *jobs, ("drain named", CLIENT, "ann"), ("disconnect", 3), ("drain named", CLIENT, "ann"), again) == ""


@needs_interpreted_core
@pytest.mark.parametrize(
    ("owner", "name", "by", "broken"),
    [
        (Requests, "_leave", nothing, "slots are free, and 2 should be"),
        (Requests, "drain_worker", nothing, "no answer to"),
        (Sessions, "find", lambda *_: None, "answered WORKER_NOT_FOUND, and not OK"),
    ],
)
def test_a_worker_that_is_not_drained_is_noticed(
    owner: type, name: str, by: Any, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [("run", CLIENT, b"cookie%10d" % number, "p.a") for number in range(6)]
    said = found(monkeypatch, owner, name, ANN, ("drain named", CLIENT, "ann"), *jobs, by=by)
    assert broken in said


@needs_interpreted_core
def test_a_ping_without_an_answer_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "PONG" in found(monkeypatch, Switchboard, "_ping", ("ping", CLIENT))


@needs_interpreted_core
def test_a_silent_peer_that_is_not_expired_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    said = found(monkeypatch, Leases, "expired_s", ("silence", CLIENT), *[("advance", 4.0)] * 4)
    assert "a peer lives on after" in said
