"""What is drawn is drawn the same way from the same seed."""

from collections import Counter
from functools import partial
from itertools import repeat
from random import Random

from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.settings import FEW_MARKS, Setting
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


def test_where_marks_are_few_all_cookies_end_in_the_same_byte() -> None:
    worlds = [World(Setting(limits=limits)) for limits in ("", FEW_MARKS)]
    for world, ends in zip(worlds, (10, 1), strict=True):
        chooser = Chooser(Random(1), partial(next, repeat(world)))
        cookies = [chooser.new_cookie() for _ in range(100)]
        assert len(set(cookies)) == 100
        assert len({cookie[15] for cookie in cookies}) == ends
        assert {len(cookie) for cookie in cookies} == {16}


def test_what_an_ack_leaves_out_and_what_is_asked_about_is_at_the_edges_of_what_was_sent() -> None:
    world = World(Setting(limits="few outcomes"))
    chooser = Chooser(Random(1), lambda: world)
    for operation in PEERS:
        world.apply(operation)
    cookies = [b"cookie%10d" % number for number in range(15)]
    for cookie in cookies:
        world.apply(("run", CLIENT, cookie, "p.a"))
        world.apply(("result", WORKER, cookie))
    client = world.model.clients[CLIENT]
    world.apply(("ack", CLIENT, 5))
    backs = {chooser.back(client) for _ in range(300)}
    assert backs >= {0, 1, 2, 3, 4, -1}
    asked = Counter(chooser.outcome(client) for _ in range(3000))
    edges = {cookies[place] for place in (6, 7, 9, 10, 11)}
    assert {cookie for cookie, count in asked.items() if count > 240} == edges
    assert set(asked) == set(cookies)
