"""Scheduling in a real broker: limits declared in its file, told to who waits, changed by a signal; heavy jobs; affinity."""

import signal
import uuid

import pytest

from tests.process.cli.program import Broker, Program, run

pytestmark = pytest.mark.process

RULES = """
[[scheduling.limits]]
name = "one at a time"
pipelines = ["wa*"]
concurrency = 1
"""


def test_a_job_beyond_a_limit_waits_is_told_so_and_runs_when_the_operator_lifts_the_limit(tmp_path, folder):
    file = tmp_path / "broker.toml"
    file.write_text(RULES)
    cookies = [uuid.uuid4(), uuid.uuid4()]
    with (
        Broker(tmp_path / "log", "--config", file, "--log-level", "debug") as broker,
        Program(tmp_path / "worker", "worker", "jobs", "--broker", broker.workers[0], cwd=folder),
    ):
        to = ("--broker", broker.clients[0])
        broker.wait_for_event("worker registered")
        for cookie in cookies:
            run("run", "wait", "--detach", "--cookie", cookie, *to)
        assert run("run", "greet", "--set", "name=Ada", *to).stdout == "Hello, Ada!\n"
        waiting = run("status", cookies[1], *to).stdout
        assert "the limit 'one at a time' is reached: 1 of at most 1 jobs run" in waiting, waiting
        file.write_text("")
        broker.send(signal.SIGHUP)
        broker.wait_for_event("route dispatched", cookie=cookies[1].hex)
        for cookie in cookies:
            run("cancel", cookie, *to)
            broker.wait_for_event("route over", cookie=cookie.hex)


def test_a_job_that_takes_all_slots_of_a_worker_runs_alone(tmp_path, folder):
    file = tmp_path / "broker.toml"
    file.write_text('[scheduling.slots]\n"wa*" = 16\n')
    cookies = [uuid.uuid4(), uuid.uuid4()]
    with (
        Broker(tmp_path / "log", "--config", file, "--log-level", "debug") as broker,
        Program(tmp_path / "worker", "worker", "jobs", "--broker", broker.workers[0], cwd=folder),
    ):
        to = ("--broker", broker.clients[0])
        broker.wait_for_event("worker registered", capacity=16)
        for cookie in cookies:
            run("run", "wait", "--detach", "--cookie", cookie, *to)
        told = run("status", cookies[1], *to).stdout
        assert "no worker that serves this pipeline has the 16 slots free that the job takes" in told, told
        run("cancel", cookies[0], *to)
        broker.wait_for_event("route dispatched", cookie=cookies[1].hex)
        run("cancel", cookies[1], *to)
        broker.wait_for_event("route over", cookie=cookies[1].hex)


def test_jobs_of_one_affinity_key_go_to_one_worker_and_others_to_both(tmp_path, folder):
    with (
        Broker(tmp_path / "log", "--log-level", "debug") as broker,
        Program(tmp_path / "a", "worker", "jobs", "--name", "a", "--broker", broker.workers[0], cwd=folder),
        Program(tmp_path / "b", "worker", "jobs", "--name", "b", "--broker", broker.workers[0], cwd=folder),
    ):
        for name in "ab":
            broker.wait_for_event("worker registered", name=name)
        for key in ("", "conversation"):
            for _ in range(4):
                run("run", "greet", "--set", "name=Ada", "--affinity-key", key, "--broker", broker.clients[0])
        given = [event["worker"] for event in broker.events if event["event"] == "route dispatched"]
        assert [len(set(given[:4])), len(set(given[4:]))] == [2, 1]
