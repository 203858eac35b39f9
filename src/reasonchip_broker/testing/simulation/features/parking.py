"""Parking: a job waits for something, lends its slot out, and asks for one again.

What must be seen: a slot that is lent out is free, a job that asks gets the next slot of its worker before any other job, all else goes
on as for any job that is held, and what is said of a job that is not held is counted.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.records import BrokenPromise, Hold, Worker
from reasonchip_broker.testing.switchboard_driver import FakeLink

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

Operation = tuple[object, ...]


class Parking(Feature):
    """PARK and RESUME."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.dropped = 0
        """PARKs and RESUMEs that count for nothing."""
        self._again: list[Hold] = []
        """Those that have a slot and asked all the same: they are told so."""
        self.model.seen[PacketType.RESUME] = self._saw_resume
        self.model.on_settle.append(self._settle)

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"park": self.park, "resume": self.resume}

    def restarted(self) -> None:
        self.dropped, self._again = 0, []

    def _held(self, id: int, cookie: bytes, attempt: int | None) -> tuple[Worker | None, Hold | None, int]:
        worker = self.model.workers.get(id)
        if worker is None or worker.is_json or worker.greeting_until is not None:
            return None, None, 0
        hold = worker.held.get(cookie)
        if attempt is None:
            attempt = hold.attempt if hold is not None else 1
        if hold is None or hold.attempt != attempt or hold.job is None:
            hold = None
            self.dropped += 1
        return worker, hold, attempt

    def park(self, id: int, cookie: bytes, attempt: int | None = None) -> None:
        """A worker lends a job's slot out."""
        worker, hold, attempt = self._held(id, cookie, attempt)
        if worker is not None:
            if hold is not None and not hold.lent:
                hold.lent = True
                worker.lent += 1
            self.world.send(worker, packets.park(cookie, attempt))

    def resume(self, id: int, cookie: bytes, attempt: int | None = None) -> None:
        """A worker asks for a slot for a job again."""
        worker, hold, attempt = self._held(id, cookie, attempt)
        if worker is not None:
            if hold is not None:
                if not hold.lent:
                    self._again.append(hold)
                elif hold not in worker.resuming:
                    worker.resuming.append(hold)
            self.world.send(worker, packets.resume(cookie, attempt))

    def _saw_resume(self, link: FakeLink, packet: Packet, _: bytes) -> None:
        worker = self.model.by_link.get(link.number)
        hold = worker.held.get(packet.cookie) if isinstance(worker, Worker) else None
        if worker is None:
            return
        if hold is None or hold.attempt != packet.attempt or not isinstance(worker, Worker):
            raise BrokenPromise(f"RESUME of {packet.cookie!r} to one who does not hold it")
        if hold in self._again:
            self._again.remove(hold)
        elif hold not in worker.resuming or not all(self._ends_now(other) for other in self._before(hold)):
            raise BrokenPromise(f"RESUME of {packet.cookie!r}, which is not the next to have asked")
        elif worker.taken + hold.slots > worker.capacity:
            raise BrokenPromise(f"RESUME of {packet.cookie!r}, though no slot is free")
        else:
            worker.resuming.remove(hold)
            hold.lent = False
            worker.lent -= 1

    @staticmethod
    def _before(hold: Hold) -> list[Hold]:
        resuming = hold.worker.resuming
        return resuming[: resuming.index(hold)]

    def _ends_now(self, hold: Hold) -> bool:
        """Whether time ends a job in this very step: one that asked for several slots may have been in the way of others."""
        return hold.job is not None and bool(self.model.time_explains(hold.job))

    def _settle(self) -> None:
        if self._again:
            raise BrokenPromise(f"no RESUME for {self._again[0].cookie!r}, which has a slot")
        dropped = self.driver.switchboard.counters.parking_dropped
        if dropped != self.dropped:
            raise BrokenPromise(f"{dropped} PARKs and RESUMEs were dropped, and {self.dropped} should")
        for worker in self.model.workers.values():
            if worker.resuming and worker.taken + worker.resuming[0].slots <= worker.capacity:
                raise BrokenPromise(f"{worker.resuming[0].cookie!r} waits for a slot of its worker, which has one")

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        def about(name: str, *, lent: bool) -> Callable[[], Operation | None]:
            def choose() -> Operation | None:
                found = chooser.held(lambda hold: hold.lent == lent, binary=True)
                return (name, *found, chooser.one_of((None, None, None, 1, 2))) if found else None

            return choose

        def not_held() -> Operation | None:
            return chooser.about(chooser.one_of(("park", "resume")), chooser.workers(), chooser.cookie())

        return [(4, about("park", lent=False)), (3, about("resume", lent=True)), (1, not_held)]
