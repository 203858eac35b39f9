"""Worlds have limits that are within reach."""

from dataclasses import fields, replace

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.testing.simulation.settings import LIMITS, TIGHTER, Setting
from reasonchip_broker.testing.simulation.world import World


def test_a_setting_that_says_nothing_of_limits_has_the_usual_ones() -> None:
    assert TIGHTER[Setting().limits] == LIMITS


@pytest.mark.parametrize("name", TIGHTER)
def test_a_world_has_the_limits_of_its_setting_and_none_is_larger_than_it_usually_is(name: str) -> None:
    world = World(replace(Setting(), limits=name))
    limits = world.driver.limits
    assert limits == world.model.limits == TIGHTER[name]
    sizes = [field.name for field in fields(limits) if field.name.endswith("_max")]
    assert all(getattr(limits, name) <= getattr(Limits(), name) for name in sizes)
