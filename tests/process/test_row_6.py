"""Row 6 of failures.md: SIGTERM under load. Every job that was accepted has an outcome, and its client has received it."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.limits import KIB
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import meta_of, payload_of
from reasonchip_broker.protocol.codes import ENCODING_BYTES, CloseReason, Code, PacketType
from reasonchip_broker.protocol.frames import Frame
from tests import attentive
from tests.process.rows import ServeProcess, effects_of, is_lost, lasts, outcomes_of
from tests.raw_peers import RawClient, RawWorker, connect, echoed, hang_up, kept

pytestmark = pytest.mark.process

CLIENTS = 8
AT_A_TIME = 100


class Flood(RawClient):
    """A client that always has so many jobs in the broker, until it is refused or sent away. Every job is echoed, or waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted: list[bytes] = []
        self.outcomes: Counter[bytes] = Counter()
        self.codes: dict[bytes, Code] = {}
        self.refused: dict[bytes, Code] = {}
        self.may_have_run: set[bytes] = set()

    def submit(self) -> None:
        """One more job."""
        nobody = len(self.submitted) % 50 == 0
        self.submitted.append(self.run("nobody-serves" if nobody else "side-effect", b"x" * 100))

    def hears(self, frame: Frame) -> None:
        super().hears(frame)
        kind, cookie, raw, code, _, _, _ = frame
        if kind == PacketType.RESULT:
            self.outcomes[cookie] += 1
            self.codes[cookie] = Code(code)
            if code != Code.OK and schemas.result_meta(meta_of(raw)).ran:
                self.may_have_run.add(cookie)
        elif kind == PacketType.REPLY and code != Code.QUEUED:
            self.refused[cookie] = Code(code)
        if not self.refused and kind == PacketType.RESULT:
            while len(self.submitted) - len(self.outcomes) < AT_A_TIME:
                self.submit()


def working(effects: int) -> Callable[[Frame], bytes | None]:
    """Echo, and write down that it was done; what says "keep" is kept."""

    def work(frame: Frame) -> bytes | None:
        os.write(effects, f"{frame[1].hex()} {frame[4]}\n".encode())
        return None if payload_of(frame[2]) == b"keep" else echoed(frame)

    return work


@asynccontextmanager
async def served(tmp_path: Path, *more: str) -> AsyncIterator[ServeProcess]:
    arguments = ("--clients", "tcp://127.0.0.1:0", "--workers", "tcp://127.0.0.1:0", "--log-level", "warning", *more)
    with await asyncio.to_thread(ServeProcess, tmp_path / "log", *arguments) as serve:
        try:
            yield serve
        finally:
            await hang_up()


async def flooded(serve: ServeProcess, effects: int) -> tuple[list[Flood], list[RawWorker]]:
    """Clients and workers in the middle of a lot of work."""
    workers = [await connect(serve.workers, RawWorker(working(effects))) for _ in range(2)]
    for worker in workers:
        await worker.register(64, "side-effect")
    floods = [await connect(serve.clients, Flood()) for _ in range(CLIENTS)]
    for flood in floods:
        await flood.hello()
    for flood in floods:
        for _ in range(AT_A_TIME):
            flood.submit()
    for flood in floods:
        await flood.until(lambda flood=flood: len(flood.codes) > 1000, "there was no load")  # type: ignore[misc]
    return floods, workers


def account(floods: list[Flood], begun: Counter[bytes]) -> Counter[str]:
    """What became of every job; each must have had one answer, and only one."""
    became: Counter[str] = Counter()
    for flood in floods:
        assert set(flood.outcomes.values()) == {1}
        assert set(flood.refused.values()) <= {Code.DRAINING}
        for cookie in flood.submitted:
            code, ran = flood.codes.get(cookie), begun[cookie]
            assert (code is None) == (cookie in flood.refused), "an accepted job has no outcome"
            became[code.name if code is not None else "refused"] += 1
            assert ran == (code == Code.OK), f"a job that was {code} ran {ran} times"
            assert cookie not in flood.may_have_run, "a job that was given back has never run, and is told so"
    return became


