"""The seams, through a whole broker: what admits jobs, who hears of outcomes and capacity, whose a connection is."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from reasonchip_broker.client import Client
from reasonchip_broker.errors import NotAllowed
from reasonchip_broker.limits import Limits
from reasonchip_broker.ports import Verdict
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import Code, PacketType, Role
from tests.raw_peers import RawClient, client_of, connect, kept, serving, until, worker_of


class Gatekeeper:
    """Keeps every job that is to be admitted, and its verdict."""

    def __init__(self) -> None:
        self.asked: dict[bytes, Verdict] = {}

    def admit(self, cookie: bytes, verdict: Verdict) -> None:
        self.asked[cookie] = verdict


class Notes:
    """Observes outcomes and capacity."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[bytes, int]] = []
        self.offers: list[tuple[str, ...]] = []

    def outcome(self, cookie: bytes, frame: bytes) -> None:
        self.outcomes.append((cookie, frame[5]))

    def capacity(self, offer: tuple[str, ...]) -> None:
        self.offers.append(offer)


class ByPlace:
    """The principal is whatever a test says next."""

    def __init__(self) -> None:
        self.next = ""
        self.asked: list[tuple[Role, str]] = []

    def principal(self, role: Role, address: str) -> str:
        self.asked.append((role, address))
        return self.next


# Admission


async def test_a_job_waits_for_its_verdict_and_then_runs() -> None:
    gate = Gatekeeper()
    async with serving(admission=gate) as broker:
        worker = await worker_of(broker)
        client = await client_of(broker)
        cookie = client.run(variables=b"x")
        await until(lambda: cookie in gate.asked, "nobody was asked")
        await client.ping()
        assert not worker.frames[2:]
        gate.asked[cookie](None, "")
        assert (await client.outcome(cookie)).payload == b"x"


async def test_a_job_that_is_refused_never_was() -> None:
    gate = Gatekeeper()
    async with serving(admission=gate) as broker:
        await worker_of(broker)
        client = await client_of(broker)
        cookie = client.run()
        await until(lambda: cookie in gate.asked, "nobody was asked")
        gate.asked.pop(cookie)(Code.NOT_ALLOWED, "not today")
        assert await client.reply(cookie) == (Code.NOT_ALLOWED, "not today")
        assert broker.switchboard.jobs == 0
        client.send(packets.run(cookie, b"\x82\xa1p\xa4echo\xa3enc\xa5bytes", b"again"))
        await until(lambda: cookie in gate.asked, "the cookie was not free")
        gate.asked[cookie](None, "")
        assert (await client.outcome(cookie)).payload == b"again"


@pytest.mark.parametrize("follow", [False, True])
async def test_a_client_that_attached_to_a_job_that_is_refused_raises_the_refusal(follow: bool) -> None:
    gate = Gatekeeper()
    async with serving(admission=gate) as broker:
        client = await client_of(broker)
        cookie = client.run()
        await until(lambda: cookie in gate.asked, "nobody was asked")
        async with Client(broker.client_urls[0]) as other:
            job = other.attach(UUID(bytes=cookie), follow=follow, take=follow)
            assert (await other.status(UUID(bytes=cookie))).state == "admitting"
            gate.asked.pop(cookie)(Code.NOT_ALLOWED, "not today")
            with pytest.raises(NotAllowed, match="not today"):
                await job.result()
            with pytest.raises(NotAllowed, match="not today"):
                assert not [chunk async for chunk in job]
        assert await client.reply(cookie) == (Code.NOT_ALLOWED, "not today")


async def test_a_verdict_may_come_at_once() -> None:
    class Yes:
        def admit(self, cookie: bytes, verdict: Verdict) -> None:
            verdict(None, "")

    async with serving(admission=Yes()) as broker:
        await worker_of(broker, 100)
        client = await client_of(broker)
        for cookie in [client.run(variables=b"x") for _ in range(100)]:
            assert (await client.outcome(cookie)).code == Code.OK


