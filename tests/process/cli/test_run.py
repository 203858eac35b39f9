import json
import os
import pty
import re
import subprocess
import uuid
from datetime import datetime, timedelta

import pytest

from reasonchip_broker.cli.exits import Exit
from tests.process.cli.program import (
    PROGRAM,
    Broker,
    JsonPeer,
    Program,
    environment,
    interrupt,
    run,
)

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

    def start_job(*arguments, **others):
        program = Program(tmp_path / f"log{len(started)}", "run", *arguments, "--broker", broker.clients[0], **others)
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
    cookie = uuid.uuid4()
    program = start_job("served.by.nobody", "--cookie", cookie)
    program.wait_until(lambda: program.errors == f"job {cookie} waits: no connected worker serves this pipeline\n")
    interrupt(program)
    assert program.wait() == Exit.INTERRUPTED


def test_a_job_starts_no_sooner_than_is_said(run_job, broker):
    cookie = uuid.uuid4()
    done = run_job("greet", "--set", "name=Ada", "--not-before", "0.3", "--cookie", cookie)
    assert (done.returncode, done.stdout) == (0, "Hello, Ada!\n")
    scheduled = broker.wait_for_event("route scheduled", cookie=cookie.hex)
    dispatched = broker.wait_for_event("route dispatched", cookie=cookie.hex)
    times = [datetime.fromisoformat(event["timestamp"]) for event in (scheduled, dispatched)]
    # The log's clock is not the one that the delay is counted by.
    assert times[1] - times[0] > timedelta(seconds=0.29)


def test_a_time_of_day_that_is_past_is_now(run_job):
    assert run_job("greet", "--set", "name=Ada", "--not-before", "2026-01-01T08:00+01:00").stdout == "Hello, Ada!\n"


def test_whoever_waits_for_its_time_is_told_when_it_starts(start_job, broker):
    cookie = uuid.uuid4()
    program = start_job("story", "--follow", "--not-before", "600", "--cookie", cookie)
    told = rf"job {cookie} is scheduled: it starts in (9 min 5\d s|10 min), at \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}}\n"
    program.wait_until(lambda: re.fullmatch(told, program.errors))
    interrupt(program)
    assert program.wait() == Exit.INTERRUPTED
    assert broker.wait_for_event("route over", cookie=cookie.hex)["code"] == "CANCELLED"


def test_further_ahead_than_the_broker_allows_is_refused(run_job):
    done = run_job("greet", "--not-before", "2592001")
    assert done.returncode == Exit.REFUSED
    assert "too far ahead, at most 2,592,000,000 ms are allowed here" in done.stderr


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["greet", "--set", "name"],
        ["greet", "--vars", "/nowhere"],
        ["greet", "--timeout", "-1"],
        ["greet", "--cookie", "x"],
        ["greet", "--detach", "--follow"],
        ["greet", "--detach", "--send-lines"],
        ["greet", "--vars", "-", "--send-lines"],
        ["greet", "--retry-on", "KeyError"],
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
    command = [*PROGRAM, "run", "give", "--set", "value=a\x1b[2Jb", "--broker", broker.clients[0]]
    subprocess.run(command, stdout=theirs, stdin=subprocess.DEVNULL, env=environment(), timeout=30, check=True)
    os.close(theirs)
    assert os.read(ours, 1000) == b"a\\x1b[2Jb\r\n"
    os.close(ours)


def test_progress_is_printed_as_it_comes_and_then_the_result(run_job):
    done = run_job("story", "--follow")
    assert (done.returncode, done.stdout, done.stderr) == (0, 'line 1\nline 2\n{"lines":2}\nthe end\n', "")


def test_it_is_there_before_the_job_is_over(start_job):
    program = start_job("agent", "--follow")
    assert program.read_line() == "ready\n"
    interrupt(program)
    assert program.wait() == 130


def test_progress_as_json_has_numbers(run_job):
    lines = [json.loads(line) for line in run_job("story", "--follow", "--json").stdout.splitlines()]
    assert lines[:3] == [
        {"progress": 1, "attempt": 1, "value": "line 1"},
        {"progress": 2, "attempt": 1, "value": "line 2"},
        {"progress": 3, "attempt": 1, "value": {"lines": 2}},
    ]
    assert (lines[3]["outcome"], lines[3]["result"]) == ("OK", "the end")
    assert len(lines) == 4


def test_all_of_a_long_story_comes(run_job):
    lines = run_job("story", "--set", "lines=3000", "--follow").stdout.splitlines()
    assert lines == [*(f"line {number}" for number in range(1, 3001)), '{"lines":3000}', "the end"]


def test_a_job_is_tried_again_as_often_as_is_said(run_job):
    options = ("--follow", "--attempts", "3", "--retry-on", "KeyError", "--backoff", "0")
    done = run_job("stubborn", "--set", "succeeds_at=2", *options)
    assert (done.returncode, done.stdout) == (0, "trying for the 1. time\ntrying for the 2. time\n2\n")
    assert done.stderr == "attempt 2:\n"
    failed = run_job("stubborn", "--set", "succeeds_at=9", *options[1:])
    assert failed.returncode == 1
    assert [line.partition(" on ")[0] for line in failed.stderr.splitlines()[1:4]] == ["attempt 1", "attempt 2", "attempt 3"]
    assert json.loads(run_job("stubborn", "--set", "succeeds_at=9", "--json").stdout)["history"] == []


