import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import tempfile
import uuid
from pathlib import Path

import pytest

from tests.process.cli.program import Broker, JsonPeer, Program, run

pytestmark = pytest.mark.process

HOSTILE = 'evil\x1b[2J\r\n{"event": "fake"}\x9b\x7f\u2028\u202e'


@contextlib.contextmanager
def served(broker, capacity=1):
    """An existing worker that is registered, and an existing client."""
    with JsonPeer(broker.workers[0]) as worker, JsonPeer(broker.clients[0]) as client:
        worker.send("REGISTER", capacity=capacity)
        broker.wait_for_event("worker registered")
        yield worker, client


def submit(client, worker, variables="{}"):
    """A job that runs: its cookie."""
    cookie = str(uuid.uuid4())
    client.send("RUN", cookie=cookie, pipeline="p", variables=variables)
    assert worker.receive()["cookie"] == cookie
    return cookie


def test_the_ready_line_is_the_only_one_on_stdout_and_it_answers_by_then(tmp_path):
    with Broker(tmp_path / "log") as broker:
        assert len(broker.ready.splitlines()) == 1
        with served(broker) as (worker, client):
            cookie = submit(client, worker)
            worker.send("RESULT", cookie=cookie, rc="OK", result='"done"')
            assert client.receive()["result"] == '"done"'
        broker.send(signal.SIGTERM)
        assert broker.wait() == 0
        assert broker.output.read() == b""


