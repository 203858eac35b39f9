"""Whatever peers, time and the broker do to a switchboard, it keeps its promises: hypothesis plays, the model judges.

After every step the switchboard's own invariants hold and the model accounts for each packet; at the end faults stop, every job reaches
its outcome, no slot and no timer is left over, and the same steps leave the same trace.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reasonchip_broker.protocol.codes import Code, Dialect, Role
from reasonchip_broker.testing.simulation.features.connections import OFFERS
from reasonchip_broker.testing.simulation.features.jobs import FAILURES
from reasonchip_broker.testing.simulation.records import PIPELINES, Client, End, Worker, require
from reasonchip_broker.testing.simulation.world import Setting, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PEERS_MAX = 6

dialects = st.sampled_from((Dialect.BINARY, Dialect.JSON))
which = st.integers(0, 11)
"""Picks one of however many there are."""
pauses_s = st.sampled_from((0.001, 0.01, 0.03, 0.5, 2.0, 5.0))
run_options = st.tuples(
    *(st.booleans() for _ in range(4)), st.sampled_from((0, 0, 1, 20, 500, 3000)), st.sampled_from((b"1", b"7" * 90))
)
"""Of an operation `run`, from `as_json` on."""


class SwitchboardMachine(RuleBasedStateMachine):
    """The rules are the operations of a world; what comes of them is checked there."""

    world: World
    ids: int

    @initialize(rest_ms=st.sampled_from((None, 0, 40)), json_cancel=st.booleans(), admits=st.booleans())
    def begin(self, rest_ms: int | None, json_cancel: bool, admits: bool) -> None:
        self.world = World(Setting(rest_ms, json_cancel, admits), records=True)
        self.ids = 0
        self.connect_worker(Dialect.BINARY, 2, OFFERS[0])
        self.connect_client(Dialect.BINARY, False, False)

    def do(self, *operation: Any) -> None:
        self.world.apply(operation)

    def new_id(self) -> int:
        self.ids += 1
        return self.ids

    # Who is there

    def clients(self) -> list[Client]:
        return [client for client in self.world.model.clients.values() if client.greeting_until is None]

    def workers(self) -> list[Worker]:
        return [worker for worker in self.world.model.workers.values() if worker.greeting_until is None]

    def ends(self) -> list[End]:
        return [*self.clients(), *self.workers()]

    def end(self, number: int, ends: Sequence[End]) -> int:
        return ends[number % len(ends)].id

    def cookies(self) -> list[bytes]:
        """Those of live jobs, of jobs that are over, and one that nobody ever used."""
        return [*self.world.model.jobs, *list(self.world.spent)[-4:], b"never used by us"]

    # Connections

    @rule(dialect=dialects, is_other=st.booleans(), queues=st.booleans())
    def connect_client(self, dialect: Dialect, is_other: bool, queues: bool) -> None:
        if len(self.world.model.clients) < PEERS_MAX:
            self.do("connect client", self.new_id(), dialect, "other" if is_other else "", queues)

    @rule(dialect=dialects, capacity=st.integers(1, 4), serves=st.sampled_from(OFFERS))
    def connect_worker(self, dialect: Dialect, capacity: int, serves: tuple[str, ...]) -> None:
        if len(self.world.model.workers) < PEERS_MAX:
            self.do("connect worker", self.new_id(), dialect, capacity, serves)

    @rule(role=st.sampled_from(list(Role)))
    def connect_stranger(self, role: Role) -> None:
        self.do("connect stranger", self.new_id(), role)

    @precondition(lambda self: self.world.model.ends)
    @rule(end=which)
    def disconnect(self, end: int) -> None:
        self.do("disconnect", self.end(end, list(self.world.model.ends.values())))

    @precondition(lambda self: self.ends())
    @rule(end=which)
    def congest_or_unblock(self, end: int) -> None:
        chosen = self.ends()[end % len(self.ends())]
        self.do("unblock" if chosen.congested else "congest", chosen.id)

    @precondition(lambda self: self.ends())
    @rule(end=which)
    def fall_silent_or_speak(self, end: int) -> None:
        self.do("silence", self.end(end, self.ends()))

    # Jobs

    @precondition(lambda self: self.clients())
    @rule(client=which, pipeline=st.sampled_from(PIPELINES), options=run_options)
    def run_new(self, client: int, pipeline: str, options: tuple[Any, ...]) -> None:
        cookie = self.world.driver.new_cookie()
        self.do("run", self.end(client, self.clients()), cookie, pipeline, *options)

    @precondition(lambda self: self.clients())
    @rule(client=which, cookie=which, options=run_options)
    def run_again(self, client: int, cookie: int, options: tuple[Any, ...]) -> None:
        cookies = self.cookies()
        self.do("run", self.end(client, self.clients()), cookies[cookie % len(cookies)], PIPELINES[0], *options)

    @precondition(lambda self: any(worker.held for worker in self.workers()))
    @rule(worker=which, cookie=which, code=st.sampled_from((Code.OK, Code.OK, *FAILURES)))
    def report(self, worker: int, cookie: int, code: int) -> None:
        busy = [worker for worker in self.workers() if worker.held]
        chosen = busy[worker % len(busy)]
        self.do("result", chosen.id, list(chosen.held)[cookie % len(chosen.held)], code)

    @precondition(lambda self: self.workers())
    @rule(worker=which, cookie=which, attempt=st.sampled_from((0, 1, 2, 65535)))
    def report_what_is_not_held(self, worker: int, cookie: int, attempt: int) -> None:
        """Foreign, unknown, late or repeated; or held, by another attempt."""
        named = self.cookies()[cookie % len(self.cookies())]
        self.do("result", self.end(worker, self.workers()), named, Code.OK, attempt)

    @precondition(lambda self: self.clients())
    @rule(client=which, cookie=which, at_once=st.booleans())
    def cancel(self, client: int, cookie: int, at_once: bool) -> None:
        cookies = self.cookies()
        self.do("cancel", self.end(client, self.clients()), cookies[cookie % len(cookies)], at_once)

    @precondition(lambda self: self.world.driver.admissions)
    @rule(admission=which, taken=st.booleans(), newest=st.booleans())
    def decide(self, admission: int, taken: bool, newest: bool) -> None:
        waiting = self.world.driver.admissions
        self.do("decide", waiting[admission % len(waiting)][0], taken, newest)

    @precondition(lambda self: any(worker.capacity for worker in self.workers()))
    @rule(worker=which)
    def drain_worker(self, worker: int) -> None:
        self.do("drain worker", self.end(worker, [worker for worker in self.workers() if worker.capacity]))

    @precondition(lambda self: self.ends())
    @rule(end=which, choice=st.integers(0, 50))
    def say_nonsense(self, end: int, choice: int) -> None:
        self.do("garbage", self.end(end, self.ends()), choice)

    @precondition(lambda self: self.ends())
    @rule(end=which)
    def ping(self, end: int) -> None:
        self.do("ping", self.end(end, self.ends()))

    # Time and the broker

    @rule(seconds=pauses_s)
    def let_time_pass(self, seconds: float) -> None:
        self.do("advance", seconds)

    @rule(seconds=st.sampled_from((0.02, 0.9, 60.0)))
    def stand_still(self, seconds: float) -> None:
        self.do("jump", seconds)

    @precondition(lambda self: not self.world.model.draining and len(self.world.spent) > 5)
    @rule()
    def drain(self) -> None:
        self.do("drain")

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()
            driver = self.world.driver
            require(driver.replay() == driver.trace, "the same steps left another trace")


TestSwitchboardMachine = SwitchboardMachine.TestCase
TestSwitchboardMachine.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=80)
