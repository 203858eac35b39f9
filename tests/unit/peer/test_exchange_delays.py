"""Jobs that are not to run before their time, over a connection on paper: what is said of it when they are sent."""

import pytest

from reasonchip_broker.peer.job import JobState
from reasonchip_broker.peer.options import SECONDS_MAX
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import NUMBER_MAX
from tests.unit.peer.paper import META, attached, frames, post, start, up


async def test_a_delay_counts_from_submission_while_the_job_is_held() -> None:
    exchange = start()
    job = post(exchange, delay_s=60.0)
    job._due_at -= 50.0
    paper = up(exchange)
    assert 9_000 < schemas.run_options(paper.sent[0].meta).delay <= 10_000


async def test_a_job_whose_time_came_while_it_was_held_is_a_plain_one() -> None:
    exchange = start()
    job = post(exchange, delay_s=60.0)
    job._due_at -= 61.0
    assert up(exchange).sent[0].meta == META


async def test_the_longest_delay_is_the_longest_that_a_run_can_say() -> None:
    exchange = start()
    paper = up(exchange)
    post(exchange, delay_s=SECONDS_MAX + 0.001)
    assert schemas.run_options(paper.sent[0].meta).delay == NUMBER_MAX


@pytest.mark.parametrize("delay_s", [0.0, -5.0])
async def test_a_time_that_is_past_is_not_said(delay_s: float) -> None:
    exchange = start()
    paper = up(exchange)
    post(exchange, delay_s=delay_s)
    assert paper.sent[0].meta == META


async def test_a_job_of_somebody_else_that_is_scheduled_is_known_to_be() -> None:
    exchange = start()
    paper = up(exchange)
    job = exchange.attach(b"j" * 16, "msgpack", 0, True)
    exchange.received(frames(attached(paper, state="scheduled", why="not_due", due=1000)))
    assert job.state is JobState.SCHEDULED
