"""The suite itself: it finds transports that break their promises. That ours keep them is in tests/conformance."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from reasonchip_broker.errors import ListenError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.testing import check_server_transport as suite
from reasonchip_broker.testing import transport_peers
from reasonchip_broker.testing.check_server_transport import CHECKS, Check, Implementation
from reasonchip_broker.transports.connection import Connection
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.memory import MemoryClientTransport, MemoryServerTransport, MemoryTransport
from reasonchip_broker.transports.server_transport import ConnectionHandler


async def connect(url: str, protocol: asyncio.Protocol) -> asyncio.Transport:
    return MemoryClientTransport(url.removeprefix("memory://")).connect(protocol)


def of(kind: Callable[[str], MemoryServerTransport]) -> Implementation:
    return Implementation(lambda url: kind("suite"), connect, lambda url: MemoryClientTransport(url.removeprefix("memory://")))


class Told:
    """A handler between a transport that breaks a promise and the suite's own."""

    def __init__(self, real: ConnectionHandler) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Mutant(MemoryServerTransport):
    """A transport that tells `told` in the place of its handler."""

    told: type[Told] = Told

    async def start(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> None:
        await super().start(role, self.told(handler), limits, flusher)


class EndsTwice(Mutant):
    class told(Told):
        def closed(self, connection: Connection, reason: CloseReason) -> None:
            self._real.closed(connection, reason)
            self._real.closed(connection, reason)


class NeverEnds(Mutant):
    class told(Told):
        def closed(self, connection: Connection, reason: CloseReason) -> None:
            """Forgotten."""


class TurnsFramesAround(Mutant):
    class told(Told):
        def received(self, connection: Connection, frames: list[Frame]) -> None:
            self._real.received(connection, frames[::-1])


class LosesFrames(Mutant):
    class told(Told):
        def received(self, connection: Connection, frames: list[Frame]) -> None:
            self._real.received(connection, frames[:1])


class TakesEverybody(Mutant):
    class told(Told):
        def accepts(self, connection: Connection) -> bool:
            self._real.accepts(connection)
            return True


class LetsJsonJobsWait(Mutant):
    class told(Told):
        def opened(self, connection: Connection) -> None:
            connection.json_queue = True
            self._real.opened(connection)


class NeverStops(Mutant):
    async def stop(self) -> None:
        """Forgotten."""


class StopsConnections(Mutant):
    class told(Told):
        connections: ClassVar[list[Connection]] = []

        def opened(self, connection: Connection) -> None:
            self.connections.append(connection)
            self._real.opened(connection)

    async def stop(self) -> None:
        await super().stop()
        for connection in self.told.connections:
            connection.abort(CloseReason.NORMAL)


class Wordy(Mutant):
    async def start(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> None:
        try:
            await super().start(role, handler, limits, flusher)
        except ListenError as error:
            raise ListenError(f"Traceback:\n  {error}") from error


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken promise is one that is not kept soon."""
    monkeypatch.setattr(transport_peers, "DEADLINE_S", 0.2)


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (EndsTwice, suite.connections_are_announced_once_and_in_order),
        (NeverEnds, suite.connections_are_announced_once_and_in_order),
        (LetsJsonJobsWait, suite.a_connection_knows_what_its_listener_does_with_json_jobs),
        (TakesEverybody, suite.a_connection_that_is_refused_ends_without_a_word),
        (Wordy, suite.an_address_in_use_is_refused_in_one_line),
        (NeverStops, suite.stop_frees_the_address_and_leaves_connections_alone),
        (StopsConnections, suite.stop_frees_the_address_and_leaves_connections_alone),
        (TurnsFramesAround, suite.frames_arrive_whole_in_order_however_they_are_cut),
        (LosesFrames, suite.frames_arrive_whole_in_order_however_they_are_cut),
        (NeverEnds, suite.the_hard_cap_ends_a_connection),
        (NeverEnds, suite.the_write_deadline_ends_a_connection_that_takes_nothing),
        (NeverEnds, suite.a_half_closed_connection_is_served_and_ended),
        (NeverEnds, suite.a_reset_is_noticed_even_while_congested),
    ],
    ids=lambda value: value.__name__,
)
async def test_a_broken_promise_is_found(mutant: type[Mutant], check: Check) -> None:
    with pytest.raises(AssertionError):
        await check(of(mutant))
    if mutant is NeverStops:
        await MemoryServerTransport.stop(mutant("suite"))


async def test_pipes_that_hold_nothing_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTransport, "pause_reading", lambda self: None)
    with pytest.raises(AssertionError):
        await suite.a_peer_that_does_not_read_is_not_read_from(of(Mutant))


async def test_pipes_that_forget_what_waits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTransport, "close", MemoryTransport.abort)
    with pytest.raises(AssertionError):
        await suite.close_writes_what_was_sent_before_and_says_goodbye(of(Mutant))


async def test_the_whole_suite_runs_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def noting(name: str) -> Check:
        async def check(implementation: Implementation) -> None:
            ran.append(name)

        return check

    monkeypatch.setattr(suite, "CHECKS", tuple(noting(check.__name__) for check in CHECKS))
    await suite.check_server_transport(of(MemoryServerTransport))
    assert ran == [check.__name__ for check in CHECKS]


def test_every_check_of_the_module_is_in_the_suite() -> None:
    found = {
        name
        for name, value in vars(suite).items()
        if asyncio.iscoroutinefunction(value) and not name.startswith("_") and name != "check_server_transport"
    }
    assert found == {check.__name__ for check in CHECKS}
