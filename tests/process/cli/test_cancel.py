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
