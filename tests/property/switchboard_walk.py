"""A random walk through a world: from one seed always the same way.

A walk is made of episodes, each in a fresh world with a setting of its own; at the end of an episode faults stop, and every job must
reach its outcome.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from reasonchip_broker.errors import InternalError
from reasonchip_broker.protocol.codes import Code, Dialect, Role
from tests.property.switchboard_model import Client, End, Worker
from tests.property.switchboard_world import OFFERS, PIPELINES, WALK_FAILURES, Setting, World

T = TypeVar("T")
EPISODE_STEPS = 400
PEERS_MAX = 6
DIALECTS = (Dialect.BINARY, Dialect.JSON)
CAPACITIES = (1, 1, 2, 3, 5)
PAUSES_S = (0.001, 0.01, 0.03, 0.1, 0.5, 2.0, 4.0)


class Walk:
    """A walk of so many steps. `world` and `steps` tell where it is."""

    def __init__(self, seed: int, *, records: bool = False, checks: bool = True) -> None:
        self.seed = seed
        self.steps = 0
        self.jobs = 0
        """Jobs that reached their outcome, in all episodes so far."""
        self.traces: list[str] = []
        """The trace of every episode, if `records`."""
        self.world: World
        self._random = Random(seed)
        self._records = records
        self._checks = checks
        self._operations: list[Callable[[], None]] = [
            operation for weight, operation in self._weighted() for _ in range(weight)
        ]

    def _weighted(self) -> list[tuple[int, Callable[[], None]]]:
        return [
            (2, self._connect_client),
            (2, self._connect_worker),
            (1, self._connect_stranger),
            (22, self._run),
            (22, self._result),
            (3, self._wrong_result),
            (7, self._cancel),
            (2, self._disconnect),
            (3, self._congest),
            (6, self._unblock),
            (12, self._advance),
            (1, self._jump),
            (1, self._silence),
            (2, self._ping_or_garbage),
            (1, self._drain_worker),
            (6, self._admission),
        ]

    def go(self, steps: int) -> None:
        """Take so many steps, in as many episodes as that takes."""
        while self.steps < steps:
            self.episode(min(EPISODE_STEPS, steps - self.steps))

    def episode(self, steps: int) -> None:
        """One world, from its beginning to its end. What goes wrong carries a note of where."""
        choose = self._random.choice
        setting = Setting(choose((None, 0, 40)), choose((False, False, True)), choose((False, False, True)))
        self.world = World(setting, records=self._records, checks=self._checks)
        drains_at = self._random.randrange(2 * steps)
        for begin in (self._connect_client, self._connect_client, self._connect_worker):
            begin()
        try:
            for step in range(steps):
                self.steps += 1
                if step == drains_at:
                    self.world.drain()
                choose(self._operations)()
            self.world.finish()
        except Exception as error:
            error.add_note(f"seed {self.seed}, step {self.steps}, {setting}")
            raise
        self.jobs += self.world.model.ended
        if self._records:
            self.traces.append(self.world.driver.trace)
            for log_routes in (False, True):
                if self.world.driver.replay(log_routes=log_routes) != self.world.driver.trace:
                    how = "handled frame by frame" if log_routes else "taken again"
                    raise InternalError(f"the same steps, {how}, left another trace: seed {self.seed}, step {self.steps}")

    # Choices

    def _one_of(self, things: Sequence[T]) -> T | None:
        return self._random.choice(things) if things else None

    def _clients(self) -> list[Client]:
        return [client for client in self.world.model.clients if client.greeting_until is None]

    def _workers(self) -> list[Worker]:
        return [worker for worker in self.world.model.workers if worker.greeting_until is None]

    def _ends(self) -> list[End]:
        return [*self._clients(), *self._workers()]

    def _cookie(self) -> bytes:
        """Mostly one that is somewhere in use."""
        world = self.world
        cookie = self._one_of([*world.model.jobs]) if self._random.random() < 0.8 else self._one_of(world.spent[-20:])
        return cookie or world.driver.new_cookie()

    # What may happen

    def _connect_client(self) -> None:
        if len(self.world.model.clients) < PEERS_MAX:
            principal = self._random.choice(("", "", "other"))
            self.world.connect_client(self._random.choice(DIALECTS), principal=principal, queues=self._random.random() < 0.3)

    def _connect_worker(self) -> None:
        if len(self.world.model.workers) < PEERS_MAX:
            choose = self._random.choice
            self.world.connect_worker(choose(DIALECTS), choose(CAPACITIES), choose(OFFERS))

    def _connect_stranger(self) -> None:
        self.world.connect_stranger(self._random.choice((Role.CLIENT, Role.WORKER)))

    def _run(self) -> None:
        client = self._one_of(self._clients())
        if client is not None:
            chance = self._random.random
            self.world.run(
                client,
                self._random.choice(PIPELINES),
                self._cookie() if chance() < 0.1 else self.world.driver.new_cookie(),
                as_json=chance() < 0.5,
                queue=chance() < 0.8,
                reply=chance() < 0.2,
                detach=chance() < 0.1,
                left_ms=self._random.choice((0, 0, 0, 1, 20, 500, 3000)),
                variables=self._random.choice((b"1", b"[1,2]", b"7" * 90)),
            )

    def _result(self) -> None:
        worker = self._one_of([worker for worker in self._workers() if worker.held])
        if worker is not None:
            code = Code.OK if self._random.random() < 0.8 else self._random.choice(WALK_FAILURES)
            self.world.result(worker, self._random.choice(list(worker.held)), code)

    def _wrong_result(self) -> None:
        worker = self._one_of(self._workers())
        if worker is not None:
            if worker.held and not worker.is_json and self._random.random() < 0.5:
                self.world.result(worker, self._random.choice(list(worker.held)), attempt=self._random.choice((0, 2, 65535)))
            else:
                cookie = self._cookie()
                if cookie not in worker.held:
                    self.world.result(worker, cookie)

    def _cancel(self) -> None:
        client = self._one_of(self._clients())
        if client is not None:
            self.world.cancel(client, self._cookie(), at_once=self._random.random() < 0.3)

    def _disconnect(self) -> None:
        end = self._one_of(self.world.model.ends)
        if end is not None:
            self.world.disconnect(end)

    def _congest(self) -> None:
        end = self._one_of(self._ends())
        if end is not None and not end.congested:
            self.world.congest(end)

    def _unblock(self) -> None:
        end = self._one_of([end for end in self._ends() if end.congested])
        if end is not None:
            self.world.unblock(end)

    def _advance(self) -> None:
        self.world.advance(self._random.choice(PAUSES_S))

    def _jump(self) -> None:
        self.world.jump(self._random.choice((0.02, 0.9, 3.0, 60.0)))

    def _silence(self) -> None:
        end = self._one_of(self._ends())
        if end is not None:
            end.silent = not end.silent

    def _ping_or_garbage(self) -> None:
        end = self._one_of(self._ends())
        if end is not None and self._random.random() < 0.5:
            self.world.ping(end)
        elif end is not None and (not isinstance(end, Worker) or end.capacity):
            self.world.garbage(end, self._random.randrange(100))

    def _drain_worker(self) -> None:
        worker = self._one_of([worker for worker in self._workers() if worker.capacity])
        if worker is not None and self._random.random() < 0.3:
            self.world.drain_worker(worker)

    def _admission(self) -> None:
        admission = self._one_of(self.world.driver.admissions)
        if admission is not None:
            (self.world.admit if self._random.random() < 0.8 else self.world.reject)(*admission)
