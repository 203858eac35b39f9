"""`make bench-peers`: whatever is not there is named, the rest is measured in turn and told."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from benchmarks import nats_server
from benchmarks.brokers import Commands, our_command
from benchmarks.errors import BenchError, Missing
from benchmarks.measure import Bench, measure
from benchmarks.peers import __main__ as peers
from benchmarks.peers import client_load, libraries, servers
from benchmarks.process import Cores, choose_cores
from benchmarks.summary import Record
from benchmarks.workloads import MANY_JOBS, Socket, System, Workload

OURS = Commands(ours=our_command(sys.executable), nats=None)
FIGURES = {
    "seconds": 1.0,
    "jobs": 1000,
    "broker_cpu_ns": 2_000_000,
    "generator_cpu_ns": 1,
    "rss_bytes": 1 << 20,
    **{f"{name}_ns": 1_000_000 for name in peers.PERCENTILES},
}
LIBRARY = FIGURES | {"client_cpu_ns": 5_000_000, "workers_cpu_ns": 7_000_000}


@pytest.fixture
def nothing_runs(monkeypatch, tmp_path):
    """A machine where every measurement finds the same, and nothing is installed or started. What was measured is in the list."""
    measured = []

    def found(workload, bench, rate=0):
        measured.append((str(workload.system), rate))
        if workload.system is System.NATS and rate == peers.RATES[0]:
            raise BenchError("nats fell over")
        return FIGURES

    monkeypatch.setattr(peers, "measure", found)
    monkeypatch.setattr(peers, "leave_in_order", lambda: None)
    monkeypatch.setattr(libraries, "measure", lambda *_: LIBRARY)
    monkeypatch.setattr(libraries, "PYTHON", tmp_path)
    monkeypatch.setattr(servers, "install", lambda: ["rabbitmq-server"])
    monkeypatch.setattr(servers, "missing", lambda system: "it is not here" if system is System.RABBITMQ else "")
    monkeypatch.setattr(servers, "version", lambda system: f"{system} 1")
    monkeypatch.setattr(nats_server, "find", lambda: tmp_path)
    monkeypatch.setattr(peers, "describe_versions", lambda *_: {"nats": "v2"})
    return measured


def test_what_is_missing_is_named_and_all_else_is_measured_and_written(nothing_runs, tmp_path, capsys):
    file = tmp_path / "peers.json"
    assert peers.main(["--rounds", "2", "--json", str(file), "--compiled-python", "/nowhere"]) == 1
    told = capsys.readouterr()
    assert "not measured: rabbitmq, it is not here" in told.out
    assert "not measured: compiled, there is no compiled build: make test-compiled" in told.out
    assert "can't be installed from here: rabbitmq-server" in told.err
    assert "nats fell over" in told.err
    measured = {system for system, _ in nothing_runs}
    assert measured == {"relay", "binary", "nats", "gearman", "redis", "json"}
    data = json.loads(file.read_text())
    assert data["missing"].keys() == {"rabbitmq", "compiled"}
    assert {one["system"]: one["failures"] for one in data["open"] if one["rate"] == peers.RATES[0]}["nats"] == 2
    assert data["versions"]["redis"] == "redis 1"
    assert len(data["libraries"]["celery, 64 in flight"]) == 2
    assert "celery, 64 in flight" in told.out


def test_who_does_less_than_is_due_can_not_take_the_rate_and_its_latency_is_not_told():
    def told(jobs):
        records = [Record(number, "redis", FIGURES | {"jobs": jobs, "broker_cpu_ns": 400_000_000}) for number in (1, 2)]
        summary = peers.open_summary(System.REDIS, 1_000, records)
        return summary.taken, peers.open_table([summary]).rows[0]

    assert told(951) == (True, ("redis, 1,000/s", "951", *["1.00"] * 5, "420.6", ""))
    assert told(949) == (False, ("redis, 1,000/s", "949", *["–"] * 5, "421.5", "can't take this rate (its core 40% busy)"))


def test_a_rate_of_which_nothing_could_be_measured_was_not_taken():
    summary = peers.open_summary(System.REDIS, 1_000, [Record(1, "redis", None, "it fell over")])
    assert (summary.taken, summary.failures) == (False, 1)
    assert peers.open_table([summary]).rows[0][-1] == "1 failed"


def test_every_peer_is_measured_at_every_rate(nothing_runs):
    peers.main(["--quick", "--only", "open", "--compiled-python", "/nowhere"])
    assert set(nothing_runs) == {
        (name, rate) for name in ("relay", "binary", "nats", "gearman", "redis") for rate in peers.RATES
    }


def test_another_one_goes_first_in_each_round(nothing_runs):
    peers.main(["--rounds", "2", "--only", "4x64", "--compiled-python", "/nowhere"])
    tcp = [system for system, rate in nothing_runs if not rate]
    half = len(tcp) // 2
    assert sorted(tcp[:half]) == sorted(tcp[half:])
    assert tcp[0] != tcp[half]


def test_only_what_is_asked_for_is_measured(nothing_runs, capsys):
    assert peers.main(["--quick", "--only", "open-binary", "--compiled-python", "/nowhere"]) == 0
    assert nothing_runs == [("binary", rate) for rate in peers.RATES]
    assert "Through the client libraries" not in capsys.readouterr().out


@pytest.mark.process
@pytest.mark.parametrize("kind", Socket)
def test_jobs_go_through_a_relay_that_is_built_from_its_source(kind):
    bench = Bench(OURS, choose_cores(), 0.05, 0.1, True, 0)
    found = measure(Workload(System.RELAY, kind, MANY_JOBS), bench)
    assert found["jobs"] > 0


@pytest.mark.process
def test_at_a_fixed_rate_as_many_jobs_are_done_as_are_due():
    bench = Bench(OURS, choose_cores(), 0.1, 0.5, True, 0)
    found = measure(Workload(System.BINARY, Socket.TCP, MANY_JOBS), bench, rate=400)
    assert 100 <= found["jobs"] <= 300
    assert 0 < found["p50_ns"] <= found["p90_ns"] <= found["p999_ns"]


@pytest.mark.process
def test_a_client_process_and_a_worker_process_of_ours_are_measured_apart_from_the_broker():
    setting = libraries.Setting(OURS, choose_cores(), 0.1, 0.2)
    found = libraries.measure("ours", 4, setting)
    assert found["jobs"] > 0
    assert all(found[f"{who}_cpu_ns"] > 0 for who in ("client", "workers", "broker"))


def test_a_library_that_is_not_installed_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(libraries, "PYTHON", tmp_path / "python")
    setting = libraries.Setting(OURS, Cores(0, 1), 0.1, 0.2)
    for name in ("celery", "dask", "nats-py", "ours-compiled"):
        with pytest.raises(Missing):
            libraries.measure(name, 1, setting)
    found = libraries.measure_all(["celery"], [1], 1, setting)
    ((name, *_, note),) = libraries.rows(found)
    assert (name, "make bench-peers" in note) == ("celery, 1 in flight", True)


def test_what_ends_before_the_window_is_not_counted_and_its_end_is_said_once(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    window = client_load.Window(1.0, 2.0)
    for now in (0.5, 1.5, 2.0, 3.5, 3.6):
        clock[0] = now
        window.ended(now - 0.25)
    told = window.told()
    assert (told["jobs"], told["seconds"], told["p50_ns"]) == (4, 2.0, 250_000_000)
    assert capsys.readouterr().out == "begin\nend\n"


@pytest.mark.parametrize("system", servers.SYSTEMS)
def test_a_server_that_is_not_here_is_named_with_its_package(system, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(servers, "RABBITMQ", tmp_path / "none")
    why = servers.missing(system)
    package = servers.PACKAGES.get(system)
    assert why == (f"it is not installed: apt-get install {package}" if package else "there is no C compiler")
    with pytest.raises(Missing, match=system), servers.running(system, Socket.TCP, 0, tmp_path):
        pass


def test_servers_are_installed_without_being_started_and_only_where_that_is_allowed(monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command))
    monkeypatch.setattr(servers, "missing", lambda system: "not here" if system in servers.PACKAGES else "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert servers.install() == list(servers.PACKAGES.values())
    assert asked == []
