import json
from collections import Counter
from pathlib import Path
from uuid import UUID

from reasonchip_broker.cli.demo.findings import FileFindings, PackageFindings
from reasonchip_broker.cli.demo.ledger import OK, Ledger
from reasonchip_broker.cli.demo.outcome import Outcome, finished_by_broker
from reasonchip_broker.cli.demo.survey import Survey


def outcome(paths=(b"a.py", b"b.py"), **changes):
    survey = Survey(Path("/tree"), list(paths), "Python files", len(paths), 10, 0, False)
    files = [
        FileFindings(path=b"a.py", size=5, lines=3, code=2),
        FileFindings(path=b"b.py", size=5, skipped="binary"),
    ]
    ledger = Ledger()
    for number in (1, 2):
        ledger.sent(UUID(int=number), "file")
        ledger.over(UUID(int=number), OK)
    values = {
        "ledger": ledger,
        "files": files,
        "packages": [PackageFindings(package="(top level)", files=1, lines=3)],
        "characteristic": {"(top level)": ["socket"]},
        "wanted": Counter({"file": 2}),
        "files_s": 2.0,
        "elapsed_s": 3.0,
        "counted_by_broker": 2,
    }
    return Outcome(survey, **{**values, **changes})


def wrong(found):
    return [check.sentence for check in found.checks() if not check.holds]


def test_a_good_run_adds_up():
    found = outcome()
    assert wrong(found) == []
    assert found.adds_up
    assert found.left_out == 0
    assert found.oddities == {"binary": 1}
    assert found.jobs_per_s == 1.0


def test_lines_that_get_lost_in_a_merge_do_not_add_up():
    found = outcome(packages=[PackageFindings(package="p", files=1, lines=2)])
    assert wrong(found) == ["lines counted file by file = lines in the merged packages"]
    assert not found.adds_up


def test_a_result_that_got_lost_on_the_way_does_not_add_up():
    assert not outcome(wanted=Counter({"file": 1})).adds_up


def test_files_that_failed_are_not_hidden():
    found = outcome(paths=(b"a.py", b"b.py", b"c.py"), failed=[(b"c.py", "EXCEPTION: bad")])
    assert found.left_out == 0
    assert not found.adds_up


def test_files_that_there_was_no_time_for_are_counted():
    found = outcome(paths=(b"a.py", b"b.py", b"c.py"))
    assert found.left_out == 1
    assert found.adds_up


def test_the_same_oddity_is_counted_once_whatever_its_details():
    notes = ["does not tokenise (bad): counted as text", "does not tokenise (worse (still)): counted as text", "empty"]
    found = outcome(files=[FileFindings(path=b"a", note=note) for note in notes])
    assert found.oddities == {"does not tokenise: counted as text": 2, "empty": 1}


def test_it_is_json_for_programs():
    facts = json.loads(json.dumps(outcome().as_json()))
    assert facts["adds_up"] is True
    assert facts["files"] == {"found": 2, "chosen": 2, "measured": 1, "failed": 0, "left_out": 0, "odd": {"binary": 1}}
    assert facts["totals"]["lines"] == 3
    assert facts["packages"] == [{"package": "(top level)", "files": 1, "lines": 3, "terms": ["socket"]}]
    assert facts["jobs"] == {"file": {"OK": 2}}


def test_what_the_broker_counted_is_in_the_last_line_of_its_log(tmp_path):
    log = tmp_path / "broker.log"
    log.write_text('no json\n{"event": "broker started"}\n{"event": "broker stopped", "finished": 7}\n[1]\n')
    assert finished_by_broker(log) == 7
    log.write_text('{"event": "broker started"}\n')
    assert finished_by_broker(log) is None
