"""The table of jobs: every RUN is answered once, on the connection that it came on."""

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from reasonchip_broker.limits import MIB
from reasonchip_broker.peer import payloads
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode, encode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.worker import context as contexts
from reasonchip_broker.worker import desk as desks
from reasonchip_broker.worker.channel import Channel
from reasonchip_broker.worker.desk import Desk
from reasonchip_broker.worker.executors import Executor
from reasonchip_broker.worker.jobs import Job, perform
from reasonchip_broker.worker.pipelines import Pipeline, Pipelines, Runs
from tests.unit.worker.harness import Outcome

COOKIE = bytes(range(16))


class HandExecutor(Executor):
    """Does nothing by itself: the test ends each job."""

    def __init__(self) -> None:
        self.started: list[Job] = []
        self.told: list[tuple[str, Job]] = []
        self.stopped: list[tuple[Job, bool]] = []

    def start(self, job: Job) -> None:
        self.started.append(job)

    def stop(self, job: Job, *, at_once: bool) -> None:
        self.stopped.append((job, at_once))

    def suspend(self, job: Job) -> None:
        self.told.append(("suspend", job))
        super().suspend(job)

    def restart(self, job: Job, credit: int, window: int) -> None:
        self.told.append((f"restart {credit} {window}", job))
        super().restart(job, credit, window)

    def close(self) -> None: ...


class Setting:
    """A desk with two slots, and what it sends."""

    def __init__(self, *, session: bool = False) -> None:
        pipelines = Pipelines()
        pipelines.add(Pipeline("echo.*", lambda value=None: value))
        self.executor = HandExecutor()
        self.sent: list[bytes] = []
        self.said: list[bytes] = []
        self.desk = Desk(pipelines, 2, {Runs.THREAD: self.executor}, self.sent.append, self._say, session=session)
        self.desk.frame_bytes_max = MIB

    def _say(self, frame: bytes) -> None:
        self.said.append(frame)
        self.desk.said(frame)

    def run(
        self,
        cookie: bytes = COOKIE,
        pipeline: str = "echo.x",
        attempt: int = 1,
        value: Any = None,
        left_ms: int = 0,
        **more: Any,
    ) -> None:
        options = schemas.encode_meta(schemas.RunOptions(p=pipeline, enc="msgpack", **more))
        self.desk.run(cookie, packets.run(cookie, options, payloads.encode({"value": value}, "msgpack"), left_ms, attempt))

    def begin(self, *, cookie: bytes = COOKIE, value: Any = None, **more: Any) -> Job:
        """Run a job as far as its executor having claimed it."""
        self.run(cookie, value=value, **more)
        job = self.executor.started[-1]
        assert job.claim()
        return job

    @property
    def outcome(self) -> Outcome:
        """The one thing that was sent since this was last asked."""
        assert len(self.sent) == 1
        return Outcome(self.sent.pop())


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    assert 0 <= made.desk.free <= 2


@pytest.fixture
def session() -> Iterator[Setting]:
    made = Setting(session=True)
    made.desk.held()
    yield made
    assert 0 <= made.desk.free <= 2


def channel_of(job: Job) -> Channel:
    assert job.channel is not None
    return job.channel


def test_a_run_is_started_and_its_report_sent(setting) -> None:
    job = setting.begin(value=5)
    assert (setting.desk.jobs, setting.desk.free) == (1, 1)
    assert (job.cookie, job.attempt, job.context.pipeline, job.context.deadline) == (COOKIE, 1, "echo.x", None)
    setting.desk.ended(job, perform(job))
    assert setting.outcome.value == 5
    assert (setting.desk.jobs, setting.desk.free) == (0, 2)


def test_the_same_options_are_read_once_and_others_are_not_taken_for_them(setting, monkeypatch) -> None:
    read: list[bytes] = []
    decode_options = schemas.run_options

    def run_options(meta: bytes) -> schemas.RunOptions:
        read.append(meta)
        return decode_options(meta)

    monkeypatch.setattr(schemas, "run_options", run_options)
    for value, attempts in ((1, 1), (2, 1), (3, 2)):
        job = setting.begin(value=value, att=attempts)
        assert job.context.attempts == attempts
        setting.desk.ended(job, perform(job))
        assert setting.outcome.value == value
    assert len(read) == 2


def test_options_are_remembered_for_no_more_than_so_many_and_of_no_more_than_such_a_size(setting, monkeypatch) -> None:
    monkeypatch.setattr(desks, "KNOWN_MAX", 2)
    monkeypatch.setattr(desks, "KNOWN_BYTES_MAX", 100)
    for name in ("echo.a", "echo.b", "echo.c", f"echo.{'d' * 100}"):
        job = setting.begin(pipeline=name)
        assert job.context.pipeline == name
        setting.desk.ended(job, perform(job))
        assert len(setting.desk._known) <= 2
    assert [options.p for options, _ in setting.desk._known.values()] == ["echo.c"]


