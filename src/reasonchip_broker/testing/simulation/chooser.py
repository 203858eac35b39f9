"""Chance, and what is chosen by it: from one seed always the same."""

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from reasonchip_broker.testing.simulation.records import Client, End, Hold, Worker
from reasonchip_broker.testing.simulation.settings import FEW_MARKS

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import Operation, World

T = TypeVar("T")
BATCHES = (b"batch" + bytes(11), b"other batch" + bytes(5))


class Chooser:
    """Draws from `random` what is done next to the world that `world` returns."""

    def __init__(self, random: Random, world: "Callable[[], World]") -> None:
        self.random = random.random
        self.world = world
        self._ids = 0
        self._cookies = 0

    def one_of(self, things: Sequence[T]) -> T:
        """One of some things, of which there must be one."""
        return things[int(self.random() * len(things))]

    def chance(self, share: float) -> bool:
        """True in so many of all cases."""
        return self.random() < share

    def new_id(self) -> int:
        """A name for a new connection."""
        self._ids += 1
        return self._ids

    def new_cookie(self) -> bytes:
        """A cookie that no job had yet."""
        self._cookies += 1
        # Those that end in the same byte are kept together: of a few marks it is always the oldest that goes.
        return (b"cookie%9d0" if self.world().setting.limits == FEW_MARKS else b"cookie%10d") % self._cookies

    def cookie(self, live: float = 0.8) -> bytes:
        """Mostly one that is somewhere in use; else one that was."""
        world = self.world()
        jobs = world.model.jobs
        if jobs and self.random() < live:
            return self.one_of(list(jobs))
        return self.one_of(list(world.spent)) if world.spent else self.new_cookie()

    def back(self, end: End) -> int:
        """How many of the last RESULTs that an end was sent its next ACK leaves out."""
        unread = len(end.results) - end.acknowledged
        return int(self.random() * unread) if unread > 1 and self.random() < 0.8 else self.one_of((0, 0, 1, 2, -1))

    def outcome(self, end: End) -> bytes:
        """The cookie of a job that is over, mostly: one at an edge of what is kept for an end, or any that it was sent."""
        results, share = end.results, self.random()
        if not results or share < 0.3:
            return self.cookie(0.5)
        if share < 0.7:
            place = end.acknowledged - 1 + int(self.random() * 3)
        elif share < 0.85:
            # The oldest of those that there is room for.
            place = len(results) - self.world().model.limits.client_outcomes_max + int(self.random() * 2)
        else:
            place = int(self.random() * len(results))
        return results[min(max(place, 0), len(results) - 1)].job.cookie

    def sent_again(self, ends: Sequence[End]) -> "Operation | None":
        """A RUN that was sent before, on one of these connections, as after a lost one."""
        world = self.world()
        if not world.submissions or not ends:
            return None
        at, (name, _, *arguments, more) = self.one_of(world.submissions)
        return name, self.one_of(ends).id, *arguments, (*more, ("at", at))

    def batch(self) -> bytes:
        """The id of a batch."""
        return self.one_of(BATCHES)

    def held(self, prefer: Callable[[Hold], bool] | None = None, *, binary: bool = False) -> tuple[int, bytes] | None:
        """A worker and the cookie of a job that it holds, if there is one; mostly one that is preferred."""
        workers = [
            worker
            for worker in self.world().model.workers.values()
            if worker.held and worker.greeting_until is None and not (binary and worker.is_json)
        ]
        if not workers:
            return None
        if prefer is not None and self.random() < 0.9:
            holds = [hold for worker in workers for hold in worker.held.values() if prefer(hold)]
            if holds:
                hold = self.one_of(holds)
                return hold.worker.id, hold.cookie
        worker = self.one_of(workers)
        return worker.id, self.one_of(list(worker.held))

    def parent(self, end: End) -> bytes | None:
        """The cookie of a job that may have children."""
        if isinstance(end, Worker):
            return self.one_of(list(end.held)) if end.held and self.random() < 0.9 else self.cookie()
        return self.cookie()

    def new_instance(self) -> bytes:
        """The name of a broker's run."""
        self._ids += 1
        return b"broker%10d" % self._ids

    def clients(self) -> list[Client]:
        """Clients that have said HELLO."""
        return [client for client in self.world().model.clients.values() if client.greeting_until is None]

    def workers(self, which: Callable[[Worker], bool] | None = None) -> list[Worker]:
        """Workers that have said HELLO."""
        workers = [worker for worker in self.world().model.workers.values() if worker.greeting_until is None]
        return workers if which is None else [worker for worker in workers if which(worker)]

    def ends(self, which: Callable[[End], bool] | None = None) -> list[End]:
        """Both."""
        ends = [end for end in self.world().model.ends.values() if end.greeting_until is None]
        return ends if which is None else [end for end in ends if which(end)]

    def about(self, operation: str, ends: Sequence[End], *arguments: Any) -> "Operation | None":
        """An operation about one of some connections, if there is one."""
        return (operation, self.one_of(ends).id, *arguments) if ends else None

    def weighted(
        self, choices: "Iterable[tuple[int, Callable[[], Operation | None]]]"
    ) -> "list[Callable[[], Operation | None]]":
        """Choices, each as often as it weighs."""
        return [choose for weight, choose in choices for _ in range(weight)] or [lambda: None]
