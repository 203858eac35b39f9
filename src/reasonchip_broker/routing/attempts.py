"""Attempts: what becomes of a job whose worker is lost, or whose handler fails in a way that may be tried again.

Without attempts left the job is over; with some it waits a while (doubled each time) and is queued again. Attempt numbers grow, and
what a stale attempt still says is fenced off by its number. Two attempts of a job never run at once: as long as a worker has not
let go of an earlier one, the next does not begin."""

from typing import TYPE_CHECKING, Final

from reasonchip_broker.limits import BACKOFF_S_MAX
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import meta_of, payload_of
from reasonchip_broker.protocol.codes import CloseReason, Code
from reasonchip_broker.routing.extras import Extras
from reasonchip_broker.routing.roster import Worker
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import TimerKind

if TYPE_CHECKING:
    from reasonchip_broker.routing.dispatcher import Dispatcher

_ANY: Final = "*"
_RETRIED: Final = frozenset({Code.EXCEPTION, Code.PROCESSOR_EXCEPTION})
_LOST: Final = Code.WORKER_WENT_AWAY.name


class Attempts:
    """Decides whether a job is tried again, and when."""

    __slots__ = ("_dispatcher",)

    def __init__(self, dispatcher: "Dispatcher") -> None:
        self._dispatcher = dispatcher

    def lost(self, route: Route, worker: Worker, reason: CloseReason) -> None:
        """The worker that ran a job has gone. Its slot is no concern any more."""
        dispatcher = self._dispatcher
        route.assignment = None
        if route.state is RouteState.CANCELLING:
            self.record(route, worker, Code.CANCELLED)
            sentence = "cancelled; its worker went away without a word of it"
            dispatcher.fail(route, Code.CANCELLED, sentence, may_have_run=True)
            return
        if route.options.att > 1 and route.extras is not None:
            self.record(route, worker, Code.WORKER_WENT_AWAY)
            if route.attempt < route.options.att:
                self._again(route, route.extras)
                return
            if all(record.end == _LOST for record in route.extras.history):
                sentence = f"each of {route.attempt} attempts cost its worker's connection"
                dispatcher.fail(route, Code.DEAD_LETTERED, sentence, may_have_run=True)
                return
        sentence = f"the worker that ran the job went away ({reason.name})"
        dispatcher.fail(route, Code.WORKER_WENT_AWAY, sentence, may_have_run=True)

    def retries(self, route: Route, frame: bytes, code: int) -> bool:
        """A handler failed, and `frame` is its RESULT. Returns whether the job is tried again; its slot is the caller's concern."""
        options, extras = route.options, route.extras
        if (
            code not in _RETRIED
            or not options.again
            or extras is None
            or route.attempt >= options.att
            or route.state is not RouteState.DISPATCHED
            or route.assignment is None
        ):
            return False
        kind = schemas.failure(payload_of(frame)).type
        if _ANY not in options.again and kind not in options.again:
            return False
        self.record(route, route.assignment.worker, Code(code))
        route.assignment = None
        self._again(route, extras)
        return True

    def record(self, route: Route, worker: Worker, code: Code) -> None:
        """Note what became of the present attempt of a job that may have several."""
        extras = route.extras
        if extras is not None and route.options.att > 1:
            ran_ms = max(0, round((self._dispatcher.clock.now - extras.attempt_began_at) * 1000))
            extras.history.append(schemas.AttemptRecord(route.attempt, worker.peer.name, code.name, ran_ms))

    def with_history(self, route: Route, frame: bytes, code: int) -> bytes:
        """The RESULT of a worker, of a job that may have several attempts: a failure says what became of each."""
        if code == Code.OK or route.assignment is None or route.extras is None:
            return frame
        self.record(route, route.assignment.worker, Code(code))
        failure = schemas.failure(payload_of(frame))
        try:
            ran = schemas.result_meta(meta_of(frame)).ran
        except (schemas.MetaInvalid, schemas.MetaUndecodable):
            ran = True
        return packets.failed(
            route.cookie,
            route.attempt,
            Code(code),
            failure.error,
            error_type=failure.type,
            stack=failure.stack,
            may_have_run=ran,
            history=route.extras.history,
        )

    def _again(self, route: Route, extras: Extras) -> None:
        dispatcher = self._dispatcher
        dispatcher.family.attempt_ended(route)
        if dispatcher.effects.draining:
            dispatcher.fail(route, Code.BROKER_WENT_AWAY, "the broker is stopping, and tries no job again", may_have_run=True)
            return
        dispatcher.counters.retried += 1
        route.move(RouteState.BACKOFF)
        # Shifted no further than the longest wait could need.
        wait_s = min(BACKOFF_S_MAX, route.options.back / 1000 * (1 << min(16, route.attempt - 1)))
        # With no wait at all it goes on at the next tick: whoever holds the lost attempt has not let go of it yet.
        extras.wait_timer = dispatcher.timers.arm(TimerKind.BACKOFF, route, dispatcher.clock.now + wait_s)

    def due(self, route: Route) -> None:
        """A job has waited for its next attempt."""
        if route.extras is not None:
            route.extras.wait_timer = None
        self.let_go(route)

    def let_go(self, route: Route) -> None:
        """Begin the next attempt, unless it is not time or a worker still holds an earlier one (then `Slots` says when not)."""
        dispatcher = self._dispatcher
        extras = route.extras
        if route.cookie in dispatcher.slots.reserved or (extras is not None and extras.wait_timer is not None):
            return
        route.kind = dispatcher.backlog.current(route.kind)
        worker = dispatcher.worker_for(route)
        if worker is not None and worker.available:
            dispatcher.dispatch(route, worker, route.frame)
        else:
            dispatcher.enqueue(route, worker)
