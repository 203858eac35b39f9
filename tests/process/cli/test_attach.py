import contextlib
import json
import uuid

import pytest

from tests.process.cli.program import Program, Relay, interrupt, run

MUCH = 2_000_000
"""Bytes that are more than all that can be under way to somebody who does not read."""

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("worker")]


@pytest.fixture
def attach(broker):
    def attach(*arguments):
        return run("attach", *arguments, "--broker", broker.clients[0])

    return attach


@pytest.fixture
def detached(broker):
    """The cookie of a job that runs by itself; of one that is over, if that is asked for."""

    def detached(pipeline, *arguments, event="route dispatched"):
        cookie = uuid.uuid4()
        done = run("run", pipeline, *arguments, "--detach", "--cookie", cookie, "--broker", broker.clients[0])
        assert done.returncode == 0, done.stderr
        broker.wait_for_event(event, cookie=cookie.hex)
        return cookie

    return detached


def test_an_outcome_is_fetched_once(attach, detached):
    cookie = detached("greet", "--set", "name=Ada", event="route over")
    done = attach(cookie)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello, Ada!\n", "")
    again = attach(cookie)
    assert (again.returncode, again.stdout) == (4, "")
    assert again.stderr.startswith(f"job {cookie} is over (OK), but its outcome is no longer kept")
    assert json.loads(attach(cookie, "--json").stdout)["ended"] == "OK"


def test_an_outcome_is_kept_for_as_long_as_is_said(attach, detached):
    cookie = detached("greet", "--set", "name=Ada", "--retention", "0", event="route over")
    assert attach(cookie).stderr.startswith(f"job {cookie} is over (OK), but its outcome is no longer kept")


def test_a_failure_is_fetched_with_all_that_belongs_to_it(attach, detached):
    done = attach(detached("fail", event="route over"))
    assert done.returncode == 1
    assert done.stderr.startswith("the job failed (EXCEPTION): ValueError: bad \\x1b[2J thing")
    assert 'jobs.py", line' in done.stderr
    facts = json.loads(attach(detached("fail", event="route over"), "--json").stdout)
    assert (facts["outcome"], facts["type"]) == ("EXCEPTION", "ValueError")


def test_progress_that_was_made_is_printed_too(attach, detached):
    done = attach(detached("story", event="route over"), "--follow")
    assert (done.returncode, done.stdout) == (0, 'line 1\nline 2\n{"lines":2}\nthe end\n')


def test_from_some_item_on_with_its_number(attach, detached):
    done = attach(detached("story", event="route over"), "--from", "2", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("progress") for line in lines] == [2, 3, None]
    assert lines[-1]["result"] == "the end"


def test_what_the_broker_no_longer_has_is_told(attach, detached):
    done = attach(detached("story", "--set", "lines=1000", event="route over"), "--follow", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    first, last = lines[0]["gap"]
    assert first == 1
    assert [line["progress"] for line in lines[1:-1]] == [*range(last + 1, 1002)]


def test_a_running_job_is_waited_for(detached, broker, tmp_path):
    cookie = detached("agent")
    with Program(tmp_path / "log", "attach", cookie, "--follow", "--broker", broker.clients[0]) as program:
        assert program.read_line() == "ready\n"
        assert run("send", cookie, "stop", "--broker", broker.clients[0]).returncode == 0
        assert [program.read_line(), program.read_line()] == ['{"got":"stop"}\n', '["stop"]\n']
        assert program.wait() == 0


def test_whoever_waits_for_a_job_that_waits_is_told_what_for(detached, broker, tmp_path):
    cookie = detached("served.by.nobody", event="route queued")
    with Program(tmp_path / "log", "attach", cookie, "--broker", broker.clients[0]) as program:
        program.wait_until(lambda: program.errors == f"job {cookie} waits: no connected worker serves this pipeline\n")
        assert run("cancel", cookie, "--broker", broker.clients[0]).stdout == "cancelled\n"
        assert program.wait() == 1


def test_ctrl_c_leaves_the_job_alone(detached, broker, tmp_path):
    cookie = detached("agent")
    with Program(tmp_path / "log", "attach", cookie, "--follow", "--broker", broker.clients[0]) as program:
        assert program.read_line() == "ready\n"
        interrupt(program)
        assert program.wait() == 130
        assert program.errors.strip() == "reasonchip-broker: interrupted"
    assert run("cancel", cookie, "--broker", broker.clients[0]).stdout == "cancelling\n"


@pytest.fixture
def two_of_them(broker, tmp_path):
    """Who ran a job that says much, and who attached to it with these options: neither has read anything."""
    with contextlib.ExitStack() as stack:

        def two_of_them(*options):
            cookie = uuid.uuid4()
            common = ("--follow", "--json", "--broker", broker.clients[0])
            owner = stack.enter_context(Program(tmp_path / "run", "run", "loud", "--cookie", cookie, *common))
            broker.wait_for_event("route dispatched", cookie=cookie.hex)
            stack.callback(run, "cancel", cookie, "--broker", broker.clients[0])
            other = stack.enter_context(Program(tmp_path / "attach", "attach", cookie, *options, *common))
            assert other.read_line().startswith('{"')
            return owner, other

        yield two_of_them


def test_who_only_looks_on_holds_nobody_up(two_of_them):
    owner, watcher = two_of_them("--watch")
    assert b'"gap"' not in owner.read_bytes(MUCH)
    assert watcher.process.poll() is None


def test_who_takes_a_job_over_is_whom_it_waits_for(two_of_them):
    owner, taker = two_of_them()
    assert b'"gap"' not in taker.read_bytes(MUCH)
    assert owner.process.poll() is None


def test_looking_on_takes_nothing_from_who_is_to_have_it(attach, detached):
    cookie = detached("greet", "--set", "name=Ada", event="route over")
    assert attach(cookie, "--watch").stdout == "Hello, Ada!\n"
    assert attach(cookie).stdout == "Hello, Ada!\n"


def test_a_connection_that_breaks_costs_nothing(detached, broker, tmp_path):
    cookie = detached("agent")
    with (
        Relay(tmp_path / "relay.sock", broker.clients[0]) as relay,
        Program(tmp_path / "log", "attach", cookie, "--follow", "--broker", relay.url) as program,
    ):
        assert program.read_line() == "ready\n"
        relay.cut()
        assert run("send", cookie, "stop", "--broker", broker.clients[0]).returncode == 0
        assert [program.read_line(), program.read_line()] == ['{"got":"stop"}\n', '["stop"]\n']


def test_a_job_that_is_not_there_is_one_line(attach):
    cookie = uuid.uuid4()
    done = attach(cookie)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert f"the broker knows no job {cookie}" in done.stderr
    assert json.loads(attach(cookie, "--follow", "--json").stdout)["refused"] == "COOKIE_NOT_FOUND"


def test_without_a_broker_it_is_one_line():
    done = run("attach", uuid.uuid4(), "--broker", "tcp://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