@pytest.mark.parametrize("verdict", [None, Code.OVERLOADED])
async def test_a_verdict_on_a_job_that_was_cancelled_meanwhile_changes_nothing(verdict: Code | None) -> None:
    gate = Gatekeeper()
    async with serving(admission=gate) as broker:
        worker = await worker_of(broker)
        client = await client_of(broker)
        cookie = client.run()
        await until(lambda: cookie in gate.asked, "nobody was asked")
        client.send(packets.cancel(cookie, number=1))
        assert (await client.outcome(cookie)).code == Code.CANCELLED
        gate.asked[cookie](verdict, "late")
        await client.ping()
        assert not worker.held
        assert sum(frame[1] == cookie and frame[0] == PacketType.RESULT for frame in client.frames) == 1


@pytest.mark.parametrize("verdict", [None, Code.OVERLOADED])
async def test_a_verdict_on_a_job_that_is_over_is_none_on_the_next_with_its_cookie(verdict: Code | None) -> None:
    gate = Gatekeeper()
    async with serving(Limits(retention_s=0.02), admission=gate) as broker:
        worker = await worker_of(broker, works=kept)
        client = await client_of(broker)
        cookie = client.run()
        await until(lambda: cookie in gate.asked, "nobody was asked")
        client.send(packets.cancel(cookie, number=1))
        assert (await client.outcome(cookie)).code == Code.CANCELLED
        first = gate.asked.pop(cookie)
        while cookie not in gate.asked:  # it is free when the outcome is not kept any more
            client.send(packets.run(cookie, b"\x82\xa1p\xa4echo\xa3enc\xa5bytes", b"again"))
            await client.ping()
        first(verdict, "late")
        await client.ping()
        assert (worker.held, broker.switchboard.jobs) == ([], 1)
        gate.asked[cookie](None, "")
        await worker.holds(1)
        worker.finish(worker.held[0])


async def test_a_verdict_for_a_client_that_has_gone_still_lets_its_job_run() -> None:
    gate = Gatekeeper()
    async with serving(admission=gate) as broker:
        worker = await worker_of(broker, works=kept)
        client = await client_of(broker)
        cookie = client.run()
        await until(lambda: cookie in gate.asked, "nobody was asked")
        client.live.abort()
        await until(lambda: broker.connections == 1, "the client did not go")
        gate.asked[cookie](None, "")
        await worker.holds(1)
        worker.finish(worker.held[0])


async def test_jobs_whose_verdict_is_due_are_given_back_when_the_broker_drains() -> None:
    gate = Gatekeeper()
    async with serving(admission=gate) as broker:
        client = await client_of(broker)
        cookie = client.run()
        await until(lambda: cookie in gate.asked, "nobody was asked")
        assert await asyncio.wait_for(broker.drain(), 5) == 0
        assert (await client.outcome(cookie)).code == Code.BROKER_WENT_AWAY
        gate.asked[cookie](None, "late")


# Outcomes


async def test_every_job_has_one_outcome_and_it_is_told() -> None:
    notes = Notes()
    async with serving(outcomes=notes) as broker:
        worker = await worker_of(broker, 10, works=kept)
        client, leaving = await client_of(broker), await client_of(broker)
        good, lost, unheard = client.run(), client.run(), leaving.run()
        late = client.run("nobody-serves", left_ms=20)
        cancelled = client.run("nobody-serves")
        refused = client.run("nobody-serves", queue=False)
        await client.reply(refused)
        client.send(packets.cancel(cancelled, number=1))
        await worker.holds(3)
        leaving.live.abort()
        await until(lambda: broker.connections == 2, "the client did not go")
        for frame in worker.held[:]:
            if frame[1] != lost:
                worker.finish(frame)
        await client.outcome(good)
        await client.outcome(late)
        worker.live.abort()
        await client.outcome(lost)
        expected = {
            good: Code.OK,
            unheard: Code.OK,
            late: Code.DEADLINE_EXCEEDED,
            cancelled: Code.CANCELLED,
            lost: Code.WORKER_WENT_AWAY,
        }
        assert dict(notes.outcomes) == expected
        assert len(notes.outcomes) == len(expected)


