"""Views of a client with other options: they change nothing but what is asked for, and send the same bytes for the same wish."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reasonchip_broker.client import Client, Options, submitter
from reasonchip_broker.peer.options import changed
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import PacketType
from tests.unit.client.ends import raw_broker

RAW = "memory://raw"


async def test_a_view_changes_what_it_names_and_leaves_its_origin_alone() -> None:
    client = Client(RAW, encoding="json")
    view = client.with_options(timeout=5, queue=False)
    further = view.with_options(timeout=None)
    assert (client.options.timeout, client.options.queue, client.options.encoding) == (None, True, "json")
    assert (view.options.timeout, view.options.queue, view.options.encoding) == (5, False, "json")
    assert (further.options.timeout, further.options.queue) == (None, False)


@pytest.mark.parametrize("changes", [{"nonsense": 1}, {"timeout": -1}, {"cookie": "x"}])
async def test_options_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Client(RAW).with_options(**changes)


async def test_the_same_wish_is_the_same_meta_so_that_the_broker_need_not_decode_it_again() -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        for number in range(3):
            client.submit("p", number)
            client.with_options(timeout=60.0).submit("p", number)
        metas = {(await broker.next_packet(PacketType.RUN)).meta for _ in range(6)}
        assert len(metas) == 1


async def test_options_that_were_said_before_are_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Options] = []

    def counted(options: Options, changes: Mapping[str, Any]) -> Options:
        made.append(changed(options, changes))
        return made[-1]

    async with raw_broker() as broker, Client(RAW) as client:
        monkeypatch.setattr(submitter, "changed", counted)
        for number in range(3):
            client.submit("p", number, attempts=2, require={"gpu": "h200"})
            client.submit("p", number, attempts=3)
        runs = [schemas.run_options((await broker.next_packet(PacketType.RUN)).meta) for _ in range(6)]
        assert [(run.att, run.need) for run in runs] == [(2, {"gpu": "h200"}), (3, {})] * 3
    assert len(made) == 2


async def test_whatever_submits_may_say_when_its_jobs_may_run() -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        at = datetime.now(UTC) + timedelta(seconds=60)
        client.submit("p", not_before=at)
        client.with_options(not_before=timedelta(seconds=60)).submit("p")
        iterations: list[Any] = [client.map("p", [1], not_before=60), client.submit_many("p", [1], not_before=60)]
        waiting = [asyncio.ensure_future(anext(aiter(iteration))) for iteration in iterations]
        delays = [schemas.run_options((await broker.next_packet(PacketType.RUN)).meta).delay for _ in range(4)]
        assert all(50_000 < delay <= 60_000 for delay in delays)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_each_client_has_a_nonce_of_its_own_and_each_chosen_cookie_too() -> None:
    async with raw_broker() as broker, Client(RAW) as one, Client(RAW) as other:
        one.submit("p")
        other.submit("p")
        for _ in range(2):
            mine = one.with_options(cookie=uuid.uuid4())
            mine.submit("p")
        runs = [await broker.next_packet(PacketType.RUN) for _ in range(4)]
        nonces = {schemas.run_options(run.meta).nonce for run in runs}
        assert len(nonces) == 4
        assert all(len(nonce) == 16 for nonce in nonces)


async def test_random_cookies_are_all_different() -> None:
    async with raw_broker(jobs=1000) as broker, Client(RAW) as client:
        jobs = [client.submit("p") for _ in range(200)]
        cookies = {(await broker.next_packet(PacketType.RUN)).cookie for _ in jobs}
        assert cookies == {job.cookie.bytes for job in jobs}


@pytest.mark.parametrize(
    ("arguments", "payload"),
    [
        ((), b""),
        ((None,), b""),
        (({},), b"\x80"),
        ((0,), b"\x00"),
        (({"a": 1},), b"\x81\xa1a\x01"),
    ],
)
async def test_variables_are_one_value(arguments: tuple[Any, ...], payload: bytes) -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        client.submit("p", *arguments)
        run: Packet = await broker.next_packet(PacketType.RUN)
        assert run.payload == payload
        assert schemas.run_options(run.meta).enc == "msgpack"


async def test_options_are_keywords_of_whatever_submits_and_add_to_those_of_the_view() -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        view = client.with_options(attempts=3)
        mine = uuid.uuid4()
        tasks = [
            asyncio.ensure_future(view.run("p", 1, retention_s=7, batch=mine)),
            asyncio.ensure_future(anext(view.map("p", [1], retention_s=7, batch=mine))),
            asyncio.ensure_future(anext(view.as_completed("p", [1], retention_s=7, batch=mine))),
            asyncio.ensure_future(view.submit_many("p", [1], retention_s=7, batch=mine).finish()),
            asyncio.ensure_future(view.with_options(batch=mine).submit_many("p", [1], retention_s=7).finish()),
        ]
        view.submit("p", 1, retention_s=7, batch=mine)
        view.submit("p", 1)
        seen: Counter[Any] = Counter()
        for _ in range(len(tasks) + 2):
            options = schemas.run_options((await broker.next_packet(PacketType.RUN)).meta)
            seen[options.att, options.keep, options.batch] += 1
        assert seen == {(3, 7000, mine.bytes): len(tasks) + 1, (3, None, None): 1}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_keyword_that_is_no_option_never_becomes_a_variable() -> None:
    async with raw_broker(), Client(RAW) as client:
        submits: Any
        for submits in (client.submit, client.map, client.as_completed, client.submit_many):
            with pytest.raises(TypeError, match="'dedline_s' is no option"):
                submits("p", [], dedline_s=1)
        with pytest.raises(TypeError, match="'dedline_s' is no option"):
            await client.run("p", {}, dedline_s=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("variables", [{"a": 1}, "text", b"bytes"])
async def test_the_variables_of_one_job_are_not_taken_for_those_of_many(variables: Any) -> None:
    async with raw_broker(), Client(RAW) as client:
        submits: Any
        for submits in (client.map, client.as_completed, client.submit_many):
            with pytest.raises(TypeError, match=f"not one {type(variables).__name__}"):
                submits("p", variables)


async def test_one_cookie_is_not_given_to_many_jobs() -> None:
    async with raw_broker(), Client(RAW) as client:
        submits: Any
        for submits in (client.map, client.as_completed, client.submit_many):
            with pytest.raises(ValueError, match="names one job"):
                submits("p", [1, 2], cookie=uuid.uuid4())


async def test_no_variables_of_a_json_client_are_still_a_json_job_which_existing_workers_may_take() -> None:
    async with raw_broker() as broker, Client(RAW, encoding="json") as client:
        client.submit("p")
        run = await broker.next_packet(PacketType.RUN)
        assert (schemas.run_options(run.meta).enc, run.payload) == ("json", b"")


async def test_a_run_is_built_as_the_protocol_says() -> None:
    async with raw_broker() as broker, Client(RAW) as client:
        view = client.with_options(deadline_s=30.0, queue=False)
        job = view.submit("p", 1)
        run = await broker.next_packet(PacketType.RUN)
        assert (run.attempt, run.code, run.cookie) == (1, 0, job.cookie.bytes)
        assert 29_000 < run.number <= 30_000
        assert not schemas.run_options(run.meta).queue
        assert packets.run(run.cookie, run.meta, run.payload, run.number)
