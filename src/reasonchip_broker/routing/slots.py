"""Workers' slots: who takes a freed one, which rest, which are withheld, which are lent out.

Every operation leaves no free slot beside a waiting job that could have it. A job that has lent its slot out and wants one of the
same worker again goes before all jobs that wait."""

from collections import deque
from typing import TYPE_CHECKING, Final

from reasonchip_broker.limits import JSON_SLOT_REST_MS_MIN, JSON_SLOT_REST_MS_PER_SLOT
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Dialect
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.roster import Labels, Pool, Worker
from reasonchip_broker.routing.route import RouteState
from reasonchip_broker.routing.shares import Share
from reasonchip_broker.routing.timers import TimerKind

if TYPE_CHECKING:
    from reasonchip_broker.routing.dispatcher import Dispatcher

_JSON: Final = Dialect.JSON
_HELD: Final = AssignmentState.HELD
_PARKED: Final = AssignmentState.PARKED
_WITHHELD: Final = AssignmentState.WITHHELD
_ABANDONED: Final = AssignmentState.ABANDONED
_GONE: Final = AssignmentState.GONE
_TAKE_A_SLOT: Final = frozenset({_HELD, _WITHHELD})


class Slots:
    """The slots of all workers. `json_slot_rest_ms` is how long a JSON worker's rest, None for the measured default."""

    __slots__ = ("_dispatcher", "_rest_s", "reserved")

    def __init__(self, dispatcher: "Dispatcher", json_slot_rest_ms: int | None) -> None:
        self._dispatcher = dispatcher
        self._rest_s = None if json_slot_rest_ms is None else json_slot_rest_ms / 1000
        self.reserved: dict[bytes, int] = {}
        """Cookies of which a worker has not let go though the job, or that attempt of it, is over; on how many workers."""

    # Workers

    def register(self, peer: Peer, capacity: int, patterns: list[str], labels: Labels = ()) -> Worker:
        """A worker declares its slots. It is given jobs from `availability_changed` on."""
        dispatcher = self._dispatcher
        pool, is_new = dispatcher.roster.pool_for(peer.dialect, patterns, labels, capacity)
        worker = Worker(peer, capacity, pool)
        pool.workers[worker] = None
        peer.worker = worker
        if is_new:
            dispatcher.backlog.add_pool(pool, dispatcher.clock.now)
        dispatcher.affinity.came(worker)
        return worker

    def availability_changed(self, worker: Worker) -> None:
        """A worker began or ceased to take jobs: its place in the pool, and the jobs that waited for it."""
        pool = worker.pool
        had_none = self._dispatcher.effects.observe_capacity and pool.least_loaded() is None
        if worker.set_aside and not worker.may_take and pool.gathering is not None:
            pool.gathering.end()
        if worker.draining and worker.own_lines:
            self._dispatcher.backlog.unstick_all(worker, self._dispatcher.clock.now)
        pool.place(worker)
        if worker.level >= 0:
            self._fill(worker)
        if had_none:
            self._announce(pool)

    def withdraw(self, worker: Worker) -> None:
        """A worker's connection is gone: its pool has it no longer. What it held is the caller's concern."""
        pool = worker.pool
        pool.remove(worker)
        self._dispatcher.affinity.left(worker)
        if worker.own_lines:
            self._dispatcher.backlog.unstick_all(worker, self._dispatcher.clock.now)
        if worker.set_aside and pool.gathering is not None:
            pool.gathering.end()
        pool.resting -= sum(assignment.slots for assignment in worker.resting)
        for assignment in worker.resting:
            self._disarm(assignment)
            assignment.move(_GONE)
        worker.resting.clear()
        if not pool.workers:
            self._dispatcher.roster.discard(pool)
            self._dispatcher.backlog.remove_pool(pool)

    def fill(self) -> None:
        """Jobs wait again that a limit had held back: give them the slots that are free."""
        to_fill = self._dispatcher.gates.to_fill
        while to_fill:
            pool, _ = to_fill.popitem()
            worker = pool.least_loaded()
            while worker is not None and (self._fill(worker) or worker.set_aside):
                worker = pool.least_loaded()

    def _fill(self, worker: Worker) -> bool:
        """Give a worker waiting jobs until it is full, nothing waits, or its outbox would pass the mark. Returns whether it was not
        nothing."""
        dispatcher = self._dispatcher
        peer = worker.peer
        room = dispatcher.limits.outbox_bytes_mark
        while worker.busy < worker.capacity:
            route = dispatcher.backlog.pop_for(worker, dispatcher.clock.now)
            if route is None:
                return False
            room -= len(route.frame)
            dispatcher.dispatch(route, worker, route.frame)
            if room <= 0 and worker.busy < worker.capacity and worker.pool.turns.first(dispatcher.clock.now) is not None:
                peer.congested = True
                worker.pool.place(worker)
                dispatcher.effects.writables.append(peer.link)
                break
        return True

    # A slot's ends

    def release(self, assignment: Assignment) -> None:
        """A worker let go of a job: its slot, if it has one, rests or takes the next job."""
        worker = assignment.worker
        del worker.assignments[assignment.cookie]
        self.given_back(assignment)
        if assignment.timer is not None:
            self._disarm(assignment)
        state = assignment.state
        if state is not _HELD:
            if state is _WITHHELD:
                worker.withheld -= assignment.slots
            if state is _PARKED:
                self._forget_request(assignment)
            else:
                self.unreserve(assignment.cookie)
            if state is not _WITHHELD:
                assignment.move(_GONE)
                return
        if worker.peer.dialect is _JSON and worker.capacity > 1 and self.rest(assignment):
            return
        # It is GONE now, as every state may be, and nothing refers to it any more that could ask.
        if worker.pool.turns.levels or worker.resuming or self._dispatcher.effects.observe_capacity:
            self.free_slot(worker, assignment.slots)
        else:
            worker.pool.vacate(worker, assignment.slots)

    def given_back(self, assignment: Assignment) -> None:
        """An assignment is gone: its slot, if it has one, is no more the fairness key's whose it was, and no limit counts it."""
        gates = self._dispatcher.gates
        if gates.held:
            gates.left(assignment)
        if assignment.share is not None and assignment.state in _TAKE_A_SLOT:
            self._count_back(assignment.share, assignment.slots, assignment.slots)

    def _count_back(self, share: Share, slots: int, jobs: int) -> None:
        """A job that takes several counts as that many jobs: what a share knows of them is how long one holds one slot."""
        now = self._dispatcher.clock.now
        share.ended(slots, jobs, now)
        if share.rows:
            self._dispatcher.backlog.moved(share, now)

    def free_slot(self, worker: Worker, slots: int = 1) -> None:
        """A slot is free, or some: a job of this worker that had lent its own out takes it, or whose turn it is of those that wait."""
        pool = worker.pool
        had_none = self._dispatcher.effects.observe_capacity and pool.least_loaded() is None
        pool.vacate(worker, slots)
        self._grant(worker)
        if worker.level >= 0 or (worker.set_aside and worker.may_take):
            route = self._dispatcher.backlog.pop_for(worker, self._dispatcher.clock.now)
            if route is not None:
                self._dispatcher.dispatch(route, worker, route.frame)
                if worker.busy < worker.capacity and pool.turns.levels:
                    # Several slots became free, or the last ones for a job that takes several.
                    self._fill(worker)
        if had_none:
            self._announce(pool)

    def _announce(self, pool: Pool) -> None:
        """Say so, if a pool that had no free slot has one now."""
        if pool.least_loaded() is not None:
            self._dispatcher.effects.capacity.append(pool.offer)

    def withhold(self, assignment: Assignment) -> None:
        """The job is over, or this attempt of it, and the worker has not let go."""
        if assignment.state is _PARKED:
            assignment.move(_ABANDONED)
            self._forget_request(assignment)
        else:
            assignment.move(_WITHHELD)
            assignment.worker.withheld += assignment.slots
        self.reserve(assignment.cookie)

    def reserve(self, cookie: bytes) -> None:
        """A worker holds a job of this cookie that is none any more."""
        self.reserved[cookie] = self.reserved.get(cookie, 0) + 1

    def unreserve(self, cookie: bytes) -> None:
        """It has let go. A job that waited for that goes on."""
        left = self.reserved.pop(cookie) - 1
        if left:
            self.reserved[cookie] = left
            return
        route = self._dispatcher.routes.get(cookie)
        if route is not None and route.state is RouteState.BACKOFF:
            self._dispatcher.attempts.let_go(route)

    # Rest

    def rest(self, assignment: Assignment) -> bool:
        """The job of a slot is over, and its worker an existing one. Returns whether its slot has to rest before it is free."""
        worker = assignment.worker
        rest_s = self._rest_s
        if rest_s is None:
            rest_s = max(JSON_SLOT_REST_MS_MIN, JSON_SLOT_REST_MS_PER_SLOT * worker.capacity) / 1000
        if rest_s:
            assignment.move(AssignmentState.RESTING)
            worker.pool.resting += assignment.slots
            worker.resting[assignment] = None
            when = self._dispatcher.clock.now + rest_s
            assignment.timer = self._dispatcher.timers.arm(TimerKind.REST, assignment, when)
        return rest_s > 0

    def rest_over(self, assignment: Assignment) -> None:
        """A slot has rested."""
        worker = assignment.worker
        assignment.timer = None
        del worker.resting[assignment]
        worker.pool.resting -= assignment.slots
        assignment.move(_GONE)
        self.free_slot(worker, assignment.slots)

    # Slots that are lent out

    def park(self, assignment: Assignment) -> None:
        """A job waits for something, and lends its slot out."""
        if assignment.state is _HELD:
            assignment.move(_PARKED)
            if assignment.share is not None:
                self._count_back(assignment.share, assignment.slots, 0)
            self.free_slot(assignment.worker, assignment.slots)

    def ask_back(self, assignment: Assignment) -> None:
        """It wants a slot of its worker again: at once, if one is free, else the next."""
        worker = assignment.worker
        if assignment.state is _HELD:
            self._dispatcher.effects.send(worker.peer, packets.resume(assignment.cookie, assignment.attempt))
        elif assignment.state is _PARKED:
            if worker.resuming is None:
                worker.resuming = deque()
            if assignment not in worker.resuming:
                worker.resuming.append(assignment)
                self._grant(worker)

    def _grant(self, worker: Worker) -> None:
        """Give free slots back to those of this worker's jobs that have asked."""
        resuming = worker.resuming
        if not resuming or worker.peer.state is PeerState.GONE:
            return
        while resuming and worker.free >= resuming[0].slots:
            assignment = resuming.popleft()
            assignment.move(_HELD)
            worker.busy += assignment.slots
            if assignment.share is not None:
                assignment.share.began(assignment.slots, self._dispatcher.clock.now)
            self._dispatcher.effects.send(worker.peer, packets.resume(assignment.cookie, assignment.attempt))
        if resuming and worker.set_aside and worker.pool.gathering is not None:
            # Whoever was here goes first.
            worker.pool.gathering.end()
        worker.pool.place(worker)

    def _forget_request(self, assignment: Assignment) -> None:
        worker = assignment.worker
        resuming = worker.resuming
        if resuming and assignment in resuming:
            resuming.remove(assignment)
            if worker.free:
                # What it needed was more than that, and was kept for it.
                self._grant(worker)
                worker.pool.place(worker)
                self._dispatcher.gates.to_fill[worker.pool] = None

    def _disarm(self, assignment: Assignment) -> None:
        if assignment.timer is not None:
            self._dispatcher.timers.disarm(assignment.timer)
            assignment.timer = None
