"""A random walk through worlds: from one seed always the same way.

A walk is made of episodes, each in a fresh world with a setting of its own; at the end of an episode faults stop, and every job must
reach its outcome. Every operation is recorded, so that an episode can be taken again without its seed, and in part.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

from reasonchip_broker.errors import InternalError
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.features import FEATURES
from reasonchip_broker.testing.simulation.features.rules import RULES
from reasonchip_broker.testing.simulation.settings import AGEING_S, ROOMY, TIGHTER, Setting
from reasonchip_broker.testing.simulation.world import OnSeen, Operation, World

EPISODE_STEPS = 400
OFTEN = (0, 1, 1, 1, 2, 5)
ALWAYS = (1, 1, 2)
"""By how much more often than usual something happens in an episode; the second is for what weighs at least `ESSENTIAL`."""

ESSENTIAL = 6

LIMITS_OFTEN = ("", "", *(name for name in TIGHTER if name != ROOMY))
"""The usual limits three times as often as any others."""

RULES_OFTEN = ("", "", "", "", "", "", "", "", *(name for name in RULES if name))
"""In most episodes the operator says nothing."""

BEGINNING = ("connect client", "connect client", "connect worker")


class Failure(Exception):
    """An episode in which a promise was broken: what can be done again, and what went wrong."""

    def __init__(
        self, seed: int, setting: Setting, operations: Sequence[Operation], error: Exception, audit_every: int
    ) -> None:
        super().__init__(seed, setting, operations, error, audit_every)
        self.seed = seed
        self.setting = setting
        self.operations = list(operations)
        self.error = error
        self.audit_every = audit_every

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.error}"

    @property
    def kind(self) -> str:
        """What went wrong, without the numbers and names that differ from run to run."""
        return kind_of(self.error)


def kind_of(error: Exception) -> str:
    """What an error says, without the numbers and names that differ from run to run."""
    return type(error).__name__ + ": " + re.sub(r"b'[^']*'|[0-9a-f]{32}|\d+(\.\d+)?", "#", str(error))


class Walk:
    """Episodes from one seed, one after the other. `world` and `operations` tell what the present one is doing.

    `records` and `audit_every` are a world's: unless told otherwise, each step is audited.
    """

    def __init__(self, seed: int, *, records: bool = False, audit_every: int = 1) -> None:
        self.seed = seed
        self.steps = 0
        """Calls of switchboards, in all episodes so far."""
        self.jobs = 0
        """Jobs that reached their outcome."""
        self.world: World
        self.operations: list[Operation] = []
        self._random = Random(seed)
        self._records = records
        self._audit_every = audit_every
        self._trace = hashlib.sha256()
        self._chooser = Chooser(self._random, lambda: self.world)
        self._choices = [choice for feature in FEATURES for choice in feature.choices(self._chooser)]

    @property
    def trace(self) -> str:
        """A hash of all that was sent, closed and planned in all episodes, if `records`."""
        return self._trace.hexdigest()

    def go(self, steps: int) -> None:
        """Take so many operations, in as many episodes as that takes. Raises Failure."""
        while steps > 0:
            self.episode(min(EPISODE_STEPS, steps))
            steps -= EPISODE_STEPS

    def episode(self, length: int) -> None:
        """One world, from its beginning to its end. Raises Failure."""
        one_of = self._chooser.one_of
        setting = Setting(
            one_of((None, 0, 40)),
            one_of((False, False, True)),
            one_of((False, False, True)),
            one_of(LIMITS_OFTEN),
            one_of((0.0, 0.0, AGEING_S)),
            one_of(RULES_OFTEN),
        )
        if self._records:
            # Which of several outcomes of the same moment makes room is nobody's business, and differs with the path that jobs take.
            setting = replace(setting, limits=ROOMY)
        random = self._chooser.random
        self.world = world = World(setting, audit_every=self._audit_every, records=self._records)
        self.operations = operations = []
        # What happens often in one episode may never happen in the next: so each goes deep somewhere ("swarm testing", Groce 2012).
        choices = self._chooser.weighted(
            (weight * one_of(OFTEN if weight < ESSENTIAL else ALWAYS), choose) for weight, choose in self._choices
        )
        count = len(choices)
        try:
            for name in BEGINNING:
                operations.append(begin(name, self._chooser.new_id()))
                world.apply(operations[-1])
            for _ in range(length):
                operation = choices[int(random() * count)]()
                if operation is not None:
                    operations.append(operation)
                    world.apply(operation)
            world.finish()
        except Exception as error:
            raise Failure(self.seed, setting, operations, error, self._audit_every) from error
        self.steps += world.steps
        self.jobs += world.model.over_before + world.model.ended
        if self._records:
            self._keep_trace(setting)

    def _keep_trace(self, setting: Setting) -> None:
        driver = self.world.driver
        self._trace.update(driver.trace.encode())
        for log_routes in (False, True):
            if driver.replay(log_routes=log_routes) != driver.trace:
                how = "handled frame by frame" if log_routes else "taken again"
                error = InternalError(f"the same steps, {how}, left another trace")
                raise Failure(self.seed, setting, self.operations, error, 0)


def begin(name: str, id: int) -> Operation:
    """What every episode begins with: a peer of this kind."""
    return (name, id, 1) if name == "connect client" else (name, id, 1, 2, ("*",))


def take_again(
    setting: Setting, operations: Iterable[Operation], audit_every: int = 1, on_seen: OnSeen | None = None
) -> Exception | None:
    """Take recorded operations again, in a new world. Returns what goes wrong, if anything does."""
    world = World(setting, audit_every=audit_every, on_seen=on_seen)
    try:
        for operation in operations:
            world.apply(operation)
        world.finish()
    except Exception as error:
        return error
    return None
