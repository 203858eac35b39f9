import json
import uuid

import pytest

from tests.process.cli.program import Program, run

pytestmark = pytest.mark.process


@pytest.fixture
def drain(broker):
    def drain(*arguments):
        return run("drain", *arguments, "--broker", broker.clients[0])

    return drain


@pytest.fixture
def name():
    """A worker's, in one test alone."""
    return f"worker-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def leaving(name, folder, broker, tmp_path):
    """A worker for one test."""
    options = ("--broker", broker.workers[0], "--name", name, "--log-format", "json")
    with Program(tmp_path / "log", "worker", "jobs", *options, cwd=folder) as worker:
        broker.wait_for_event("worker registered", name=name)
        yield worker


def test_a_worker_finishes_what_it_has_and_takes_no_more(drain, name, leaving, broker, tmp_path):
    cookie = uuid.uuid4()
    clients = ("--broker", broker.clients[0])
    with Program(tmp_path / "run", "run", "agent", "--cookie", cookie, *clients) as job:
        broker.wait_for_event("route dispatched", cookie=cookie.hex)
        done = drain(name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "draining\n", "")
        assert leaving.wait_for_event("drained by the broker: 1 jobs are finished first")
        waiting = run("run", "greet", "--set", "name=Ada", "--queue-limit", "0.1", *clients)
        assert "QUEUE_TIMEOUT" in waiting.stderr
        run("send", cookie, "stop", *clients)
        assert (job.read_line(), job.wait()) == ('["stop"]\n', 0)


def test_it_leaves_for_good(drain, name, leaving):
    assert drain(name).returncode == 0
    assert leaving.wait() == 0
    assert len([event for event in leaving.events if event["event"].startswith("welcomed by broker")]) == 1


def test_a_worker_that_is_not_there_is_refused(drain):
    done = drain("no\x1bbody")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "\x1b" not in done.stderr
    done = drain("nobody")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert "worker nobody was not drained (WORKER_NOT_FOUND)" in done.stderr
    assert json.loads(drain("nobody", "--json").stdout)["refused"] == "WORKER_NOT_FOUND"


def test_the_answer_as_json(drain, name, leaving):
    assert json.loads(drain(name, "--json").stdout) == {"worker": name, "answer": "OK"}


def test_without_a_broker_it_is_one_line():
    done = run("drain", "w", "--broker", "tcp://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
