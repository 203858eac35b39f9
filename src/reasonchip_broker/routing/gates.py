"""Limits by key: how many jobs may run, or start in some time, of a pipeline, a principal, a fairness key, or in all.

What an operator declares is a *limit* (`scheduling.py`); each count that it leads to, one for each key of `per`, is a *gate*. A job has
to pass the gates of all limits that are about it, and all jobs of a line (`backlog.py`) have the same ones. A gate is shut while one
more job would be too many. Then lines that come up for a pool are *parked* at it, and nobody looks at them again; when it opens, the
best line of each pool is listed there once more, and the next one after each job that passes while it is open. So what a limit holds
back costs nothing to those who pass by, and O(log lines) for each job that passes.

A job counts from its dispatch until its worker has let go of it, longer than it holds its slot: what runs beyond its job's end is
still running, and a job that has lent its slot out will go on.

How often jobs start is kept by the generic cell rate algorithm (ITU-T I.371), which is a token bucket with a single number: the time at
which it is full."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import GATES_KNOWN_MAX
from reasonchip_broker.routing.assignment import Assignment
from reasonchip_broker.routing.clock import Clock
from reasonchip_broker.routing.roster import Pool
from reasonchip_broker.routing.shares import ANONYMOUS, Share
from reasonchip_broker.routing.timers import Timer, TimerKind, Timers
from reasonchip_broker.routing.turns import Turns
from reasonchip_broker.scheduling import Limit, Per

if TYPE_CHECKING:
    from reasonchip_broker.routing.lines import Line
    from reasonchip_broker.routing.route import Route

_LONG_AGO: Final = float("-inf")
Key: TypeAlias = tuple[str, ...]
Passed: TypeAlias = "tuple[str, tuple[LimitGate, ...]]"
"""A job's pipeline, and its gates."""
_NOTHING: Final[Passed] = "", ()


class Gate:
    """What lines have to pass, and where they are parked while they may not."""

    __slots__ = ("is_shut", "listed", "parked")

    def __init__(self) -> None:
        self.is_shut = False
        """Whether no job may pass."""
        self.parked: dict[Pool, Turns] = {}
        """Lines that are not listed in a pool, since it was shut when they came up."""
        self.listed: dict[Pool, int] = {}
        """How many lines of this gate are listed in a pool."""

    @property
    def has_parked(self) -> bool:
        """Whether a line is parked at it."""
        return any(turns.listings for turns in self.parked.values())


class LimitGate(Gate):
    """One count of one limit. Shut beyond what the numbers say, until whoever is parked was given their turn."""

    __slots__ = ("_every_s", "_full_at", "_most", "_spread_s", "limit", "lines", "opens_at", "running", "timer")

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        self.limit = limit
        self.running = 0
        """Jobs that have passed it, and of which their worker has not let go."""
        self.is_shut = limit.concurrency == 0
        self.opens_at = _LONG_AGO
        """When the rate lets the next job pass."""
        self.lines = 0
        """Lines whose jobs have to pass it."""
        self.timer: Timer | None = None
        """When it opens by itself; runs only while something is parked."""
        self._most = limit.concurrency
        self._every_s = limit.period_s / limit.rate if limit.rate is not None else 0.0
        self._spread_s = self._every_s * ((limit.burst or limit.rate or 1) - 1)
        self._full_at = _LONG_AGO

    def may_pass(self, now: float) -> bool:
        """What the numbers say."""
        return (self._most is None or self.running < self._most) and now >= self.opens_at

    def passed(self, now: float) -> None:
        """A job has been dispatched."""
        self.running += 1
        if self._every_s:
            self._full_at = max(self._full_at, now) + self._every_s
            self.opens_at = self._full_at - self._spread_s
        self.is_shut = not self.may_pass(now)

    def is_idle(self, now: float) -> bool:
        """Whether it would be the same if it were made anew."""
        return not self.running and not self.lines and now >= self._full_at


