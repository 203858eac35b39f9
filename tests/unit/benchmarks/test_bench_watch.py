"""Waiting for files: what is written, moved there or made is seen, and who would write it is known to have ended."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.errors import BenchError
from benchmarks.nats_server import wait_for_url
from benchmarks.process import Child
from benchmarks.watch import Watch

PATIENCE_S = 20.0
WRITES = {
    "writes": "open('it', 'a').write('whole')",
    "makes": "__import__('os').mkdir('it')",
    "moves": "open('other', 'w').close(); __import__('os').rename('other', 'it')",
}


@pytest.fixture
def other(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does what its test asks for in the folder, once it is told to."""
    command = [sys.executable, "-c", f"input()\n{request.param}\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        yield process
        process.kill()


def tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


@pytest.mark.parametrize("other", WRITES.values(), ids=WRITES, indirect=True)
def test_what_another_process_does_in_a_folder_is_seen(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    looked: list[bool] = []

    def holds() -> bool:
        if not looked:
            tell(other)
        looked.append((tmp_path / "it").exists())
        return looked[-1]

    with Watch(tmp_path) as watch:
        assert watch.until(holds, PATIENCE_S, other.pid)
    assert looked[0] is False


@pytest.mark.parametrize("other", ["open('it', 'a').write('whole')"], indirect=True)
def test_one_file_is_watched_like_a_folder(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    file = tmp_path / "it"
    file.touch()
    with Watch(file) as watch:
        tell(other)
        assert watch.until(lambda: file.read_text() == "whole", PATIENCE_S)


def test_what_holds_already_is_not_waited_for(tmp_path: Path) -> None:
    with Watch(tmp_path) as watch:
        assert watch.until(lambda: True, 0.0)


def test_what_does_not_come_in_time_does_not_hold(tmp_path: Path) -> None:
    with Watch(tmp_path) as watch:
        assert not watch.until(lambda: False, 0.01)


@pytest.mark.parametrize("other", ["raise SystemExit"], indirect=True)
@pytest.mark.parametrize("waited_for", [False, True])
def test_nobody_is_waited_for_who_has_ended(tmp_path: Path, other: subprocess.Popen[bytes], waited_for: bool) -> None:
    tell(other)
    if waited_for:
        other.wait(PATIENCE_S)
    with Watch(tmp_path) as watch:
        assert not watch.until(lambda: False, 3600.0, other.pid)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Watch(tmp_path / "nowhere")


def server(folder: Path, code: str) -> Child:
    return Child("nats-server", [sys.executable, "-c", code], folder / "broker.log", cwd=folder)


def test_the_address_that_nats_writes_down_is_read_once_it_is_complete(tmp_path: Path) -> None:
    code = """file = open('nats.ports', 'w', buffering=1)
file.write('{"nats":\\n')
file.write('["nats://127.0.0.1:7"]}\\n')
input()"""
    with Child("nats-server", [sys.executable, "-c", code], tmp_path / "log", cwd=tmp_path, feed=True) as child:
        assert wait_for_url(child, tmp_path) == "tcp://127.0.0.1:7"


def test_one_that_ends_before_it_listens_is_told_with_what_it_said(tmp_path: Path) -> None:
    with server(tmp_path, "raise SystemExit('no port')") as child, pytest.raises(BenchError, match=r"ended before .* no port"):
        wait_for_url(child, tmp_path)
