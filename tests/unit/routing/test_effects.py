"""Effects: what is rare, and what is forgotten when."""

import pytest

from reasonchip_broker.protocol.codes import CloseReason, Dialect, Role
from reasonchip_broker.routing.effects import Close, Effects, Outcome
from reasonchip_broker.routing.peers import Peer
from tests.unit.routing.making import SHARES

RARE = {
    "welcomes": "link",
    "writables": "link",
    "closes": Close("link", CloseReason.NORMAL, "bye"),
    "logs": ("info", "event", {}),
    "admissions": b"k" * 16,
    "outcomes": Outcome(b"k" * 16, b""),
    "capacity": ("*",),
}


def peer(link: object) -> Peer:
    return Peer(link, b"i" * 16, Role.CLIENT, Dialect.BINARY, "", True, SHARES.of_connection("", "p"))


def test_what_is_rare_says_what_it_is_about() -> None:
    close, outcome = RARE["closes"], RARE["outcomes"]
    assert isinstance(close, Close)
    assert isinstance(outcome, Outcome)
    assert (close.link, close.reason, close.sentence) == ("link", CloseReason.NORMAL, "bye")
    assert (outcome.cookie, outcome.frame) == (b"k" * 16, b"")


def test_new_effects_are_none_and_observe_nothing() -> None:
    effects = Effects()
    assert (effects.recipients, effects.rare) == ([], False)
    assert (effects.log_routes, effects.observe_outcomes, effects.observe_capacity) == (False, False, False)


def test_sends_are_not_rare() -> None:
    effects = Effects()
    effects.send(peer("link"), b"frame")
    assert not effects.rare


def test_every_list_but_the_recipients_is_rare() -> None:
    effects = Effects()
    lists = {name for name in dir(effects) if isinstance(getattr(effects, name), list)}
    assert lists == {*RARE, "recipients"}


def test_a_recipient_is_listed_once_and_its_frames_stay_in_order() -> None:
    effects = Effects()
    first, second = peer("first"), peer("second")
    for to, frame in ((first, b"1"), (second, b"2"), (first, b"3")):
        effects.send(to, frame)
    assert effects.recipients == [first, second]
    assert effects.take_sends() == [("first", b"1"), ("first", b"3"), ("second", b"2")]
    assert (effects.recipients, first.sends, second.sends) == ([], [], [])


@pytest.mark.parametrize("name", RARE)
def test_anything_else_is_rare_until_it_is_forgotten(name: str) -> None:
    effects = Effects()
    effects.send(peer("link"), b"frame")
    getattr(effects, name).append(RARE[name])
    assert effects.rare
    effects.clear_rare()
    assert (effects.rare, effects.take_sends()) == (False, [("link", b"frame")])


def test_clear_forgets_everything_but_keeps_the_lists_and_the_settings() -> None:
    effects = Effects()
    effects.observe_outcomes = True
    recipients, to = effects.recipients, peer("link")
    effects.send(to, b"frame")
    for name, value in RARE.items():
        getattr(effects, name).append(value)
    effects.clear()
    assert (effects.recipients is recipients, recipients, to.sends) == (True, [], [])
    assert (effects.rare, effects.observe_outcomes) == (False, True)


@pytest.mark.parametrize("name", ["log_routes", "observe_outcomes", "observe_capacity", "draining"])
def test_no_job_is_plain_while_somebody_watches_or_the_broker_drains(name: str) -> None:
    effects = Effects()
    assert not effects.nothing_is_plain
    setattr(effects, name, True)
    assert effects.nothing_is_plain
