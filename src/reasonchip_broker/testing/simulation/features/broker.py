"""What the broker itself does: it admits jobs, it drains, it dies and another one begins.

What must be seen: a job that is not admitted never runs, and all who follow it are told so; when the broker drains, each job that has
not started is given back, and one that begins anew tells the truth about jobs that were sent to the one before: it does not know.
"""

from collections.abc import Callable

from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.jobs import Jobs

BROKER_WENT_AWAY = frozenset({Code.BROKER_WENT_AWAY})

Operation = tuple[object, ...]


class Broker(Feature):
    """Admission, and draining."""

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"decide": self._decide, "drain": self.drain, "restart": self.world.restart}

    def _decide(self, cookie: bytes, taken: bool, newest: bool = False) -> None:
        self.world.find(Jobs).decide(cookie, taken, newest)

    def drain(self) -> None:
        """The broker drains: jobs that wait are given back, workers finish."""
        model = self.model
        model.draining = True
        for job in [job for job in model.jobs.values() if job.hold is None]:
            model.over(job, BROKER_WENT_AWAY)
        for worker in model.workers.values():
            if worker.greeting_until is None:
                worker.draining = worker.capacity > 0
                model.expect(worker, PacketType.DRAIN)
        self.driver.drain()

    def calm(self) -> None:
        while self.driver.admissions:
            self._decide(self.driver.admissions[0][0], True)

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        one_of, chance = chooser.one_of, chooser.chance

        def decide() -> Operation | None:
            admissions = chooser.world().driver.admissions
            return ("decide", one_of(admissions)[0], chance(0.8), chance(0.5)) if admissions else None

        def drain() -> Operation | None:
            return ("drain",) if chance(1 / 64) and not chooser.world().model.draining else None

        def restart() -> Operation | None:
            return ("restart", chooser.new_instance()) if chance(1 / 16) else None

        return [(6, decide), (1, drain), (1, restart)]
