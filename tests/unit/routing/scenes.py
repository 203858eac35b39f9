"""What tests of jobs with more to them begin with: a quiet broker, and looks into it."""

from typing import Any

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

PROCESS = b"p" * 16
OTHER_PROCESS = b"q" * 16


def quiet(**limits: Any) -> Limits:
    """Limits under which no heartbeat disturbs."""
    return Limits(**{"heartbeat_s": 1e6, "lease_s": 2e6, "cancel_grace_s": 4.0, "kill_grace_s": 2.0, **limits})


def driven(**limits: Any) -> SwitchboardDriver:
    """A driver with such limits."""
    return SwitchboardDriver(quiet(**limits))


def inside(driver: SwitchboardDriver) -> Dispatcher:
    """The tables of a driven broker."""
    return driver.switchboard._dispatcher


def session(driver: SwitchboardDriver, capacity: int = 1, **options: Any) -> FakeLink:
    """A worker that may come back within 10 s."""
    return driver.worker(capacity, **{"name": "w", "process": PROCESS, "grace_s": 10, **options})


def results(link: FakeLink) -> list[tuple[bytes, Code]]:
    """Cookie and code of each RESULT that came; nothing but RESULTs must have come."""
    taken = link.take()
    assert {packet.kind for packet in taken} <= {PacketType.RESULT}, [PacketType(packet.kind).name for packet in taken]
    return [(packet.cookie, Code(packet.code)) for packet in taken]


def outcome(link: FakeLink) -> tuple[Code, bool, schemas.Failure]:
    """Of the one RESULT that came, a failure: its code, whether the job may have run, and the failure."""
    packet = link.take_one(PacketType.RESULT)
    return Code(packet.code), schemas.result_meta(packet.meta).ran, schemas.failure(packet.payload)


def ran(link: FakeLink) -> list[tuple[bytes, int]]:
    """Cookie and attempt of each RUN that a worker was sent; nothing else must have come."""
    taken = link.take()
    assert {packet.kind for packet in taken} <= {PacketType.RUN}, [PacketType(packet.kind).name for packet in taken]
    return [(packet.cookie, packet.attempt) for packet in taken]


def kinds(packets: list[Packet]) -> list[PacketType]:
    """What came."""
    return [PacketType(packet.kind) for packet in packets]


def chunks(packets: list[Packet]) -> list[tuple[int, ...]]:
    """PROGRESS or INPUT: (number,) of each chunk, (first, last) of each gap."""
    return [
        (schemas.chunk_meta(packet.meta).first, packet.number) if packet.code == Code.GAP else (packet.number,)
        for packet in packets
        if packet.kind in (PacketType.PROGRESS, PacketType.INPUT)
    ]


def credited(packets: list[Packet]) -> int:
    """How many frames were credited in all."""
    return sum(packet.number for packet in packets if packet.kind == PacketType.CREDIT)


def assert_nothing_is_left(driver: SwitchboardDriver) -> None:
    """No route, assignment, timer, tie, byte of a ring or follower is left of any job. Connections must have ended."""
    dispatcher = inside(driver)
    assert (list(dispatcher.routes), list(dispatcher.routes.packs()), dispatcher.routes.routes) == ([], [], 0)
    assert not dispatcher.slots.reserved
    assert not dispatcher.roster.pools
    assert not dispatcher.sessions.suspended
    assert not dispatcher.sessions.connected
    assert not driver.switchboard.peers
    assert (dispatcher.backlog.jobs, dispatcher.backlog.bytes, dispatcher.live) == (0, 0, 0)
    assert (dispatcher.outcomes.count, dispatcher.outcomes.bytes, len(dispatcher.outcomes.queue)) == (0, 0, 0)
    assert not any(dispatcher.routes.shards)
    assert dispatcher.routes.spent == 0
    assert dispatcher.streams.budget.bytes == 0
    assert dispatcher.streams.is_settled
    assert dispatcher.family.is_settled
    assert not dispatcher.family.batches
    assert len(driver.switchboard.timers) == 0
    for link in driver.links:
        assert not link.peer.ties
        assert not link.peer.unacknowledged
        assert (link.peer.unfinished, link.peer.kept_bytes, link.peer.awaited) == (0, 0, 0)
