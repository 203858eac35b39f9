"""The dispatcher's invariants notice each way in which its tables could disagree; what it does with jobs is tested at the door.

(`tests/unit/switchboard/` has a file for each subject: dispatch, waiting, cancelling, deadlines, losses.)
"""

from collections.abc import Callable

import pytest

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.routing.assignment import AssignmentState
from reasonchip_broker.routing.dispatcher import Dispatcher
from reasonchip_broker.routing.invariants import check
from reasonchip_broker.routing.route import RouteState
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

LIMITS = Limits(kill_grace_s=1.0, heartbeat_s=1e6, lease_s=2e6)


class Tables:
    """A dispatcher with a job that runs, one that waits and one whose slot is withheld."""

    def __init__(self) -> None:
        driver = SwitchboardDriver(LIMITS)
        self.driver = driver
        self.client: FakeLink = driver.client()
        self.worker: FakeLink = driver.worker(2)
        self.withheld = driver.run(self.client)
        driver.cancel(self.client, self.withheld, at_once=True)
        driver.advance(1.1)
        self.running = driver.run(self.client)
        self.waiting = driver.run(self.client)

    @property
    def dispatcher(self) -> Dispatcher:
        dispatcher: Dispatcher = self.driver.switchboard._dispatcher
        return dispatcher


def _lose_a_running_route(tables: Tables) -> None:
    tables.dispatcher.routes.remove(tables.dispatcher.routes[tables.running])


def _lose_a_waiting_route(tables: Tables) -> None:
    tables.dispatcher.routes.remove(tables.dispatcher.routes[tables.waiting])


def _lose_an_assignment(tables: Tables) -> None:
    tables.dispatcher.routes[tables.running].assignment = None


def _disagree_about_the_attempt(tables: Tables) -> None:
    tables.dispatcher.routes[tables.running].attempt = 2


def _run_without_a_slot(tables: Tables) -> None:
    tables.dispatcher.routes[tables.waiting].state = RouteState.DISPATCHED


def _wait_with_a_slot(tables: Tables) -> None:
    tables.dispatcher.routes[tables.running].state = RouteState.QUEUED


def _keep_what_is_over(tables: Tables) -> None:
    tables.dispatcher.routes[tables.waiting].state = RouteState.OVER


def _wait_for_nothing(tables: Tables) -> None:
    route = tables.dispatcher.routes[tables.waiting]
    route.attempt = 1
    tables.dispatcher.hold_back([route])


def _forget_a_reserved_cookie(tables: Tables) -> None:
    tables.dispatcher.slots.reserved.clear()


def _reserve_twice(tables: Tables) -> None:
    tables.dispatcher.slots.reserve(tables.withheld)


def _reserve_for_nothing(tables: Tables) -> None:
    tables.dispatcher.slots.reserve(b"k" * 16)


def _withhold_unseen(tables: Tables) -> None:
    assignment = tables.dispatcher.routes[tables.running].assignment
    assert assignment is not None
    assignment.state = AssignmentState.WITHHELD


def _lose_an_owner(tables: Tables) -> None:
    tables.client.peer.unfinished -= 1


def _miscount_the_slots(tables: Tables) -> None:
    worker = tables.worker.peer.worker
    assert worker is not None
    worker.busy -= 1


@pytest.mark.parametrize(
    "break_it",
    [
        _lose_a_running_route,
        _lose_a_waiting_route,
        _lose_an_assignment,
        _disagree_about_the_attempt,
        _run_without_a_slot,
        _wait_with_a_slot,
        _keep_what_is_over,
        _wait_for_nothing,
        _forget_a_reserved_cookie,
        _reserve_twice,
        _reserve_for_nothing,
        _withhold_unseen,
        _lose_an_owner,
        _miscount_the_slots,
    ],
)
def test_the_invariants_notice_what_disagrees(break_it: Callable[[Tables], None]) -> None:
    tables = Tables()
    check(tables.dispatcher)
    break_it(tables)
    with pytest.raises(InternalError):
        check(tables.dispatcher)


def test_a_job_ends_once_for_its_owner_and_its_slot_ends_when_its_worker_says_so() -> None:
    tables = Tables()
    driver = tables.driver
    assert (PacketType.RESULT, Code.CANCELLED) in tables.client.take_codes()
    assert tables.withheld in tables.dispatcher.slots.reserved
    driver.result(tables.worker, tables.withheld)
    assert (tables.dispatcher.slots.reserved, tables.client.take()) == ({}, [])
    assert tables.waiting in {packet.cookie for packet in tables.worker.take()}