def test_what_can_not_be_run_is_answered_each_time(setting) -> None:
    for _ in range(2):
        setting.run(pipeline="nobody")
        assert setting.outcome.failure.type == "UnknownPipeline"


async def test_a_job_may_say_as_much_as_the_connection_that_it_came_on_allows(setting) -> None:
    for frames in (1, 2):
        setting.desk.allowance = (frames, MIB)
        job = setting.begin()
        for number in range(frames):
            await asyncio.wait_for(job.context.progress(number), 5)
        waiting = asyncio.ensure_future(job.context.progress("one too many"))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        setting.desk.ended(job, perform(job))


def test_the_time_left_becomes_a_deadline_of_this_machine(setting) -> None:
    setting.run(left_ms=60_000)
    remaining_s = setting.executor.started[0].context.deadline - time.monotonic()
    assert 50 < remaining_s <= 60


def test_an_unknown_pipeline_is_answered(setting) -> None:
    setting.run(pipeline="other")
    outcome = setting.outcome
    assert (outcome.code, outcome.may_have_run, outcome.failure.type) == (Code.EXCEPTION, False, "UnknownPipeline")
    assert outcome.failure.error == "this worker does not serve pipeline 'other'"
    assert setting.executor.started == []


@pytest.mark.parametrize("meta", [b"", b"\xc1", b"\x80", b"\x81\xa1p\x01", b"\x81\xa1p\xa3a\nb", b"\x90"])
def test_a_run_whose_options_make_no_sense_is_answered(setting, meta) -> None:
    setting.desk.run(COOKIE, encode(PacketType.RUN, attempt=1, cookie=COOKIE, meta=meta))
    outcome = setting.outcome
    assert (outcome.code, outcome.may_have_run, outcome.failure.type) == (Code.EXCEPTION, False, "InvalidRun")


def test_a_run_beyond_the_capacity_is_answered(setting) -> None:
    for _ in range(2):
        setting.begin(cookie=os.urandom(16))
    setting.run()
    outcome = setting.outcome
    assert (outcome.code, outcome.may_have_run, outcome.failure.type) == (Code.EXCEPTION, False, "NoSlot")
    assert outcome.failure.error == "all 2 slots are taken"


def test_a_run_that_is_running_is_neither_started_twice_nor_ended(setting) -> None:
    job = setting.begin()
    setting.run()
    assert setting.sent == []
    setting.run(attempt=2)
    outcome = setting.outcome
    assert (outcome.code, outcome.attempt, outcome.may_have_run) == (Code.EXCEPTION, 2, False)
    assert setting.executor.started == [job]


def test_a_run_over_this_ends_limit_is_answered_from_its_header(setting) -> None:
    header = packets.run(COOKIE, b"", b"", attempt=3)
    setting.desk.oversized(COOKIE, (100 * MIB).to_bytes(4, "big") + header[4:32])
    outcome = setting.outcome
    assert (outcome.code, outcome.attempt, outcome.may_have_run) == (Code.TOO_LARGE, 3, False)
    assert outcome.failure.error == "the RUN of 104857600 bytes is over the limit of this worker"


# ── Cancelling ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_that_is_cancelled_before_it_begins_never_does(setting) -> None:
    setting.run()
    setting.desk.cancel(COOKIE, packets.cancel(COOKIE, why="changed my mind", attempt=1))
    outcome = setting.outcome
    assert (outcome.code, outcome.may_have_run) == (Code.CANCELLED, False)
    assert outcome.failure.error == "cancelled before it ran: changed my mind"
    assert setting.desk.free == 2
    assert not setting.executor.started[0].claim()
    assert setting.executor.stopped == []


@pytest.mark.parametrize("at_once", [False, True])
def test_a_job_that_runs_is_stopped_by_its_executor(setting, at_once) -> None:
    job = setting.begin()
    setting.desk.cancel(COOKIE, packets.cancel(COOKIE, at_once=at_once, attempt=1))
    assert setting.executor.stopped == [(job, at_once)]
    assert contexts.was_told(job.context)
    assert setting.sent == []
    assert setting.desk.free == 1, "its slot is free when it has ended, not when it was told to"
    setting.desk.ended(job, job.cancelled("cancelled while it ran"))
    assert setting.outcome.code == Code.CANCELLED
    assert setting.desk.free == 2


