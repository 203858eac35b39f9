"""Would they notice? Faults in what a job goes through after its RUN: attempts, outcomes, streams, sessions, trees, limits.

As in `test_planted_faults.py`, the simulator goes without the switchboard's own audits, so that it is the model that finds them.
"""

from typing import Any

import pytest

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import CloseReason, Code
from reasonchip_broker.routing import attempts, followers, intake, requests, scheduled, sessions
from reasonchip_broker.routing.attempts import Attempts
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.extras import Extras
from reasonchip_broker.routing.family import Family
from reasonchip_broker.routing.followers import Followers
from reasonchip_broker.routing.intake import Intake
from reasonchip_broker.routing.outcomes import Outcomes
from reasonchip_broker.routing.packs import Pack
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.replay import Ring
from reasonchip_broker.routing.roster import Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.scheduled import Scheduled
from reasonchip_broker.routing.sessions import Sessions
from reasonchip_broker.routing.shares import Share
from reasonchip_broker.routing.slots import Slots
from reasonchip_broker.routing.stopping import Stopping
from reasonchip_broker.routing.streams import Streams
from reasonchip_broker.routing.table import RouteTable
from tests.property.test_planted_faults import after, nothing, registry, walk_all
from tests.unit.switchboard.interpreted import needs_interpreted_core

FAULTS, fault = registry()


# Attempts


@fault
def a_job_that_may_run_again_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempts, "due", nothing)


@fault
def the_next_attempt_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attempts, "BACKOFF_S_MAX", 0.0)


@fault
def any_failure_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attempts, "_RETRIED", frozenset(range(1, 10)))


@fault
def an_attempt_leaves_no_history(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempts, "record", nothing)


@fault
def a_cancelled_job_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    original = Attempts.lost

    def lost(self: Attempts, route: Route, worker: Worker, reason: CloseReason) -> None:
        if route.state is route.state.CANCELLING:
            route.state = route.state.DISPATCHED
        original(self, route, worker, reason)

    patch.setattr(Attempts, "lost", lost)


# Outcomes


@fault
def an_acknowledged_outcome_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outcomes, "acknowledge", nothing)


@fault
def outcomes_are_kept_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outcomes, "due", nothing)


@fault
def an_acknowledged_cookie_may_be_used_again(patch: pytest.MonkeyPatch) -> None:
    def spend(self: RouteTable, route: Route, code: int, periods: int = 1) -> None:
        self.remove(route)

    def spend_pack(self: RouteTable, pack: Pack, upto: int) -> int:
        size = pack.bytes
        self.remove_pack(pack)
        return size

    patch.setattr(RouteTable, "spend", spend)
    patch.setattr(RouteTable, "spend_pack", spend_pack)


@fault
def one_who_looks_on_is_not_told_of_the_outcome(patch: pytest.MonkeyPatch) -> None:
    original = Dispatcher._tell

    def tell(self: Dispatcher, route: Route, extras: Extras | None, frame: bytes) -> bool:
        return original(self, route, None, frame)

    patch.setattr(Dispatcher, "_tell", tell)


@fault
def who_takes_over_is_not_the_owner(patch: pytest.MonkeyPatch) -> None:
    original = Followers.join

    def join(self: Followers, *arguments: Any, take: bool, **named: Any) -> None:
        original(self, *arguments, take=False, **named)

    patch.setattr(Followers, "join", join)


@fault
def a_stranger_may_know_of_any_job(patch: pytest.MonkeyPatch) -> None:
    for module in (followers, requests, intake):
        patch.setattr(module, "may", lambda *_: True)


@fault
def a_run_of_another_broker_runs_again(patch: pytest.MonkeyPatch) -> None:
    original = Intake._is_new

    def is_new(self: Intake, peer: Peer, cookie: bytes, options: Any) -> bool:
        self._instance = options.at or self._instance
        return original(self, peer, cookie, options)

    patch.setattr(Intake, "_is_new", is_new)


@fault
def an_orphan_lives_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Followers, "_orphaned", nothing)


# Streams


@fault
def a_chunk_is_lost_without_a_word(patch: pytest.MonkeyPatch) -> None:
    def more(ring: Ring, frame: bytes) -> None:
        if not ring.last % 3:
            ring.skip_to(ring.last + 1)

    after(patch, Ring, "append", more)


@fault
def a_gap_is_told_as_smaller_than_it_is(patch: pytest.MonkeyPatch) -> None:
    original = packets.gap
    patch.setattr(packets, "gap", lambda kind, cookie, attempt, first, last: original(kind, cookie, attempt, first + 1, last))


@fault
def a_follower_is_sent_more_than_it_has_credit_for(patch: pytest.MonkeyPatch) -> None:
    original = Streams._pump

    def pump(self: Streams, *arguments: Any, everything: bool = False) -> None:
        original(self, *arguments, everything=True)

    patch.setattr(Streams, "_pump", pump)


