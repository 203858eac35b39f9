"""Whatever peers, time and the broker do to a switchboard, it keeps its promises: hypothesis plays, the model judges.

After every step the switchboard's own invariants hold and the model accounts for each packet; at the end faults stop, every job reaches
its outcome, no slot and no timer is left over, and the same steps leave the same trace.
"""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reasonchip_broker.protocol.codes import Code, Dialect, Role
from tests.property.switchboard_model import Client, End, Worker, require
from tests.property.switchboard_world import OFFERS, PIPELINES, WALK_FAILURES, Setting, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PEERS_MAX = 6

dialects = st.sampled_from((Dialect.BINARY, Dialect.JSON))
which = st.integers(0, 11)
"""Picks one of however many there are."""
pauses_s = st.sampled_from((0.001, 0.01, 0.03, 0.5, 2.0, 5.0))
run_options = st.fixed_dictionaries(
    {
        "as_json": st.booleans(),
        "queue": st.booleans(),
        "reply": st.booleans(),
        "detach": st.booleans(),
        "left_ms": st.sampled_from((0, 0, 1, 20, 500, 3000)),
        "variables": st.sampled_from((b"1", b"7" * 90)),
    }
)


class SwitchboardMachine(RuleBasedStateMachine):
    """The rules are the operations of a world; what comes of them is checked there."""

    world: World

    @initialize(rest_ms=st.sampled_from((None, 0, 40)), json_cancel=st.booleans(), admits=st.booleans())
    def begin(self, rest_ms: int | None, json_cancel: bool, admits: bool) -> None:
        self.world = World(Setting(rest_ms, json_cancel, admits), records=True)
        self.connect_worker(Dialect.BINARY, 2, OFFERS[0])
        self.connect_client(Dialect.BINARY, False, False)

    # Who is there

    def clients(self) -> list[Client]:
        return [client for client in self.world.model.clients if client.greeting_until is None]

    def workers(self) -> list[Worker]:
        return [worker for worker in self.world.model.workers if worker.greeting_until is None]

    def ends(self) -> list[End]:
        return [*self.clients(), *self.workers()]

    def cookies(self) -> list[bytes]:
        """Those of live jobs, of jobs that are over, and one that nobody ever used."""
        return [*self.world.model.jobs, *self.world.spent[-4:], b"never used by us"]

    # Connections

    @rule(dialect=dialects, is_other=st.booleans(), queues=st.booleans())
    def connect_client(self, dialect: Dialect, is_other: bool, queues: bool) -> None:
        if len(self.world.model.clients) < PEERS_MAX:
            self.world.connect_client(dialect, principal="other" if is_other else "", queues=queues)

    @rule(dialect=dialects, capacity=st.integers(1, 4), serves=st.sampled_from(OFFERS))
    def connect_worker(self, dialect: Dialect, capacity: int, serves: tuple[str, ...]) -> None:
        if len(self.world.model.workers) < PEERS_MAX:
            self.world.connect_worker(dialect, capacity, serves)

    @rule(role=st.sampled_from(list(Role)))
    def connect_stranger(self, role: Role) -> None:
        self.world.connect_stranger(role)

    @precondition(lambda self: self.world.model.ends)
    @rule(end=which)
    def disconnect(self, end: int) -> None:
        ends = self.world.model.ends
        self.world.disconnect(ends[end % len(ends)])

    @precondition(lambda self: self.ends())
    @rule(end=which)
    def congest_or_unblock(self, end: int) -> None:
        chosen = self.ends()[end % len(self.ends())]
        if chosen.congested:
            self.world.unblock(chosen)
        else:
            self.world.congest(chosen)

    @precondition(lambda self: self.ends())
    @rule(end=which)
    def fall_silent_or_speak(self, end: int) -> None:
        chosen = self.ends()[end % len(self.ends())]
        chosen.silent = not chosen.silent

    # Jobs

    @precondition(lambda self: self.clients())
    @rule(client=which, pipeline=st.sampled_from(PIPELINES), options=run_options)
    def run_new(self, client: int, pipeline: str, options: dict[str, Any]) -> None:
        cookie = self.world.driver.new_cookie()
        self.world.run(self.clients()[client % len(self.clients())], pipeline, cookie, **options)

    @precondition(lambda self: self.clients())
    @rule(client=which, cookie=which, options=run_options)
    def run_again(self, client: int, cookie: int, options: dict[str, Any]) -> None:
        cookies = self.cookies()
        chosen = self.clients()[client % len(self.clients())]
        self.world.run(chosen, PIPELINES[0], cookies[cookie % len(cookies)], **options)

    @precondition(lambda self: any(worker.held for worker in self.workers()))
    @rule(worker=which, cookie=which, code=st.sampled_from((Code.OK, Code.OK, *WALK_FAILURES)))
    def report(self, worker: int, cookie: int, code: int) -> None:
        busy = [worker for worker in self.workers() if worker.held]
        chosen = busy[worker % len(busy)]
        self.world.result(chosen, list(chosen.held)[cookie % len(chosen.held)], code)

    @precondition(lambda self: self.workers())
    @rule(worker=which, cookie=which, attempt=st.sampled_from((0, 1, 2, 65535)))
    def report_what_is_not_held(self, worker: int, cookie: int, attempt: int) -> None:
        """Foreign, unknown, late or repeated; or held, by another attempt."""
        chosen = self.workers()[worker % len(self.workers())]
        named = self.cookies()[cookie % len(self.cookies())]
        if named not in chosen.held or (attempt != 1 and not chosen.is_json):
            self.world.result(chosen, named, attempt=attempt)

    @precondition(lambda self: self.clients())
    @rule(client=which, cookie=which, at_once=st.booleans())
    def cancel(self, client: int, cookie: int, at_once: bool) -> None:
        cookies = self.cookies()
        self.world.cancel(self.clients()[client % len(self.clients())], cookies[cookie % len(cookies)], at_once=at_once)

    @precondition(lambda self: self.world.driver.admissions)
    @rule(admission=which, taken=st.booleans())
    def decide(self, admission: int, taken: bool) -> None:
        waiting = self.world.driver.admissions
        (self.world.admit if taken else self.world.reject)(*waiting[admission % len(waiting)])

    @precondition(lambda self: any(worker.capacity for worker in self.workers()))
    @rule(worker=which)
    def drain_worker(self, worker: int) -> None:
        workers = [worker for worker in self.workers() if worker.capacity]
        self.world.drain_worker(workers[worker % len(workers)])

    @precondition(lambda self: self.ends())
    @rule(end=which, choice=st.integers(0, 50))
    def say_nonsense(self, end: int, choice: int) -> None:
        chosen = self.ends()[end % len(self.ends())]
        if isinstance(chosen, Client) or (isinstance(chosen, Worker) and chosen.capacity):
            self.world.garbage(chosen, choice)

    @precondition(lambda self: self.ends())
    @rule(end=which)
    def ping(self, end: int) -> None:
        self.world.ping(self.ends()[end % len(self.ends())])

    # Time and the broker

    @rule(seconds=pauses_s)
    def let_time_pass(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(seconds=st.sampled_from((0.02, 0.9, 60.0)))
    def stand_still(self, seconds: float) -> None:
        self.world.jump(seconds)

    @precondition(lambda self: not self.world.model.draining and self.world.spent[5:])
    @rule()
    def drain(self) -> None:
        self.world.drain()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()
            driver = self.world.driver
            require(driver.replay() == driver.trace, "the same steps left another trace")


TestSwitchboardMachine = SwitchboardMachine.TestCase
TestSwitchboardMachine.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=80)
