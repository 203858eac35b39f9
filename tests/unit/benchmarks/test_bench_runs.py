"""The harness as it is used, with real processes: a broker made up for the purpose, and NATS where it is installed."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks import nats_server
from benchmarks.brokers import Commands
from benchmarks.errors import BenchError, Missing
from benchmarks.measure import Bench, measure, measure_idle
from benchmarks.process import Child, choose_cores, pinned
from benchmarks.workloads import EVERYTHING, HUGE, IDLE, LARGE, MANY_JOBS, MANY_PEERS, ONE, Socket, System, Workload

pytestmark = pytest.mark.process

CHECKOUT = Path(__file__).parents[3]
FAKE = Path(__file__).with_name("fake_broker.py")


def bench(nats=None, acks=False, connections=300):
    return Bench(Commands((sys.executable, str(FAKE)), nats), choose_cores(), 0.1, 0.3, acks, connections)


def check(figures):
    assert figures["jobs"] > 0
    assert figures["broker_cpu_ns"] > 0
    assert 0 < figures["p50_ns"] <= figures["p99_ns"] <= figures["p999_ns"] <= figures["max_ns"]
    assert figures["rss_bytes"] <= figures["rss_peak_bytes"]
    assert 0.15 <= figures["seconds"] < 5


@pytest.mark.slow
@pytest.mark.parametrize("workload", EVERYTHING, ids=lambda workload: workload.name)
def test_every_workload_is_measured(workload):
    check(measure(workload, bench()))


@pytest.mark.parametrize("system", [System.BINARY, System.JSON])
def test_frames_that_arrive_in_pieces(system, monkeypatch):
    monkeypatch.setenv("FAKE_PIECES", "1")
    check(measure(Workload(system, Socket.UNIX, MANY_JOBS), bench(acks=True)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [("refuse", "client 0: packet type 6 with code 34 .*full"), ("die", r"our broker ended in the middle .*exit code 7")],
)
def test_a_fault_is_one_clear_line(fault, message, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", fault)
    with pytest.raises(BenchError, match=message):
        measure(Workload(System.BINARY, Socket.TCP, ONE), bench())


def test_a_broker_that_is_never_ready_is_given_up(monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", "silent")
    monkeypatch.setattr("benchmarks.brokers.START_TIMEOUT_S", 0.5)
    with pytest.raises(BenchError, match="did not say that it is ready within"):
        measure(Workload(System.BINARY, Socket.TCP, ONE), bench())


def test_idle_connections_are_counted():
    figures = measure_idle(IDLE[0], bench())
    assert figures["connections"] == 300 - 64
    assert 0 < figures["per_connection_bytes"] < 50_000


@pytest.mark.parametrize("shape", [ONE, MANY_JOBS, MANY_PEERS, LARGE, HUGE], ids=lambda shape: shape.name)
def test_nats_is_measured(shape):
    check(measure(Workload(System.NATS, Socket.TCP, shape), bench(installed_nats())))


def installed_nats():
    try:
        return nats_server.find()
    except Missing as error:
        pytest.skip(str(error))


def test_a_child_and_its_children_end_with_the_block(tmp_path):
    script = "sleep 600 & echo $!; wait"
    with Child("a shell", pinned(choose_cores().broker, ["sh", "-c", script]), tmp_path / "log", cwd=tmp_path) as child:
        grandchild = int(child.read_line(5, "its child"))
        watched = os.pidfd_open(grandchild)
    assert not child.alive
    wait_for(watched)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(Missing, match="nothing-like-it could not be started"):
        Child("nothing-like-it", ["/nothing/like/it"], tmp_path / "log", cwd=tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Missing, match="taskset"):
        pinned(0, ["true"])


def test_the_command_line_measures_reports_and_leaves_nothing_behind(tmp_path):
    out = tmp_path / "out.json"
    done = run("--only", "unix-4x64", "--no-nats", "--rounds", "2", "--seconds", "0.2", "--json", str(out), path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "binary-unix-4x64-100B" in done.stdout
    assert "round 2/2" in done.stderr
    written = json.loads(out.read_text())
    assert len(written["rounds"]) == 4
    assert written["versions"]["broker"]["path"].startswith(str(tmp_path))
    assert descendants(tmp_path) == []


def test_a_failed_measurement_is_reported_and_the_others_go_on(tmp_path):
    done = run("--only", "unix-4x64", "--no-nats", "--rounds", "1", "--seconds", "0.2", path=tmp_path, FAKE_FAULT="refuse")
    assert done.returncode == 1
    assert done.stderr.count("round 1/1") == 2
    assert done.stdout.count("1 failed") == 2


def test_a_missing_broker_is_one_clear_line(tmp_path):
    done = run("--only", "unix-4x64", "--no-nats", "--broker-python", "/nothing/python", path=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "/nothing/python can't be run" in done.stderr


def test_an_unknown_workload_is_told(tmp_path):
    done = run("--only", "no such thing", "--no-nats", path=tmp_path)
    assert done.returncode == 2
    assert "no workload is called" in done.stderr


@pytest.fixture
def short_directory():
    """A directory for temporary files that is removed, since a killed harness can't; short, for a socket's path is limited."""
    with tempfile.TemporaryDirectory(prefix="rcb-") as name:
        yield name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_harness_that_is_stopped_takes_its_children_along(number, tmp_path, short_directory):
    os.mkfifo(tmp_path / "word")
    word = os.open(tmp_path / "word", os.O_RDWR | os.O_NONBLOCK)
    harness = subprocess.Popen(
        command("--only", "binary-unix-4x64", "--no-nats", "--rounds", "1", "--seconds", "30"),
        cwd=CHECKOUT,
        env=environment(tmp_path, TMPDIR=short_directory, FAKE_WORD=str(tmp_path / "word")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(word)  # the broker has got a job: everything runs
        children = [os.pidfd_open(int(pid)) for pid in descendants(tmp_path) if int(pid) != harness.pid]
        assert len(children) >= 2, "a broker and a generator of load"
        harness.send_signal(number)
        harness.wait(10)
        for child in children:
            wait_for(child)
        assert descendants(tmp_path) == []
    finally:
        harness.kill()
        harness.wait()


def command(*arguments):
    return [sys.executable, "-m", "benchmarks", *arguments]


def environment(path, **more):
    """Where `reasonchip_broker` is the fake one, made in `path`. The variable marks our processes, for `descendants`."""
    package = path / "reasonchip_broker"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(f"import runpy\nrunpy.run_path({str(FAKE)!r}, run_name='__main__')\n")
    return {**os.environ, "PYTHONPATH": str(path), "BENCH_TEST_MARK": str(path), **more}


def run(*arguments, path, **more):
    return subprocess.run(
        command(*arguments),
        cwd=CHECKOUT,
        env=environment(path, **more),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def descendants(path):
    """Processes that carry our mark in their environment."""
    mark = f"BENCH_TEST_MARK={path}".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (directory / "environ").read_bytes().split(b"\0"):
                found.append(directory.name)
        except OSError:
            continue
    return found


def wait_for(descriptor, limit_s=20.0):
    """Wait until there is something to read, or a process (of a pidfd) has ended; and close it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    came = poll.poll(1000 * limit_s)
    os.close(descriptor)
    assert came, "it did not come about"
