"""Chunks of progress: what the peers send and check, and the program that measures them."""

import asyncio
import json
import os
import struct
import sys

import pytest

from benchmarks import chunks, in_turn, nats_server
from benchmarks.brokers import Commands, our_command
from benchmarks.errors import BenchError, Missing
from benchmarks.generators import chunks as peers
from benchmarks.generators import nats, ours
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.spec import Spec
from benchmarks.measure import Bench
from benchmarks.process import choose_cores
from benchmarks.workloads import System
from tests.unit.benchmarks.programs import have_everything
from tests.unit.benchmarks.transport import connected

SIZE = 20
COOKIES = [struct.pack(">BHI", 0xBE, 3, 0) + bytes([place]) + bytes(8) for place in range(2)]


@pytest.fixture
async def recorder():
    return Recorder(broker_pid=1)


def chunk(place, number):
    return ours.frame(peers.PROGRESS, peers.META, b"c" * SIZE, attempt=1, cookie=COOKIES[place], number=number)


def gap(place, first, last):
    whole = bytearray(ours.frame(peers.PROGRESS, {"first": first}, attempt=1, cookie=COOKIES[place], number=last))
    whole[5] = peers.GAP
    return bytes(whole)


def credit(place, frames, attempt=0):
    return ours.frame(peers.CREDIT, attempt=attempt, cookie=COOKIES[place], number=frames)


def follower_of_two(recorder):
    follower = peers.OurFollower(3, recorder, 2, SIZE)
    transport = connected(follower)
    follower.data_received(ours.frame(ours.WELCOME, {"credit": 8}))
    return follower, transport


async def test_a_worker_sends_a_window_of_each_job_and_as_many_again_as_it_is_credited(recorder):
    worker = peers.OurStreamer(0, recorder, 2, SIZE)
    transport = connected(worker)
    worker.data_received(ours.frame(ours.WELCOME, {"credit": 3}))
    transport.take()
    for place in range(2):
        worker.data_received(ours.frame(ours.RUN, {"p": "bench"}, attempt=1, cookie=COOKIES[place]))
    await asyncio.sleep(0)
    assert transport.take() == b"".join(chunk(place, number) for place in range(2) for number in (1, 2, 3))
    worker.data_received(credit(1, 2, attempt=1))
    await asyncio.sleep(0)
    assert transport.take() == chunk(1, 4) + chunk(1, 5)


async def test_chunks_are_counted_however_they_arrive_and_a_quarter_of_the_window_is_credited_at_a_time(recorder):
    frames = [chunk(0, 1), chunk(1, 1), chunk(0, 2), ours.frame(ours.PING, number=7), chunk(1, 2), chunk(0, 3), chunk(0, 4)]
    stream = b"".join(frames)
    for size in (1, 7, 40, len(frames[0]), 90, len(stream)):
        recorder.jobs = 0
        follower, transport = follower_of_two(recorder)
        for at in range(0, len(stream), size):
            follower.data_received(stream[at : at + size])
        recorder.check()
        assert (recorder.jobs, follower.last, follower.missing) == (6, [4, 2], 0)
        said = transport.take()
        assert ours.frame(ours.PONG, number=7) in said
        # The window is 8, so two are credited at once: or all that came, if that is more.
        credited = [0, 0]
        for at in range(0, len(said), 32):
            if said[at + 4] == peers.CREDIT:
                credited[said[at + 15]] += int.from_bytes(said[at + 24 : at + 28], "big")
        assert credited == [4, 2]


async def test_less_than_a_quarter_of_the_window_is_not_credited(recorder):
    follower, transport = follower_of_two(recorder)
    follower.data_received(chunk(0, 1) + chunk(1, 1))
    assert transport.take() == b""
    follower.data_received(chunk(1, 2))
    assert transport.take() == credit(1, 2)


@pytest.mark.parametrize("wrong", [1, 3, 9])
async def test_a_chunk_that_is_not_the_next_one_ends_the_run(recorder, wrong):
    follower, _ = follower_of_two(recorder)
    follower.data_received(chunk(0, 1) + chunk(0, wrong))
    with pytest.raises(ConnectionError, match=f"client 3: chunk {wrong} of a job came after 1"):
        recorder.check()


async def test_what_a_gap_stands_for_is_counted_as_missing_and_credited_as_one_frame(recorder):
    follower, transport = follower_of_two(recorder)
    follower.data_received(chunk(0, 1) + gap(0, 2, 6) + chunk(0, 7))
    recorder.check()
    assert (recorder.jobs, follower.missing, follower.last) == (2, 5, [7, 0])
    assert transport.take() == credit(0, 3)


async def test_a_gap_that_does_not_begin_where_chunks_are_missing_ends_the_run(recorder):
    follower, _ = follower_of_two(recorder)
    follower.data_received(chunk(0, 1) + gap(0, 3, 6))
    with pytest.raises(ConnectionError, match="the gap from 3 to 6 of a job came after 1"):
        recorder.check()


async def test_what_is_no_progress_ends_the_run(recorder):
    follower, _ = follower_of_two(recorder)
    follower.data_received(ours.frame(ours.RESULT, cookie=COOKIES[0]))
    with pytest.raises(ConnectionError, match="client 3: packet type 18"):
        recorder.check()


