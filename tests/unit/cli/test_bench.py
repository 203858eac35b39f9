import pytest

from reasonchip_broker.cli.bench import Load, Measured, _figures, _percentile, _report


def test_a_percentile_is_a_value_that_was_measured():
    ordered = [float(value) for value in range(1, 101)]
    assert [_percentile(ordered, part) for part in (0.5, 0.99, 0.999, 1.0)] == [50.0, 99.0, 100.0, 100.0]
    assert _percentile([7.0], 0.5) == 7.0


def test_figures_are_per_second_and_per_job():
    measured = Measured(latencies=[0.002, 0.001], elapsed_s=0.5, broker_s=0.0001)
    figures = _figures(measured)
    assert figures["jobs_per_second"] == 4.0
    assert figures["broker_us_per_job"] == pytest.approx(50.0)
    assert figures["latency_ms"] == {"p50": 1.0, "p90": 2.0, "p99": 2.0, "p99.9": 2.0, "max": 2.0}


def test_nothing_measured_is_nothing_told(capsys):
    measured = Measured(elapsed_s=1.0)
    measured.failures["OVERLOADED"] = 3
    _report(Load(1, 1, 1, 1, 0, 1.0), measured)
    out = capsys.readouterr().out
    assert "0 jobs" in out
    assert "3 jobs ended with OVERLOADED" in out
    assert "latency p50" not in out
