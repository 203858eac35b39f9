"""What is counted does what it says: each job reaches its outcome, and the same run leaves the same."""

import subprocess
import sys

import pytest

from benchmarks import counted
from reasonchip_broker.protocol.codes import Dialect


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(counted, "QUEUED", 100)


@pytest.mark.parametrize("name", counted.WORKLOADS)
def test_a_workload_does_as_many_jobs_as_it_says(name):
    make, _ = counted.WORKLOADS[name]
    run = make()
    once = run(2)
    assert once > 0
    assert run(4) == 2 * once


@pytest.mark.parametrize(
    ("peers", "at_once", "dialect"), [(2, 3, Dialect.BINARY), (2, 3, Dialect.JSON), (1, 1, Dialect.BINARY)]
)
def test_plain_jobs_are_over_when_their_round_is(peers, at_once, dialect, monkeypatch):
    loads = spied(monkeypatch)
    assert counted.plain(peers, at_once, dialect)(5) == 5 * peers * at_once
    (load,) = loads
    assert (load.board.jobs, load.board.counters.finished, load.board.waiting) == (0, 5 * peers * at_once, 0)
    load.board.invariants()


@pytest.mark.parametrize(("keys", "at_once"), [(50, 8), (1, 64)])
def test_jobs_that_wait_take_turns_behind_as_many_as_before(keys, at_once, monkeypatch):
    loads = spied(monkeypatch)
    assert counted.queued(keys, at_once)(10) == 10 * at_once
    (load,) = loads
    assert (load.board.jobs, load.board.waiting, load.board.counters.finished) == (100, 100 - at_once, 10 * at_once)
    load.board.invariants()


def test_all_chunks_reach_who_follows(monkeypatch):
    loads = spied(monkeypatch)
    assert counted.progress()(20) == 20 * counted.CHUNKS
    (load,) = loads
    assert (load.board.counters.progress, load.board.counters.progress_dropped) == (20 * counted.CHUNKS, 0)
    load.board.invariants()


def test_the_process_says_how_many_jobs_it_did():
    command = [sys.executable, "-m", "benchmarks.counted", "plain, 1 x 1", "3"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "3\n"


def spied(monkeypatch):
    """The loads that are made."""
    loads = []
    original = counted.Load.__init__

    def begin(self, *arguments, **options):
        loads.append(self)
        original(self, *arguments, **options)

    monkeypatch.setattr(counted.Load, "__init__", begin)
    return loads
