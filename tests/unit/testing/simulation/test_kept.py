"""What the model says is known of jobs that are over."""

from collections.abc import Sequence
from dataclasses import replace

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.testing.simulation.kept import EXPIRY_LATE_S, UNSEEN_BYTES, KeptOutcomes, Known
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
    outcomes.settle([client], 100.0)
    assert [outcomes.known(one.job.cookie, 105.0)[0] for one in (kept, unwanted)] == [Known.SPENT] * 2
    assert outcomes.known(kept.job.cookie, 500.0)[0] is Known.PERHAPS
    assert not outcomes.is_kept(kept, 105.0)


def all_known(outcomes: KeptOutcomes, client: Client, keeps: Sequence[Kept], now: float = 103.0) -> str:
    """What is known of each, by its first letter, after a step."""
    outcomes.settle([client], now)
    return "".join(outcomes.known(kept.job.cookie, now)[0].name[0] for kept in keeps)


def test_the_oldest_may_have_made_room() -> None:
    outcomes, client = KeptOutcomes(LIMITS), owner()
    keeps = [over(client, number, keep=5000 if not number else None) for number in range(3)]
    for number, kept in enumerate(keeps):
        outcomes.keep(kept, 100.0 + number)
    assert outcomes.changed
    assert all_known(outcomes, client, keeps) == "PKK"
    assert not outcomes.changed


def test_of_those_that_ended_together_any_may_be_the_oldest() -> None:
    outcomes, client = KeptOutcomes(LIMITS), owner()
    keeps = [over(client, number) for number in range(4)]
    for number, kept in enumerate(keeps):
        outcomes.keep(kept, 100.0 + (number and 1 + 0.02 * number))
    assert all_known(outcomes, client, keeps) == "PPPP"
    later = over(client, 4)
    outcomes.keep(later, 102.0)
    assert all_known(outcomes, client, [later]) == "K"


def test_the_oldest_make_room_for_bytes_as_well() -> None:
    outcomes, client = KeptOutcomes(replace(LIMITS, outcomes_max=100, outcomes_bytes_max=1000)), owner()
    keeps = [over(client, number) for number in range(3)]
    for number, kept in enumerate(keeps):
        kept.content = decode(packets.result(kept.job.cookie, 1, bytes(400), "json"))
        outcomes.keep(kept, 100.0 + number)
    assert all_known(outcomes, client, keeps) == "PKK"


def test_one_whose_time_was_over_may_have_made_room_before_that_was_noticed() -> None:
    outcomes, client = KeptOutcomes(LIMITS), owner()
    keeps = [over(client, number) for number in range(3)]
    outcomes.keep(keeps[0], 100.0)
    assert all_known(outcomes, client, keeps[:1], 101.0) == "K"
    for kept in keeps[1:]:
        outcomes.keep(kept, 160.0)
    assert all_known(outcomes, client, keeps, 160.0) == "PKK"


def test_a_client_that_acknowledges_nothing_keeps_its_newest_outcomes() -> None:
    for limits in (replace(LIMITS, client_outcomes_max=2), replace(LIMITS, client_outcomes_bytes_max=2 * UNSEEN_BYTES)):
        outcomes, client = KeptOutcomes(replace(limits, outcomes_max=100)), owner()
        keeps = [over(client, number) for number in range(3)]
        for kept in keeps:
            outcomes.keep(kept, 100.0)
            client.results.append(kept)
        assert all_known(outcomes, client, keeps) == "PKK"
        outcomes.settle_client(client, 1)
        assert all_known(outcomes, client, keeps) == "PPK"


def test_an_outcome_that_a_client_was_sent_twice_makes_room_once_and_one_whose_time_is_over_not_at_all() -> None:
    outcomes, client = KeptOutcomes(replace(LIMITS, outcomes_max=100, client_outcomes_bytes_max=UNSEEN_BYTES)), owner()
    keeps = [over(client, number) for number in range(3)]
    for kept in keeps:
        outcomes.keep(kept, 100.0)
    client.results += [over(client, 7), keeps[0], keeps[0], *keeps[1:]]
    assert all_known(outcomes, client, keeps) == "PPK"


def test_jobs_that_are_over_are_those_of_which_more_than_a_cookie_may_be_known() -> None:
    outcomes, client = KeptOutcomes(LIMITS), owner()
    keeps = [over(client, number) for number in range(2)]
    for kept in keeps:
        outcomes.keep(kept, 100.0)
    outcomes.spend(keeps[0])
    assert list(outcomes.over()) == [keeps[1].job]


def test_of_what_a_client_was_told_and_what_it_was_not_either_may_go_first() -> None:
    outcomes, client = KeptOutcomes(replace(LIMITS, outcomes_max=100, client_outcomes_max=2)), owner()
    keeps = [over(client, number) for number in range(4)]
    for number, kept in enumerate(keeps):
        kept.is_unheard = number % 2 == 0
        client.unheard += kept.is_unheard
        outcomes.keep(kept, 100.0)
        if not kept.is_unheard:
            client.results.append(kept)
    assert all_known(outcomes, client, keeps) == "PPPP"
    client.acknowledged = 2
    newest = over(client, 5)
    outcomes.keep(newest, 100.0)
    client.results.append(newest)
    assert all_known(outcomes, client, [newest]) == "P"


def test_of_too_many_marks_those_are_dropped_whose_job_came_first() -> None:
    outcomes, client = KeptOutcomes(replace(LIMITS, spent_max=2, outcomes_max=100)), owner()
    keeps = [over(client, number) for number in range(4)]
    for kept, entered, now in zip(keeps, (3, 1, 2, 4), (100.0, 100.0, 100.0, 101.0), strict=True):
        kept.job.entered = entered
        outcomes.keep(kept, now)
    assert all_known(outcomes, client, keeps) == "KKKK"
    for kept in keeps[:3]:
        outcomes.spend(kept)
    assert all_known(outcomes, client, keeps) == "SPSK"


def test_a_mark_that_stays_for_an_outcome_beside_it_may_cost_a_newer_one_its_place() -> None:
    outcomes, client = KeptOutcomes(replace(LIMITS, spent_max=2, outcomes_max=100)), owner()
    keeps = [over(client, number) for number in range(4)]
    for kept, now in zip(keeps, (101.0, 100.0, 100.0, 101.01), strict=True):
        kept.job.entered = kept.job.cookie[-1]
        outcomes.keep(kept, now)
    for kept in keeps[:3]:
        outcomes.spend(kept)
    assert all_known(outcomes, client, keeps) == "PPSK"