def test_limits_of_a_job_end_it(run_job):
    waited = run_job("served.by.nobody", "--queue-limit", "0.1")
    assert (waited.returncode, "QUEUE_TIMEOUT" in waited.stderr) == (1, True)
    ran = run_job("wait", "--run-limit", "0.1")
    assert (ran.returncode, "DEADLINE_EXCEEDED" in ran.stderr) == (1, True)


def test_a_job_ends_with_its_client_where_that_is_said(start_job, broker):
    cookie = uuid.uuid4()
    program = start_job("wait", "--on-disconnect", "cancel", "--cookie", cookie)
    broker.wait_for_event("route dispatched", cookie=cookie.hex)
    program.process.kill()
    assert broker.wait_for_event("route over", cookie=cookie.hex)["code"] == "CANCELLED"


def test_lines_of_stdin_reach_the_job_while_it_runs(start_job):
    program = start_job("agent", "--follow", "--send-lines", stdin=subprocess.PIPE)
    assert program.read_line() == "ready\n"
    program.write('yes\n{"n": 1}\n')
    assert [program.read_line(), program.read_line()] == ['{"got":"yes"}\n', '{"got":{"n":1}}\n']
    program.write("\nstop\n")
    assert program.read_line() == '{"got":"stop"}\n'
    # Its own stdin is still open, and it does not wait for that.
    assert (program.read_line(), program.wait(), program.errors) == ('["yes",{"n":1},"stop"]\n', 0, "")


def test_a_file_for_stdin_will_do(start_job, tmp_path):
    (tmp_path / "lines").write_text("\n".join([*map(str, range(500)), "stop"]))
    with (tmp_path / "lines").open("rb") as lines:
        program = start_job("agent", "--send-lines", stdin=lines)
        assert json.loads(program.read_line()) == [*range(500), "stop"]
        assert program.wait() == 0


def test_a_line_that_can_not_be_sent_is_told_and_costs_no_other(tmp_path, folder):
    options = ("--log-level", "debug", "--limit", "frame_bytes_max=65536")
    with (
        Broker(tmp_path / "broker", *options) as broker,
        Program(tmp_path / "worker", "worker", "jobs", "--broker", broker.workers[0], cwd=folder),
    ):
        broker.wait_for_event("worker registered")
        lines = "\n".join(["before", "x" * 70_000, "after", "stop"])
        done = run("run", "agent", "--send-lines", "--broker", broker.clients[0], text_in=lines)
    assert (done.returncode, done.stdout) == (0, '["before","after","stop"]\n')
    assert done.stderr.startswith("a line of stdin can't be sent: ")
    assert done.stderr.count("\n") == 1


def test_the_end_of_stdin_ends_no_job(run_job):
    done = run_job("agent", "--send-lines", "--timeout", "0.3", text_in="yes\n")
    assert (done.returncode, "DEADLINE_EXCEEDED" in done.stderr) == (1, True)


def test_an_existing_worker_takes_no_input_and_that_is_told(start_job, broker):
    with JsonPeer(broker.workers[0]) as existing:
        existing.send("REGISTER", capacity=1)
        broker.wait_for_event("worker registered", capacity=1)
        program = start_job("existing.takes.no.input", "--send-lines", stdin=subprocess.PIPE)
        packet = existing.receive()
        program.write("yes\n")
        program.wait_until(lambda: "the job takes no input: the job's worker takes no input" in program.errors)
        existing.send("RESULT", cookie=packet["cookie"], rc="OK", result="1")
        assert (program.read_line(), program.wait()) == ("1\n", 0)


def test_a_reader_that_stalls_costs_no_connection(tmp_path, folder):
    """As when a pager shows the first page: nobody takes what is printed, and the broker hears from the command all the same."""
    limits = ("--limit", "heartbeat_s=0.1", "--limit", "lease_s=0.4")
    with Broker(tmp_path / "broker", "--log-level", "debug", *limits) as broker:
        with (
            Program(tmp_path / "worker", "worker", "jobs", "--broker", broker.workers[0], cwd=folder),
            Program(tmp_path / "run", "run", "loud", "--follow", "--patience", "0", "--broker", broker.clients[0]) as program,
        ):
            assert program.read_line()
            # Three leases, as the broker counts them.
            assert run("run", "wait", "--timeout", "1.2", "--broker", broker.clients[0]).returncode == 1
            assert program.process.poll() is None
            interrupt(program)
            program.output.read()
            assert program.wait() == 130
        assert "HEARTBEAT_TIMEOUT" not in broker.errors


def test_a_reader_that_is_gone_ends_the_command_and_the_job_goes_on(start_job, broker):
    cookie = uuid.uuid4()
    program = start_job("loud", "--follow", "--cookie", cookie)
    assert program.read_line()
    program.output.close()
    assert program.wait() == 141
    assert program.errors == f"job {cookie} goes on: reasonchip-broker attach {cookie}\n"
    assert run("cancel", cookie, "--broker", broker.clients[0]).stdout == "cancelling\n"


def test_on_a_terminal_progress_can_not_move_the_cursor(broker):
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "run", "agent", "--follow", "--send-lines", "--broker", broker.clients[0]]
    subprocess.run(
        command, stdout=theirs, input='\x1b[2J\n["\x9b"]\nstop\n'.encode(), env=environment(), timeout=30, check=True
    )
    os.close(theirs)
    shown = os.read(ours, 4000).decode()
    os.close(ours)
    assert shown.replace("\r\n", "").isprintable()
    assert '{"got":"\\u001b[2J"}' in shown
