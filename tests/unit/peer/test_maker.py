"""Jobs made out of what is asked for, whoever owns the connection that they are sent on."""

import os
import uuid
from datetime import UTC, datetime, timedelta

from reasonchip_broker.peer.job import JobState
from reasonchip_broker.peer.maker import JobMaker
from reasonchip_broker.peer.options import Options
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import PacketType
from tests.unit.peer.paper import start, up

NONCE = bytes(16)


async def test_a_job_is_made_first_and_sent_when_it_is_posted() -> None:
    exchange = start()
    paper = up(exchange)
    cookie = uuid.uuid4()
    maker = JobMaker(exchange, Options(), NONCE).with_options(Options(cookie=cookie, encoding="json"))
    job = maker.make("p", {"a": 1})
    assert (paper.sent, job.state) == ([], JobState.HELD)
    maker.post(job)
    [run] = paper.sent
    assert (run.kind, run.cookie, run.payload) == (PacketType.RUN, cookie.bytes, b'{"a":1}')
    assert schemas.run_options(run.meta).enc == "json"


async def test_each_job_has_a_cookie_of_its_own() -> None:
    maker = JobMaker(start(), Options(), os.urandom(16))
    assert maker.make("p", 1).cookie != maker.make("p", 1).cookie


async def test_a_delay_is_that_of_each_job_from_when_it_is_posted() -> None:
    exchange = start()
    paper = up(exchange)
    at = datetime.now(UTC) + timedelta(seconds=60)
    for not_before in (at, timedelta(seconds=60), 60, None, -1):
        maker = JobMaker(exchange, Options(not_before=not_before), NONCE)
        maker.post(maker.make("p", 1))
    delays = [schemas.run_options(run.meta).delay for run in paper.sent]
    assert all(59_000 < delay <= 60_000 for delay in delays[:3])
    assert delays[3:] == [0, 0]


async def test_what_a_run_says_is_encoded_once_for_options_that_it_does_not_say() -> None:
    maker = JobMaker(start(), Options(attempts=2), NONCE)
    meta = maker.make("p", 1)._meta
    for options in (Options(attempts=2, timeout=5), Options(attempts=2, deadline_s=5, not_before=3)):
        assert maker.with_options(options).make("p", 1)._meta is meta
    for options in (Options(attempts=3), Options(attempts=2, detach=True), Options(attempts=2, batch=uuid.uuid4())):
        assert maker.with_options(options).make("p", 1)._meta != meta


async def test_each_submission_of_a_chosen_cookie_has_a_nonce_of_its_own() -> None:
    options = Options(cookie=uuid.uuid4())
    maker = JobMaker(start(), options, NONCE).with_options(options)
    assert maker.make("p", 1)._meta != maker.make("p", 1)._meta