def test_a_cancel_for_another_attempt_or_an_unknown_job_is_nothing(setting) -> None:
    job = setting.begin()
    setting.desk.cancel(COOKIE, packets.cancel(COOKIE, attempt=2))
    setting.desk.cancel(bytes(16), packets.cancel(bytes(16)))
    assert not contexts.was_told(job.context)
    assert setting.executor.stopped == []


def test_a_cancel_whose_options_make_no_sense_cancels(setting) -> None:
    job = setting.begin()
    setting.desk.cancel(COOKIE, encode(PacketType.CANCEL, cookie=COOKIE, meta=b"\x81\xa3now\x05"))
    assert setting.executor.stopped == [(job, False)]


# ── Losing the connection ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_late_result_of_a_lost_connection_is_sent_nowhere(setting) -> None:
    job = setting.begin(value="old")
    setting.run(os.urandom(16))
    assert setting.desk.lose_all() == 2
    assert contexts.was_told(job.context)
    assert setting.executor.stopped == [(job, True)]
    assert (setting.desk.jobs, setting.desk.free) == (0, 1), "the one that had begun still holds its slot"
    setting.begin(value="new")
    setting.desk.ended(job, perform(job))
    assert setting.sent == []
    assert (setting.desk.jobs, setting.desk.free) == (1, 1)


def test_a_slot_that_a_lost_job_holds_is_not_given_away(setting) -> None:
    lost = [setting.begin(cookie=os.urandom(16)) for _ in range(2)]
    setting.desk.lose_all()
    setting.run()
    assert setting.outcome.failure.type == "NoSlot"
    setting.desk.ended(lost[0], b"late")
    setting.run()
    assert setting.sent == []
    assert setting.desk.free == 0


# ── Stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_jobs_that_the_worker_gives_up_are_left_to_the_broker_unless_they_are_done(setting) -> None:
    stopped, done = [setting.begin(cookie=os.urandom(16), value=n) for n in range(2)]
    assert setting.desk.stop_all() == 2
    setting.desk.ended(stopped, stopped.cancelled("cancelled while it ran"))
    assert setting.sent == [], "nobody asked for a cancellation: to the broker this is a worker that went away"
    setting.desk.ended(done, perform(done))
    assert setting.outcome.value == 1
    assert setting.desk.jobs == 0


def test_jobs_that_have_not_begun_do_not_hold_up_a_stop(setting) -> None:
    setting.run()
    assert setting.desk.stop_all() == 0
    assert setting.sent == []
    assert not setting.executor.started[0].claim()


# ── What jobs say, and hear ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_job_may_do_is_in_its_run(setting) -> None:
    setting.desk.allowance = (3, 1000)
    job = setting.begin(attempt=2, att=5, rlim=60_000)
    assert (job.context.attempt, job.context.attempts, job.allowance) == (2, 5, (3, 1000))
    assert 50 < job.context.remaining_s <= 60


def test_what_a_job_says_is_sent_and_what_comes_for_it_is_heard(setting) -> None:
    setting.desk.allowance = (1, 1000)
    job = setting.begin()
    channel = channel_of(job)
    channel.progress(1)
    assert [frame[4] for frame in setting.sent] == [PacketType.PROGRESS]
    setting.desk.deliver(COOKIE, packets.credit(COOKIE, 2, 1))
    assert channel._unacked_bytes == 1, "credit of another attempt is none"
    setting.desk.deliver(COOKIE, packets.credit(COOKIE, 1, 1))
    assert channel._unacked_bytes == 0
    setting.desk.deliver(bytes(16), packets.credit(bytes(16), 1, 1))
    setting.desk.ended(job, perform(job))
    setting.sent.clear()
    setting.desk.said(packets.progress(COOKIE, 1, 2, b"", ""))
    assert setting.sent == [], "no progress after the result"


def test_a_parked_job_does_not_count_against_the_capacity(setting) -> None:
    jobs = [setting.begin(cookie=os.urandom(16)) for _ in range(2)]
    assert setting.desk.free == 0
    channel_of(jobs[0]).park()
    assert setting.desk.free == 1
    third = setting.begin(cookie=os.urandom(16))
    assert third.context.pipeline == "echo.x"
    assert setting.desk.free == 0
    channel_of(jobs[0]).unpark()
    assert setting.desk.free == 0, "it is only asked for"
    setting.desk.ended(third, perform(third))
    assert setting.desk.free == 1
    setting.desk.deliver(jobs[0].cookie, packets.resume(jobs[0].cookie, 1))
    assert setting.desk.free == 0
    channel_of(jobs[1]).park()
    setting.desk.ended(jobs[1], perform(jobs[1]))
    setting.desk.ended(jobs[0], perform(jobs[0]))
    assert (setting.desk.free, setting.desk._lent) == (2, 0)


