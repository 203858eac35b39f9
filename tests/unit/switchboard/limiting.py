"""What tests of limits by key begin with."""

from typing import Any

from reasonchip_broker.protocol.codes import PacketType
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