@fault
def a_worker_is_credited_twice(patch: pytest.MonkeyPatch) -> None:
    original = packets.credit
    patch.setattr(packets, "credit", lambda cookie, attempt, frames: original(cookie, attempt, 2 * frames))


@fault
def nobody_is_credited(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Streams, "_settle", nothing)


@fault
def what_is_left_is_not_sent_before_the_result(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Streams, "_flush", nothing)


@fault
def numbers_begin_anew_with_each_attempt(patch: pytest.MonkeyPatch) -> None:
    def more(_: Streams, route: Route, extras: Extras) -> None:
        extras.base = 0

    after(patch, Streams, "attempt_began", more)


@fault
def a_later_attempt_gets_no_input_of_before(patch: pytest.MonkeyPatch) -> None:
    original = Streams.attempt_began

    def attempt_began(self: Streams, route: Route, extras: Extras) -> None:
        if extras.inputs is not None:
            extras.inputs.skip_to(extras.inputs.last + 1)
        original(self, route, extras)

    patch.setattr(Streams, "attempt_began", attempt_began)


# Slots, sessions


@fault
def a_slot_that_is_lent_out_stays_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slots, "park", nothing)


@fault
def a_job_that_goes_on_waits_behind_all_others(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slots, "_grant", nothing)


@fault
def a_worker_is_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sessions, "SESSION_GRACE_S_MAX", 0.0)


@fault
def a_worker_is_waited_for_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sessions, "due", nothing)


@fault
def a_worker_keeps_what_it_does_not_list(patch: pytest.MonkeyPatch) -> None:
    original = Sessions.begin

    def begin(self: Sessions, peer: Peer, worker: Worker, held: Any) -> Any:
        for session in self.suspended.values():
            held = [*held, *((cookie, one.attempt) for cookie, one in session.worker.assignments.items())]
        return original(self, peer, worker, held)

    patch.setattr(Sessions, "begin", begin)


@fault
def any_process_of_a_name_is_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sessions, "_is_same", lambda *_: True)


# Trees, batches, limits


@fault
def a_child_outlives_its_parent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Family, "settle", nothing)


@fault
def a_child_of_a_job_that_ended_well_is_cancelled(patch: pytest.MonkeyPatch) -> None:
    original = Family.ended

    def ended(self: Family, route: Route, extras: Extras, code: int) -> None:
        original(self, route, extras, 2)

    patch.setattr(Family, "ended", ended)


@fault
def a_batch_is_everybodys(patch: pytest.MonkeyPatch) -> None:
    def batch(self: Family, principal: str, batch: bytes) -> list[Route]:
        return [route for key, routes in self.batches.items() if key[1] == batch for route in routes]

    patch.setattr(Family, "batch", batch)


@fault
def a_job_waits_longer_than_it_may(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stopping, "queue_limit_over", nothing)


@fault
def an_attempt_runs_longer_than_it_may(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stopping, "_run_limit_over", nothing)


@fault
def nobody_gets_more_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stopping, "extend", nothing)


# Scheduled jobs


@fault
def a_scheduled_job_runs_before_its_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scheduled, "starts_at", lambda route: route.taken_at + route.options.delay / 2000)


@fault
def a_scheduled_job_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduled, "due", nothing)


@fault
def of_two_scheduled_jobs_the_later_is_first(patch: pytest.MonkeyPatch) -> None:
    original = Scheduled.take_due
    patch.setattr(Scheduled, "take_due", lambda self: original(self)[::-1])


@fault
def a_scheduled_job_begins_before_what_ends_it_in_the_same_wake_up(patch: pytest.MonkeyPatch) -> None:
    def due(self: Scheduled, route: Route) -> None:
        if route.extras is not None:
            route.extras.wait_timer = None
        self.begin(route)

    patch.setattr(Scheduled, "due", due)


@fault
def a_scheduled_job_that_is_not_to_wait_for_a_slot_does(patch: pytest.MonkeyPatch) -> None:
    original = Dispatcher.fail

    def fail(self: Dispatcher, route: Route, code: Code, sentence: str, *, may_have_run: bool) -> None:
        if code is Code.QUEUE_TIMEOUT and route.state is RouteState.SCHEDULED:
            self.scheduled.remove(route)
            self.enqueue(route)
        else:
            original(self, route, code, sentence, may_have_run=may_have_run)

    patch.setattr(Dispatcher, "fail", fail)


@fault
def there_is_always_room_for_a_job_that_is_scheduled(patch: pytest.MonkeyPatch) -> None:
    original = Intake._has_room

    def has_room(self: Intake, peer: Peer, cookie: bytes, share: Share, frame_bytes: int) -> bool:
        counted = self._dispatcher.scheduled
        jobs, counted.jobs = counted.jobs, 0
        try:
            return original(self, peer, cookie, share, frame_bytes)
        finally:
            counted.jobs = jobs

    patch.setattr(Intake, "_has_room", has_room)


@needs_interpreted_core
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[name](monkeypatch)
    assert walk_all(name)
