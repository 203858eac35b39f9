"""A feature that does nothing is a feature."""

from random import Random

from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.world import World
from tests.unit.testing.simulation.faulty import PLAIN


def test_a_feature_may_do_nothing() -> None:
    world = World(PLAIN)
    feature = Feature(world)
    for take_part in (feature.calm, feature.work, feature.check_rest):
        take_part()
    assert feature.operations() == {}
    assert Feature.choices(Chooser(Random(1), lambda: world)) == []
