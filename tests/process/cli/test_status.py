import json
import uuid

import pytest

from tests.process.cli.program import run

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("worker")]


@pytest.fixture
def cli(broker):
    """A command against the shared broker."""
    return lambda *arguments: run(*arguments, "--broker", broker.clients[0])


@pytest.fixture
def detached(cli, broker):
    """Jobs that run or wait by themselves, by their cookies; cancelled in the end."""
    cookies = []

    def detached(pipeline, *arguments, event="route dispatched"):
        cookies.append(uuid.uuid4())
        done = cli("run", pipeline, *arguments, "--detach", "--cookie", cookies[-1])
        assert done.returncode == 0, done.stderr
        broker.wait_for_event(event, cookie=cookies[-1].hex)
        return cookies[-1]

    yield detached
    for cookie in cookies:
        cli("cancel", cookie)


def facts_of(lines):
    return {line[2:12].strip(): line[12:] for line in lines}


def test_a_running_job(cli, detached):
    cookie = detached("agent", "--attempts", "3", "--timeout", "600")
    cli("send", cookie, "x", "y")
    done = cli("status", cookie)
    first, *rest = done.stdout.splitlines()
    facts = facts_of(rest)
    assert (done.returncode, done.stderr, first) == (0, "", "running: a worker has it")
    assert (facts["job"], facts["pipeline"], facts["attempt"]) == (str(cookie), "agent", "1 of 3")
    assert (facts["worker"], facts["inputs"]) == ("shared", "2")
    assert facts["time left"].startswith(("9 min", "10 min"))


def test_a_scheduled_job_says_when_it_starts(cli, detached):
    cookie = detached("greet", "--not-before", "600", event="route scheduled")
    first, *rest = cli("status", cookie).stdout.splitlines()
    assert first.startswith("scheduled: the job is scheduled, and may start in 0:")
    assert facts_of(rest)["starts in"].startswith(("9 min", "10 min"))
    assert cli("cancel", cookie).stdout == "cancelled\n"


def test_a_waiting_job_says_why(cli, detached):
    cookie = detached("served.by.nobody", event="route queued")
    assert cli("status", cookie).stdout.startswith("queued: no connected worker serves this pipeline\n")
    facts = json.loads(cli("status", cookie, "--json").stdout)
    assert (facts["state"], facts["why"], facts["attempt"]) == ("queued", "not_served", 0)


def test_one_that_is_over_and_one_whose_outcome_is_gone(cli, detached):
    cookie = detached("fail", event="route over")
    kept = cli("status", cookie)
    assert (kept.returncode, kept.stdout.splitlines()[0]) == (0, "over: the job is over: EXCEPTION")
    cli("attach", cookie)
    gone = json.loads(cli("status", cookie, "--json").stdout)
    assert (gone["state"], gone["outcome"]) == ("over", "EXCEPTION")
    assert "no longer kept" in gone["sentence"]


def test_the_tree_of_its_children(cli, detached):
    parent = detached("wait")
    child = detached("agent", "--parent", parent)
    grandchild = detached("served.by.nobody", "--parent", child, event="route queued")
    drawn = cli("status", parent, "--tree").stdout.splitlines()[-3:]
    assert [line.rsplit("  ", 2)[0] for line in drawn] == ["wait", "└── agent", "    └── served.by.nobody"]
    assert [line.rpartition("  ")[2] for line in drawn] == [str(parent), str(child), str(grandchild)]
    facts = json.loads(cli("status", parent, "--tree", "--json").stdout)
    assert facts["children"][0]["children"][0]["cookie"] == str(grandchild)
    assert facts["children"][0]["parent"] == str(parent)
    assert "children" not in json.loads(cli("status", parent, "--json").stdout)


def test_a_job_that_nobody_knows(cli):
    cookie = uuid.uuid4()
    done = cli("status", cookie)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert f"the broker knows no job {cookie}" in done.stderr
    assert json.loads(cli("status", cookie, "--json").stdout)["refused"] == "COOKIE_NOT_FOUND"


def test_without_a_broker_it_is_one_line():
    done = run("status", uuid.uuid4(), "--broker", "tcp://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
