"""What a serving process asks of its memory, in a process of its own: none of it can be taken back."""

import subprocess
import sys

ROUNDS = 20

PROGRAM = f"""
import gc, resource
from reasonchip_broker.cli.memory import settle_memory

if {{settled}}:
    settle_memory()

def payloads():
    for _ in range({ROUNDS}):
        some = [bytes(3 * 1024 * 1024) for _ in range(3)]
        del some

payloads()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
payloads()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, gc.isenabled(), gc.get_freeze_count() > 0)
"""


def said(*, settled: bool) -> tuple[int, str]:
    """How many pages the second half of all payloads had to ask for, and what was said of the collector."""
    code = PROGRAM.format(settled=settled)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    faults, collector = out.split(maxsplit=1)
    return int(faults), collector.strip()


def test_large_payloads_that_come_and_go_ask_the_system_for_no_memory_again() -> None:
    assert said(settled=True)[0] < said(settled=False)[0] / 20


def test_the_cyclic_collector_is_off_and_has_put_aside_what_there_was() -> None:
    assert said(settled=True)[1] == "False True"
