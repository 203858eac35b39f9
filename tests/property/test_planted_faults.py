"""Would they notice? Faults are planted in the core, one at a time, and the random walk has to find each.

The walk goes without the switchboard's own invariants: what finds the fault is the model, which knows only the promises. The same seeds
without a fault find nothing, so what is found is the fault.
"""

from collections.abc import Callable
from typing import Any

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import PRIORITY_DEFAULT
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.routing import dispatcher
from reasonchip_broker.routing.attempts import Attempts
from reasonchip_broker.routing.backlog import Backlog
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.leases import Leases
from reasonchip_broker.routing.lines import EligibilityClass, Line
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.roster import Pool, Roster, Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Share
from reasonchip_broker.routing.slots import Slots
from reasonchip_broker.routing.stopping import Stopping
from reasonchip_broker.routing.timers import Timer, TimerKind, Timers
from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.testing.simulation.records import BrokenPromise
from reasonchip_broker.testing.simulation.walk import Failure, Walk
from tests.unit.switchboard.interpreted import needs_interpreted_core

SEEDS = range(60)
STEPS = 1500
FOUND_BY = {
    "a_batch_is_everybodys": 11,
    "a_client_over_its_limit_loses_nearly_all": 43,
    "a_gap_is_told_as_smaller_than_it_is": 7,
    "a_pack_goes_on_after_another_outcome_was_sent": 22,
    "a_pack_that_is_opened_loses_its_last_outcome": 10,
    "a_run_of_another_broker_runs_again": 7,
    "a_withheld_cookie_may_be_used_again": 7,
    "a_worker_that_comes_back_is_another_one": 19,
    "affinity_wins_over_load": 14,
    "an_ack_that_ends_in_a_pack_spends_its_last_outcomes": 10,
    "an_ack_that_ends_in_a_pack_spends_one_too_many": 12,
    "an_outcome_goes_where_a_mark_should": 5,
    "jobs_do_not_come_of_age": 8,
    "jobs_that_run_already_do_not_count_by_other_rules": 24,
    "nobody_remembers_who_served_a_key": 8,
    "numbers_begin_anew_with_each_attempt": 7,
    "of_two_scheduled_jobs_the_later_is_first": 51,
    "results_for_two_clients_in_one_read_are_swapped": 4,
    "the_key_that_a_job_names_is_ignored": 7,
    "the_next_job_of_a_line_is_as_old_as_the_one_before": 8,
}
"""Which seed has found a fault that few of them find. It is tried first, which takes a second instead of ten; the others are still
tried when it finds nothing any more."""

Fault = Callable[[pytest.MonkeyPatch], None]


def registry() -> tuple[dict[str, Fault], Callable[[Fault], Fault]]:
    """Faults by the name of the function that plants each, and what registers one."""
    faults: dict[str, Fault] = {}

    def fault(plant: Fault) -> Fault:
        faults[plant.__name__] = plant
        return plant

    return faults, fault


FAULTS, fault = registry()


def nothing(*_: Any, **__: Any) -> None:
    """What a step does that was left out."""


def after(patch: pytest.MonkeyPatch, owner: type, name: str, more: Callable[..., None]) -> None:
    """Let a method do something more once it is done."""
    original = getattr(owner, name)

    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        result = original(self, *arguments, **named)
        more(self, *arguments)
        return result

    patch.setattr(owner, name, method)


# Slots


@fault
def a_freed_slot_is_never_given_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pool, "vacate", nothing)


@fault
def a_slot_is_given_back_twice(patch: pytest.MonkeyPatch) -> None:
    def more(pool: Pool, worker: Worker, slots: int = 1) -> None:
        if worker.busy > 0:
            worker.busy -= 1
            pool.place(worker)

    after(patch, Pool, "vacate", more)


@fault
def the_slot_of_a_job_that_was_given_up_is_not_withheld(patch: pytest.MonkeyPatch) -> None:
    original = Dispatcher.fail

    def fail(self: Dispatcher, route: Route, code: Code, sentence: str, *, may_have_run: bool) -> None:
        held = route.assignment
        original(self, route, code, sentence, may_have_run=may_have_run)
        if held is not None:
            self.slots.release(held)

    patch.setattr(Dispatcher, "fail", fail)


@fault
def a_freed_slot_looks_for_no_job(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slots, "free_slot", lambda _, worker, slots=1: worker.pool.vacate(worker, slots))


@fault
def a_json_workers_slot_does_not_rest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slots, "rest", lambda *_: False)


@fault
def a_congested_worker_gets_jobs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Worker, "available", property(lambda self: self.busy < self.capacity and not (self.draining or self.set_aside))
    )


@fault
def a_draining_worker_gets_jobs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Worker, "available", property(lambda self: self.busy < self.capacity and not (self.peer.congested or self.set_aside))
    )


@fault
def the_most_loaded_worker_is_chosen(patch: pytest.MonkeyPatch) -> None:
    def most_loaded(pool: Pool) -> Worker | None:
        free = [worker for worker in pool.workers if worker.available]
        return max(free, key=lambda worker: worker.busy / worker.capacity) if free else None

    patch.setattr(Pool, "least_loaded", most_loaded)


@fault
def any_worker_serves_any_pipeline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pool, "serves", lambda *_: True)


@fault
def a_new_offer_is_not_told_to_the_jobs_that_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "add_pool", nothing)