async def test_a_publisher_of_nats_is_told_in_this_process_what_its_subscriber_has(recorder):
    publisher = peers.NatsStreamer(0, recorder, 1, SIZE)
    publisher.window = 2
    out = connected(publisher)
    follower = peers.NatsFollower(0, recorder, 1, SIZE, [publisher])
    connected(follower)
    follower.data_received(b"INFO {}\r\nPONG\r\n")
    assert follower.ready.done()
    follower.start()
    await asyncio.sleep(0)
    published = out.take()
    one = b"PUB chunks.00.00 %d\r\n\0\0\0\0%c" + b"c" * (SIZE - 5) + b"\r\n"
    assert published == one % (SIZE, 1) + one % (SIZE, 2)
    assert nats.frame_length(published, 0) == len(b"PUB chunks.00.00 20\r\n"), "and a payload of 20 bytes, and a line's end"
    follower.window = 8
    follower.data_received(published.replace(b"PUB chunks.00.00", b"MSG chunks.00.00 10"))
    recorder.check()
    await asyncio.sleep(0)
    assert out.take() == one % (SIZE, 3) + one % (SIZE, 4)


async def test_a_job_of_which_nothing_comes_ends_the_run():
    held = []
    server = await asyncio.start_server(lambda reader, writer: held.append(writer), "127.0.0.1", 0)
    url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    spec = Spec(System.RELAY, url, url, os.getpid(), 1, 2, 1, 2, SIZE, warmup_s=0.01, window_s=0.01, chunks=True)
    with pytest.raises(ConnectionError, match="client 0: no chunk of 2 of its jobs came"):
        await peers.run_chunks(spec)
    for writer in held:
        writer.close()
    server.close()


# The program

FIGURES = {"seconds": 2.0, "chunks": 1_000_000, "missing": 0, "broker_cpu_ns": 2_000_000_000, "generator_cpu_ns": 1_990_000_000}


@pytest.fixture
def nothing_runs(monkeypatch, tmp_path):
    """A machine where every measurement finds the same but NATS fails, and nothing is started. What was measured is in the list."""
    seen = []

    def found(workload, bench, *, chunks):
        assert chunks
        seen.append(str(workload.system))
        if workload.system is System.NATS:
            raise BenchError("nats fell over")
        return FIGURES | {"broker_cpu_ns": FIGURES["broker_cpu_ns"] // (2 if workload.system is System.RELAY else 1)}

    monkeypatch.setattr(chunks, "measure", found)
    have_everything(monkeypatch, tmp_path)
    return seen


def test_all_are_measured_in_turn_and_what_fails_is_told_and_counted(nothing_runs, tmp_path, capsys):
    file = tmp_path / "chunks.json"
    assert chunks.main(["--rounds", "2", "--json", str(file), "--compiled-python", "/nowhere"]) == 1
    told = capsys.readouterr()
    assert nothing_runs == ["relay", "binary", "nats", "binary", "nats", "relay"]
    assert "not measured: compiled, there is no compiled build: make test-compiled" in told.err
    assert told.err.count("nats: nats fell over") == 2
    assert "2 failed" in told.out
    assert "generator was the limit" in told.out
    data = json.loads(file.read_text())
    assert data["summary"]["binary"]["chunks_per_core_s"]["median"] == 500_000
    assert data["summary"]["binary"]["times_relay"]["median"] == 2
    assert data["summary"]["binary"]["times_nats"] is None
    assert len(data["rounds"]) == 6
    assert data["missing"].keys() == {"compiled"}


def test_only_what_is_asked_for_is_measured(nothing_runs):
    assert chunks.main(["--quick", "--only", "binary,relay"]) == 0
    assert nothing_runs == ["relay", "binary"]


@pytest.mark.parametrize("arguments", [["--only", "binary,kafka"], ["--rounds", "0"], ["--seconds", "-1"]])
def test_what_can_not_be_measured_is_told_before_anything_is(nothing_runs, arguments, capsys):
    with pytest.raises(SystemExit):
        chunks.main(arguments)
    assert nothing_runs == []
    assert "error: " in capsys.readouterr().err


def test_a_broker_that_is_not_there_is_told_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(in_turn, "leave_in_order", lambda: None)
    assert chunks.main(["--quick", "--only", "binary", "--broker-python", "/nothing/python"]) == 2
    told = capsys.readouterr().err
    assert (told.count("\n"), "/nothing/python can't be run" in told) == (1, True)


def measured(system, nats_at=None):
    bench = Bench(Commands(ours=our_command(sys.executable), nats=nats_at), choose_cores(), 0.1, 0.2, True, 0)
    return chunks.measured(system, bench)


@pytest.mark.process
@pytest.mark.parametrize("system", [System.BINARY, System.RELAY])
def test_chunks_go_through_a_real_broker_and_none_is_missing(system):
    found = measured(system)
    assert found["chunks"] > 0
    assert found["missing"] == 0
    assert found["broker_cpu_ns"] > 0


@pytest.mark.process
def test_chunks_go_through_nats():
    try:
        found = measured(System.NATS, nats_server.find())
    except Missing as error:
        pytest.skip(str(error))
    assert (found["chunks"] > 0, found["missing"]) == (True, 0)
