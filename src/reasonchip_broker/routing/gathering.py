"""Gathering: slots for jobs that take more than one of a worker.

A *heavy* job takes several slots of one worker. Where its turn comes and the worker whose slot is free has too few, that worker is
*set aside*: it gets no other job until it has enough. So heavy jobs are not starved by light ones, which would take every slot that
becomes free. The price is bounded: of each pool one worker at most is set aside, and one that has more free slots takes its place, so
that fewer slots lie idle in a pool than the job takes.

Meanwhile heavy lines that come up for another worker of the pool are parked, at a gate (`gates.py`) for each number of slots: they are
listed again when a worker has so many, or when nobody is set aside any more. All workers of a pool have the same capacity, so that the
least loaded has the most free slots.
"""

from typing import TYPE_CHECKING

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.gates import Gate, Gates
from reasonchip_broker.routing.roster import Pool, Worker

if TYPE_CHECKING:
    from reasonchip_broker.routing.lines import Line


class Gathering:
    """Of one pool: for which line slots are gathered, and on which worker."""

    __slots__ = ("_gates", "_pool", "gates", "line", "worker")

    def __init__(self, pool: Pool, gates: Gates) -> None:
        self._pool = pool
        self._gates = gates
        self.worker: Worker | None = None
        """Who is set aside."""
        self.line: Line | None = None
        """Whose first job it is for."""
        self.gates: dict[int, Gate] = {}
        """Where heavy lines are parked, by the number of slots that they take."""

    def gate(self, slots: int) -> Gate:
        """Where lines of so heavy jobs are parked."""
        gate = self.gates.get(slots)
        if gate is None:
            gate = self.gates[slots] = Gate()
            gate.is_shut = self.worker is not None
        return gate

    def look(self, free: int) -> None:
        """A worker has so many free slots: list those again who need no more."""
        if self.worker is not None:
            for slots, gate in self.gates.items():
                if slots <= free:
                    self._gates.list_next(gate, self._pool)

    def claim(self, worker: Worker, line: "Line") -> bool:
        """A heavy job's turn has come, and this worker has too few slots for it. Returns whether it is set aside from now on."""
        before = self.worker
        if before is not None and before is not worker:
            if worker.free <= before.free:
                return False
            self.end()
        self.worker, self.line = worker, line
        for gate in self.gates.values():
            gate.is_shut = True
        if before is not worker:
            self._pool.turns.watch(1)
            worker.set_aside = True
            self._pool.place(worker)
        return True

    def takes(self, worker: Worker, line: "Line") -> None:
        """While somebody is set aside, a worker is given the first job of a line."""
        if worker is self.worker and line.kind.slots > 1:
            self.end()

    def reset(self) -> None:
        """All lines are going to be listed anew, by other rules."""
        if self.worker is not None:
            self.worker.set_aside = False
            self._pool.place(self.worker)
            self._pool.turns.watch(-1)
        self.worker = self.line = None
        for gate in self.gates.values():
            for turns in gate.parked.values():
                turns.close()
        self.gates.clear()

    def end(self) -> None:
        """Nobody is set aside any more: whoever was parked comes up again, and the worker gets what it may have."""
        worker = self.worker
        if worker is None:
            return
        self.worker = self.line = None
        self._pool.turns.watch(-1)
        worker.set_aside = False
        if worker in self._pool.workers:
            self._pool.place(worker)
            self._gates.to_fill[self._pool] = None
        for gate in self.gates.values():
            gate.is_shut = False
            self._gates.list_next(gate, self._pool)

    def invariants(self) -> None:
        """Raise InternalError if somebody is set aside for nothing."""
        for worker in self._pool.workers:
            if worker.set_aside != (worker is self.worker):
                raise InternalError("a worker is set aside, and nobody knows for whom, or the other way round")
        line, gatherer = self.line, self.worker
        if any(gate.is_shut != (gatherer is not None) for gate in self.gates.values()):
            raise InternalError("heavy lines are parked though nobody is set aside, or the other way round")
        if gatherer is None:
            return
        if line is None or not line.size or gatherer.pool is not self._pool:
            raise InternalError("a worker is set aside for nobody")
        if gatherer.free >= line.kind.slots or not gatherer.may_take:
            raise InternalError("a worker is set aside that has the slots, or can't take the job")
