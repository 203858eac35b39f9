"""Jobs and slots: what happens to a job between its RUN and its outcome, and to a slot between two jobs.

`Switchboard` says who is who, reads packets and answers requests; this is the work behind it. Every operation leaves all tables in
agreement and no free slot beside a waiting job that could have it.
"""

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import JSON_SLOT_REST_MS_MIN, JSON_SLOT_REST_MS_PER_SLOT, Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import NUMBER_MAX, attempt_of, readdressed
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.protocol.json_v0 import is_json, to_binary
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.backlog import Backlog, EligibilityClass
from reasonchip_broker.routing.counters import Counters
from reasonchip_broker.routing.effects import Effects, Outcome
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.roster import Pool, Roster, Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import TimerKind, Timers

_ADMITTING = RouteState.ADMITTING
_QUEUED = RouteState.QUEUED
_DISPATCHED = RouteState.DISPATCHED
_CANCELLING = RouteState.CANCELLING
_OVER = RouteState.OVER
_GONE = AssignmentState.GONE
_HELD = AssignmentState.HELD
_WITHHELD = AssignmentState.WITHHELD
_LAST_OUTCOME = Code.TOO_LARGE
_JSON = Dialect.JSON
_LEFT = PeerState.GONE


class Dispatcher:
    """The tables of routes, workers and waiting jobs, and the steps that change them. `now` is the time of the present step."""

    __slots__ = (
        "_limits",
        "_sequence",
        "_slot_rest_s",
        "backlog",
        "counters",
        "effects",
        "json_cancel",
        "now",
        "reserved",
        "roster",
        "routes",
        "timers",
    )

    def __init__(
        self, limits: Limits, effects: Effects, timers: Timers, json_slot_rest_ms: int | None, json_cancel: bool
    ) -> None:
        self._limits = limits
        self._slot_rest_s = None if json_slot_rest_ms is None else json_slot_rest_ms / 1000
        self._sequence = 0
        self.effects = effects
        self.timers = timers
        self.json_cancel = json_cancel
        self.now = 0.0
        self.counters = Counters()
        self.roster = Roster()
        self.backlog = Backlog(self.roster)
        self.routes: dict[bytes, Route] = {}
        """Every job that is not over, by cookie."""
        self.reserved: dict[bytes, Assignment] = {}
        """Cookies of jobs that are over, and whose worker has not let go: they can't be used again yet."""

    # Jobs

    def run(
        self, cookie: bytes, owner: Peer, options: RunOptions, kind: EligibilityClass, worker: Worker, frame: Frame
    ) -> None:
        """Take a new job and dispatch it at once, to a worker that is available."""
        _, _, raw, _, attempt, left_ms, _ = frame
        assignment = worker.assignments[cookie] = Assignment(worker, cookie, 1)
        route = Route(cookie, owner, owner.principal, options, kind, _DISPATCHED, 1, assignment)
        self._enter(route, left_ms)
        self._hand_over(route, worker, raw, attempt)

    def open(self, cookie: bytes, owner: Peer, options: RunOptions, kind: EligibilityClass, left_ms: int) -> Route:
        """Take a new job that is not dispatched yet; `left_ms` is the time until its deadline, 0 for none."""
        self._sequence += 1
        route = Route(cookie, owner, owner.principal, options, kind, _ADMITTING, sequence=self._sequence)
        self._enter(route, left_ms)
        return route

    def _enter(self, route: Route, left_ms: int) -> None:
        cookie = route.cookie
        self.routes[cookie] = route
        route.owner.unfinished += 1
        if left_ms:
            route.deadline = self.now + left_ms / 1000
            route.timer = self.timers.arm(TimerKind.DEADLINE, route, route.deadline)

    def admitting(self, cookie: bytes, number: int) -> Route | None:
        """The job that waits for this verdict. One that is over meanwhile may have left its cookie, but not its number, to another."""
        route = self.routes.get(cookie)
        return route if route is not None and route.state is _ADMITTING and route.sequence == number else None

    def enqueue(self, route: Route) -> None:
        """Let a job wait; only when no slot is free for it."""
        self._sequence += 1
        route.sequence = self._sequence
        route.move(_QUEUED)
        self.backlog.push(route)
        self.counters.queued += 1
        self._log("route queued", route)

    def dispatch(self, route: Route, worker: Worker, frame: bytes) -> None:
        """Bind a job that was queued or admitted to a slot of a worker that is available; `frame` is its RUN."""
        route.move(_DISPATCHED)
        route.frame = b""
        route.attempt += 1
        route.assignment = worker.assignments[route.cookie] = Assignment(worker, route.cookie, route.attempt)
        self._hand_over(route, worker, frame, 1 if is_json(frame) else attempt_of(frame))

    def _hand_over(self, route: Route, worker: Worker, frame: bytes, attempt: int) -> None:
        """Send a job to the worker that it is bound to; `attempt` is what its frame says."""
        worker.pool.occupy(worker)
        if route.kind.as_json and worker.peer.dialect is not _JSON:
            frame = to_binary(frame, attempt)
        if route.deadline:
            left_ms = max(1, min(NUMBER_MAX, int((route.deadline - self.now) * 1000)))
            frame = readdressed(frame, route.attempt, left_ms)
        elif attempt != route.attempt:
            frame = readdressed(frame, route.attempt, 0)
        self.effects.send(worker.peer, frame)
        if self.effects.log_routes:
            self._log("route dispatched", route, worker=worker.peer.id.hex())

    def finish(self, route: Route, frame: bytes, code: int) -> None:
        """A job reached its outcome, which is the RESULT `frame`. A slot that it holds is the caller's concern."""
        cookie = route.cookie
        del self.routes[cookie]
        was_queued = route.state is _QUEUED
        # Every live state may go to OVER, and what is over is not in `routes`: no need to look the step up.
        route.state = _OVER
        if was_queued:
            self.backlog.withdraw(route)
        if route.timer is not None:
            self.timers.disarm(route.timer)
            route.timer = None
        owner = route.owner
        owner.unfinished -= 1
        heard = owner.state is not _LEFT and not route.options.detach
        if heard:
            self.effects.send(owner, frame)
        else:
            self.counters.results_unheard += 1
        self.counters.finished += 1
        effects = self.effects
        if effects.observe_outcomes:
            effects.outcomes.append(Outcome(cookie, readdressed(to_binary(frame, route.attempt), route.attempt, 0)))
        if effects.log_routes:
            self._log("route over", route, code=Code(code).name, heard=heard)

    def fail(self, route: Route, code: Code, sentence: str, *, may_have_run: bool) -> None:
        """End a job by the broker's own word. The slot that it holds, if any, is withheld until its worker lets go."""
        self.finish(route, packets.failed(route.cookie, route.attempt, code, sentence, may_have_run=may_have_run), code)
        assignment = route.assignment
        if assignment is not None:
            assignment.move(_WITHHELD)
            assignment.worker.withheld += 1
            self.reserved[route.cookie] = assignment

    def withdraw(self, route: Route) -> None:
        """A job that was not admitted leaves no trace: its cookie is free."""
        del self.routes[route.cookie]
        if route.timer is not None:
            self.timers.disarm(route.timer)
            route.timer = None
        route.owner.unfinished -= 1

    # Cancelling and deadlines

    def cancel(self, route: Route, *, at_once: bool, why: str) -> tuple[Code, str]:
        """Cancel a job on request. Returns what to tell who asked."""
        assignment = route.assignment
        self.counters.cancelled += 1
        reason = f": {why}" if why else ""
        if assignment is None:
            self.fail(route, Code.CANCELLED, f"cancelled before it ran{reason}", may_have_run=False)
            return Code.OK, "the job was cancelled before it ran"
        if assignment.worker.peer.dialect is _JSON and not self.json_cancel:
            self.fail(
                route,
                Code.CANCELLED,
                f"cancelled; its worker can't be told, and may still finish it{reason}",
                may_have_run=True,
            )
            return Code.OK, "the job is over for its owner; its worker can't be told"
        if route.state is not _CANCELLING:
            route.move(_CANCELLING)
            self.tell_to_stop(assignment, at_once=at_once, why=why)
        elif at_once and (assignment.timer is None or assignment.timer.kind != TimerKind.KILL_GRACE):
            self.tell_to_stop(assignment, at_once=True, why=why)
        return Code.CANCELLING, "the worker was asked to stop"

    def tell_to_stop(self, assignment: Assignment, *, at_once: bool, why: str) -> None:
        """Send a worker the CANCEL of a job that it holds, and give it the grace that goes with it."""
        frame = packets.cancel(assignment.cookie, at_once=at_once, why=why, attempt=assignment.attempt)
        self.effects.send(assignment.worker.peer, frame)
        if assignment.timer is not None:
            self.timers.disarm(assignment.timer)
        if at_once:
            assignment.timer = self.timers.arm(TimerKind.KILL_GRACE, assignment, self.now + self._limits.kill_grace_s)
        else:
            assignment.timer = self.timers.arm(TimerKind.CANCEL_GRACE, assignment, self.now + self._limits.cancel_grace_s)

    def assignment_due(self, kind: TimerKind, assignment: Assignment) -> None:
        """The timer of an assignment went off."""
        if assignment.state is _GONE:
            # Its worker was lost in the same wake-up.
            return
        if kind == TimerKind.REST:
            self._rest_over(assignment)
        elif kind == TimerKind.CANCEL_GRACE:
            self.tell_to_stop(assignment, at_once=True, why="the cancel grace is over")
        else:
            self._kill_grace_over(assignment)

    def _kill_grace_over(self, assignment: Assignment) -> None:
        """A worker did not even stop at once: the job is given up, and its slot withheld for as long as the worker keeps it."""
        assignment.timer = None
        if assignment.state is _HELD:
            route = self.routes[assignment.cookie]
            self.fail(route, Code.CANCELLED, "cancelled; its worker has not confirmed that it stopped", may_have_run=True)
        self._log_slot("slot withheld: worker did not stop", assignment)

    def deadline_over(self, route: Route) -> None:
        """A job's time is up, wherever it is."""
        assignment = route.assignment
        route.timer = None
        if assignment is None:
            self.fail(route, Code.DEADLINE_EXCEEDED, "the deadline passed before a slot was free", may_have_run=False)
            return
        already_told = route.state is _CANCELLING
        self.fail(route, Code.DEADLINE_EXCEEDED, "the deadline passed while the job ran", may_have_run=True)
        if not already_told and (assignment.worker.peer.dialect is not _JSON or self.json_cancel):
            self.tell_to_stop(assignment, at_once=False, why="the deadline passed")

    # Slots

    def register(self, peer: Peer, capacity: int, patterns: list[str]) -> Worker:
        """A worker declares its slots; waiting jobs that it serves go to it at once."""
        pool, is_new = self.roster.pool_for(peer.dialect, patterns)
        worker = Worker(peer, capacity, pool)
        pool.workers[worker] = None
        peer.worker = worker
        if is_new:
            self.backlog.add_pool(pool)
        self.availability_changed(worker)
        return worker

    def availability_changed(self, worker: Worker) -> None:
        """A worker began or ceased to take jobs: its place in the pool, and the jobs that waited for it."""
        pool = worker.pool
        had_none = self.effects.observe_capacity and pool.least_loaded() is None
        pool.place(worker)
        if worker.level >= 0:
            self._fill(worker)
        if had_none:
            self._announce(pool)

    def _fill(self, worker: Worker) -> None:
        """Give a worker waiting jobs until it is full, nothing waits, or its outbox would pass the mark."""
        peer = worker.peer
        room = self._limits.outbox_bytes_mark
        while worker.busy < worker.capacity:
            route = self.backlog.pop_for(worker.pool)
            if route is None:
                return
            room -= len(route.frame)
            self.dispatch(route, worker, route.frame)
            if room <= 0 and worker.busy < worker.capacity and worker.pool.waiting:
                peer.congested = True
                worker.pool.place(worker)
                self.effects.writables.append(peer.link)
                return

    def release(self, assignment: Assignment) -> None:
        """A worker let go of a job: its slot rests, or takes the next job."""
        worker = assignment.worker
        cookie = assignment.cookie
        del worker.assignments[cookie]
        if assignment.timer is not None:
            self.timers.disarm(assignment.timer)
            assignment.timer = None
        if assignment.state is not _HELD:
            worker.withheld -= 1
            del self.reserved[cookie]
        if worker.peer.dialect is _JSON and worker.capacity > 1 and self._rest(assignment):
            return
        # It is GONE now, as every state may be, and nothing refers to it any more that could ask.
        pool = worker.pool
        if pool.waiting or self.effects.observe_capacity:
            self.free_slot(worker)
        else:
            pool.vacate(worker)

    def free_slot(self, worker: Worker) -> None:
        """A slot is free: the oldest job that waits for it takes it."""
        pool = worker.pool
        had_none = self.effects.observe_capacity and pool.least_loaded() is None
        pool.vacate(worker)
        if worker.level >= 0:
            route = self.backlog.pop_for(pool)
            if route is not None:
                self.dispatch(route, worker, route.frame)
        if had_none:
            self._announce(pool)

    def _announce(self, pool: Pool) -> None:
        """Say so, if a pool that had no free slot has one now."""
        if pool.least_loaded() is not None:
            self.effects.capacity.append(pool.offer)

    def _rest(self, assignment: Assignment) -> bool:
        worker = assignment.worker
        rest_s = self._slot_rest_s
        if rest_s is None:
            rest_s = max(JSON_SLOT_REST_MS_MIN, JSON_SLOT_REST_MS_PER_SLOT * worker.capacity) / 1000
        if rest_s:
            assignment.move(AssignmentState.RESTING)
            worker.pool.resting += 1
            worker.resting[assignment] = None
            assignment.timer = self.timers.arm(TimerKind.REST, assignment, self.now + rest_s)
        return rest_s > 0

    def _rest_over(self, assignment: Assignment) -> None:
        """A slot has rested."""
        worker = assignment.worker
        assignment.timer = None
        del worker.resting[assignment]
        worker.pool.resting -= 1
        assignment.move(_GONE)
        self.free_slot(worker)

    def worker_lost(self, worker: Worker, reason: CloseReason) -> None:
        """A worker's connection has gone, and with it every job that it held."""
        pool = worker.pool
        pool.remove(worker)
        pool.resting -= len(worker.resting)
        for assignment in (*worker.assignments.values(), *worker.resting):
            if assignment.timer is not None:
                self.timers.disarm(assignment.timer)
                assignment.timer = None
            was_held = assignment.state is _HELD
            if assignment.state is _WITHHELD:
                del self.reserved[assignment.cookie]
            assignment.move(_GONE)
            if was_held:
                self._lose(self.routes[assignment.cookie], reason)
        worker.assignments.clear()
        worker.resting.clear()
        if not pool.workers:
            self.roster.discard(pool)
            self.backlog.remove_pool(pool)

    def _lose(self, route: Route, reason: CloseReason) -> None:
        if route.state is _CANCELLING:
            code, sentence = Code.CANCELLED, "cancelled; its worker went away without a word of it"
        else:
            code, sentence = Code.WORKER_WENT_AWAY, f"the worker that ran the job went away ({reason.name})"
        self.finish(route, packets.failed(route.cookie, route.attempt, code, sentence), code)

    # Results

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
        if assignment.state is _HELD:
            route = self.routes[cookie]
            if code > _LAST_OUTCOME:
                sentence = f"the worker ended the job with {code}, which is no outcome"
                code = Code.EXCEPTION
                raw = packets.failed(cookie, attempt, Code.EXCEPTION, sentence)
            if peer.dialect is _JSON and route.owner.dialect is not _JSON:
                # A JSON worker names no attempt, and may have answered in JSON to a client that speaks binary.
                raw = readdressed(to_binary(raw, attempt), attempt, 0)
            self.finish(route, raw, code)
        self.release(assignment)

    def _drop(self, peer: Peer, cookie: bytes) -> None:
        self.counters.results_dropped += 1
        if self.effects.log_routes:
            self.effects.logs.append(("debug", "result dropped", {"cookie": cookie.hex(), "connection": peer.id.hex()}))

    # Telling

    def _log(self, event: str, route: Route, **fields: object) -> None:
        if self.effects.log_routes:
            fields |= {"cookie": route.cookie.hex(), "pipeline": route.options.p, "attempt": route.attempt}
            self.effects.logs.append(("debug", event, fields))

    def _log_slot(self, event: str, assignment: Assignment) -> None:
        peer = assignment.worker.peer
        self.effects.logs.append(("warning", event, {"cookie": assignment.cookie.hex(), "worker": peer.id.hex()}))

    def invariants(self) -> None:
        """Raise InternalError if any two tables disagree (invariants 2, 3, 4, 7 and 11 of the design)."""
        self.roster.invariants()
        self.backlog.invariants()
        held: dict[bytes, Assignment] = {}
        reserved: set[bytes] = set()
        for pool in self.roster.pools.values():
            for worker in pool.workers:
                for cookie, assignment in worker.assignments.items():
                    if assignment.worker is not worker or assignment.cookie != cookie:
                        raise InternalError("an assignment is filed in the wrong place")
                    if assignment.state == AssignmentState.HELD:
                        held[cookie] = assignment
                    else:
                        reserved.add(cookie)
                        if cookie in self.routes or self.reserved.get(cookie) is not assignment:
                            raise InternalError("a withheld slot still has a job, or its cookie is not reserved")
        if reserved != set(self.reserved):
            raise InternalError("a cookie is reserved that no slot withholds")
        self._route_invariants(held)

    def _route_invariants(self, held: dict[bytes, Assignment]) -> None:
        waiting = 0
        unfinished: dict[Peer, int] = {}
        for cookie, route in self.routes.items():
            running = route.state in (_DISPATCHED, _CANCELLING)
            assignment = held.pop(cookie, None)
            if running != (assignment is not None) or route.assignment is not assignment:
                raise InternalError(f"route {cookie.hex()} is {route.state.name}, and its slot is not")
            if assignment is not None and assignment.attempt != route.attempt:
                raise InternalError(f"route {cookie.hex()} and its slot disagree")
            if route.state == _OVER or (route.state == _ADMITTING) != (route.attempt == 0 and route.state != _QUEUED):
                raise InternalError(f"route {cookie.hex()} is in a state that it can't be in: {route.state.name}")
            unfinished[route.owner] = unfinished.get(route.owner, 0) + 1
            waiting += route.state == _QUEUED
        if any(owner.unfinished != jobs for owner, jobs in unfinished.items()):
            raise InternalError("a connection's unfinished jobs are miscounted")
        if held or waiting != self.backlog.jobs:
            raise InternalError("a slot is held for no job, or a job waits outside of the backlog")
