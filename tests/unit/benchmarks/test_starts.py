"""How long importing and starting takes, with real processes."""

import sys

import pytest

from benchmarks.errors import BenchError
from benchmarks.starts import import_s, main, serve_s

pytestmark = pytest.mark.process


def test_importing_is_timed_in_a_process_of_its_own():
    assert len([seconds for seconds in import_s(sys.executable, 2) if seconds > 0]) == 2


def test_a_python_without_the_library_is_named():
    with pytest.raises(BenchError, match="can't be imported by /bin/false"):
        import_s("/bin/false", 1)


def test_a_broker_is_timed_until_a_client_has_its_answer():
    (seconds,) = serve_s(sys.executable, 1)
    assert seconds > 0


def test_a_python_that_is_not_there_is_told_in_a_line(capsys):
    assert main("/nowhere/python") == 1
    assert capsys.readouterr().err.startswith("benchmark: reasonchip_broker.client can't be imported by /nowhere/python")
