"""Jobs that belong together: a job and those that its handler has submitted, and batches.

When a job is over without success, or its attempt is lost, its children are cancelled, and theirs in turn; one that is *loose*
lives on. This is not done in the step's own course but at its end, one job after the other, so that a tree of any depth needs no
more stack than one job."""

from collections import deque
from typing import TYPE_CHECKING

from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.routing.extras import Extras
from reasonchip_broker.routing.route import Route, RouteState

if TYPE_CHECKING:
    from reasonchip_broker.routing.dispatcher import Dispatcher


class Family:
    """Who is whose child, and who is in which batch."""

    __slots__ = ("_dispatcher", "batches", "doomed")

    def __init__(self, dispatcher: "Dispatcher") -> None:
        self._dispatcher = dispatcher
        self.batches: dict[tuple[str, bytes], dict[Route, None]] = {}
        """The live jobs of each batch of each principal."""
        self.doomed: deque[Route] = deque()

    def join(self, route: Route, extras: Extras, parent: Route | None) -> None:
        """A job enters the tables: with its parent, and with its batch."""
        if parent is not None:
            extras.parent = parent
            self._dispatcher.streams.extras_of(parent).children[route.cookie] = route
        if route.options.batch is not None:
            self.batches.setdefault((route.principal, route.options.batch), {})[route] = None
            extras.batched = True

    def ended(self, route: Route, extras: Extras, code: int) -> None:
        """A job is over, or was never admitted."""
        parent, extras.parent = extras.parent, None
        if parent is not None and parent.extras is not None:
            parent.extras.children.pop(route.cookie, None)
        batch = route.options.batch
        if extras.batched and batch is not None:
            key = route.principal, batch
            del self.batches[key][route]
            if not self.batches[key]:
                del self.batches[key]
        self._disown(extras, doomed=code != Code.OK)

    def attempt_ended(self, route: Route) -> None:
        """A job's attempt is lost or failed: the next one will submit children of its own."""
        if route.extras is not None:
            self._disown(route.extras, doomed=True)

    def cancelled(self, route: Route) -> None:
        """A job's worker is asked to stop it: so are those of its children, which stay its children until it is over."""
        if route.extras is not None:
            self.doomed.extend(child for child in route.extras.children.values() if not child.options.loose)

    def _disown(self, extras: Extras, *, doomed: bool) -> None:
        for child in extras.children.values():
            if child.extras is not None:
                child.extras.parent = None
            if doomed and not child.options.loose:
                self.doomed.append(child)
        extras.children.clear()

    @property
    def is_settled(self) -> bool:
        """Whether nobody is to be cancelled."""
        return not self.doomed

    def settle(self) -> None:
        """Cancel the children of whatever ended in this step."""
        while self.doomed:
            child = self.doomed.popleft()
            if child.state < RouteState.OVER and child.state is not RouteState.CANCELLING:
                self._dispatcher.stopping.cancel(child, at_once=False, why="the job that submitted it is over")

    def batch(self, principal: str, batch: bytes) -> list[Route]:
        """The live jobs of a batch."""
        return list(self.batches.get((principal, batch), ()))
