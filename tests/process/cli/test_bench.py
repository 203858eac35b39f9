import json
import uuid

import pytest

from tests.process.cli.program import Program, descendants_of, interrupt, run

pytestmark = pytest.mark.process

SMALL = ("--clients", "2", "--in-flight", "4", "--seconds", "0.3", "--capacity", "4")


def test_it_measures_a_broker_of_its_own_and_leaves_nothing_running():
    marker = uuid.uuid4().hex
    done = run("bench", *SMALL, "--workers", "2", "--json", MARKER=marker)
    figures = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert figures["jobs"] > 10
    assert figures["failures"] == {}
    assert 0 < figures["jobs_per_second"] <= figures["jobs"] / 0.3
    latency = figures["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert figures["broker_us_per_job"] > 0
    assert descendants_of(f"MARKER={marker}") == []


def test_it_measures_a_broker_that_runs(broker):
    done = run("bench", *SMALL, "--broker", broker.clients[0], "--worker-broker", broker.workers[0])
    assert done.returncode == 0, done.stderr
    assert "jobs/s" in done.stdout
    assert "p99" in done.stdout
    assert "processor time" not in done.stdout
    assert "2 clients × 4 jobs in flight" in done.stderr


def test_without_that_broker_it_is_one_line():
    done = run("bench", *SMALL, "--broker", "tcp://127.0.0.1:1")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "reasonchip-broker: can't connect to tcp://127.0.0.1:1: Connection refused"


def test_ctrl_c_leaves_nothing_running(tmp_path):
    marker = uuid.uuid4().hex
    with Program(tmp_path / "log", "bench", "--seconds", "600", MARKER=marker) as program:
        program.wait_until(lambda: "jobs in flight" in program.errors)
        assert len(descendants_of(f"MARKER={marker}")) == 3
        interrupt(program)
        assert program.wait() == 130
        assert descendants_of(f"MARKER={marker}") == []
