import json
import os
import pty
import uuid

import pytest

from reasonchip_broker.cli.exits import Exit
from tests.process.cli.program import JsonPeer, Program, interrupt, run, wait_until

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("worker")]


@pytest.fixture
def run_job(broker):
    """`run` against the shared broker."""

    def run_job(*arguments, **others):
        return run("run", *arguments, "--broker", broker.clients[0], **others)

    return run_job


@pytest.fixture
def start_job(broker, tmp_path):
    """`run` that is not waited for."""
    started: list[Program] = []

    def start_job(*arguments):
        program = Program(tmp_path / f"log{len(started)}", "run", *arguments, "--broker", broker.clients[0])
        started.append(program)
        return program

    yield start_job
    for program in started:
        program.__exit__()


def test_a_text_is_printed_as_it_is(run_job):
    done = run_job("greet", "--set", "name=Zoë")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello, Zoë!\n", "")


def test_anything_else_is_printed_as_json(run_job):
    done = run_job("give", "--set", 'value={"a": [1, 2.5, null, "x"]}')
    assert (done.returncode, done.stdout) == (0, '{"a":[1,2.5,null,"x"]}\n')
    assert run_job("give").stdout == "null\n"
    assert run_job("give", "--set", "value=0").stdout == "0\n"
    assert run_job("give", "--set", 'value=""').stdout == "\n"


def test_variables_come_from_stdin_and_flags(run_job):
    done = run_job("greet", "--vars", "-", text_in='{"name": "Ada"}')
    assert done.stdout == "Hello, Ada!\n"
    assert run_job("greet", "--vars", "-", "--set", "name=Zoë", text_in='{"name": "Ada"}').stdout == "Hello, Zoë!\n"


def test_msgpack_is_there_for_the_asking(run_job):
    assert run_job("greet", "--set", "name=Ada", "--encoding", "msgpack").stdout == "Hello, Ada!\n"


def test_a_failure_is_told_with_the_workers_stack_trace_and_an_exit_code(run_job):
    done = run_job("fail")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "the job failed (EXCEPTION): ValueError: bad \\x1b[2J thing\\nand more\nstack trace of the worker:\n"
    )
    assert 'jobs.py", line' in done.stderr
    assert "\x1b" not in done.stderr
    polite = run_job("fail.politely")
    assert polite.returncode == 1
    assert polite.stderr.startswith("the job failed (PROCESSOR_EXCEPTION): the model had no opinion\n")


def test_a_failure_as_json_is_on_stdout(run_job):
    done = run_job("fail", "--json")
    facts = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert facts["outcome"] == "EXCEPTION"
    assert facts["type"] == "ValueError"
    assert facts["error"] == "bad \x1b[2J thing\nand more"
    assert facts["may_have_run"] is True
    assert facts["stack"][0].startswith("Traceback")


def test_variables_that_do_not_fit_are_told_by_name(run_job):
    done = run_job("greet", "--set", "nmae=Ada")
    assert done.returncode == 1
    assert "'name' is missing" in done.stderr


def test_a_job_has_the_cookie_that_it_was_given(run_job):
    cookie = str(uuid.uuid4())
    assert run_job("cookie", "--cookie", cookie).stdout == f"{cookie}\n"
    assert json.loads(run_job("cookie", "--cookie", cookie, "--json").stdout)["cookie"] == cookie


def test_a_deadline_ends_the_job(run_job):
    done = run_job("wait", "--timeout", "0.2")
    assert done.returncode == 1
    assert "DEADLINE_EXCEEDED" in done.stderr


def test_whoever_waits_in_line_is_told_what_for(start_job, broker):
    program = start_job("served.by.nobody")
    wait_until(lambda: "no slot is free for 'served.by.nobody' yet; job " in program.errors)
    interrupt(program)
    assert program.wait() == Exit.INTERRUPTED


