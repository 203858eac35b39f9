"""Jobs: the table of routes, and the steps that take a job from its RUN to its outcome.

`Switchboard` says who is who, reads packets and answers requests; this is the work behind it, and `Dispatcher` is where all of it
meets. What concerns one matter has a file of its own: slots (`slots.py`), stopping (`stopping.py`), attempts, sessions, families,
streams, outcomes. Every operation leaves all tables in agreement and no free slot beside a waiting job that could have it."""

from typing import Final

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import NUMBER_MAX, attempt_of, readdressed
from reasonchip_broker.protocol.codes import Code, Dialect
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.protocol.json_v0 import is_json, to_binary
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.affinity import Affinity
from reasonchip_broker.routing.answers import Answers
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.attempts import Attempts
from reasonchip_broker.routing.backlog import Backlog
from reasonchip_broker.routing.clock import Clock
from reasonchip_broker.routing.counters import Counters
from reasonchip_broker.routing.effects import Effects, Outcome
from reasonchip_broker.routing.extras import Extras
from reasonchip_broker.routing.family import Family
from reasonchip_broker.routing.followers import Followers
from reasonchip_broker.routing.gates import Gates, LimitGate
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.outcomes import Outcomes
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.pressure import Pressure
from reasonchip_broker.routing.report import Report
from reasonchip_broker.routing.roster import Roster, Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.scheduled import Scheduled
from reasonchip_broker.routing.sessions import Sessions
from reasonchip_broker.routing.shares import Share
from reasonchip_broker.routing.slots import Slots
from reasonchip_broker.routing.status import Status
from reasonchip_broker.routing.stopping import Stopping
from reasonchip_broker.routing.streams import Streams
from reasonchip_broker.routing.table import RouteTable
from reasonchip_broker.routing.timers import TimerKind, Timers
from reasonchip_broker.scheduling import Scheduling

_ADMITTING: Final = RouteState.ADMITTING
_SCHEDULED: Final = RouteState.SCHEDULED
_QUEUED: Final = RouteState.QUEUED
_DISPATCHED: Final = RouteState.DISPATCHED
_OVER: Final = RouteState.OVER
_HOLDING: Final = frozenset({AssignmentState.HELD, AssignmentState.PARKED})
_LAST_OUTCOME: Final = Code.TOO_LARGE
_JSON: Final = Dialect.JSON
_LEFT: Final = PeerState.GONE