async def test_without_an_observer_nothing_is_collected() -> None:
    async with serving() as broker:
        await worker_of(broker)
        await (await client_of(broker)).echo()
        assert not broker.switchboard.effects.observe_outcomes
        assert not broker.switchboard.effects.outcomes


# Capacity


async def test_capacity_is_told_when_it_turns_from_none_to_some() -> None:
    notes = Notes()
    async with serving(capacity=notes) as broker:
        worker = await worker_of(broker, 2, "a", "b*", works=kept)
        await until(lambda: notes.offers == [("a", "b*")], "a new worker's capacity was not told")
        client = await client_of(broker)
        cookies = [client.run("a"), client.run("b1")]
        await worker.holds(2)
        worker.finish(worker.held[0])
        await client.outcome(cookies[0])
        worker.finish(worker.held[0])
        await client.outcome(cookies[1])
        assert notes.offers == [("a", "b*")] * 2


# Principals


async def test_whose_a_connection_is_is_asked_once_with_its_role_and_address() -> None:
    places = ByPlace()
    async with serving(principals=places) as broker:
        await worker_of(broker)
        await client_of(broker)
        assert places.asked == [(Role.WORKER, "memory"), (Role.CLIENT, "memory")]


async def test_another_principal_s_job_looks_like_one_that_does_not_exist() -> None:
    places = ByPlace()
    async with serving(principals=places) as broker:
        worker = await worker_of(broker, works=kept)
        places.next = "ann"
        ann = await client_of(broker)
        cookie = ann.run()
        await worker.holds(1)
        places.next = "bob"
        bob = await client_of(broker)
        answers = []
        for asked in (cookie, b"?" * 16):
            bob.send(packets.cancel(asked, number=1))
            frame = (await bob.kind(PacketType.REPLY, asked)).payload
            answers.append((await bob.reply(asked), frame))
        assert answers[0] == answers[1]
        assert answers[0][0][0] == Code.COOKIE_NOT_FOUND
        places.next = "ann"
        ann_again = await client_of(broker)
        ann_again.send(packets.cancel(cookie, number=1))
        assert (await ann_again.reply(cookie))[0] == Code.CANCELLING
        worker.finish(worker.held[0])
        assert (await ann.outcome(cookie)).code == Code.OK


# Seams that fail


class Raising:
    """An implementation of every seam that has a bug."""

    def admit(self, cookie: bytes, verdict: Verdict) -> None:
        raise ValueError("admission")

    def outcome(self, cookie: bytes, frame: bytes) -> None:
        raise ValueError("outcome")

    def capacity(self, offer: tuple[str, ...]) -> None:
        raise ValueError("capacity")

    def principal(self, role: Role, address: str) -> str:
        raise ValueError("principal")


@pytest.mark.parametrize("seam", ["outcomes", "capacity", "admission", "principals"])
async def test_a_seam_with_a_bug_does_not_stop_the_broker(seam: str) -> None:
    """What it concerned may be lost; everybody else goes on, as if it were a bug of ours."""
    seams: dict[str, Any] = {seam: Raising()}
    async with serving(**seams) as broker:
        worker = await worker_of(broker, 4) if seam != "principals" else None
        client = await connect(broker.client_urls[0], RawClient())
        if seam == "principals":
            client.send(b"RCB\x01")
            await client.until(lambda: client.is_lost, "nobody knows whose the connection is, and it stays")
            return
        await client.hello()
        one = client.run()
        if seam == "admission":
            await client.until(
                lambda: client.is_lost or (PacketType.REPLY, one) in client.heard, "nobody says what became of it"
            )
            await (await client_of(broker)).ping()
            await until(lambda: broker.switchboard.jobs == 0, "a job that nobody admits stays for ever")
            return
        assert (await client.outcome(one)).code == Code.OK
        await client.echo()
        await (await client_of(broker)).echo()
        assert worker is not None
        assert not worker.is_lost
