"""A short story with a fault in it: what does the model say?"""

from typing import Any

import pytest

from reasonchip_broker.testing.simulation.walk import take_again
from reasonchip_broker.testing.simulation.world import Setting

CLIENT, WORKER = 1, 2
PLAIN = Setting()
PEERS: list[tuple[Any, ...]] = [("connect client", CLIENT, 1), ("connect worker", WORKER, 1, 2, ("*",))]


def nothing(*_: Any, **__: Any) -> None:
    """What a step does that was left out."""


def told(*story: tuple[Any, ...], setting: Setting = PLAIN, alone: bool = False) -> str:
    """What is wrong with a story of operations, of a client and a worker unless it is `alone`; nothing if nothing is."""
    error = take_again(setting, story if alone else [*PEERS, *story], audit_every=0)
    return str(error) if error is not None else ""


def found(
    patch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    *story: tuple[Any, ...],
    by: Any = nothing,
    setting: Setting = PLAIN,
) -> str:
    """What is said about a story that is well, once a method is replaced."""
    assert told(*story, setting=setting) == ""
    patch.setattr(owner, name, by)
    return told(*story, setting=setting)