def test_ctrl_c_cancels_the_job(start_job, broker):
    cookie = uuid.uuid4()
    program = start_job("wait", "--cookie", cookie)
    broker.wait_for_event("route dispatched", cookie=cookie.hex)
    interrupt(program)
    assert program.wait() == 130
    assert program.errors.splitlines() == ["cancelling the job; Ctrl-C again to leave at once", "the job was cancelled"]
    assert broker.wait_for_event("route over", cookie=cookie.hex)["code"] == "CANCELLED"


def test_a_detached_job_is_known_by_its_cookie_and_lives_on(run_job, broker):
    done = run_job("wait", "--detach")
    cookie = uuid.UUID(done.stdout.strip())
    assert (done.returncode, done.stderr) == (0, "")
    broker.wait_for_event("route dispatched", cookie=cookie.hex)
    cancelled = run("cancel", cookie, "--broker", broker.clients[0])
    assert cancelled.stdout == "cancelling\n"
    assert json.loads(run_job("wait", "--detach", "--json", "--timeout", "1").stdout)["outcome"] == "SUBMITTED"


def test_a_refusal_has_an_exit_code_of_its_own(run_job, broker):
    cookie = uuid.uuid4()
    assert run_job("wait", "--detach", "--cookie", cookie).returncode == 0
    done = run_job("wait", "--cookie", cookie)
    assert done.returncode == 4
    assert done.stderr.startswith("the broker refused the job (COOKIE_COLLISION)")
    facts = json.loads(run_job("wait", "--cookie", cookie, "--json").stdout)
    assert facts == {"cookie": str(cookie), "refused": "COOKIE_COLLISION", "error": facts["error"]}
    assert run("cancel", cookie, "--broker", broker.clients[0]).returncode == 0


def test_without_a_broker_it_is_one_line(tmp_path):
    for url in ("tcp://127.0.0.1:1", f"unix://{tmp_path}/none.sock"):
        done = run("run", "greet", "--broker", url)
        assert done.returncode == 3
        assert done.stderr.count("\n") == 1
        assert url in done.stderr


def test_a_broker_that_goes_away_is_one_line_too(tmp_path):
    from tests.process.cli.program import Broker

    with Broker(tmp_path / "log", "--log-level", "debug") as broker:
        program = Program(tmp_path / "run", "run", "served.by.nobody", "--broker", broker.clients[0])
        with program:
            broker.wait_for_event("route queued")
            broker.process.kill()
            assert program.wait() == 1
            assert program.errors.splitlines()[-1].startswith("the job failed (BROKER_WENT_AWAY)")


@pytest.mark.parametrize(
    "arguments",
    [
        ["greet", "--set", "name"],
        ["greet", "--vars", "/nowhere"],
        ["greet", "--timeout", "-1"],
        ["greet", "--cookie", "x"],
        ["bad\nname"],
        ["greet", "--broker", "http://localhost"],
    ],
)
def test_a_mistake_is_one_line(run_job, arguments):
    done = run_job(*arguments) if "--broker" not in arguments else run("run", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_an_existing_worker_can_serve_it(run_job, broker):
    with JsonPeer(broker.workers[0]) as existing:
        existing.send("REGISTER", capacity=1)
        broker.wait_for_event("worker registered", capacity=1)
        program = Program(
            broker.log.parent / "existing", "run", "only.the.existing", "--set", "a=1", "--broker", broker.clients[0]
        )
        with program:
            packet = existing.receive()
            assert packet["pipeline"] == "only.the.existing"
            assert json.loads(packet["variables"]) == {"a": 1}
            existing.send("RESULT", cookie=packet["cookie"], rc="OK", result='{"b": 2}')
            assert program.wait() == 0
            assert program.read_line() == '{"b":2}\n'


def test_on_a_terminal_a_result_can_not_move_the_cursor(broker):
    ours, theirs = pty.openpty()
    import subprocess

    from tests.process.cli.program import PROGRAM, environment

    command = [*PROGRAM, "run", "give", "--set", "value=a\x1b[2Jb", "--broker", broker.clients[0]]
    subprocess.run(command, stdout=theirs, stdin=subprocess.DEVNULL, env=environment(), timeout=30, check=True)
    os.close(theirs)
    assert os.read(ours, 1000) == b"a\\x1b[2Jb\r\n"
    os.close(ours)
