import json
import uuid

import pytest

from tests.process.cli.program import run

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("worker")]


@pytest.fixture
def cancel(broker):
    def cancel(*arguments):
        return run("cancel", *arguments, "--broker", broker.clients[0])

    return cancel


@pytest.fixture
def detached(broker):
    """A job that runs, or waits, by itself."""

    def detached(pipeline, event):
        cookie = uuid.uuid4()
        assert run("run", pipeline, "--detach", "--cookie", cookie, "--broker", broker.clients[0]).returncode == 0
        broker.wait_for_event(event, cookie=cookie.hex)
        return cookie

    return detached


def test_a_running_job_is_being_cancelled(cancel, detached, broker):
    cookie = detached("wait", "route dispatched")
    done = cancel(cookie)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cancelling\n", "")
    assert broker.wait_for_event("route over", cookie=cookie.hex)["code"] == "CANCELLED"


def test_a_waiting_job_is_cancelled(cancel, detached):
    done = cancel(detached("served.by.nobody", "route queued"), "--now")
    assert (done.returncode, done.stdout) == (0, "cancelled\n")


def test_a_job_that_is_not_there_is_refused(cancel):
    cookie = uuid.uuid4()
    done = cancel(cookie)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1
    assert f"job {cookie} was not cancelled (COOKIE_NOT_FOUND)" in done.stderr


def test_the_same_as_json(cancel, detached):
    cookie = detached("served.by.nobody", "route queued")
    assert json.loads(cancel(cookie, "--json").stdout)["answer"] == "OK"
    gone = cancel(cookie, "--json")
    assert gone.returncode == 4
    assert json.loads(gone.stdout)["refused"] == "COOKIE_NOT_FOUND"


def test_without_a_broker_it_is_one_line():
    done = run("cancel", uuid.uuid4(), "--broker", "tcp://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)


def test_a_batch_is_cancelled_at_one_word(cancel, broker):
    batch, cookies = uuid.uuid4(), [uuid.uuid4() for _ in range(2)]
    for cookie, pipeline, event in zip(
        cookies, ("wait", "served.by.nobody"), ("route dispatched", "route queued"), strict=True
    ):
        options = ("--detach", "--cookie", cookie, "--batch", batch, "--broker", broker.clients[0])
        assert run("run", pipeline, *options).returncode == 0
        broker.wait_for_event(event, cookie=cookie.hex)
    done = cancel("--batch", batch)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 jobs are cancelled or cancelling\n", "")
    for cookie in cookies:
        assert broker.wait_for_event("route over", cookie=cookie.hex)["code"] == "CANCELLED"
    gone = cancel("--batch", batch)
    assert (gone.returncode, gone.stdout, gone.stderr.count("\n")) == (4, "", 1)
    assert f"batch {batch} was not cancelled (COOKIE_NOT_FOUND)" in gone.stderr
    facts = json.loads(cancel("--batch", batch, "--json").stdout)
    assert (facts["batch"], facts["refused"], facts["jobs"]) == (str(batch), "COOKIE_NOT_FOUND", 0)


@pytest.mark.parametrize("arguments", [[], [uuid.uuid4(), "--batch", uuid.uuid4()]])
def test_one_of_the_two_is_named(cancel, arguments):
    done = cancel(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--batch" in done.stderr
