"""What is drawn is drawn the same way from the same seed."""

from random import Random

from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.world import World
from tests.unit.testing.simulation.faulty import CLIENT, PEERS, PLAIN, WORKER


def test_a_chooser_finds_what_is_there() -> None:
    world = World(PLAIN)
    chooser = Chooser(Random(1), lambda: world)
    assert chooser.about("ping", chooser.ends()) is None
    assert chooser.cookie() == b"cookie         1"
    for operation in PEERS:
        world.apply(operation)
    assert [client.id for client in chooser.clients()] == [CLIENT]
    assert [worker.id for worker in chooser.workers()] == [WORKER]
    assert chooser.ends(lambda end: end.congested) == []
    assert chooser.about("register", chooser.workers(), 3) == ("register", WORKER, 3)


def test_the_same_seed_draws_the_same() -> None:
    world = World(PLAIN)
    first, second = (Chooser(Random(9), lambda: world) for _ in range(2))
    assert [first.one_of("abc") for _ in range(20)] == [second.one_of("abc") for _ in range(20)]
    assert first.weighted([(2, lambda: None)])[1:] != []