def test_a_parked_job_that_is_lost_takes_a_slot_until_it_ends(setting) -> None:
    job = setting.begin()
    channel_of(job).park()
    setting.desk.lose_all()
    assert setting.desk.free == 1
    setting.desk.ended(job, perform(job))
    assert setting.desk.free == 2


# ── A session ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_results_are_owed_until_they_are_acknowledged(session) -> None:
    desk = session.desk
    job = session.begin(value=1)
    desk.ended(job, perform(job))
    assert (desk.jobs, desk.owed) == (0, 1)
    assert session.outcome.value == 1
    desk.acknowledged(1)
    assert desk.owed == 0


def test_a_suspended_job_is_listed_and_goes_on_once_it_is_confirmed(session) -> None:
    desk = session.desk
    job = session.begin()
    channel_of(job).progress("before")
    desk.suspend_all()
    session.sent.clear()
    channel = channel_of(job)
    channel.park()
    assert session.sent == [], "there is nobody to tell"
    assert desk.held() == [(COOKIE, 1)]
    desk.allowance = (7, 700)
    assert desk.resumed({(COOKIE, 1)}) == 0
    assert [decode(frame).kind for frame in session.sent] == [PacketType.PARK], "what was said in the break is said again"
    assert session.executor.told == [("suspend", job), ("restart 7 700", job)]
    session.sent.clear()
    channel.progress("after")
    assert decode(session.sent.pop()).number == 2, "numbers go on"


def test_time_and_a_slot_that_were_asked_for_in_the_break_are_asked_for_again(session) -> None:
    desk = session.desk
    job = session.begin(rlim=60_000)
    channel_of(job).park()
    desk.suspend_all()
    session.sent.clear()
    channel_of(job).unpark()
    job.context.extend(100)
    desk.held()
    desk.resumed({(COOKIE, 1)})
    resume, extend = (decode(frame) for frame in session.sent)
    assert (resume.kind, extend.kind) == (PacketType.RESUME, PacketType.EXTEND)
    assert 90_000 < extend.number <= 100_000


def test_a_job_that_is_not_confirmed_is_stopped_and_its_result_sent_all_the_same(session) -> None:
    desk = session.desk
    job = session.begin()
    waiting = os.urandom(16)
    session.run(waiting)
    desk.suspend_all()
    assert set(desk.held()) == {(COOKIE, 1), (waiting, 1)}
    assert desk.resumed(set()) == 2
    assert contexts.was_told(job.context)
    assert session.executor.stopped == [(job, True)]
    outcome = session.outcome
    assert (outcome.code, outcome.may_have_run) == (Code.CANCELLED, False), "the one that had not begun"
    channel_of(job).park()
    assert session.sent == [], "nobody follows it"
    desk.ended(job, job.cancelled("cancelled while it ran"))
    assert session.outcome.code == Code.CANCELLED
    assert desk.free == 2


def test_results_of_the_break_are_sent_after_it(session) -> None:
    desk = session.desk
    done, unheard = session.begin(value="x" * 1000), session.begin(cookie=bytes(16), value="y" * 1000)
    desk.suspend_all()
    for job in (done, unheard):
        desk.ended(job, perform(job))
    assert session.sent == []
    assert desk.owed == 2
    assert desk.held() == [(COOKIE, 1), (bytes(16), 1)]
    desk.resumed({(COOKIE, 1)})
    first, second = (Outcome(frame) for frame in session.sent)
    assert first.value == "x" * 1000
    assert second.code == Code.CANCELLED, "a result that nobody waits for is not carried all the way"
    assert len(session.sent[1]) < 200
    desk.acknowledged(2)
    assert desk.owed == 0


def test_a_result_that_comes_between_register_and_its_answer_is_sent_once(session) -> None:
    desk = session.desk
    job = session.begin(value=1)
    desk.suspend_all()
    desk.held()
    desk.ended(job, perform(job))
    assert session.outcome.value == 1
    desk.resumed({(COOKIE, 1)})
    assert session.sent == []


def test_a_run_that_comes_before_the_answer_to_register_is_a_job_like_any_other(session) -> None:
    desk = session.desk
    desk.suspend_all()
    desk.held()
    job = session.begin()
    assert desk.resumed(set()) == 0
    assert not contexts.was_told(job.context)


def test_jobs_that_nobody_can_wait_for_any_more_are_stopped_and_their_results_owed(session) -> None:
    desk = session.desk
    job = session.begin()
    assert desk.forsake() == 0
    desk.suspend_all()
    assert desk.forsake() == 1
    assert session.executor.stopped == [(job, True)]
    desk.ended(job, job.cancelled("cancelled while it ran"))
    assert desk.held() == [(COOKIE, 1)]
    desk.lose_all()
    assert desk.owed == 0
