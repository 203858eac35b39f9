"""Stopping jobs: cancelled by request, out of time, given up.

A job that no worker has is over at once and never runs. Of one that runs the worker is asked to stop it, politely and then at once,
and the truth is whatever it reports; a worker that does not even report then has its slot withheld, and the job is given up. Out of
time, the owner is told at once."""

from typing import TYPE_CHECKING, Final

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import TimerKind

if TYPE_CHECKING:
    from reasonchip_broker.routing.dispatcher import Dispatcher

_JSON: Final = Dialect.JSON
_CANCELLING: Final = RouteState.CANCELLING
_GONE: Final = PeerState.GONE
_HOLDING: Final = frozenset({AssignmentState.HELD, AssignmentState.PARKED})


class Stopping:
    """Ends jobs before they end themselves. `json_cancel` passes CANCEL on to JSON workers, which ends them."""

    __slots__ = ("_dispatcher", "json_cancel")

    def __init__(self, dispatcher: "Dispatcher", *, json_cancel: bool) -> None:
        self._dispatcher = dispatcher
        self.json_cancel = json_cancel

    # By request

    def cancel(self, route: Route, *, at_once: bool, why: str, asker: Peer | None = None) -> tuple[Code, str]:
        """Cancel a job that is not over. Returns what to tell who asked."""
        dispatcher = self._dispatcher
        assignment = route.assignment
        dispatcher.counters.cancelled += 1
        reason = f": {why}" if why else ""
        if assignment is None:
            ran = route.attempt > 0
            sentence = "cancelled between two attempts" if ran else "cancelled before it ran"
            dispatcher.fail(route, Code.CANCELLED, f"{sentence}{reason}", may_have_run=ran)
            return Code.OK, f"the job was {sentence}"
        if not self._can_tell(assignment):
            sentence = f"cancelled; its worker can't be told, and may still finish it{reason}"
            dispatcher.fail(route, Code.CANCELLED, sentence, may_have_run=True)
            return Code.OK, "the job is over for its owner; its worker can't be told"
        if route.state is not _CANCELLING:
            route.move(_CANCELLING)
            dispatcher.family.cancelled(route)
            self.tell_to_stop(assignment, at_once=at_once, why=why)
            owner = route.owner
            if asker is not owner and owner.dialect is not _JSON:
                sentence = f"somebody has asked the worker to stop{reason}"
                dispatcher.answers.reply(owner, PacketType.CANCEL, Code.CANCELLING, sentence, route.cookie)
        elif at_once and (assignment.timer is None or assignment.timer.kind != TimerKind.KILL_GRACE):
            self.tell_to_stop(assignment, at_once=True, why=why)
        return Code.CANCELLING, "the worker was asked to stop"

    def _can_tell(self, assignment: Assignment) -> bool:
        return assignment.worker.peer.dialect is not _JSON or self.json_cancel

    def tell_to_stop(self, assignment: Assignment, *, at_once: bool, why: str) -> None:
        """Send a worker the CANCEL of a job that it holds, and give it the grace that goes with it."""
        dispatcher = self._dispatcher
        peer = assignment.worker.peer
        if peer.state is not _GONE:
            frame = packets.cancel(assignment.cookie, at_once=at_once, why=why, attempt=assignment.attempt)
            dispatcher.effects.send(peer, frame)
        if assignment.timer is not None:
            dispatcher.timers.disarm(assignment.timer)
        kind = TimerKind.KILL_GRACE if at_once else TimerKind.CANCEL_GRACE
        grace_s = dispatcher.limits.kill_grace_s if at_once else dispatcher.limits.cancel_grace_s
        assignment.timer = dispatcher.timers.arm(kind, assignment, dispatcher.clock.now + grace_s)

    # By time

    def assignment_due(self, kind: TimerKind, assignment: Assignment) -> None:
        """The timer of an assignment went off."""
        if kind == TimerKind.REST:
            self._dispatcher.slots.rest_over(assignment)
        elif kind == TimerKind.CANCEL_GRACE:
            self.tell_to_stop(assignment, at_once=True, why="the cancel grace is over")
        elif kind == TimerKind.RUN_LIMIT:
            self._run_limit_over(assignment)
        else:
            self._kill_grace_over(assignment)

    def _kill_grace_over(self, assignment: Assignment) -> None:
        """A worker did not even stop at once: the job is given up, and its slot withheld for as long as the worker keeps it."""
        dispatcher = self._dispatcher
        assignment.timer = None
        if assignment.state in _HOLDING:
            route = dispatcher.routes[assignment.cookie]
            sentence = "cancelled; its worker has not confirmed that it stopped"
            dispatcher.fail(route, Code.CANCELLED, sentence, may_have_run=True)
        dispatcher.log_slot("slot withheld: worker did not stop", assignment)

    def deadline_over(self, route: Route) -> None:
        """A job's time is up, wherever it is."""
        route.timer = None
        if route.assignment is not None:
            self._out_of_time(route, route.assignment, "the deadline passed while the job ran", "the deadline passed")
        elif route.attempt:
            self._dispatcher.fail(route, Code.DEADLINE_EXCEEDED, "the deadline passed between two attempts", may_have_run=True)
        else:
            what = "its time had come" if route.state is RouteState.SCHEDULED else "a slot was free"
            sentence = f"the deadline passed before {what}"
            self._dispatcher.fail(route, Code.DEADLINE_EXCEEDED, sentence, may_have_run=False)

    def queue_limit_over(self, route: Route) -> None:
        """A job has waited for a slot for as long as it was to."""
        sentence = f"no slot was free within {route.options.qlim / 1000:g} s"
        self._dispatcher.fail(route, Code.QUEUE_TIMEOUT, sentence, may_have_run=route.attempt > 0)

    def _run_limit_over(self, assignment: Assignment) -> None:
        assignment.timer = None
        if assignment.state in _HOLDING:
            route = self._dispatcher.routes[assignment.cookie]
            self._out_of_time(route, assignment, "the attempt's time to run is over", "the run limit is over")

    def _out_of_time(self, route: Route, assignment: Assignment, sentence: str, why: str) -> None:
        already_told = route.state is _CANCELLING
        self._dispatcher.fail(route, Code.DEADLINE_EXCEEDED, sentence, may_have_run=True)
        if not already_told and self._can_tell(assignment):
            self.tell_to_stop(assignment, at_once=False, why=why)

    def extend(self, assignment: Assignment, more_ms: int) -> None:
        """A handler needs more time for this attempt: so much from now, though no more than its deadline leaves."""
        dispatcher = self._dispatcher
        timer = assignment.timer
        if timer is not None and timer.kind == TimerKind.RUN_LIMIT:
            dispatcher.timers.disarm(timer)
            when = dispatcher.clock.now + more_ms / 1000
            assignment.timer = dispatcher.timers.arm(TimerKind.RUN_LIMIT, assignment, when)
