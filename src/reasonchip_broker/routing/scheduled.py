"""Scheduled jobs: those that are not to run before their time.

Each has one timer on the wheel, and nothing looks at it before that. At the end of the wake-up in which it goes off the job is what a
new arrival of that moment would be: it gets a free slot, or waits behind all that wait already. Only at the end, so that what ends
a job in the same wake-up is first; and in the order of their times, which is finer than that of the wheel.

Until then a job takes up memory as a waiting one does, and counts against the same limits."""

from typing import TYPE_CHECKING, Final

from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.timers import TimerKind

if TYPE_CHECKING:
    from reasonchip_broker.routing.dispatcher import Dispatcher

_SCHEDULED: Final = RouteState.SCHEDULED


class Scheduled:
    """The jobs whose time has not come."""

    __slots__ = ("_dispatcher", "_due", "bytes", "jobs")

    def __init__(self, dispatcher: "Dispatcher") -> None:
        self._dispatcher = dispatcher
        self.jobs = 0
        self.bytes = 0
        """How many there are, and how large their frames are."""
        self._due: list[Route] = []
        """Those whose timer went off in this wake-up."""

    def put(self, route: Route) -> None:
        """Keep a new job until its time comes."""
        dispatcher = self._dispatcher
        route.move(_SCHEDULED)
        self.jobs += 1
        size = len(route.frame)
        self.bytes += size
        account = route.share.account
        account.jobs += 1
        account.bytes += size
        extras = dispatcher.streams.extras_of(route)
        extras.wait_timer = dispatcher.timers.arm(TimerKind.SCHEDULED, route, starts_at(route))
        dispatcher.log("route scheduled", route)

    def remove(self, route: Route) -> None:
        """A job is scheduled no longer: its time has come, or its end."""
        self.jobs -= 1
        size = len(route.frame)
        self.bytes -= size
        account = route.share.account
        account.jobs -= 1
        account.bytes -= size
        self._dispatcher.pressure.left(account)

    def due(self, route: Route) -> None:
        """The timer of a job went off."""
        if route.extras is not None:
            route.extras.wait_timer = None
        self._due.append(route)

    def take_due(self) -> list[Route]:
        """The jobs that are due in this wake-up, each of them to `begin`, by their times; of one time, as they came."""
        due, self._due = self._due, []
        due.sort(key=_order)
        return due

    def begin(self, route: Route) -> None:
        """A job's time has come, unless it ended in the same wake-up."""
        dispatcher = self._dispatcher
        # What one before it has ended may have been its parent.
        dispatcher.family.settle()
        if route.state is not _SCHEDULED:
            return
        route.kind = dispatcher.backlog.current(route.kind)
        # A worker that registered meanwhile may say that it has it from another run of the broker.
        is_held = route.cookie in dispatcher.slots.reserved
        worker = None if is_held else dispatcher.worker_for(route, may_wait=route.options.queue)
        if worker is None and not route.options.queue:
            sentence = "its time came, no slot was free, and the job was not to wait for one"
            dispatcher.fail(route, Code.QUEUE_TIMEOUT, sentence, may_have_run=False)
            return
        self.remove(route)
        if worker is not None and worker.available:
            dispatcher.dispatch(route, worker, route.frame)
        elif is_held:
            route.move(RouteState.BACKOFF)
        else:
            dispatcher.enqueue(route, worker)


def starts_at(route: Route) -> float:
    """When a job may run, on the switchboard's clock: so long after it was taken as it said."""
    return route.taken_at + route.options.delay / 1000


def _order(route: Route) -> tuple[float, int]:
    return starts_at(route), route.sequence
