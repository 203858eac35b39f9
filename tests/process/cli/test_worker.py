import signal
import uuid

import pytest

from tests.process.cli.program import Broker, Program, Relay, run

pytestmark = pytest.mark.process

COOKIE = uuid.uuid4()


@pytest.fixture
def start_worker(folder, broker, tmp_path):
    started: list[Program] = []

    def start_worker(*arguments, cwd=folder, **changes):
        options = ("--broker", broker.workers[0], "--log-format", "json")
        program = Program(tmp_path / f"log{len(started)}", "worker", *arguments, *options, cwd=cwd, **changes)
        started.append(program)
        return program

    yield start_worker
    for program in started:
        program.__exit__()


def result(broker, pipeline, *arguments):
    return run("run", pipeline, *arguments, "--broker", broker.clients[0]).stdout


def test_flags_win_over_what_the_module_says(start_worker, broker):
    start_worker("jobs:worker", "--capacity", "3", "--name", "flagged")
    assert broker.wait_for_event("worker registered", name="flagged")["capacity"] == 3


def test_the_module_says_the_rest(start_worker, broker):
    start_worker("jobs", "--name", "plain")
    assert broker.wait_for_event("worker registered", name="plain")["capacity"] == 16


def test_with_a_session_a_lost_connection_costs_no_job(start_worker, tmp_path, folder):
    with (
        Broker(tmp_path / "broker", "--log-level", "debug") as broker,
        Relay(tmp_path / "relay.sock", broker.workers[0]) as relay,
        Program(
            tmp_path / "worker", "worker", "jobs", "--broker", relay.url, "--name", "back", "--session-grace", "30", cwd=folder
        ),
        Program(tmp_path / "run", "run", "agent", "--follow", "--cookie", COOKIE, "--broker", broker.clients[0]) as job,
    ):
        # That the broker has dispatched it does not say that it has come through the relay: a worker that never had it loses it.
        assert job.read_line() == "ready\n"
        relay.cut()
        broker.wait_until(lambda: len([event for event in broker.events if event["event"] == "worker registered"]) == 2)
        assert run("send", COOKIE, "stop", "--broker", broker.clients[0]).returncode == 0
        assert [job.read_line(), job.read_line(), job.wait()] == ['{"got":"stop"}\n', '["stop"]\n', 0]


@pytest.mark.parametrize(
    "arguments", [["--session-grace", "61"], ["--session-grace", "-1"], ["--name", "a\nb"], ["--name", ""]]
)
def test_what_no_broker_takes_is_one_line(folder, arguments):
    done = run("worker", "jobs", *arguments, cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_a_file_will_do_for_a_module(start_worker, broker, folder, tmp_path):
    start_worker(f"{folder}/jobs.py:worker", "--name", "of-a-file", cwd=tmp_path)
    broker.wait_for_event("worker registered", name="of-a-file")


def test_sigterm_ends_it_in_order(start_worker, broker):
    worker = start_worker("jobs", "--name", "terminated")
    broker.wait_for_event("worker registered", name="terminated")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert [event["event"] for event in worker.events][-1].startswith("left the broker")


def test_it_comes_back_when_the_broker_does(start_worker, tmp_path, folder):
    addresses = ("--clients", "tcp://127.0.0.1:0", "--workers", f"unix://{tmp_path}/w.sock")
    options = ("--broker", f"unix://{tmp_path}/w.sock", "--log-format", "json")
    with Program(tmp_path / "worker", "worker", "jobs", *options, cwd=folder):
        for turn in range(2):
            with Broker(tmp_path / f"broker{turn}", addresses=addresses) as broker:
                broker.wait_for_event("worker registered")


def test_with_processes_a_handler_that_dies_costs_only_its_own_job(start_worker, broker):
    worker = start_worker("jobs", "--name", "sturdy", "--processes", "--capacity", "2")
    broker.wait_for_event("worker registered", name="sturdy")
    done = run("run", "die", "--broker", broker.clients[0])
    assert done.returncode == 1
    assert "EXCEPTION" in done.stderr
    assert int(result(broker, "process")) != worker.process.pid
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere", ["no module 'nowhere'"]),
        ("jobs:nothing", ["jobs:nothing is nothing", "there is worker"]),
        ("jobs:greet", ["jobs:greet is a function", "must be a Worker"]),
        ("empty", ["not exactly one Worker in empty", "worker = Worker()"]),
        ("two", ["not exactly one Worker in two", "one, other"]),
        ("broken", ["broken can't be imported", "ZeroDivisionError", "broken.py, line 2"]),
        ("typo", ["typo can't be imported", "SyntaxError", "typo.py, line 1"]),
        ("needs", ["needs can't be imported", "surely_not_installed"]),
        ("idle", ["idle can't be run", "serves no pipeline"]),
    ],
)
def test_a_mistake_is_one_line_that_says_where(folder, broker, target, words):
    modules = {
        "empty": "",
        "two": "from reasonchip_broker.worker import Worker\none = Worker()\nother = Worker()\n",
        "broken": "x = 1\ny = 1 / 0\n",
        "typo": "def f(:\n",
        "needs": "import surely_not_installed\n",
        "idle": "from reasonchip_broker.worker import Worker\nworker = Worker()\n",
    }
    if target in modules:
        (folder / f"{target}.py").write_text(modules[target])
    done = run("worker", target, "--broker", broker.workers[0], cwd=folder)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_an_address_that_is_none_is_one_line(folder):
    done = run("worker", "jobs", "--broker", "nowhere", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_what_its_own_code_logs_is_in_the_same_log(start_worker, broker, tmp_path):
    (tmp_path / "chatty.py").write_text(
        "import logging\nfrom reasonchip_broker.worker import Worker\n"
        "logging.getLogger('chatty').warning('loaded\\n\\x1b[2J')\n"
        "worker = Worker()\nworker.add('chat', print)\n"
    )
    worker = start_worker("chatty", cwd=tmp_path)
    worker.wait_until(lambda: worker.errors)
    assert worker.events[0]["event"] == "loaded\n\x1b[2J"
    assert worker.events[0]["logger"] == "chatty"
