"""The model accounts for each packet: none without a reason, none missing."""

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.testing.simulation.records import BrokenPromise, Client, Job, Kept
from reasonchip_broker.testing.simulation.world import World
from tests.unit.testing.simulation.faulty import CLIENT, PEERS, PLAIN

JOB = b"cookie         1"


def begun() -> tuple[World, Client]:
    world = World(PLAIN)
    for operation in PEERS:
        world.apply(operation)
    return world, world.model.clients[CLIENT]


@pytest.mark.parametrize(
    ("frame", "broken"),
    [
        (packets.pong(1), "packet 4 for no reason"),
        (packets.reply(PacketType.RUN, Code.QUEUED, ""), "a request 17 that it did not send"),
        (packets.result(JOB, 1, b"", ""), "not its owner's, for no reason, or again"),
        (packets.run(JOB, b"", b""), "which is no live job"),
        (packets.cancel(JOB), "to one who does not hold it"),
        (packets.ping(), "at no time"),
    ],
)
def test_what_comes_for_no_reason_is_noticed(frame: bytes, broken: str) -> None:
    world, client = begun()
    with pytest.raises(BrokenPromise, match=broken):
        world.model.observe([(client.link, frame)], [])


def test_a_wrong_answer_and_a_close_for_no_reason_are_noticed() -> None:
    world, client = begun()
    world.model.answer(client, PacketType.RUN, frozenset({Code.QUEUED, Code.DISPATCHED}))
    with pytest.raises(BrokenPromise, match="answered DRAINING, and not QUEUED/DISPATCHED"):
        world.model.observe([(client.link, packets.reply(PacketType.RUN, Code.DRAINING, ""))], [])
    with pytest.raises(BrokenPromise, match="was closed: SLOW_CONSUMER, too slow"):
        world.model.observe([], [Close(client.link, CloseReason.SLOW_CONSUMER, "too slow")])


def test_what_is_missing_is_named() -> None:
    world, client = begun()
    step = world.model.step
    kind = world.model.kinds[0]
    job = Job(JOB, kind, b"1", client, schemas.RunOptions(p=kind.pipeline))
    step.outcomes[client.link.number, JOB] = Kept(job, frozenset({Code.OK}), None)
    step.stops[client.link.number, JOB] = [True]
    world.model.expect(client, PacketType.PONG)
    step.closes[client.link.number] = CloseReason.NORMAL
    with pytest.raises(
        BrokenPromise, match=r"missing: the outcome OK .*, the CANCEL .*, PONG to link 0, the close of link 0: NORMAL"
    ):
        world.model.observe([], [])


def test_a_job_that_waits_beside_a_free_slot_is_noticed() -> None:
    world, client = begun()
    world.apply(("congest", 2))
    world.apply(("run", CLIENT, JOB, "p.a"))
    world.model.workers[2].congested = False
    with pytest.raises(BrokenPromise, match="waits beside 2 free slots"):
        world.model.observe([], [])
    assert client.link.role == Role.CLIENT
