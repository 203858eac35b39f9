"""Labels by the command line: which worker a job goes to, and what is said when none has what it needs."""

import uuid

import pytest

from tests.process.cli.program import Broker, Program, run

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def broker(tmp_path_factory, folder):
    """A broker with two workers of one slot: `new` has labels, `plain` has none."""
    logs = tmp_path_factory.mktemp("labels")
    with Broker(logs / "broker", "--log-level", "debug") as broker:
        to = ("--capacity", "1", "--broker", broker.workers[0])
        labels = ("--label", "gpu=h200", "--label", "region=eu")
        with (
            Program(logs / "new", "worker", "jobs", "--name", "new", *labels, *to, cwd=folder),
            Program(logs / "plain", "worker", "jobs", "--name", "plain", *to, cwd=folder),
        ):
            names = {broker.wait_for_event("worker registered", name=name)["connection"]: name for name in ("new", "plain")}
            broker.name_of = names.__getitem__
            yield broker


@pytest.fixture
def start(broker):
    """Starts a job that is left to itself, and says whose it was; all are cancelled in the end."""
    cookies = []

    def start(*options, pipeline="wait", event="route dispatched"):
        cookies.append(uuid.uuid4())
        done = run("run", pipeline, "--detach", "--cookie", cookies[-1], "--broker", broker.clients[0], *options)
        assert done.returncode == 0, done.stderr
        told = broker.wait_for_event(event, cookie=cookies[-1].hex)
        return broker.name_of(told["worker"]) if "worker" in told else cookies[-1]

    yield start
    for cookie in cookies:
        run("cancel", cookie, "--broker", broker.clients[0])
        broker.wait_for_event("route over", cookie=cookie.hex)


def status(broker, cookie):
    return run("status", cookie, "--broker", broker.clients[0]).stdout


def test_a_job_goes_only_to_the_worker_that_has_the_labels_it_needs(broker, start):
    assert start("--require", "gpu=h200", "--require", "region=eu") == "new"
    cookie = start("--require", "gpu=h200", event="route queued")
    assert "the one slot that serves this pipeline is taken" in status(broker, cookie)


def test_a_job_that_needs_what_nobody_has_waits_and_its_status_says_so(broker, start):
    cookie = start("--require", "gpu=h200", "--require", "region=us", event="route queued")
    assert "no connected worker that has gpu=h200, region=us serves this pipeline" in status(broker, cookie)


def test_a_job_that_needs_what_nobody_has_is_refused_at_once_if_it_says_so(broker):
    done = run("run", "wait", "--require", "gpu=none", "--only-served", "--broker", broker.clients[0])
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert "NOT_SERVED" in done.stderr
    assert "no connected worker that has gpu=none serves this pipeline" in done.stderr


def test_a_job_goes_to_the_worker_that_it_likes_while_that_one_is_free_and_else_to_another(broker, start):
    assert [start("--prefer", "gpu=h200", pipeline="give") for _ in range(3)] == ["new"] * 3, "they take no turns"
    assert start("--prefer", "gpu=h200") == "new"
    assert start("--prefer", "gpu=h200") == "plain"


def test_a_label_that_is_none_is_one_line(broker):
    for option in ("--require", "--prefer"):
        done = run("run", "wait", option, "gpu", "--broker", broker.clients[0])
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