class Gates:
    """All gates."""

    __slots__ = ("_clock", "_gates", "_limits", "_sweep_at", "_timers", "held", "to_fill")

    def __init__(self, limits: tuple[Limit, ...], clock: Clock, timers: Timers) -> None:
        self._clock = clock
        self._timers = timers
        self._limits = limits
        self._gates: dict[Key, LimitGate] = {}
        self._sweep_at = GATES_KNOWN_MAX
        self.held: dict[Assignment, Passed] = {}
        """What each job has passed that counts."""
        self.to_fill: dict[Pool, None] = {}
        """Pools that have free slots, and lines again that may have them."""

    def limits_about(self, pipeline: str) -> tuple[Limit, ...]:
        """The limits that jobs of a pipeline have to keep."""
        return tuple(limit for limit in self._limits if limit.is_about(pipeline))

    def of(self, limits: tuple[Limit, ...], pipeline: str, share: Share) -> tuple[LimitGate, ...]:
        """The gates of a job, in the order of the limits."""
        if len(self._gates) >= self._sweep_at:
            self._forget_idle()
        gates = []
        for limit in limits:
            key = _key(limit, pipeline, share)
            gate = self._gates.get(key)
            if gate is None:
                gate = self._gates[key] = LimitGate(limit)
            gates.append(gate)
        return tuple(gates)

    def _forget_idle(self) -> None:
        now = self._clock.now
        for key, gate in list(self._gates.items()):
            if gate.is_idle(now):
                del self._gates[key]
                for turns in gate.parked.values():
                    turns.close()
        # Doubled, so that the work stays O(1) a gate even where none of them is idle.
        self._sweep_at = max(GATES_KNOWN_MAX, 2 * len(self._gates))

    def of_line(self, limits: tuple[Limit, ...], pipeline: str, share: Share) -> tuple[LimitGate, ...]:
        """The same of a line, which refers to them until it is `emptied`."""
        gates = self.of(limits, pipeline, share)
        for gate in gates:
            gate.lines += 1
        return gates

    def shut(self, gates: tuple[LimitGate, ...]) -> LimitGate | None:
        """The first of these gates that is shut, or None if a job may pass all of them."""
        now = self._clock.now
        for gate in gates:
            if gate.is_shut:
                if gate.timer is not None or not gate.may_pass(now):
                    return gate
                # Time alone has opened it, and nobody waits for it.
                gate.is_shut = False
        return None

    # Jobs

    def passed(self, assignment: Assignment, pipeline: str, gates: tuple[LimitGate, ...]) -> None:
        """A job was dispatched, and counts from now on."""
        self.held[assignment] = pipeline, gates
        pool = assignment.worker.pool
        for gate in gates:
            gate.passed(self._clock.now)
            if not gate.is_shut:
                self.list_next(gate, pool)
            elif gate.has_parked:
                self._watch(gate)

    def left(self, assignment: Assignment) -> None:
        """A worker has let go of a job, which counts no longer."""
        for gate in self.held.pop(assignment, _NOTHING)[1]:
            gate.running -= 1
            if gate.is_shut:
                self._try_to_open(gate)

    # Opening

    def _watch(self, gate: LimitGate) -> None:
        """Something waits at a gate that is shut: if time will open it, look again by then."""
        if gate.timer is None and gate.opens_at > self._clock.now:
            gate.timer = self._timers.arm(TimerKind.GATE, gate, gate.opens_at)

    def due(self, gate: LimitGate) -> None:
        """The timer of a gate went off."""
        gate.timer = None
        if gate.is_shut:
            self._try_to_open(gate)

    def _try_to_open(self, gate: LimitGate) -> None:
        if gate.may_pass(self._clock.now):
            gate.is_shut = False
            if gate.timer is not None:
                self._timers.disarm(gate.timer)
                gate.timer = None
            for pool in list(gate.parked):
                self.list_next(gate, pool)

    # Lines

    def park(self, line: "Line", pool: Pool, gate: Gate) -> None:
        """A line came up for a pool, or is new to it, and this gate is shut for it."""
        now = self._clock.now
        before = line.parked.get(pool)
        if before is None and line in pool.turns.listings:
            self._unlist(line, pool)
        elif before is not None and before is not gate:
            before.parked[pool].drop(line)
        line.parked[pool] = gate
        turns = gate.parked.get(pool)
        if turns is None:
            turns = gate.parked[pool] = Turns()
        turns.add(line, now)
        if isinstance(gate, LimitGate):
            self._watch(gate)
            gathering = pool.gathering
            if gathering is not None and gathering.line is line:
                gathering.end()

    def enlist(self, line: "Line", pool: Pool) -> None:
        """A line is listed in a pool, as far as the gates are concerned."""
        before = line.parked.pop(pool, None)
        if before is not None:
            before.parked[pool].drop(line)
        if line not in pool.turns.listings:
            for gate in line.gates_of(pool):
                gate.listed[pool] = gate.listed.get(pool, 0) + 1
        pool.turns.add(line, self._clock.now)

    def _unlist(self, line: "Line", pool: Pool) -> None:
        """A line is listed in a pool no longer: another one may be, where a gate is open."""
        pool.turns.drop(line)
        for gate in line.gates_of(pool):
            left = gate.listed[pool] - 1
            if left:
                gate.listed[pool] = left
                continue
            del gate.listed[pool]
            if not gate.is_shut:
                self.list_next(gate, pool)

    def list_next(self, gate: Gate, pool: Pool) -> None:
        """List the best line again that is parked at an open gate, if there is one."""
        turns = gate.parked.get(pool)
        line = turns.first(self._clock.now) if turns is not None and turns.listings else None
        if line is not None:
            self.enlist(line, pool)
            if pool.least_loaded() is not None:
                self.to_fill[pool] = None

    def emptied(self, line: "Line", pools: "list[Pool]") -> None:
        """Nothing waits in a line any more, which was listed in these pools, or parked."""
        parked, line.parked = line.parked, {}
        for gate in line.gates:
            gate.lines -= 1
        for pool, at in parked.items():
            at.parked[pool].drop(line)
        for pool in pools:
            if pool not in parked:
                self._unlist(line, pool)
            if pool.gathering is not None and pool.gathering.line is line:
                pool.gathering.end()

    def pool_gone(self, pool: Pool) -> None:
        """An offer that nobody makes any more."""
        self.to_fill.pop(pool, None)
        for gate in self._all([pool]):
            gate.listed.pop(pool, None)
            turns = gate.parked.pop(pool, None)
            if turns is not None:
                for line in turns.listings:
                    line.parked.pop(pool, None)
                turns.close()

    def rescaled(self, pools: "list[Pool]", factor: float) -> None:
        """All shares count in other units from now on."""
        for gate in self._all(pools):
            for turns in gate.parked.values():
                turns.rescaled(factor)

    def _all(self, pools: "list[Pool]") -> "Iterator[Gate]":
        yield from self._gates.values()
        for pool in pools:
            if pool.gathering is not None:
                yield from pool.gathering.gates.values()

    def configure(self, limits: tuple[Limit, ...], running: "list[Route]") -> None:
        """Other limits hold from now on, also for these jobs, which run already. Of limits that are as they were, what has started
        lately counts on. The lines that wait are to be listed anew."""
        for gate in self._gates.values():
            if gate.timer is not None:
                self._timers.disarm(gate.timer)
                gate.timer = None
            for turns in gate.parked.values():
                turns.close()
            gate.parked.clear()
            gate.listed.clear()
            gate.running = gate.lines = 0
        self._limits = limits
        self._gates = {key: gate for key, gate in self._gates.items() if gate.limit in limits}
        # Some of those that are over are known only here.
        pipelines = {assignment: pipeline for assignment, (pipeline, _) in self.held.items()}
        pipelines |= {route.assignment: route.kind.pipeline for route in running if route.assignment is not None}
        self.held.clear()
        for assignment, pipeline in pipelines.items():
            about = self.limits_about(pipeline)
            if about and assignment.share is not None:
                gates = self.of(about, pipeline, assignment.share)
                self.held[assignment] = pipeline, gates
                for gate in gates:
                    gate.running += 1
        for gate in self._gates.values():
            gate.is_shut = not gate.may_pass(self._clock.now)

    def counts(self, principal: str) -> "Iterator[tuple[str, LimitGate]]":
        """The gates at which something runs or waits, and whose they are: those for all, and those of this principal."""
        for key, gate in self._gates.items():
            if gate.running or gate.lines:
                per = gate.limit.per
                if per is Per.ALL or per is Per.PIPELINE or principal in (key[1], key[-2]):
                    yield key[-1] if per is not Per.ALL else "", gate

    def invariants(self, lines: "list[Line]", pools: "list[Pool]") -> None:
        """Raise InternalError if a gate counts what is not so. `lines` are all in which a job waits."""
        running: dict[LimitGate, int] = {}
        for _, gates in self.held.values():
            for gate in gates:
                running[gate] = running.get(gate, 0) + 1
        listed: dict[tuple[Gate, Pool], int] = {}
        parked: dict[tuple[Gate, Pool], int] = {}
        for line in lines:
            for pool in line.kind.pools if line.worker is None else ():
                at = line.parked.get(pool)
                if at is not None:
                    parked[at, pool] = parked.get((at, pool), 0) + 1
                else:
                    for passed in line.gates_of(pool):
                        listed[passed, pool] = listed.get((passed, pool), 0) + 1
        for counted in self._gates.values():
            name, found = counted.limit.name, running.get(counted, 0)
            if counted.running != found:
                raise InternalError(f"the limit {name!r} counts {counted.running} jobs, and has {found}")
            if counted.is_shut and counted.has_parked and counted.may_pass(self._clock.now) and counted.timer is None:
                raise InternalError(f"the limit {name!r} stays shut, and nothing will open it")
        for other in self._all(pools):
            self._check(other, parked, listed)

    @staticmethod
    def _check(gate: Gate, parked: "dict[tuple[Gate, Pool], int]", listed: "dict[tuple[Gate, Pool], int]") -> None:
        for pool in gate.parked.keys() | gate.listed.keys():
            turns, waits, comes = gate.parked.get(pool), parked.get((gate, pool), 0), listed.get((gate, pool), 0)
            if waits != (len(turns.listings) if turns is not None else 0) or comes != gate.listed.get(pool, 0):
                raise InternalError("a gate does not know which lines wait for it")
            if waits and not comes and not gate.is_shut:
                raise InternalError("a gate is open, and nobody is told")


def _key(limit: Limit, pipeline: str, share: Share) -> Key:
    """By which the gate of a job is found."""
    if limit.per is Per.ALL:
        return (limit.name,)
    if limit.per is Per.PIPELINE:
        return limit.name, pipeline
    if limit.per is Per.PRINCIPAL and share.principal not in ("", ANONYMOUS):
        return limit.name, share.principal
    return limit.name, "named" if share.is_named else "", share.principal, share.name
