"""The steps of a job: what callgrind writes is added up by function."""

from benchmarks import steps
from benchmarks.errors import BenchError

FILE = """
fn=(1) CPyDef_outer
10 100
cfn=(2) inner
calls=3 20
10 60
+1 5
fn=(2)
20 60
fn=(3) other
30 7
"""


def test_a_function_costs_what_it_does_and_what_it_calls_however_it_is_named_again():
    assert steps.inclusive(FILE.splitlines()) == {"CPyDef_outer": 165, "inner": 60, "other": 7}


def test_what_can_not_be_counted_is_told_in_a_line(monkeypatch, capsys):
    def fails(python):
        raise BenchError(f"no core in {python}")

    monkeypatch.setattr(steps, "compiled_steps", fails)
    assert steps.main(["--compiled", "/nowhere/python"]) == 1
    assert capsys.readouterr().err == "steps: no core in /nowhere/python\n"


def test_the_parts_of_an_interpreted_job_are_differences(monkeypatch):
    costs = {
        ("nothing", "its RUN"): 10,
        ("nothing", "its RESULT"): 5,
        ("decoded", "its RUN"): 50,
        ("decoded", "its RESULT"): 25,
    }
    monkeypatch.setattr(
        steps, "count", lambda what, python, name, program=("", "", "whole"): costs.get((program[2], name), 200)
    )
    assert steps.parts("python") == {"load": 15, "frames": 60, "rest": 125}
