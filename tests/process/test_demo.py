import json
import os
import re
import signal
import uuid

import pytest

from tests.process.cli.program import Program, descendants_of, interrupt, run

pytestmark = pytest.mark.process


@pytest.fixture
def marker():
    """Marks what this test starts, however often and beside whom it runs."""
    return str(uuid.uuid4())


@pytest.fixture(autouse=True)
def nothing_is_left(marker):
    yield
    assert descendants_of(f"MARKER={marker}") == []


@pytest.fixture
def odd_files(tmp_path):
    """Files of every odd kind, beside a few good ones."""
    tree = tmp_path / "tree"
    (tree / "package").mkdir(parents=True)
    for number in range(30):
        (tree / "package" / f"good{number}.py").write_text(f"def handle_{number}(request):\n    return request\n")
    (tree / "empty.py").touch()
    (tree / "binary.py").write_bytes(b"\x7fELF\x00\x00")
    (tree / "latin.py").write_bytes(b"caf\xe9 = 1\n")
    (tree / "broken.py").write_text("def f(:\n")
    (tree / "dangling.py").symlink_to(tree / "nowhere")
    os.mkfifo(tree / "pipe.py")
    with (tree / "huge.py").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    with open(os.path.join(bytes(tree), b"\xe9\x1b[2J\n.py"), "w") as named:
        named.write("x = 1\n")
    return tree


def test_the_short_form_does_all_that_it_says(marker):
    done = run("demo", "--quick", "--json", MARKER=marker)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["adds_up"] is True
    assert all(left == right for left, right in facts["checks"].values())
    assert facts["files"]["measured"] > 50
    assert facts["files"]["failed"] == facts["files"]["left_out"] == 0
    assert facts["jobs"]["long job"] == {"CANCELLED": 1}
    assert facts["jobs"]["file"]["OK"] == facts["files"]["chosen"]
    assert facts["jobs"]["file"].get("WORKER_WENT_AWAY", 0) == facts["sent_again"]
    assert facts["jobs"]["merge"]["OK"] == sum(facts["jobs"]["merge"].values())
    for word in ("STARTED a broker", "CANCELLED the long job", "KILLED worker-", "with SIGKILL", "STARTED worker-4"):
        assert word in done.stderr


def test_without_a_terminal_there_are_plain_lines_and_a_report(marker, odd_files):
    done = run("demo", odd_files, MARKER=marker)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert all(re.match(r" *[\d.]+ s  \S", line) for line in done.stderr.splitlines())
    for word in ("empty", "binary", "not text in its encoding", "larger than 4 MiB", "not a regular file", "no such file"):
        assert word in done.stdout
    assert "does not tokenise" in done.stdout
    assert "\\x1b[2J" in done.stdout or "31 of" not in done.stderr
    assert "The numbers add up" in done.stdout
    assert "38 file jobs" in done.stdout


def test_files_that_are_no_python_will_do(marker, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("A text about sockets.\n" * number)
    done = run("demo", tmp_path, MARKER=marker)
    assert done.returncode == 0, done.stderr
    assert "3 files of" in done.stderr


def test_a_single_file_will_do(marker, tmp_path):
    (tmp_path / "one.py").write_text("x = 1\n")
    done = run("demo", tmp_path / "one.py", "--json", MARKER=marker)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"]["measured"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_however_it_is_ended_it_leaves_nothing_running(marker, tmp_path, number):
    with Program(tmp_path / "log", "demo", MARKER=marker) as demo:
        demo.wait_until(lambda: "CANCELLED" in demo.errors)
        assert len(descendants_of(f"MARKER={marker}")) > 3
        demo.send(number)
        assert demo.wait() == 128 + number
        assert descendants_of(f"MARKER={marker}") == []
        assert "Traceback" not in demo.errors


def test_a_worker_that_dies_unasked_ends_it_with_one_line(marker, tmp_path):
    with Program(tmp_path / "log", "demo", MARKER=marker) as demo:
        demo.wait_until(lambda: "files: " in demo.errors)
        victims = [pid for pid in descendants_of(f"MARKER={marker}") if b"worker-3" in _command_of(pid)]
        os.kill(victims[0], signal.SIGKILL)
        assert demo.wait() == 1
        assert "reasonchip-broker: worker-3 ended by itself (exit code -9)" in demo.errors
        assert "Traceback" not in demo.errors


def test_a_broker_that_dies_ends_it_with_one_line(marker, tmp_path):
    with Program(tmp_path / "log", "demo", MARKER=marker) as demo:
        demo.wait_until(lambda: "files: " in demo.errors)
        (broker,) = (pid for pid in descendants_of(f"MARKER={marker}") if b"serve" in _command_of(pid))
        os.kill(broker, signal.SIGKILL)
        assert demo.wait() == 1
        assert demo.errors.splitlines()[-1].startswith("reasonchip-broker: ")
        assert "Traceback" not in demo.errors


def test_ctrl_c_before_anything_is_there(marker, tmp_path):
    with Program(tmp_path / "log", "demo", MARKER=marker) as demo:
        demo.wait_until(lambda: "Python files of" in demo.errors)
        interrupt(demo)
        assert demo.wait() == 130


def _command_of(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
