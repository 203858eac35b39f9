"""Where a job is and, if it waits, why: a code for programs, a sentence for people."""

from datetime import timedelta
from math import ceil
from typing import Final

from reasonchip_broker.limits import STATUS_CHILDREN_MAX
from reasonchip_broker.protocol.binary import NUMBER_MAX, code_of
from reasonchip_broker.protocol.codes import Code, JobState, Waiting
from reasonchip_broker.protocol.schemas import JobStatus
from reasonchip_broker.routing.assignment import AssignmentState
from reasonchip_broker.routing.backlog import Backlog
from reasonchip_broker.routing.clock import Clock
from reasonchip_broker.routing.gates import LimitGate
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.roster import Pool
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.scheduled import starts_at
from reasonchip_broker.routing.table import RouteTable

_STATES: Final = {
    RouteState.ADMITTING: JobState.ADMITTING,
    RouteState.SCHEDULED: JobState.SCHEDULED,
    RouteState.QUEUED: JobState.QUEUED,
    RouteState.DISPATCHED: JobState.RUNNING,
    RouteState.CANCELLING: JobState.CANCELLING,
    RouteState.SUSPENDED: JobState.SUSPENDED,
    RouteState.BACKOFF: JobState.BACKOFF,
    RouteState.OVER: JobState.OVER,
    RouteState.FORGOTTEN: JobState.OVER,
}


class Status:
    """Tells where jobs are."""

    __slots__ = ("_backlog", "_clock", "_gates", "_routes")

    def __init__(self, clock: Clock, routes: RouteTable, backlog: Backlog) -> None:
        self._backlog = backlog
        self._gates = backlog.gates
        self._clock = clock
        self._routes = routes

    def of(self, route: Route, *, tree: bool = False) -> JobStatus:
        """The status of a job; with its children and theirs, so many at most, if `tree`."""
        return self._of(route, [STATUS_CHILDREN_MAX] if tree else [0], _DEPTH_MAX)

    def of_spent(self, code: int) -> JobStatus:
        """That of a job of which only the code is known."""
        return JobStatus(state=JobState.OVER, out=code)

    def _of(self, route: Route, left: list[int], depth: int) -> JobStatus:
        extras, assignment, now = route.extras, route.assignment, self._clock.now
        over = route.state is RouteState.OVER
        state = _STATES[route.state]
        if state is JobState.RUNNING and assignment is not None and assignment.state is AssignmentState.PARKED:
            state = JobState.PARKED
        kids: list[JobStatus] = []
        for child in extras.children.values() if extras is not None and depth else ():
            if not left[0]:
                break
            left[0] -= 1
            kids.append(self._of(child, left, depth - 1))
        return JobStatus(
            state=state,
            why=self.why(route) or "",
            pipe=route.options.p,
            att=route.attempt,
            of=route.options.att,
            age=_ms(now - route.taken_at),
            left=0 if over or not route.deadline else max(1, _ms(route.deadline - now)),
            due=max(1, _ms(starts_at(route) - now)) if state is JobState.SCHEDULED else 0,
            prog=extras.progress.last if extras is not None and extras.progress is not None else 0,
            inp=extras.inputs.last if extras is not None and extras.inputs is not None else 0,
            worker=assignment.worker.peer.name if assignment is not None else "",
            out=code_of(route.frame) if over else None,
            cookie=route.cookie,
            parent=extras.parent.cookie if extras is not None and extras.parent is not None else b"",
            kids=kids,
        )

    def why(self, route: Route) -> Waiting | None:
        """Why a job does not run; None if it does, or is over."""
        state = route.state
        if state is RouteState.ADMITTING:
            return Waiting.NOT_ADMITTED
        if state is RouteState.SCHEDULED:
            return Waiting.NOT_DUE
        if state is RouteState.SUSPENDED:
            return Waiting.WORKER_DISCONNECTED
        if state is RouteState.BACKOFF:
            waits = route.extras is not None and route.extras.wait_timer is not None
            return Waiting.BETWEEN_ATTEMPTS if waits else Waiting.STALE_ATTEMPT
        if state is RouteState.QUEUED:
            pools = route.kind.pools
            if not pools:
                return Waiting.NOT_SERVED
            if self._gate(route) is not None:
                return Waiting.LIMIT_REACHED
            if self._backlog.awaits_worker(route):
                return Waiting.PREFERRED_WORKER_BUSY
            draining = all(worker.draining for pool in pools for worker in pool.workers)
            return Waiting.WORKERS_DRAINING if draining else Waiting.NO_FREE_SLOT
        parked = route.assignment is not None and route.assignment.state is AssignmentState.PARKED
        if parked and state is RouteState.DISPATCHED:
            return Waiting.SLOT_LENT_OUT
        return None

    def _gate(self, route: Route) -> LimitGate | None:
        """The limit that holds a job back that waits."""
        kind = route.kind
        return self._gates.shut(self._gates.of(kind.limits, kind.pipeline, route.share)) if kind.limits else None

    def sentence(self, route: Route) -> str:
        """The same for people."""
        why = self.why(route)
        gate = self._gate(route) if why is Waiting.LIMIT_REACHED else None
        if gate is not None:
            return limit_reached(gate, self._clock.now)
        if why is Waiting.NO_FREE_SLOT:
            return self._slots(route.kind.pools, route.principal, route.kind.slots)
        if why is Waiting.NOT_DUE:
            left = timedelta(seconds=max(1, ceil(starts_at(route) - self._clock.now)))
            return f"the job is scheduled, and may start in {left} (h:mm:ss)"
        if why is Waiting.NOT_SERVED:
            return not_served(route.kind)
        if why is not None:
            return _SENTENCES[why]
        if route.state is RouteState.OVER:
            return f"the job is over: {Code(code_of(route.frame)).name}"
        return "the job was asked to stop" if route.state is RouteState.CANCELLING else "a worker has it"

    def _slots(self, pools: list[Pool], principal: str, takes: int) -> str:
        workers = [worker for pool in pools for worker in pool.workers]
        slots = sum(worker.capacity for worker in workers)
        if takes > 1:
            return f"no worker that serves this pipeline has the {takes} slots free that the job takes"
        held = [
            self._routes[cookie]
            for worker in workers
            for cookie, assignment in worker.assignments.items()
            if assignment.state is AssignmentState.HELD
        ]
        own = sum(route.principal == principal for route in held)
        notes = [
            f"{count} {what}"
            for count, what in (
                # Whose the others are is nobody's business.
                (own if own < len(held) else 0, "by jobs of yours"),
                (sum(worker.withheld for worker in workers), "withheld until their worker reports"),
                (sum(pool.resting for pool in pools), "resting"),
                (sum(worker.free for worker in workers if worker.draining), "of draining workers"),
                (sum(worker.free for worker in workers if worker.set_aside), "set aside for a job that takes several"),
                (sum(worker.free for worker in workers if worker.peer.congested), "of workers that are too slow"),
            )
            if count
        ]
        taken = (
            f"all {slots} slots that serve this pipeline are taken"
            if slots > 1
            else "the one slot that serves this pipeline is taken"
        )
        return f"{taken} ({', '.join(notes)})" if notes else taken


