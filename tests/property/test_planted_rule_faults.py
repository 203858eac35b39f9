"""Would they notice? Faults in what an operator decides, in affinity and in labels.

As in `test_planted_faults.py`, the simulator goes without the switchboard's own audits, so that it is the model that finds them.
"""

import pytest

from reasonchip_broker.routing.affinity import Affinity
from reasonchip_broker.routing.gates import Gates, LimitGate
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.pressure import Pressure
from reasonchip_broker.routing.roster import Labels, Pool, Worker, choose
from reasonchip_broker.routing.route import Route
from reasonchip_broker.routing.shares import Account
from reasonchip_broker.routing.slots import Slots
from reasonchip_broker.scheduling import Limit, Scheduling
from tests.property.test_planted_faults import after, nothing, registry, walk_all
from tests.unit.switchboard.interpreted import needs_interpreted_core

FAULTS, fault = registry()


# Limits by key


@fault
def limits_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LimitGate, "may_pass", lambda *_: True)


@fault
def a_limit_counts_one_too_few(patch: pytest.MonkeyPatch) -> None:
    def may_pass(self: LimitGate, now: float) -> bool:
        return (self._most is None or self.running <= self._most) and now >= self.opens_at

    patch.setattr(LimitGate, "may_pass", may_pass)


@fault
def a_rate_lets_one_too_many_pass(patch: pytest.MonkeyPatch) -> None:
    def more(self: LimitGate, limit: Limit) -> None:
        self._spread_s += self._every_s

    after(patch, LimitGate, "__init__", more)


@fault
def all_keys_are_counted_by_themselves(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("reasonchip_broker.routing.gates._key", lambda limit, pipeline, share: (limit.name, pipeline, share.name))


@fault
def jobs_that_run_already_do_not_count_by_other_rules(patch: pytest.MonkeyPatch) -> None:
    original = Gates.configure

    def configure(self: Gates, limits: tuple[Limit, ...], running: list[Route]) -> None:
        self.held.clear()
        original(self, limits, [])

    patch.setattr(Gates, "configure", configure)


@fault
def nobody_gives_the_slots_away_that_are_free_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slots, "fill", lambda self: self._dispatcher.gates.to_fill.clear())


# Jobs that take several slots


@fault
def a_heavy_job_takes_one_slot(patch: pytest.MonkeyPatch) -> None:
    original = Pool.occupy
    patch.setattr(Pool, "occupy", lambda self, worker, slots=1: original(self, worker, 1))


@fault
def a_heavy_job_goes_to_who_has_a_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("reasonchip_broker.routing.lines.has_free", lambda worker, _: worker is not None)


@fault
def a_heavy_job_gets_its_slots_back_one_by_one(patch: pytest.MonkeyPatch) -> None:
    original = Slots._grant

    def grant(self: Slots, worker: Worker) -> None:
        for assignment in worker.resuming or ():
            assignment.slots = 1
        original(self, worker)

    patch.setattr(Slots, "_grant", grant)


# Where a job goes


@fault
def nobody_remembers_who_served_a_key(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Affinity, "served", nothing)


@fault
def affinity_wins_over_load(patch: pytest.MonkeyPatch) -> None:
    def more(self: Affinity, scheduling: Scheduling) -> None:
        self._imbalance = 9.0

    after(patch, Affinity, "configure", more)


@fault
def a_worker_that_comes_back_is_another_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("reasonchip_broker.routing.affinity.identity_of", lambda worker: worker.peer.id)


@fault
def labels_that_are_needed_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pool, "matches", lambda self, labels: len(labels))


@fault
def labels_that_are_liked_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EligibilityClass, "choose", lambda self: choose(self.pools))


@fault
def one_label_of_those_that_are_needed_will_do(patch: pytest.MonkeyPatch) -> None:
    original = Pool.serves

    def serves(self: Pool, pipeline: str, as_json: bool, need: Labels = (), slots: int = 1) -> bool:
        return original(self, pipeline, as_json, need if "site" in self.labels else (), slots)

    patch.setattr(Pool, "serves", serves)


# Pressure


@fault
def an_owner_may_fill_the_queue_for_all(patch: pytest.MonkeyPatch) -> None:
    def boundless(self: Pressure, *_: object) -> None:
        self._owner_jobs_max = 10**9

    after(patch, Pressure, "__init__", boundless)


@fault
def what_left_the_queue_counts_on(patch: pytest.MonkeyPatch) -> None:
    def more(self: Pressure, account: Account) -> None:
        account.jobs += 1

    after(patch, Pressure, "left", more)


@needs_interpreted_core
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[name](monkeypatch)
    assert walk_all(name)
