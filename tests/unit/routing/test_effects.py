"""Effects: what is rare, and what is forgotten when."""

import pytest

from reasonchip_broker.protocol.codes import CloseReason
from reasonchip_broker.routing.effects import Close, Effects, Outcome

RARE = {
    "welcomes": "link",
    "writables": "link",
    "closes": Close("link", CloseReason.NORMAL, "bye"),
    "logs": ("info", "event", {}),
    "admissions": b"k" * 16,
    "outcomes": Outcome(b"k" * 16, b""),
    "capacity": ("*",),
}


def test_new_effects_are_none_and_observe_nothing() -> None:
    effects = Effects()
    assert (effects.sends, effects.rare) == ([], False)
    assert (effects.log_routes, effects.observe_outcomes, effects.observe_capacity) == (False, False, False)


def test_sends_are_not_rare() -> None:
    effects = Effects()
    effects.sends.append(("link", b"frame"))
    assert not effects.rare


def test_every_list_but_the_sends_is_rare() -> None:
    effects = Effects()
    lists = {name for name in dir(effects) if isinstance(getattr(effects, name), list)}
    assert lists == {*RARE, "sends"}


@pytest.mark.parametrize("name", RARE)
def test_anything_else_is_rare_until_it_is_forgotten(name: str) -> None:
    effects = Effects()
    effects.sends.append(("link", b"frame"))
    getattr(effects, name).append(RARE[name])
    assert effects.rare
    effects.clear_rare()
    assert (effects.rare, effects.sends) == (False, [("link", b"frame")])


def test_clear_forgets_everything_but_keeps_the_lists_and_the_settings() -> None:
    effects = Effects()
    effects.observe_outcomes = True
    sends = effects.sends
    sends.append(("link", b"frame"))
    for name, value in RARE.items():
        getattr(effects, name).append(value)
    effects.clear()
    assert (effects.sends is sends, sends, effects.rare, effects.observe_outcomes) == (True, [], False, True)
