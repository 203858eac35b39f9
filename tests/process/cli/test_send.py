import json
import uuid

import pytest

from tests.process.cli.program import JsonPeer, Program, Relay, run

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("worker")]


@pytest.fixture
def cli(broker):
    """A command against the shared broker."""
    return lambda *arguments: run(*arguments, "--broker", broker.clients[0])


@pytest.fixture
def agent(cli, broker):
    """The cookie of a job that takes input, and that nobody waits for."""
    cookie = uuid.uuid4()
    assert cli("run", "agent", "--detach", "--cookie", cookie).returncode == 0
    broker.wait_for_event("route dispatched", cookie=cookie.hex)
    yield cookie
    cli("cancel", cookie)


def test_items_are_json_where_they_parse_and_text_otherwise(cli, broker, tmp_path):
    cookie = uuid.uuid4()
    options = ("--follow", "--cookie", cookie, "--broker", broker.clients[0])
    with Program(tmp_path / "run", "run", "agent", *options) as job:
        assert job.read_line() == "ready\n"
        done = cli("send", cookie, "approved", '{"n": [1, null]}', "17", '"17"')
        assert (done.returncode, done.stdout, done.stderr) == (0, "sent\n", "")
        told = json.loads(cli("send", cookie, "stop", "--json").stdout)
        assert told == {"cookie": str(cookie), "answer": "OK", "sent": 1}
        assert job.wait() == 0
        assert json.loads(job.output.read().splitlines()[-1]) == ["approved", {"n": [1, None]}, 17, "17", "stop"]


def test_a_job_that_is_over_takes_none_and_keeps_its_outcome(cli, agent, broker):
    cli("cancel", agent)
    broker.wait_for_event("route over", cookie=agent.hex)
    late = cli("send", agent, "more")
    assert (late.returncode, late.stdout, late.stderr.count("\n")) == (4, "", 1)
    assert f"job {agent} got no input (COOKIE_NOT_FOUND): the job is over" in late.stderr
    assert "the job was cancelled (CANCELLED)" in cli("attach", agent).stderr


def test_the_job_stays_whose_it_was(cli, broker, tmp_path):
    """It goes on waiting for whoever ran it to take its progress."""
    cookie = uuid.uuid4()
    options = ("--follow", "--json", "--cookie", cookie, "--broker", broker.clients[0])
    with Program(tmp_path / "run", "run", "loud", *options) as owner:
        assert owner.read_line().startswith('{"progress":1,')
        assert cli("send", cookie, "x").returncode == 0
        assert b'"gap"' not in owner.read_bytes(2_000_000)
        cli("cancel", cookie)


def test_who_says_the_last_word_does_not_take_the_result(cli, agent, broker):
    cli("send", agent, "stop")
    broker.wait_for_event("route over", cookie=agent.hex)
    assert cli("attach", agent).stdout == '["stop"]\n'


def test_a_job_that_is_not_there_is_refused(cli):
    cookie = uuid.uuid4()
    done = cli("send", cookie, "x")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    facts = json.loads(cli("send", cookie, "x", "--json").stdout)
    assert (facts["cookie"], facts["refused"]) == (str(cookie), "COOKIE_NOT_FOUND")


def test_an_existing_worker_takes_none(cli, broker):
    with JsonPeer(broker.workers[0]) as existing:
        existing.send("REGISTER", capacity=1)
        broker.wait_for_event("worker registered", capacity=1)
        cookie = uuid.uuid4()
        cli("run", "existing.alone", "--detach", "--cookie", cookie)
        assert existing.receive()["pipeline"] == "existing.alone"
        done = cli("send", cookie, "x")
        assert (done.returncode, done.stdout) == (4, "")
        assert "NOT_ALLOWED" in done.stderr


def test_who_waits_for_a_job_to_take_what_it_has_is_told(cli, broker, tmp_path):
    cookie = uuid.uuid4()
    cli("run", "wait", "--detach", "--cookie", cookie)
    broker.wait_for_event("route dispatched", cookie=cookie.hex)
    options = ("--broker", broker.clients[0])
    with Program(tmp_path / "log", "send", cookie, *map(str, range(300)), *options) as program:
        program.wait_until(lambda: "the job has enough that it has not taken; waiting" in program.errors)
        cli("cancel", cookie)
        assert program.wait() in (0, 4)


def test_a_broker_that_goes_away_meanwhile_is_told_and_not_that_the_job_is_over(cli, broker, tmp_path):
    cookie = uuid.uuid4()
    cli("run", "wait", "--detach", "--cookie", cookie)
    broker.wait_for_event("route dispatched", cookie=cookie.hex)
    with Relay(tmp_path / "relay.sock", broker.clients[0]) as relay:
        options = ("--broker", relay.url)
        with Program(tmp_path / "log", "send", cookie, *map(str, range(300)), *options) as program:
            program.wait_until(lambda: "the job has enough that it has not taken; waiting" in program.errors)
            relay.cut()
            assert program.wait() == 3
            assert "the connection to " in program.errors
            assert "the job is over" not in program.errors
    cli("cancel", cookie)


def test_without_a_broker_it_is_one_line():
    done = run("send", uuid.uuid4(), "x", "--broker", "tcp://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
