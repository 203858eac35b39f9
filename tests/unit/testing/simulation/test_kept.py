"""What the model says is known of jobs that are over."""

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import schemas
from reasonchip_broker.testing.simulation.kept import EXPIRY_LATE_S, KeptOutcomes, Known
from reasonchip_broker.testing.simulation.records import Client, Job, Kept
from reasonchip_broker.testing.simulation.world import World
from tests.unit.testing.simulation.faulty import CLIENT, PEERS, PLAIN

LIMITS = Limits(retention_s=10.0, outcomes_max=2)


def owner() -> Client:
    world = World(PLAIN)
    world.apply(PEERS[0])
    return world.model.clients[CLIENT]


def over(client: Client, number: int, keep: int | None = None) -> Kept:
    kind = World(PLAIN).model.kinds[0]
    job = Job(b"cookie %9d" % number, kind, b"1", client, schemas.RunOptions(p=kind.pipeline, keep=keep))
    return Kept(job, frozenset(), None)


def test_an_outcome_is_kept_for_its_time_and_may_be_for_a_moment_longer() -> None:
    outcomes, kept = KeptOutcomes(LIMITS), over(owner(), 1)
    cookie = kept.job.cookie
    outcomes.keep(kept, 100.0)
    assert outcomes.known(cookie, 109.9) == (Known.KEPT, kept)
    assert outcomes.is_kept(kept, 109.9)
    assert outcomes.known(cookie, 110.0)[0] is Known.PERHAPS
    assert outcomes.known(cookie, 110.0 + EXPIRY_LATE_S) == (Known.NOT, None)
    assert outcomes.known(cookie, 111.5) == (Known.NOT, None)


def test_of_one_that_is_spent_the_cookie_is_known() -> None:
    outcomes, client = KeptOutcomes(LIMITS), owner()
    kept, unwanted = over(client, 1), over(client, 2, keep=0)
    for one in (kept, unwanted):
        outcomes.keep(one, 100.0)
    outcomes.spend(kept)
    assert [outcomes.known(one.job.cookie, 105.0)[0] for one in (kept, unwanted)] == [Known.SPENT] * 2
    assert outcomes.known(kept.job.cookie, 500.0)[0] is Known.PERHAPS
    assert not outcomes.is_kept(kept, 105.0)


def test_the_oldest_may_have_made_room() -> None:
    outcomes, client = KeptOutcomes(LIMITS), owner()
    for number in range(3):
        outcomes.keep(over(client, number, keep=5000 if not number else None), 100.0 + number)
    assert [outcomes.known(b"cookie %9d" % number, 103.0)[0] for number in range(3)] == [Known.PERHAPS, Known.KEPT, Known.KEPT]
