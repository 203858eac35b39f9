import socket
import subprocess

import pytest

from tests.process.cli.program import Broker, Program, Relay

pytestmark = pytest.mark.process


@pytest.mark.usefixtures("worker")
def test_a_connection_that_breaks_costs_nothing(broker, tmp_path):
    with Relay(tmp_path / "relay.sock", broker.clients[0]) as relay:
        options = ("--follow", "--send-lines", "--broker", relay.url)
        with Program(tmp_path / "run", "run", "agent", *options, stdin=subprocess.PIPE) as program:
            assert program.read_line() == "ready\n"
            program.write("before\n")
            assert program.read_line() == '{"got":"before"}\n'
            relay.cut()
            program.write("stop\n")
            assert program.read_line() == '{"got":"stop"}\n'
            assert (program.read_line(), program.wait()) == ('["before","stop"]\n', 0)


def test_the_first_connection_is_tried_once(tmp_path):
    """An address that is wrong is told at once, and not after a while of trying."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/c.sock")
        listener.listen()
        with Program(tmp_path / "run", "run", "greet", "--broker", f"unix://{tmp_path}/c.sock") as program:
            listener.accept()[0].close()
            assert program.wait() == 3
            assert len(program.errors.splitlines()) == 1
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_lost_broker_is_looked_for_and_that_is_told(tmp_path):
    addresses = ("--clients", f"unix://{tmp_path}/c.sock", "--workers", "tcp://127.0.0.1:0")
    with Broker(tmp_path / "first", "--log-level", "debug", addresses=addresses) as first:
        program = Program(tmp_path / "run", "run", "served.by.nobody", "--broker", first.clients[0])
        with program:
            first.wait_for_event("route queued")
            first.process.kill()
            program.wait_until(lambda: "the connection is lost; looking for the broker for 1 min" in program.errors)
            with Broker(tmp_path / "second", addresses=addresses):
                assert program.wait() == 1
                assert "the job failed (BROKER_WENT_AWAY)" in program.errors


def test_without_patience_a_broker_that_goes_away_is_told_at_once(tmp_path):
    with Broker(tmp_path / "log", "--log-level", "debug") as broker:
        options = ("--patience", "0", "--broker", broker.clients[0])
        program = Program(tmp_path / "run", "run", "served.by.nobody", *options)
        with program:
            broker.wait_for_event("route queued")
            broker.process.kill()
            assert program.wait() == 1
            failed, hint = program.errors.splitlines()
            assert failed.startswith("the job failed (BROKER_WENT_AWAY)")
            assert "reasonchip-broker attach " in hint
