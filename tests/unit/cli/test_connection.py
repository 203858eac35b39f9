from datetime import datetime, timedelta, timezone

from reasonchip_broker.cli.connection import start_of


def test_a_start_is_told_as_how_long_from_now_and_as_a_time_of_the_day_here():
    now = datetime(2026, 11, 30, 23, 59, 0, tzinfo=timezone(timedelta(hours=1)))
    assert start_of(90.4, now) == "it starts in 1 min 30 s, at 2026-12-01 00:00:30 +0100"
