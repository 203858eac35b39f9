"""What the model says when outcomes are not kept, or told to whom they do not concern."""

from typing import Any

import pytest

from reasonchip_broker.routing.followers import Followers
from reasonchip_broker.routing.outcomes import Outcomes
from tests.unit.switchboard.interpreted import needs_interpreted_core
from tests.unit.testing.simulation.faulty import CLIENT, WORKER, found, told

JOB = b"cookie         1"
OTHER, STRANGER = 3, 4
NONCE = (("nonce", b"one"),)
RUN = "run", CLIENT, JOB, "p.a", False, True, False, False, 0, b"1", NONCE
DONE = RUN, ("result", WORKER, JOB)
PEERS = ("connect client", OTHER, 1), ("connect client", STRANGER, 1, "other")


def again(id: int, at: bytes = b"") -> tuple[Any, ...]:
    return *RUN[:1], id, *RUN[2:10], (*NONCE, ("at", at)) if at else NONCE


def test_an_outcome_is_kept_until_it_is_acknowledged_or_its_time_is_over() -> None:
    assert told(*PEERS, *DONE, ("attach", OTHER, JOB), ("attach", STRANGER, JOB), ("status", OTHER, JOB), again(OTHER)) == ""
    assert told(*PEERS, *DONE, ("ack", CLIENT), ("attach", OTHER, JOB), ("status", STRANGER, JOB), again(OTHER)) == ""
    assert told(*PEERS, *DONE, *[("advance", 4.0)] * 3, ("attach", OTHER, JOB), again(OTHER)) == ""


def test_a_job_is_followed_and_taken_over() -> None:
    assert told(*PEERS, RUN, ("attach", OTHER, JOB, 0, False), ("result", WORKER, JOB)) == ""
    assert told(*PEERS, RUN, ("attach", OTHER, JOB), ("disconnect", CLIENT), ("result", WORKER, JOB), ("ack", OTHER)) == ""
    assert told(*PEERS, RUN, again(OTHER), again(STRANGER), ("status", OTHER, JOB, True), ("result", WORKER, JOB)) == ""


def test_another_broker_knows_nothing_of_a_job() -> None:
    restart = ("restart", b"another instance"), ("connect client", 5, 1)
    assert told(RUN, *restart, again(5, b"driven by a test"), again(5), ("attach", 5, JOB)) == ""


@needs_interpreted_core
@pytest.mark.parametrize(
    ("owner", "name", "story", "broken"),
    [
        (Outcomes, "acknowledge", (("ack", CLIENT), again(OTHER)), "not its owner's, for no reason"),
        (Outcomes, "due", (*[("advance", 4.0)] * 3, ("status", OTHER, JOB)), "answered OK, and not COOKIE_NOT_FOUND"),
        (Followers, "attach", (("attach", OTHER, JOB),), "no answer to"),
    ],
)
def test_what_is_kept_too_long_or_not_at_all_is_noticed(
    owner: type,
    name: str,
    story: tuple[Any, ...],
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert broken in found(monkeypatch, owner, name, *PEERS, *DONE, *story)


@needs_interpreted_core
def test_what_is_told_to_a_stranger_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    said = found(
        monkeypatch,
        Followers,
        "find",
        *PEERS,
        RUN,
        ("status", STRANGER, JOB),
        by=lambda self, _, cookie, *__: self._routes[cookie],
    )
    assert said == "answered OK, and not COOKIE_NOT_FOUND"