@fault
def a_pool_is_remembered_when_its_workers_are_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Roster, "discard", nothing)


# Jobs


@fault
def priorities_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    original = Backlog.new_line

    def new_line(self: Backlog, kind: EligibilityClass, priority: int, share: Share, worker: Worker | None) -> Line:
        line = original(self, kind, priority, share, worker)
        line.level = PRIORITY_DEFAULT
        return line

    patch.setattr(Backlog, "new_line", new_line)


@fault
def jobs_do_not_come_of_age(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "_promote", nothing)


@fault
def the_next_job_of_a_line_is_as_old_as_the_one_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "_relevel", nothing)


@fault
def nobody_goes_before_who_came_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Share, "order", lambda self, now: 1.0)


@fault
def the_key_that_a_job_names_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatcher, "share_for", lambda self, owner, options, parent=None: owner.share)


@fault
def the_last_job_to_wait_is_the_first_to_run(patch: pytest.MonkeyPatch) -> None:
    def more(_: Backlog, route: Route, now: float, worker: Worker | None = None, wait_s: float = 0.0) -> None:
        route.kind.lines[route.options.prio, route.share, worker].queue.rotate(1)

    after(patch, Backlog, "push", more)


@fault
def the_outcome_is_sent_twice(patch: pytest.MonkeyPatch) -> None:
    original = Dispatcher.finish

    def finish(self: Dispatcher, route: Route, frame: bytes, code: int) -> None:
        owner = route.owner
        original(self, route, frame, code)
        self.effects.send(owner, frame)

    patch.setattr(Dispatcher, "finish", finish)


@fault
def the_outcome_of_a_lost_worker_is_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempts, "lost", lambda _, route, *__: setattr(route, "assignment", None))


@fault
def a_client_that_is_gone_is_still_sent_outcomes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dispatcher, "_LEFT", None)


@fault
def any_attempt_ends_a_job(patch: pytest.MonkeyPatch) -> None:
    original = Dispatcher.result

    def result(self: Dispatcher, peer: Peer, frame: Any) -> None:
        original(self, peer, (*frame[:4], 1, *frame[5:]))

    patch.setattr(Dispatcher, "result", result)


@fault
def any_worker_ends_a_job(patch: pytest.MonkeyPatch) -> None:
    original = Dispatcher.result

    def result(self: Dispatcher, peer: Peer, frame: Any) -> None:
        route = self.routes.get(frame[1])
        if route is not None and route.assignment is not None:
            peer = route.assignment.worker.peer
        original(self, peer, frame)

    patch.setattr(Dispatcher, "result", result)


@fault
def a_withheld_cookie_may_be_used_again(patch: pytest.MonkeyPatch) -> None:
    class Forgetful(dict[bytes, int]):
        """Says that it does not have what it has."""

        def __contains__(self, key: object) -> bool:
            return False

    after(patch, Slots, "__init__", lambda slots, *_: setattr(slots, "reserved", Forgetful()))


@fault
def a_cancelled_job_that_waited_runs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "withdraw", lambda self, route, now: setattr(route, "state", RouteState.QUEUED))


@fault
def anybody_may_cancel(patch: pytest.MonkeyPatch) -> None:
    original = Switchboard.connected

    def connected(self: Switchboard, *arguments: Any, principal: str = "", queues: bool = True) -> Peer:
        return original(self, *arguments, principal="everybody", queues=queues)

    patch.setattr(Switchboard, "connected", connected)


# Time


@fault
def deadlines_pass_unnoticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stopping, "deadline_over", nothing)


@fault
def timers_go_off_early(patch: pytest.MonkeyPatch) -> None:
    original = Timers.arm

    def arm(self: Timers, kind: TimerKind, subject: object, when: float) -> Timer:
        return original(self, kind, subject, when - 0.02)

    patch.setattr(Timers, "arm", arm)


@fault
def timers_are_not_disarmed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Timers, "disarm", nothing)


@fault
def a_worker_that_does_not_stop_is_waited_for_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stopping, "_kill_grace_over", nothing)


@fault
def a_pause_of_the_broker_evicts_its_peers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "woken", nothing)


@fault
def drain_forgets_the_jobs_that_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Switchboard, "drain", lambda self, now: setattr(self.effects, "draining", True))


# The tests


def walk_all(name: str = "", *, records: bool = False, seeds: range = SEEDS) -> str:
    """What the first seed that finds something says; nothing if none does. A crash is no finding. The seed that has found a fault of
    this name before comes first."""
    first = [FOUND_BY[name]] if name in FOUND_BY else []
    for seed in [*first, *seeds]:
        try:
            Walk(seed, audit_every=0, records=records).go(STEPS)
        except Failure as failure:
            if isinstance(failure.error, BrokenPromise | InternalError):
                return str(failure.error)
    return ""


@needs_interpreted_core
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[name](monkeypatch)
    assert walk_all(name)


@needs_interpreted_core
def test_a_choice_that_depends_on_addresses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """No promise is broken by it but one: the same inputs give the same outputs."""

    def by_address(pool: Pool) -> Worker | None:
        free = [worker for worker in pool.workers if worker.available]
        return min(free, key=lambda worker: (worker.level, id(worker))) if free else None

    monkeypatch.setattr(Pool, "least_loaded", by_address)
    assert "left another trace" in walk_all(records=True)


@pytest.mark.slow
def test_where_no_fault_is_planted_none_is_found() -> None:
    assert walk_all() == ""