_DEPTH_MAX: Final = 100
"""Levels of a tree that are shown: a reader of nested maps may have a limit of its own."""

_LABELS_SHOWN: Final = 5

ALL_TAKEN: Final = "every slot that serves this pipeline is taken"
PREFERRED_BUSY: Final = "the worker that served this affinity key last has no slot free; for a while the job waits for that one"

_SENTENCES: Final = {
    Waiting.PREFERRED_WORKER_BUSY: PREFERRED_BUSY,
    Waiting.NOT_ADMITTED: "the job has not been admitted yet",
    Waiting.WORKERS_DRAINING: "every worker that serves this pipeline is draining",
    Waiting.WORKER_DISCONNECTED: "the job's worker has lost its connection, and may come back",
    Waiting.BETWEEN_ATTEMPTS: "the job waits before its next attempt",
    Waiting.STALE_ATTEMPT: "a worker has not let go of an earlier attempt",
    Waiting.SLOT_LENT_OUT: "the job waits for something else, and has lent its slot out",
}


def limit_reached(gate: LimitGate, now: float) -> str:
    """What is said of a job that a limit holds back."""
    limit = gate.limit
    about = f"the limit {limit.name!r} is reached"
    if limit.concurrency is not None and gate.running >= limit.concurrency:
        what = f"{gate.running} of at most {limit.concurrency} jobs run" if limit.concurrency else "no job may run"
        return f"{about}: {what}"
    return f"{about}: {limit.rate} jobs in {limit.period_s:g} s; the next may start in {max(0.01, gate.opens_at - now):.2f} s"


def not_served(kind: EligibilityClass) -> str:
    """What is said of a job that no connected worker may run."""
    wants = [f"{name}={value}" for name, value in kind.need[:_LABELS_SHOWN]]
    if len(kind.need) > _LABELS_SHOWN:
        wants[-1] += "…"
    if kind.slots > 1:
        wants.append(f"the {kind.slots} slots that a job takes")
    return f"no connected worker{' that has ' if wants else ''}{', '.join(wants)} serves this pipeline"


def _ms(seconds: float) -> int:
    return max(0, min(NUMBER_MAX, round(seconds * 1000)))