async def test_row_6_sigterm_under_load_leaves_no_accepted_job_without_an_outcome(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    effects = os.open(tmp_path / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with served(tmp_path) as serve:
        floods, workers = await flooded(serve, effects)
        # One job is finished last of all, so that until then everybody is answered.
        last = floods[0].run("side-effect", b"keep")
        floods[0].submitted.append(last)
        await one_is_held(workers)
        serve.terminate()
        for flood in floods:
            await flood.until(lambda flood=flood: bool(flood.refused), "nobody was refused")  # type: ignore[misc]
        for flood in floods:
            await flood.ping()
        for worker in workers:
            await worker.kind(PacketType.DRAIN)
        holder = next(worker for worker in workers if worker.held)
        holder.finish(holder.held[0])
        for peer in (*floods, *workers):
            await is_lost(peer)
            assert peer.farewell() == (CloseReason.SHUTTING_DOWN, "the broker is stopping")
        assert await asyncio.to_thread(serve.ended) == 0
    os.close(effects)
    became = account(floods, effects_of(tmp_path / "effects"))
    assert floods[0].codes[last] == Code.OK
    assert became.keys() == {"OK", "BROKER_WENT_AWAY", "refused"}
    for name, count in became.items():
        record_property(name, count)


async def one_is_held(workers: list[RawWorker]) -> None:
    """Wait until one of them keeps a job."""
    await attentive.until(lambda: any(worker.held for worker in workers), "the last job did not come", 20.0)


def large(frame: Frame) -> bytes:
    """A large result for any job."""
    return packets.result(frame[1], frame[4], bytes(64 * KIB), ENCODING_BYTES)


async def swamped(serve: ServeProcess) -> tuple[RawWorker, RawClient, list[bytes]]:
    """A worker, and a client for which 20 MB of outcomes wait, of which it reads nothing; and its jobs."""
    worker = await connect(serve.workers, RawWorker(large))
    await worker.register(100, "large")
    client = await connect(serve.clients, RawClient())
    await client.hello()
    client.live.pause_reading()
    cookies = client.run_all("large", 300)
    await attentive.until(lambda: len(worker.frames) >= 302, "the jobs did not come", 20.0)
    return worker, client, cookies


async def bystander(serve: ServeProcess) -> RawClient:
    """A client that is welcome, and has no jobs."""
    client = await connect(serve.clients, RawClient())
    await client.hello()
    return client


async def test_row_6_a_client_that_takes_its_time_receives_every_outcome_before_the_broker_ends(tmp_path: Path) -> None:
    """The broker has nothing else left to do; it looks away for a while, then reads on."""
    async with served(tmp_path) as serve:
        other = await bystander(serve)
        worker, client, cookies = await swamped(serve)
        await worker.ping()
        serve.terminate()
        await is_lost(other)
        await lasts(3.0)
        client.live.resume_reading()
        await is_lost(client)
        assert await asyncio.to_thread(serve.ended) == 0
        assert outcomes_of(client) == dict.fromkeys(cookies, 1)
        assert client.farewell() == (CloseReason.SHUTTING_DOWN, "the broker is stopping")


async def test_row_6_a_client_that_never_reads_again_keeps_the_broker_no_longer_than_the_write_deadline(tmp_path: Path) -> None:
    async with served(tmp_path, "--limit", "write_deadline_s=1") as serve:
        await swamped(serve)
        serve.terminate()
        assert await asyncio.to_thread(serve.ended) == 0


async def test_row_6_a_second_signal_waits_for_nobody_who_takes_nothing(tmp_path: Path) -> None:
    async with served(tmp_path, "--limit", "write_deadline_s=600", "--limit", "drain_s=600", "--log-level", "error") as serve:
        other = await bystander(serve)
        await swamped(serve)
        serve.terminate()
        await is_lost(other)
        serve.terminate()
        assert await asyncio.to_thread(serve.ended) == 0


async def test_row_6_what_does_not_end_within_the_drain_limit_is_given_up_and_its_client_is_told(tmp_path: Path) -> None:
    async with served(tmp_path, "--limit", "drain_s=0.5", "--log-level", "error") as serve:
        worker = await connect(serve.workers, RawWorker(kept))
        await worker.register(1, "held")
        client = await connect(serve.clients, RawClient())
        await client.hello()
        running, retried, waiting = client.run("held"), client.run("held", att=3), client.run("held")
        await worker.holds(1)
        serve.terminate()
        for cookie, ran in ((waiting, False), (retried, False), (running, True)):
            outcome = await client.outcome(cookie)
            assert (outcome.code, schemas.result_meta(outcome.meta).ran) == (Code.BROKER_WENT_AWAY, ran)
        await is_lost(client)
        assert outcomes_of(client) == dict.fromkeys([running, retried, waiting], 1)
        assert await asyncio.to_thread(serve.ended) == Exit.FAILED


async def test_row_6_a_job_whose_worker_is_lost_while_the_broker_drains_is_not_begun_again(tmp_path: Path) -> None:
    async with served(tmp_path) as serve:
        worker = await connect(serve.workers, RawWorker(kept))
        await worker.register(2, "held")
        client = await connect(serve.clients, RawClient())
        await client.hello()
        once, retried = client.run("held"), client.run("held", att=3, back=0)
        await worker.holds(2)
        serve.terminate()
        await worker.kind(PacketType.DRAIN)
        worker.live.abort()
        assert (await client.outcome(once)).code == Code.WORKER_WENT_AWAY
        outcome = await client.outcome(retried)
        assert (outcome.code, schemas.result_meta(outcome.meta).ran) == (Code.BROKER_WENT_AWAY, True)
        assert [record.attempt for record in schemas.failure(outcome.payload).hist] == [1]
        await is_lost(client)
        assert await asyncio.to_thread(serve.ended) == 0
