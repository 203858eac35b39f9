"""Jobs that wait to be sent: in order, and for a connection only as long as they may. The rest of it is seen in test_exchange.py."""

import asyncio

from reasonchip_broker import errors
from reasonchip_broker.peer.held import Held
from reasonchip_broker.peer.job import Job
from tests.unit.peer.paper import META, start


def make(held: Held, *, connected: bool = False) -> Job:
    job = Job(start(), b"h" * 16, META, b"", False)
    held.add(job, asyncio.get_running_loop(), connected=connected)
    return job


async def test_they_come_out_in_order_without_those_that_ended_meanwhile() -> None:
    held = Held(10.0, lambda: errors.ConnectError("no"))
    jobs = [make(held) for _ in range(3)]
    jobs[1]._finish(None, errors.JobCancelled("enough"))
    assert [held.next(), held.next(), held.next()] == [jobs[0], jobs[2], None]
    held.give_up()


async def test_a_timer_runs_only_while_there_is_no_connection() -> None:
    held = Held(10.0, lambda: errors.ConnectError("no"))
    make(held, connected=True)
    assert held._expiry is None
    held.disconnected(asyncio.get_running_loop())
    assert held._expiry is not None
    held.connected()
    assert held._expiry is None


async def test_at_the_end_each_has_an_error_of_its_own() -> None:
    held = Held(10.0, lambda: errors.ConnectError("no"))
    jobs = [make(held) for _ in range(2)]
    held.give_up()
    assert all(isinstance(job._error, errors.ConnectError) for job in jobs)
    assert jobs[0]._error is not jobs[1]._error
    assert held._expiry is None
