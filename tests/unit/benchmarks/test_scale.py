"""Many connections and many jobs that wait, at a real broker: the whole run in small, in a process of its own."""

import json
import subprocess
import sys

import pytest

SMALL = """
import sys
from benchmarks import scale
scale.QUICK = scale.Sizes(idle=40, active=8, back=20, jobs=2_000)
scale.ACTIVE_S, scale.DEADLINES, scale.RATE = 0.1, 3, 20_000
sys.exit(scale.main(["--quick", *sys.argv[1:]]))
"""


def measured(*arguments):
    return subprocess.run([sys.executable, "-c", SMALL, *arguments], capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.process
def test_all_of_it_is_measured_and_told(tmp_path):
    file = tmp_path / "scale.json"
    done = measured("--json", str(file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert (found["connections"]["idle"], found["connections"]["back"]) == (40, 20)
    assert found["connections"]["opened_per_s"] > 0
    assert found["backlog"]["jobs"] == found["stalls"]["jobs"] == 2_000
    assert found["backlog"]["deadlines_late_ms"]["first"] > -1, "never early"
    assert "2,000 jobs that wait: bytes of each beside its frame" in done.stdout
    assert "20 cut off at once are back after" in done.stdout


@pytest.mark.process
def test_a_broker_that_can_not_be_started_is_told_in_a_line():
    done = measured("--broker-python", "/bin/false")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("benchmark: our broker ended before that it is ready")
