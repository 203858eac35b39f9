import io
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console

from reasonchip_broker.cli.demo.findings import FileFindings, PackageFindings
from reasonchip_broker.cli.demo.ledger import LOST, OK, Ledger
from reasonchip_broker.cli.demo.outcome import Outcome
from reasonchip_broker.cli.demo.report import report
from reasonchip_broker.cli.demo.survey import Survey


def outcome(**changes):
    survey = Survey(Path("/tree/[red]"), [b"a.py", b"b.py"], "Python files", 9, 10, 2, True)
    ledger = Ledger()
    for number, result in enumerate((OK, LOST, OK)):
        ledger.sent(UUID(int=number), "file", UUID(int=1) if number == 2 else None)
        ledger.over(UUID(int=number), result)
    found = Outcome(
        survey,
        ledger,
        files=[FileFindings(path=b"a.py", size=5, lines=1234), FileFindings(path=b"\x1b[2J\xe9.py", skipped="binary")],
        packages=[PackageFindings(package=f"package{number}", files=1, lines=100) for number in range(12)],
        characteristic={"package0": ["socket", "[bold]"]},
        wanted=Counter({"file": 2}),
        files_s=2.0,
        elapsed_s=3.0,
        counted_by_broker=3,
    )
    found.packages.append(PackageFindings(package="rest", files=1, lines=34))
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def printed(found, width=100):
    stream = io.StringIO()
    report(found, Console(file=stream, width=width))
    return stream.getvalue()


def test_it_says_what_was_found_what_became_of_the_jobs_and_how_fast():
    text = printed(outcome())
    assert "package0" in text
    assert "socket, [bold]" in text
    assert "3 smaller ones" in text
    assert "1,234" in text
    assert "WORKER_WENT_AWAY" in text
    assert "each sent again under a new cookie" in text
    assert "The numbers add up" in text
    assert "2 file jobs in 2.0 s: 1 jobs/s" in text
    assert "Of more than 9 Python files, 2 were chosen" in text
    assert "2 folders could not be read." in text


def test_numbers_that_do_not_add_up_are_named():
    text = printed(outcome(counted_by_broker=5))
    assert "THE NUMBERS DO NOT ADD UP: jobs sent = jobs that the broker counted: 3 and 5" in text
    assert "The numbers add up" not in text


def test_files_that_failed_are_named():
    assert "EXCEPTION: bad" in printed(outcome(failed=[(b"a.py", "EXCEPTION: bad")]))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_row_28_nothing_in_a_file_name_reaches_the_terminal_as_it_is(width):
    text = printed(outcome(), width)
    assert "\x1b" not in text
    tables, _, _ = text.partition("The numbers add up")
    assert max(len(line) for line in tables.splitlines()) <= width


def test_an_empty_outcome_can_be_reported_too():
    text = printed(outcome(files=[], packages=[], characteristic={}, ledger=Ledger(), wanted=Counter(), counted_by_broker=0))
    assert "What became of every job" in text
