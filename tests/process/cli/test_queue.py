"""Who waits for what, at a real broker with a worker that is full."""

import json
import uuid

import pytest

from tests.process.cli.program import Broker, Program, run

pytestmark = pytest.mark.process

RULES = """
[scheduling.weights]
team = 2

[[scheduling.limits]]
name = "one at a time"
pipelines = ["gi*"]
concurrency = 0
"""


@pytest.fixture
def full(tmp_path, folder):
    """A broker with one slot, which is taken; a job waits for it, one for a limit, one for somebody to serve it, one for its time."""
    file = tmp_path / "broker.toml"
    file.write_text(RULES)
    options = ("--capacity", "1", "--label", "gpu=h200")
    with (
        Broker(tmp_path / "log", "--config", file, "--log-level", "debug") as broker,
        Program(tmp_path / "worker", "worker", "jobs", *options, "--broker", broker.workers[0], cwd=folder),
    ):
        broker.wait_for_event("worker registered")
        cookies = [uuid.uuid4() for _ in range(5)]
        jobs = (
            ("wait", "route dispatched", "--fairness-key", "team"),
            ("wait", "route queued", "--fairness-key", "team", "--priority", "7"),
            ("give", "route queued"),
            ("served.by.nobody", "route queued", "--require", "gpu=none"),
            ("greet", "route scheduled", "--not-before", "600"),
        )
        for cookie, (pipeline, event, *more) in zip(cookies, jobs, strict=True):
            done = run("run", pipeline, "--detach", "--cookie", cookie, "--broker", broker.clients[0], *more)
            assert done.returncode == 0, done.stderr
            broker.wait_for_event(event, cookie=cookie.hex)
        yield broker


def test_it_shows_workers_keys_jobs_and_limits(full):
    done = run("queue", "--broker", full.clients[0])
    assert (done.returncode, done.stderr) == (0, "")
    summary, *rows = done.stdout.splitlines()
    assert summary == "3 jobs wait for a slot, 1 for its time"
    pools, keys, lines, limits = (table.splitlines() for table in "\n".join(rows).strip().split("\n\n"))
    assert "gpu=h200" in pools[1]
    assert pools[1].split()[-5:] == ["1", "1", "1", "0", "2"], "workers, slots, running, free, waiting"
    assert [line.split()[:4] for line in keys[1:] if line.startswith("team")] == [["team", "2", "1", "1"]]
    assert [line.split()[0] for line in lines[1:]] == ["wait", "give", "served.by.nobody"]
    assert lines[1].endswith("no free slot")
    assert lines[2].endswith("the limit 'one at a time' is reached: no job may run")
    assert lines[3].endswith("no connected worker that has gpu=none serves this pipeline")
    assert limits[1].split("   ")[0] == "one at a time"


def test_programs_are_told_the_same_in_so_many_rows_as_they_want(full):
    told = json.loads(run("queue", "--json", "--rows", "1", "--broker", full.clients[0]).stdout)
    assert (told["waiting"], told["scheduled"], len(told["lines"]), told["lines_there"]) == (3, 1, 1, 3)
    (line,) = told["lines"]
    assert (line["pipeline"], line["priority"], line["key"], line["why"]) == ("wait", 7, "team", "no_free_slot")


def test_a_number_of_rows_that_makes_no_sense_and_no_broker_are_one_line_each():
    for arguments, code in ((("--rows", "101"), 2), (("--broker", "tcp://127.0.0.1:1"), 3)):
        done = run("queue", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
