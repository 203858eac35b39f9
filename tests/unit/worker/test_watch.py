"""Whether the broker is still there. (With real connections: test_link.)"""

import asyncio
from typing import Any

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.peer.session import Session
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.worker.outflow import Outflow
from reasonchip_broker.worker.watch import Watch
from tests.unit.worker.harness import until


class Paper:
    """A connection that notes how it ends."""

    def __init__(self) -> None:
        self.reason: CloseReason | None = None

    def abort(self, reason: CloseReason) -> None:
        self.reason = reason


def watched(connection: Any, problems: list[str], outflow: Outflow) -> Watch:
    session = Session(Role.WORKER, schemas.HelloMeta(), Limits(handshake_s=0.02))
    return Watch(asyncio.get_running_loop(), session, connection, outflow, problems.append)


async def test_a_broker_that_does_not_answer_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    connection, problems = Paper(), list[str]()
    watch = watched(connection, problems, Outflow(1))
    watch.look()
    await until(lambda: connection.reason is not None)
    assert connection.reason is CloseReason.HANDSHAKE_TIMEOUT
    assert problems == ["the broker did not answer HELLO within 0.02 s"]
    await asyncio.sleep(0)
    assert (watch._timer, caplog.records) == (None, [])


async def test_a_connection_that_has_ended_is_not_looked_at() -> None:
    connection, problems = Paper(), list[str]()
    watch = watched(connection, problems, Outflow(1))
    connection.reason = CloseReason.NORMAL
    watch.look()
    assert watch._timer is None
    connection.reason = None
    watch.look()
    watch.end()
    watch.end()
    assert watch._timer is None