def test_the_ready_line_as_json(tmp_path):
    address = f"unix://{tmp_path}/c.sock"
    with Program(tmp_path / "log", "serve", "--clients", address, "--workers", "tcp://127.0.0.1:0", "--json") as broker:
        ready = json.loads(broker.read_line())
        assert ready["ready"] is True
        assert ready["clients"] == [address]
        assert ready["workers"][0].startswith("tcp://127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_running_job_finish_and_takes_no_other(tmp_path, number):
    with Broker(tmp_path / "log") as broker, served(broker) as (worker, client):
        cookie = submit(client, worker)
        broker.send(number)
        assert worker.receive()["packet_type"] == "SHUTDOWN"
        with pytest.raises(ConnectionRefusedError):
            JsonPeer(broker.clients[0])
        client.send("RUN", cookie=str(uuid.uuid4()), pipeline="p", variables="{}")
        assert client.receive()["rc"] == "NO_CAPACITY"
        worker.send("RESULT", cookie=cookie, rc="OK", result="1")
        assert client.receive()["result"] == "1"
        assert broker.wait() == 0


def test_a_second_signal_stops_at_once_and_the_exit_code_tells_of_it(tmp_path):
    with Broker(tmp_path / "log") as broker, served(broker) as (worker, client):
        cookie = submit(client, worker)
        broker.send(signal.SIGTERM)
        broker.wait_for_event("broker draining")
        broker.send(signal.SIGTERM)
        result = client.receive()
        assert (result["cookie"], result["rc"]) == (cookie, "BROKER_WENT_AWAY")
        assert broker.wait() == 1


def test_the_drain_limit_ends_the_wait(tmp_path):
    with Broker(tmp_path / "log", "--limit", "drain_s=0.2") as broker, served(broker) as (worker, client):
        submit(client, worker)
        broker.send(signal.SIGTERM)
        assert client.receive()["rc"] == "BROKER_WENT_AWAY"
        assert broker.wait() == 1


def test_sockets_are_gone_when_it_has_stopped(tmp_path):
    addresses = ("--clients", f"unix://{tmp_path}/c.sock", "--workers", f"unix://{tmp_path}/w.sock")
    with Broker(tmp_path / "log", addresses=addresses) as broker:
        assert Path(tmp_path, "c.sock").is_socket()
        broker.send(signal.SIGTERM)
        assert broker.wait() == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_a_taken_address_is_one_line_and_leaves_nothing_behind(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", "--workers", f"unix://{tmp_path}/w.sock", "--clients", url)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert url in done.stderr
    assert "Address already in use" in done.stderr
    assert "--clients" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["unix:///nowhere/at/all.sock", f"unix:///{'x' * 200}", "tcp://127.0.0.1:99999", "tls://localhost:0"]
)
def test_an_address_that_can_not_be_is_one_line(url):
    done = run("serve", "--clients", url, "--workers", "tcp://127.0.0.1:0")
    assert done.returncode in (2, 3)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_beyond_this_machine_only_with_the_ugly_flag(tmp_path):
    refused = run("serve", "--clients", "tcp://0.0.0.0:0")
    assert refused.returncode == 2
    assert "--expose-without-authentication" in refused.stderr
    assert refused.stderr.count("\n") == 1
    addresses = ("--clients", "tcp://0.0.0.0:0", "--workers", "tcp://127.0.0.1:0", "--expose-without-authentication")
    with Broker(tmp_path / "log", addresses=addresses) as broker:
        assert broker.clients[0].startswith("tcp://0.0.0.0:")


def test_settings_come_from_the_file_the_environment_and_the_flags(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text(f'clients = ["unix://{tmp_path}/f.sock"]\nworkers = ["unix://{tmp_path}/w.sock"]\nlog_level = "error"\n')
    changes = {"REASONCHIP_CLIENTS": f"unix://{tmp_path}/e.sock", "REASONCHIP_LOG_LEVEL": "warning"}
    with Broker(tmp_path / "log", "--config", file, "--log-level", "info", addresses=(), **changes) as broker:
        assert broker.clients == [f"unix://{tmp_path}/e.sock"]
        assert broker.workers == [f"unix://{tmp_path}/w.sock"]
        broker.wait_for_event("broker started")


def test_sighup_makes_it_schedule_by_what_the_file_says_now_and_disconnects_nobody(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text("[scheduling]\nageing_s = 1.0\n")
    with Broker(tmp_path / "log", "--config", file) as broker, served(broker) as (worker, client):
        cookie = submit(client, worker)
        file.write_text("[scheduling]\nageing_s = 30\n[scheduling.weights]\nbig = 3\n")
        broker.send(signal.SIGHUP)
        told = broker.wait_for_event("scheduling configured")
        assert (told["ageing_s"], told["half_life_s"], told["weights"]) == (30.0, 60.0, {"big": 3.0})
        file.write_text("[scheduling]\nageing_s = -1\n")
        broker.send(signal.SIGHUP)
        told = broker.wait_for_event("settings not read again: all stays as it was")
        assert told["error"] == "The section [scheduling] makes no sense: ageing_s must not be below 0, not -1.0."
        worker.send("RESULT", cookie=cookie, rc="OK", result='"done"')
        assert client.receive()["result"] == '"done"'
        broker.send(signal.SIGTERM)
        assert broker.wait() == 0


def test_drop_in_is_where_existing_peers_look(tmp_path):
    """On the default ports, which other tests and programs may use as well: whoever has them holds the lock."""
    with open(Path(tempfile.gettempdir(), "reasonchip-test-default-ports.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Broker(tmp_path / "log", "--drop-in", addresses=(), TMPDIR=str(tmp_path)) as broker:
            assert broker.clients[0].endswith(":51500")
            assert broker.workers[0].endswith(":51510")
            with (
                JsonPeer(f"unix://{tmp_path}/reasonchip-broker-worker.sock") as worker,
                JsonPeer(f"unix://{tmp_path}/reasonchip-broker-client.sock") as client,
                JsonPeer("tcp://127.0.0.1:51500") as other,
            ):
                worker.send("REGISTER", capacity=1)
                broker.wait_for_event("worker registered")
                for peer in (client, other):
                    cookie = submit(peer, worker)
                    worker.send("RESULT", cookie=cookie, rc="OK", result="1")
                    assert peer.receive()["result"] == "1"
            broker.send(signal.SIGTERM)
            assert broker.wait() == 0


@contextlib.contextmanager
def greeted(tmp_path, folder, names, *options):
    """A broker that keeps the outcomes of jobs that nobody waited for: their cookies."""
    with (
        Broker(tmp_path / "log", "--log-level", "debug", *options) as broker,
        Program(tmp_path / "worker", "worker", "jobs", "--broker", broker.workers[0], cwd=folder),
    ):
        cookies = [uuid.uuid4() for _ in names]
        for cookie, name in zip(cookies, names, strict=True):
            told = ("--set", f"name={name}", "--cookie", cookie, "--detach", "--broker", broker.clients[0])
            assert run("run", "greet", *told).returncode == 0
            broker.wait_for_event("route over", cookie=cookie.hex)
        yield broker, cookies


def test_the_log_says_how_many_outcomes_were_lost(tmp_path, folder):
    with greeted(tmp_path, folder, ["Ada", "Zoë"]) as (broker, cookies):
        assert run("attach", cookies[0], "--broker", broker.clients[0]).stdout == "Hello, Ada!\n"
        broker.send(signal.SIGTERM)
        assert broker.wait() == 0
        assert broker.events[-1]["event"] == "broker stopped"
        assert broker.events[-1]["outcomes_lost"] == 1


def test_the_limits_of_what_is_kept_are_in_force(tmp_path, folder):
    with greeted(tmp_path, folder, ["Ada", "Zoë"], "--limit", "outcomes_max=1") as (broker, cookies):
        assert run("attach", cookies[0], "--broker", broker.clients[0]).returncode == 4
        assert run("attach", cookies[1], "--broker", broker.clients[0]).stdout == "Hello, Zoë!\n"


def test_jobs_of_existing_clients_wait_where_that_is_asked_for(tmp_path):
    with Broker(tmp_path / "log", "--json-queue") as broker, JsonPeer(broker.clients[0]) as client:
        client.send("RUN", cookie=str(uuid.uuid4()), pipeline="p", variables="{}")
        with JsonPeer(broker.workers[0]) as worker:
            worker.send("REGISTER", capacity=1)
            assert worker.receive()["packet_type"] == "RUN"


def test_cancel_is_passed_on_to_existing_workers_where_that_is_asked_for(tmp_path):
    with Broker(tmp_path / "log", "--json-cancel") as broker, served(broker) as (worker, client):
        cookie = submit(client, worker)
        client.send("CANCEL", cookie=cookie)
        packet = worker.receive()
        assert (packet["packet_type"], packet["cookie"]) == ("CANCEL", cookie)


def test_row_28_no_peer_can_forge_a_line_of_the_log(tmp_path):
    from reasonchip_broker.protocol import packets, schemas
    from reasonchip_broker.protocol.frames import PREFACE

    with Broker(tmp_path / "log", "--log-level", "debug") as broker:
        with JsonPeer(broker.clients[0]) as hostile:
            hostile.send_raw(PREFACE + packets.hello(schemas.HelloMeta(sw=HOSTILE, v=HOSTILE)))
            broker.wait_for_event("connection welcomed")
        with served(broker) as (worker, client):
            client.send(HOSTILE, cookie=str(uuid.uuid4()))
            client.receive()
            client.send("RUN", cookie=str(uuid.uuid4()), pipeline=HOSTILE, variables=HOSTILE)
            client.receive()
            cookie = submit(client, worker)
            worker.send("RESULT", cookie=cookie, rc="EXCEPTION", error=HOSTILE, stacktrace=[HOSTILE])
            assert client.receive()["error"] == HOSTILE
            worker.send_raw(b"\x00\x00\x00\x04\x1b[2J")
            while worker.receive() is not None:
                pass
        broker.send(signal.SIGTERM)
        assert broker.wait() == 0
        assert broker.errors.replace("\n", "").isprintable()
        assert broker.errors.isascii()
        assert "fake" not in [event["event"] for event in broker.events]


def test_payloads_are_not_logged(tmp_path):
    secret = "correct-horse-battery-staple"
    with Broker(tmp_path / "log", "--log-level", "debug") as broker:
        with served(broker) as (worker, client):
            for outcome in (
                {"rc": "OK", "result": json.dumps(secret)},
                {"rc": "EXCEPTION", "error": secret, "stacktrace": [secret]},
            ):
                cookie = submit(client, worker, variables=json.dumps({"password": secret}))
                worker.send("RESULT", cookie=cookie, **outcome)
                assert secret in json.dumps(client.receive())
                broker.wait_for_event("route over", cookie=cookie.replace("-", ""))
        assert secret not in broker.errors


def test_a_log_that_nobody_reads_any_more_does_not_end_the_broker(tmp_path):
    reader, writer = os.pipe()
    with Broker(f"/proc/self/fd/{writer}") as broker:
        os.close(writer)
        os.close(reader)
        for _ in range(3):
            with JsonPeer(broker.clients[0]) as client:
                client.send("CANCEL", cookie=str(uuid.uuid4()))
                assert client.receive()["rc"] == "COOKIE_NOT_FOUND"
        broker.send(signal.SIGTERM)
        assert broker.wait() == 0


def test_it_takes_as_many_descriptors_as_it_may_have(tmp_path):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def lower():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))

    with Broker(tmp_path / "log", preexec_fn=lower) as broker:
        soft, _ = resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard


def test_it_starts_with_less_than_half_a_second_of_work(tmp_path):
    """In processor time, which says the same on a busy machine; the best of three, since the first may compile and read from disk."""

    def spent(turn):
        with Broker(tmp_path / f"log{turn}") as broker:
            fields = Path(f"/proc/{broker.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    assert min(spent(turn) for turn in range(3)) < 0.5


def test_two_brokers_can_not_have_one_socket_but_a_dead_ones_is_taken_over(tmp_path):
    addresses = ("--clients", f"unix://{tmp_path}/c.sock", "--workers", "tcp://127.0.0.1:0")
    with Broker(tmp_path / "log", addresses=addresses) as first:
        second = run("serve", *addresses)
        assert second.returncode == 3
        assert "somebody listens there already" in second.stderr
        first.send(signal.SIGKILL)
        first.wait()
    with Broker(tmp_path / "log", addresses=addresses) as third:
        assert third.clients == [f"unix://{tmp_path}/c.sock"]
        assert Path(tmp_path, "c.sock").is_socket()
