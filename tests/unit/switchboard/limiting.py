"""What tests of limits by key, heavy jobs and affinity begin with, and end with."""

from typing import Any

from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.routing.roster import Worker
from reasonchip_broker.scheduling import Limit, Scheduling
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver


def limited(*limits: Limit, **settings: Any) -> SwitchboardDriver:
    """A broker with these limits."""
    return SwitchboardDriver(scheduling=Scheduling(limits=limits), **settings)


def one(**rules: Any) -> Limit:
    """A limit whose name does not matter."""
    return Limit(name="some", **rules)


def ran(link: FakeLink) -> list[bytes]:
    """The jobs that a worker was given."""
    return [packet.cookie for packet in link.take_kinds(PacketType.RUN)]


def run_out(driver: SwitchboardDriver, workers: list[FakeLink], held: dict[bytes, FakeLink], rounds: int) -> None:
    """The end of a walk: all that is held ends, round by round, until nothing waits."""
    for _ in range(rounds):
        for worker in workers:
            held |= dict.fromkeys(ran(worker), worker)
        for cookie in sorted(held):
            driver.result(held.pop(cookie), cookie)
        driver.advance(0.1)
    assert (driver.switchboard.waiting, held) == (0, {})


def worker_of(link: FakeLink) -> Worker:
    """A registered worker's slots."""
    worker = link.peer.worker
    assert worker is not None
    return worker
