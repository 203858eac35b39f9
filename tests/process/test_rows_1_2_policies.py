"""Rows 1 and 2 of failures.md, of jobs that asked for more than to be run: attempts that outlive a killed worker, and what becomes of
the jobs of a killed client."""

import asyncio
import os
from collections import Counter

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import Frame
from tests.process.rows import broker_process, nursery, outcomes_of, read, send
from tests.raw_peers import HELLO, RawWorker, connect, options

pytestmark = pytest.mark.process

ROUNDS = 25
JOBS = 4
"""Of each kind, in each round."""

VICTIMS = 3
"""Workers that are killed one after the other, with all that the one before them held."""

CLIENTS = 40


async def test_row_1_jobs_of_a_killed_worker_are_begun_again_as_long_as_attempts_are_left() -> None:
    """One attempt: lost. Three, each of which costs a worker its life: given up, with what became of each. Five: done by the next."""
    async with broker_process() as broker, nursery() as peers:
        client = await broker.client()
        codes: Counter[tuple[int, Code]] = Counter()
        for number in range(ROUNDS):
            pipeline = f"doomed-{number}"
            register = packets.register(schemas.RegisterMeta(cap=3 * JOBS, serves=[pipeline]))
            jobs = [(attempts, client.run(pipeline, att=attempts, back=0)) for attempts in (1, 3, 5) for _ in range(JOBS)]
            for kill in range(VICTIMS):
                held = JOBS * (3 if kill == 0 else 2)
                victim = peers.peer(broker.workers[0], send(HELLO), read(1), send(register), read(1), read(held))
                await victim.reached()
                victim.kill()
                victim.died()
            last = await broker.worker(3 * JOBS, pipeline)
            for attempts, cookie in jobs:
                outcome = await client.outcome(cookie)
                codes[attempts, Code(outcome.code)] += 1
                history = [] if outcome.code == Code.OK else schemas.failure(outcome.payload).hist
                ended = {1: [], 3: [(1, "WORKER_WENT_AWAY"), (2, "WORKER_WENT_AWAY"), (3, "WORKER_WENT_AWAY")], 5: []}
                assert [(record.attempt, record.end) for record in history] == ended[attempts], (
                    f"of {attempts} attempts, it ended with {Code(outcome.code).name}"
                )
            assert Counter(frame[4] for frame in last.frames if frame[0] == PacketType.RUN) == {VICTIMS + 1: JOBS}
            last.live.abort()
        total = ROUNDS * JOBS
        assert codes == {(1, Code.WORKER_WENT_AWAY): total, (3, Code.DEAD_LETTERED): total, (5, Code.OK): total}
        assert set(outcomes_of(client).values()) == {1}
        state = await broker.becomes(lambda state: state["connections"] == 1, "a killed worker is still connected")
        assert (state["jobs"], state["waiting"], state["reserved"], state["capacity"]) == (0, 0, 0, 0)
        assert state["counters"]["retried"] == total * (2 + VICTIMS)


class Obedient(RawWorker):
    """A worker that keeps every job, and lets go of it when it is told to cancel it."""

    def __init__(self) -> None:
        super().__init__(lambda frame: None)
        self.begun: set[bytes] = set()
        self.cancelled: set[bytes] = set()

    def hears(self, frame: Frame) -> None:
        super().hears(frame)
        if frame[0] == PacketType.RUN:
            self.begun.add(frame[1])
        elif frame[0] == PacketType.CANCEL:
            self.cancelled.add(frame[1])
            self.held = [kept for kept in self.held if kept[1] != frame[1]]
            self.send(packets.failed(frame[1], frame[4] or 1, Code.CANCELLED, "as asked"))


POLICIES: dict[str, dict[str, object]] = {
    "continue": {},
    "cancel": {"orphan": 0},
    "grace": {"orphan": 300},
    "attached": {"orphan": 60_000},
}
"""`attached`: somebody else follows the job before its grace is over."""


async def test_row_2_the_jobs_of_a_killed_client_do_as_their_policy_says() -> None:
    """Running and waiting ones, of real processes that are killed: they go on, are cancelled at once, or after a while unless somebody
    attaches. Whatever became of them, anybody of their principal can fetch the outcome."""
    async with broker_process() as broker, nursery() as peers:
        worker = await connect(broker.workers[0], Obedient())
        await worker.register(1000, "held")
        other = await broker.client()
        jobs = {
            (policy, pipeline): [os.urandom(16) for _ in range(CLIENTS)]
            for policy in POLICIES
            for pipeline in ("held", "unserved")
        }
        victims = []
        for number in range(CLIENTS):
            runs = [
                packets.run(cookies[number], options(pipeline, **POLICIES[policy]), b"x")
                for (policy, pipeline), cookies in jobs.items()
            ]
            # A REPLY for each that waits.
            victims.append(peers.peer(broker.clients[0], send(HELLO), read(1), send(*runs), read(len(POLICIES))))
        await asyncio.gather(*(victim.reached() for victim in victims))
        await worker.holds(CLIENTS * len(POLICIES))
        for victim in victims:
            victim.kill()
        for victim in victims:
            victim.died()
        for pipeline in ("held", "unserved"):
            for cookie in jobs["attached", pipeline]:
                other.send(packets.attach(cookie, number=1))
        await other.ping()
        cancelled = {policy: {*jobs[policy, "held"]} for policy in ("cancel", "grace")}
        await worker.until(lambda: worker.cancelled >= cancelled["cancel"] | cancelled["grace"], "not all were cancelled")
        assert worker.cancelled == cancelled["cancel"] | cancelled["grace"]
        state = await broker.becomes(lambda state: state["jobs"] == 4 * CLIENTS, "other jobs are left than should be")
        assert state["connections"] == 2
        assert state["timers"] < CLIENTS, "the end of a grace is still waited for, though somebody has attached before"
        for frame in worker.held[:]:
            worker.finish(frame)
        late = await broker.worker(1000, "unserved")
        for (policy, pipeline), cookies in jobs.items():
            for cookie in cookies:
                if policy != "attached":
                    other.send(packets.attach(cookie, number=2))
                outcome = await other.outcome(cookie)
                goes_on = policy in ("continue", "attached")
                assert outcome.code == (Code.OK if goes_on else Code.CANCELLED), f"{policy}, {pipeline}"
                if not goes_on:
                    assert schemas.result_meta(outcome.meta).ran == (pipeline == "held")
        assert outcomes_of(other) == dict.fromkeys([cookie for cookies in jobs.values() for cookie in cookies], 1)
        begun = {frame[1] for frame in late.frames if frame[0] == PacketType.RUN}
        assert begun == {*jobs["continue", "unserved"], *jobs["attached", "unserved"]}, (
            "what was cancelled while it waited has run"
        )
        state = await broker.state()
        assert (state["jobs"], state["free"], state["capacity"], state["reserved"]) == (0, 2000, 2000, 0)
