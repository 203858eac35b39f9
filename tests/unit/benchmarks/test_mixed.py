"""Small jobs beside large ones: two loads at one broker, and the program that measures them."""

import json
import sys

import pytest

from benchmarks import mixed, nats_server
from benchmarks.brokers import Commands, our_command
from benchmarks.errors import BenchError, Missing
from benchmarks.generators import nats, ours
from benchmarks.generators.peers import make_client, make_worker
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.spec import Spec
from benchmarks.measure import Bench, measure_beside
from benchmarks.process import Child, choose_cores
from benchmarks.workloads import ONE, Shape, Socket, System, Workload
from tests.unit.benchmarks.programs import have_everything
from tests.unit.benchmarks.transport import Transport

ALONE, BESIDE, LARGE = ({"p50_ns": p50, "p99_ns": p99, "jobs": 100, "seconds": 2.0} for p50, p99 in ((1, 2), (3, 8), (9, 9)))


@pytest.fixture
async def recorder():
    return Recorder(0)


def opening_of(connection):
    transport = Transport()
    connection.connection_made(transport)
    return transport.take()


def peers_of(system, recorder, **more):
    spec = Spec(system, "", "", 0, 1, 1, 1, 1, 20, 0, 0, **more)
    number = spec.first
    return make_client(spec, number, recorder), make_worker(spec, number, recorder)


async def test_two_loads_at_our_broker_have_a_pipeline_each_and_no_name_and_no_cookie_in_common(recorder):
    cookies, registrations, names = set(), set(), set()
    for more in ({}, {"pipeline": "beside", "first": 100}):
        client, worker = peers_of(System.COMPILED, recorder, **more)
        names.add(opening_of(worker))
        worker.data_received(ours.frame(ours.WELCOME, {}))
        registrations.add(worker.transport.take())
        opening_of(client)
        client.start()
        run = client.transport.take()
        cookies.add(run[8:24])
        assert str(more.get("pipeline", "bench")).encode() in run
    assert [len(each) for each in (cookies, registrations, names)] == [2, 2, 2]
    assert any(b"beside" in registration for registration in registrations)


async def test_two_loads_at_nats_have_a_subject_each(recorder):
    client, worker = peers_of(System.NATS, recorder, pipeline="beside", first=100)
    assert b"SUB beside workers 1\r\n" in opening_of(worker)
    opening_of(client)
    client.start()
    request = client.transport.take()
    assert request.startswith(b"PUB beside " + nats.inbox(100))
    subject = request.split()[2]
    worker.data_received(b"MSG beside 1 %s 20\r\n" % subject + bytes(20) + b"\r\n")
    assert worker.transport.take().split()[1] == subject


def bench(nats_at=None):
    return Bench(Commands(ours=our_command(sys.executable), nats=nats_at), choose_cores(), 0.1, 0.2, True, 0)


SOME = Shape("1x2-300KiB", 1, 2, 1, 2, 300 * 1024)


@pytest.mark.process
@pytest.mark.parametrize("system", [System.BINARY, System.RELAY, System.NATS])
def test_both_loads_are_measured_at_one_broker(system):
    try:
        nats_at = nats_server.find() if system is System.NATS else None
    except Missing as error:
        pytest.skip(str(error))
    found, beside = measure_beside(Workload(system, Socket.TCP, ONE), SOME, bench(nats_at))
    assert (found["jobs"] > 0, beside["jobs"] > 0) == (True, True)
    assert beside["seconds"] > found["seconds"], "it was there all the while"


@pytest.mark.process
def test_a_load_that_can_not_be_put_on_is_told_in_a_line():
    too_large = Shape("1x1-17MiB", 1, 1, 1, 1, 17 * 1024 * 1024)
    with pytest.raises(BenchError, match=r"the other load ended before that its load is there .*client 100: packet type"):
        measure_beside(Workload(System.BINARY, Socket.TCP, ONE), too_large, bench())


@pytest.mark.process
def test_a_child_that_has_ended_can_not_be_told_anything(tmp_path):
    with Child("a child", ["true"], tmp_path / "log", cwd=tmp_path, feed=True) as child:
        with pytest.raises(BenchError):
            child.read_line(5, "anything")
        with pytest.raises(BenchError, match="a child ended before it was told what to do"):
            child.say(b"too late")


def test_both_are_measured_in_turn_and_written(monkeypatch, tmp_path, capsys):
    measured = []

    def beside(workload, other, bench):
        assert other is mixed.LARGE_BESIDE
        measured.append(str(workload.system))
        if workload.system is System.RELAY:
            raise BenchError("the relay fell over")
        return BESIDE, LARGE

    monkeypatch.setattr(mixed, "measure", lambda workload, bench: ALONE)
    monkeypatch.setattr(mixed, "measure_beside", beside)
    have_everything(monkeypatch, tmp_path)
    file = tmp_path / "mixed.json"
    assert mixed.main(["--rounds", "2", "--compiled-python", sys.executable, "--json", str(file)]) == 1
    assert measured == ["relay", "compiled", "binary", "nats", "compiled", "binary", "nats", "relay"]
    data = json.loads(file.read_text())
    assert data["summary"]["compiled"]["p99_times"] == {"median": 4.0, "low": 4.0, "high": 4.0, "count": 2}
    assert data["summary"]["relay"]["p99_times"] is None
    assert data["rounds"][1]["figures"] == {"alone": ALONE, "beside": BESIDE, "large": LARGE}
    told = capsys.readouterr()
    assert told.err.count("the relay fell over") == 2
    assert "2 failed" in told.out
