import json

import pytest

from benchmarks.brokers import parse_ready
from benchmarks.report import Report, load_table, number, plain, print_report, write_json
from benchmarks.summary import Record, summarise, summarise_idle
from benchmarks.workloads import IDLE, MANY_JOBS, Socket, System, Workload

OURS = Workload(System.BINARY, Socket.TCP, MANY_JOBS)


def figures(cpu_us, p50_ms=1.0, generator=0.5):
    return {
        "seconds": 2.0,
        "jobs": 1000,
        "broker_cpu_ns": int(cpu_us * 1000 * 1000),
        "generator_cpu_ns": int(generator * 2e9),
        "rss_bytes": 3 * 2**20,
        "p50_ns": int(p50_ms * 1e6),
        "p99_ns": 2_000_000,
        "p999_ns": 3_000_000,
    }


RECORDS = [
    Record(1, OURS.baseline.name, figures(4)),
    Record(1, OURS.name, figures(2, p50_ms=0.5)),
    Record(2, OURS.name, figures(3, p50_ms=0.5)),
    Record(2, OURS.baseline.name, figures(8)),
    Record(3, OURS.name, None, "our broker ended"),
    Record(3, OURS.baseline.name, figures(1)),
]


def test_ratios_are_of_one_round_and_then_the_median():
    summary = summarise(OURS, RECORDS)
    assert summary.cpu_us_per_job is not None
    assert summary.cpu_us_per_job.median == 2.5
    assert summary.cpu_ratio is not None
    assert (summary.cpu_ratio.low, summary.cpu_ratio.high) == (0.375, 0.5)
    assert summary.p50_ratio is not None
    assert summary.p50_ratio.median == 0.5
    assert summary.failures == 1
    assert not summary.generator_was_limit


def test_nats_is_not_compared_with_itself():
    summary = summarise(OURS.baseline, RECORDS)
    assert summary.cpu_ratio is None
    assert summary.jobs_per_s is not None
    assert summary.jobs_per_s.median == 500


def test_a_busy_generator_is_told():
    summary = summarise(OURS, [Record(1, OURS.name, figures(2, generator=0.99))])
    assert summary.generator_was_limit
    assert "generator was the limit" in plain(load_table([summary]))


def idle_records():
    return [
        Record(1, IDLE[0].name, {"connections": 9936, "per_connection_bytes": 2048.0}),
        Record(1, IDLE[1].name, {"connections": 9936, "per_connection_bytes": 20480.0}),
    ]


def make_report():
    records = [*RECORDS, *idle_records()]
    return Report(
        machine={"processor": "a processor", "kernel": "6.1", "load_average": (0.5, 0.4, 0.3)},
        versions={"broker": {"version": "0.1.0", "compiled": False, "python": "3.11.7"}, "nats": "v2.15.1"},
        settings={"rounds": 3},
        summaries=[summarise(workload, records) for workload in (OURS.baseline, OURS)],
        idle=[summarise_idle(workload, records) for workload in IDLE],
        records=records,
    )


def test_the_report_says_what_was_found(capsys):
    print_report(make_report())
    text = capsys.readouterr().out
    for expected in (
        "pure Python",
        "binary-tcp-4x64-100B",
        "2.50 (2.00–3.00)",
        "0.44 (0.38–0.50)",
        "1 failed",
        "9,936",
        "0.10",
    ):
        assert expected in text
    assert "coordinated omission" in text


def test_plain_text_lines_up():
    lines = plain(load_table(make_report().summaries)).splitlines()
    column = lines[1].index("jobs/s") + len("jobs/s")
    assert {line[column - 3 : column] for line in lines[2:]} == {"500"}


def test_the_json_file_holds_every_round(tmp_path):
    write_json(make_report(), tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["rounds"]) == 8
    assert written["rounds"][4]["error"] == "our broker ended"
    assert written["summary"][1]["cpu_ratio"]["median"] == pytest.approx(0.4375)
    assert written["idle"][0]["ratio"]["median"] == 0.1


def test_numbers_have_three_digits():
    assert [number(value) for value in (0.126, 3.14159, 31.4159, 314.159, 123456.7)] == [
        "0.13",
        "3.14",
        "31.4",
        "314",
        "123,457",
    ]


def test_the_ready_line():
    line = "ready clients=tcp://127.0.0.1:4000,tcp://[::1]:4000 workers=unix:///tmp/a=b.sock"
    assert parse_ready(line) == ("tcp://127.0.0.1:4000", "unix:///tmp/a=b.sock")
    for bad in ("", "ready", "ready clients=x", "starting clients=x workers=y", "ready clients= workers=y"):
        with pytest.raises(ValueError, match=r"ready line|not enough values"):
            parse_ready(bad)
