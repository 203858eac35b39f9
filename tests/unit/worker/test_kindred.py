"""Children over connections that come and go; and what is not loaded while there are none. (With a link: test_children.)"""

import asyncio
import subprocess
import sys
from typing import Any
from uuid import UUID

import pytest

from reasonchip_broker.peer.options import Options
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.worker.children import submission_of
from reasonchip_broker.worker.kindred import Kindred
from reasonchip_broker.worker.outflow import Outflow
from tests.unit.worker.harness import soon, until
from tests.unit.worker.test_outflow import Paper

PARENT = UUID(int=5)
WELCOME = schemas.WelcomeMeta(bytes(16), bytes(16), 4096, 10, 1000, 3000, 4)


class Setting:
    """Kindred in this loop, and what they send."""

    def __init__(self) -> None:
        self.outflow = Outflow(1000)
        self.paper: Any = Paper()
        connection: Any = self.paper
        self.outflow.opened(connection)
        self.kindred = Kindred("memory://", asyncio.get_running_loop(), self.outflow)

    def submit(self) -> "asyncio.Future[Any]":
        submission = submission_of("p", None, Options(parent=PARENT))
        self.kindred.submit(submission)
        return asyncio.wrap_future(self.kindred.ask("result", submission.cookie))

    @property
    def kinds(self) -> list[int]:
        return [decode(frame).kind for frame in self.paper.sent]


def test_a_worker_without_children_loads_nothing_for_them() -> None:
    code = (
        "import sys, reasonchip_broker.worker; print(sorted({'reasonchip_broker.peer.exchange', 'reasonchip_broker.peer.job'} "
        "& set(sys.modules)), reasonchip_broker.worker.ChildJob.__name__, reasonchip_broker.worker.Gap.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert run.stdout.strip() == "[] ChildJob Gap"


async def test_nothing_that_a_broker_says_is_about_children_that_there_are_not() -> None:
    setting = Setting()
    frame = packets.reply(PacketType.RUN, Code.QUEUED, "queued")
    view: Any = (PacketType.REPLY, bytes(16), frame)
    assert not setting.kindred.takes(view)
    setting.kindred.received(view)
    setting.kindred.flow()
    setting.kindred.up(WELCOME)
    setting.kindred.down("gone", 0.0)
    setting.kindred.ended()
    assert setting.paper.sent == []


@pytest.mark.parametrize("up_first", [True, False])
async def test_children_are_sent_once_the_broker_knows_their_parents(up_first) -> None:
    setting = Setting()
    if up_first:
        setting.kindred.up(WELCOME)
    task = setting.submit()
    if not up_first:
        await until(lambda: setting.kindred._exchange is not None)
        assert setting.kinds == []
        setting.kindred.up(WELCOME)
    await until(lambda: bool(setting.paper.sent))
    assert setting.kinds == [PacketType.RUN]
    task.cancel()


async def test_children_are_asked_after_when_there_is_a_connection_again() -> None:
    setting = Setting()
    setting.kindred.up(WELCOME)
    task = setting.submit()
    await until(lambda: bool(setting.paper.sent))
    setting.kindred.down("the cable is out", asyncio.get_running_loop().time())
    assert setting.kinds == [PacketType.RUN]
    setting.kindred.up(WELCOME)
    first, second = (decode(frame) for frame in setting.paper.sent)
    assert (first.kind, second.kind, second.cookie) == (PacketType.RUN, PacketType.RUN, first.cookie)
    setting.kindred.ended()
    error, outcome = await soon(task)
    assert "has left its broker" in str(error)
    assert outcome is None


async def test_children_wait_while_the_connection_has_enough() -> None:
    setting = Setting()
    setting.kindred.up(WELCOME)
    setting.submit()
    await until(lambda: bool(setting.paper.sent))
    setting.outflow.congested = True
    setting.kindred.flow()
    setting.submit()
    await until(lambda: len(setting.kindred.family._children) == 2)
    setting.outflow.congested = False
    assert setting.kinds == [PacketType.RUN]
    setting.kindred.flow()
    assert setting.kinds == [PacketType.RUN, PacketType.RUN]
    setting.kindred.ended()


@pytest.mark.parametrize("submitted_first", [True, False])
async def test_there_are_no_children_after_the_last_connection(submitted_first) -> None:
    setting = Setting()
    task = setting.submit() if submitted_first else None
    await asyncio.sleep(0)
    setting.kindred.ended()
    error, outcome = await soon(task or setting.submit())
    assert "has left its broker" in str(error)
    assert outcome is None