class Dispatcher:
    """The table of routes, and all that works on it. `json_slot_rest_ms` and `json_cancel` are the switchboard's settings."""

    __slots__ = (
        "affinity",
        "answers",
        "attempts",
        "backlog",
        "clock",
        "counters",
        "effects",
        "family",
        "followers",
        "gates",
        "limits",
        "outcomes",
        "pressure",
        "report",
        "roster",
        "routes",
        "scheduled",
        "sessions",
        "shares",
        "slots",
        "status",
        "stopping",
        "streams",
        "timers",
    )

    def __init__(
        self,
        limits: Limits,
        effects: Effects,
        timers: Timers,
        json_slot_rest_ms: int | None,
        json_cancel: bool,
        scheduling: Scheduling | None = None,
    ) -> None:
        self.limits = limits
        self.effects = effects
        self.timers = timers
        self.clock = Clock()
        self.counters = Counters()
        self.roster = Roster()
        scheduling = scheduling or Scheduling()
        self.gates = Gates(scheduling.limits, self.clock, timers)
        self.affinity = Affinity(scheduling)
        self.pressure = Pressure(limits, self.clock)
        self.backlog = Backlog(self.roster, scheduling, self.gates, timers, self.pressure)
        self.shares = self.backlog.shares
        self.routes = RouteTable(limits.spent_max)
        self.answers = Answers(effects, self.routes)
        self.outcomes = Outcomes(limits, timers, self.clock, self.routes, effects)
        self.streams = Streams(limits, effects, self.counters, self.routes, self.answers)
        self.status = Status(self.clock, self.routes, self.backlog)
        self.slots = Slots(self, json_slot_rest_ms)
        self.scheduled = Scheduled(self)
        self.stopping = Stopping(self, json_cancel=json_cancel)
        self.attempts = Attempts(self)
        self.family = Family(self)
        self.sessions = Sessions(self)
        self.followers = Followers(self)
        self.report = Report(self)

    @property
    def live(self) -> int:
        """How many jobs are not over."""
        return self.routes.routes - self.outcomes.count

    # A job comes

    def run(
        self, cookie: bytes, owner: Peer, options: RunOptions, kind: EligibilityClass, worker: Worker, frame: Frame
    ) -> None:
        """Take a new job that asks for nothing special and dispatch it at once, to a worker that is available."""
        _, _, raw, _, attempt, left_ms, _ = frame
        share = self.share_for(owner, options)
        assignment = worker.assignments[cookie] = Assignment(worker, cookie, 1, share)
        route = Route(cookie, owner, owner.principal, options, kind, _DISPATCHED, 1, assignment, self.clock.now)
        if share is not owner.share:
            route.own_share = share
        self._enter(route, left_ms)
        self._hand_over(route, worker, raw, attempt)

    def open(
        self,
        cookie: bytes,
        owner: Peer,
        options: RunOptions,
        kind: EligibilityClass,
        left_ms: int,
        parent: Route | None = None,
    ) -> Route:
        """Take a new job that is not dispatched yet; `left_ms` is the time until its deadline, 0 for none."""
        self.backlog.sequence += 1
        now = self.clock.now
        principal = parent.principal if parent is not None else owner.principal
        route = Route(cookie, owner, principal, options, kind, _ADMITTING, taken_at=now, sequence=self.backlog.sequence)
        share = self.share_for(owner, options, parent)
        if share is not owner.share:
            route.own_share = share
        if parent is not None and parent.deadline:
            parent_ms = max(1, int((parent.deadline - now) * 1000))
            left_ms = min(left_ms, parent_ms) if left_ms else parent_ms
        self._enter(route, left_ms)
        if not options.is_simple:
            self.family.join(route, self.streams.extras_of(route), parent)
            self.followers.submitted(route)
        return route

    def share_for(self, owner: Peer, options: RunOptions, parent: Route | None = None) -> Share:
        """Whose turn a new job takes: that of the key it names, its parent's, or its owner's."""
        if options.key:
            return self.shares.of_key(parent.principal if parent is not None else owner.principal, options.key)
        return parent.share if parent is not None else owner.share

    def gate_for(self, kind: EligibilityClass, share: Share) -> LimitGate | None:
        """What keeps a job from being dispatched, whatever is free: a limit of the operator that leaves no room. None: nothing."""
        if not kind.limits:
            return None
        if self.gates.to_fill:
            # What has been let go of in this step may be others' who have waited.
            self.slots.fill()
        return self.gates.shut(self.gates.of(kind.limits, kind.pipeline, share))

    def worker_for(self, route: Route, *, may_wait: bool = True) -> Worker | None:
        """Who may be given a job now; or, of one that `may_wait`, who it is to wait for: then that one is not `available`. None:
        nobody, and it may as well wait for any."""
        kind, key = route.kind, route.options.aff
        if self.gate_for(kind, route.share) is not None:
            return None
        return self.affinity.choose(kind, route.principal, key, may_wait=may_wait) if key else kind.choose()

    def _enter(self, route: Route, left_ms: int) -> None:
        self.routes.add(route)
        route.owner.unfinished += 1
        if left_ms:
            route.deadline = self.clock.now + left_ms / 1000
            route.timer = self.timers.arm(TimerKind.DEADLINE, route, route.deadline)

    def admitting(self, cookie: bytes, number: int) -> Route | None:
        """The job that waits for this verdict. One that is over meanwhile may have left its cookie, but not its number, to another."""
        route = self.routes.get(cookie)
        return route if route is not None and route.state is _ADMITTING and route.sequence == number else None

    def enqueue(self, route: Route, worker: Worker | None = None) -> None:
        """Let a job wait, for this worker at first, if one is named; only when no slot is free for it."""
        route.move(_QUEUED)
        route.queued_at = self.clock.now
        self.backlog.push(route, self.clock.now, worker, self.affinity.wait_s)
        self.counters.queued += 1
        if route.extras is not None and route.options.qlim:
            when = self.clock.now + route.options.qlim / 1000
            route.extras.wait_timer = self.timers.arm(TimerKind.QUEUE_LIMIT, route, when)
        self.log("route queued", route)

    def hold_back(self, routes: list[Route]) -> None:
        """Jobs that wait for a slot may not have one before a worker has let go of an earlier attempt."""
        for route in routes:
            self._forget_wait(route)
            route.move(RouteState.BACKOFF)
        self.backlog.take_out(routes, self.clock.now)

    def _forget_wait(self, route: Route) -> None:
        extras = route.extras
        if extras is not None and extras.wait_timer is not None:
            self.timers.disarm(extras.wait_timer)
            extras.wait_timer = None

    # A job is dispatched

    def dispatch(self, route: Route, worker: Worker, frame: bytes) -> None:
        """Bind a job that was queued or admitted to a slot of a worker that is available; `frame` is its RUN."""
        route.move(_DISPATCHED)
        route.frame = frame if route.options.att > 1 else b""
        route.attempt += 1
        slots = route.kind.slots
        if slots > 1 and route.extras is None:
            # Whatever the operator may say of such jobs later, this one is never taken for a plain job, which has one slot.
            self.streams.extras_of(route)
        assignment = Assignment(worker, route.cookie, route.attempt, route.share, slots=slots)
        route.assignment = worker.assignments[route.cookie] = assignment
        self._hand_over(route, worker, frame, 1 if is_json(frame) else attempt_of(frame))
        extras = route.extras
        if extras is not None:
            self._forget_wait(route)
            extras.attempt_began_at = self.clock.now
            if route.options.rlim:
                when = self.clock.now + route.options.rlim / 1000
                assignment.timer = self.timers.arm(TimerKind.RUN_LIMIT, assignment, when)
            self.streams.attempt_began(route, extras)

    def _hand_over(self, route: Route, worker: Worker, frame: bytes, attempt: int) -> None:
        """Send a job to the worker that it is bound to; `attempt` is what its frame says."""
        kind = route.kind
        slots = route.assignment.slots if route.assignment is not None else 1
        worker.pool.occupy(worker, slots)
        route.share.began(slots, self.clock.now)
        if kind.limits and route.assignment is not None:
            gates = self.gates.of(kind.limits, kind.pipeline, route.share)
            self.gates.passed(route.assignment, kind.pipeline, gates)
        if route.options.aff:
            self.affinity.served(worker, route.principal, route.options.aff)
        if kind.as_json and worker.peer.dialect is not _JSON:
            frame = to_binary(frame, attempt)
        if route.deadline:
            left_ms = max(1, min(NUMBER_MAX, int((route.deadline - self.clock.now) * 1000)))
            frame = readdressed(frame, route.attempt, left_ms)
        elif attempt != route.attempt:
            frame = readdressed(frame, route.attempt, 0)
        self.effects.send(worker.peer, frame)
        if self.effects.log_routes:
            self.log("route dispatched", route, worker=worker.peer.id.hex())

    # A job ends

    def result(self, peer: Peer, frame: Frame) -> None:
        """A RESULT from a worker: it counts if this worker holds this attempt; any other is dropped and counted."""
        _, cookie, raw, code, attempt, _, _ = frame
        worker = peer.worker
        assignment = worker.assignments.get(cookie) if worker is not None else None
        if worker is None or assignment is None:
            self._drop(peer, cookie)
            return
        if attempt != assignment.attempt:
            if peer.dialect is not _JSON:
                self._drop(peer, cookie)
                return
            attempt = assignment.attempt
        if assignment.state in _HOLDING:
            route = self.routes[cookie]
            if code > _LAST_OUTCOME:
                sentence = f"the worker ended the job with {code}, which is no outcome"
                code = Code.EXCEPTION
                raw = packets.failed(cookie, attempt, Code.EXCEPTION, sentence)
            if peer.dialect is _JSON and route.owner.dialect is not _JSON:
                # A JSON worker names no attempt, and may have answered in JSON to a client that speaks binary.
                raw = readdressed(to_binary(raw, attempt), attempt, 0)
            if not self.attempts.retries(route, raw, code):
                if route.options.att > 1:
                    raw = self.attempts.with_history(route, raw, code)
                self.finish(route, raw, code)
        self.slots.release(assignment)

    def _drop(self, peer: Peer, cookie: bytes) -> None:
        self.counters.results_dropped += 1
        if self.effects.log_routes:
            self.effects.logs.append(("debug", "result dropped", {"cookie": cookie.hex(), "connection": peer.id.hex()}))

    def finish(self, route: Route, frame: bytes, code: int) -> None:
        """A job reached its outcome, which is the RESULT `frame`. A slot that it holds is the caller's concern."""
        extras = route.extras
        if extras is not None:
            self.streams.over(route)
            self._end_extras(route, extras, code)
        was_queued = route.state is _QUEUED
        # Every live state may go to OVER, and what is over is never finished again: no need to look the step up.
        route.state = _OVER
        if was_queued:
            self.backlog.withdraw(route, self.clock.now)
        route.assignment = None
        if route.timer is not None:
            self.timers.disarm(route.timer)
            route.timer = None
        route.owner.unfinished -= 1
        self.counters.finished += 1
        heard = self._tell(route, extras, frame)
        if not heard:
            self.counters.results_unheard += 1
        effects = self.effects
        if effects.observe_outcomes:
            binary = readdressed(to_binary(frame, route.attempt), route.attempt, 0)
            effects.outcomes.append(Outcome(route.cookie, binary))
        if effects.log_routes:
            self.log("route over", route, code=Code(code).name, heard=heard)

    def _tell(self, route: Route, extras: Extras | None, frame: bytes) -> bool:
        """Send an outcome to all who wait for it, and keep it. Returns whether anybody did."""
        owner = route.owner
        waits = not route.options.detach or (extras is not None and extras.attached)
        there = owner.state is not _LEFT
        heard = there and waits
        if heard:
            self.effects.send(owner, frame)
        if is_json(frame) and not (heard and extras is None):
            frame = readdressed(to_binary(frame, route.attempt), route.attempt, 0)
        if heard and owner.dialect is _JSON:
            # It is delivered, and no existing peer will ever ask for it: its cookie is free.
            self.outcomes.forget_delivered(route)
        else:
            self.outcomes.keep(route, frame, self.clock.now)
            if heard:
                self.outcomes.sent(owner, route)
            elif there:
                self.outcomes.unheard(owner, route)
        if extras is not None:
            for follower in extras.followers:
                if follower.peer is not owner and follower.peer.state is not _LEFT:
                    heard = True
                    self.effects.send(follower.peer, frame)
                    self.outcomes.sent(follower.peer, route)
            extras.followers.clear()
            extras.senders.clear()
        return heard

    def _end_extras(self, route: Route, extras: Extras, code: int) -> None:
        if route.state is _SCHEDULED:
            self.scheduled.remove(route)
        self._forget_wait(route)
        if extras.orphan_timer is not None:
            self.timers.disarm(extras.orphan_timer)
            extras.orphan_timer = None
        self.family.ended(route, extras, code)
        self.followers.untie(route, extras)

    def fail(self, route: Route, code: Code, sentence: str, *, may_have_run: bool) -> None:
        """End a job by the broker's own word. The slot that it holds, if any, is withheld until its worker lets go."""
        assignment = route.assignment
        if assignment is not None:
            self.attempts.record(route, assignment.worker, code)
        history = route.extras.history if route.extras is not None else ()
        frame = packets.failed(route.cookie, route.attempt, code, sentence, may_have_run=may_have_run, history=history)
        self.finish(route, frame, code)
        if assignment is not None:
            self.slots.withhold(assignment)

    def withdraw(self, route: Route) -> None:
        """A job that was not admitted leaves no trace: its cookie is free."""
        if route.extras is not None:
            self.streams.over(route)
            self._end_extras(route, route.extras, Code.CANCELLED)
        self.routes.remove(route)
        if route.timer is not None:
            self.timers.disarm(route.timer)
            route.timer = None
        route.owner.unfinished -= 1

    # The end of a step

    def settle(self) -> None:
        """What a step leads to for others: children of what ended are cancelled, senders of what was taken are credited, jobs
        that a limit held back get free slots."""
        # Asked here, since hardly any step leads to any of them: this is done after each read.
        if self.family.doomed:
            self.family.settle()
        if self.gates.to_fill:
            # Before the streams, since a job that begins takes its input.
            self.slots.fill()
        if self.streams.touched:
            self.streams.settle()

    # Telling

    def log(self, event: str, route: Route, **fields: object) -> None:
        """Log an event of a job, if such are logged."""
        if self.effects.log_routes:
            fields |= {"cookie": route.cookie.hex(), "pipeline": route.options.p, "attempt": route.attempt}
            self.effects.logs.append(("debug", event, fields))

    def log_slot(self, event: str, assignment: Assignment) -> None:
        """Log a warning about a slot."""
        peer = assignment.worker.peer
        self.effects.logs.append(("warning", event, {"cookie": assignment.cookie.hex(), "worker": peer.id.hex()}))
