from reasonchip_broker.routing.route import RouteState
from reasonchip_broker.routing.stand_ins import NO_JOB, NO_KIND


def test_what_stands_for_nothing_is_nobodys_and_leads_nowhere() -> None:
    assert (NO_KIND.pools, NO_KIND.size, NO_JOB.kind, NO_JOB.assignment) == ([], 0, NO_KIND, None)
    assert NO_JOB.state is RouteState.FORGOTTEN
    assert NO_JOB.owner.link is None
