"""Limits: their defaults are those of the design, and settings that make no sense are refused with the numbers."""

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from reasonchip_broker import limits
from reasonchip_broker.limits import FRAME_BYTES_SETTABLE, HANDSHAKE_FRAME_BYTES_MAX, KIB, MIB, Limits

NAMES = [field.name for field in fields(Limits)]


def test_the_defaults_are_those_of_the_design() -> None:
    default = Limits()
    assert (default.frame_bytes_max, FRAME_BYTES_SETTABLE, HANDSHAKE_FRAME_BYTES_MAX) == (16 * MIB, 64 * MIB, 4 * KIB)
    assert (default.tls_handshake_s, default.handshake_s) == (5, 10)
    assert (default.heartbeat_s, default.lease_s, default.write_deadline_s) == (10, 30, 10)
    assert (default.outbox_bytes_mark, default.outbox_bytes_max) == (MIB, 32 * MIB)
    assert (default.connections_max, default.connections_unwelcomed_per_address_max) == (10_000, 256)
    assert (default.client_jobs_max, limits.WORKER_CAPACITY_MAX) == (100_000, 10_000)
    assert (default.backlog_jobs_max, default.backlog_bytes_max) == (1_000_000, 1024 * MIB)
    assert (default.owner_backlog_jobs_max, default.owner_backlog_bytes_max) == (250_000, 256 * MIB)
    assert (default.cancel_grace_s, default.kill_grace_s, default.drain_s, default.credit_frames) == (10, 10, 120, 64)
    assert (default.credit_bytes_max, default.ring_chunks_max, default.ring_bytes_max) == (256 * KIB, 256, MIB)
    assert (default.rings_bytes_max, default.retention_s, default.retention_s_max) == (128 * MIB, 300, 3600)
    assert (default.outcomes_max, default.outcomes_bytes_max, default.spent_max) == (100_000, 128 * MIB, 1_000_000)
    assert (default.client_outcomes_max, default.client_outcomes_bytes_max) == (50_000, 64 * MIB)
    assert default.delay_s_max == 30 * 24 * 3600
    assert (limits.ATTEMPTS_MAX, limits.BACKOFF_S_MAX, limits.SESSION_GRACE_S_MAX) == (20, 60, 60)


def test_a_silent_peer_is_gone_within_half_a_minute() -> None:
    """Row 4 of the design's faults."""
    assert Limits().lease_s <= 30


def test_existing_workers_slots_rest_as_long_as_was_measured() -> None:
    assert (limits.JSON_SLOT_REST_MS_MIN, limits.JSON_SLOT_REST_MS_PER_SLOT) == (25, 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, -0.5])
def test_nothing_may_be_zero_or_less(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} must be over 0, not {value}")):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"frame_bytes_max": 64 * MIB + 1}, "frame_bytes_max may be at most 67108864, not 67108865"),
        ({"frame_bytes_max": 4 * KIB - 1}, "frame_bytes_max must be at least 4096, not 4095"),
        ({"lease_s": 10.0}, "lease_s (10.0) must be longer than heartbeat_s (10.0)"),
        ({"heartbeat_s": 31.0}, "lease_s (30.0) must be longer than heartbeat_s (31.0)"),
        ({"outbox_bytes_max": MIB - 1}, "outbox_bytes_max (1048575) must not be below outbox_bytes_mark (1048576)"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Limits(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"frame_bytes_max": 64 * MIB},
        {"frame_bytes_max": 4 * KIB},
        {"heartbeat_s": 0.001, "lease_s": 0.002},
        {"outbox_bytes_mark": 1, "outbox_bytes_max": 1},
    ],
)
def test_the_extremes_are_allowed(settings: dict[str, float]) -> None:
    assert all(getattr(Limits(**settings), name) == value for name, value in settings.items())  # type: ignore[arg-type]


def test_limits_do_not_change_once_they_are_made() -> None:
    with pytest.raises(FrozenInstanceError):
        Limits().client_jobs_max = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_says_in_its_name_what_it_counts(name: str) -> None:
    assert re.search(r"_(s|bytes_max|bytes_mark|jobs_max|frames|max)$", name), name


def test_every_limit_has_its_reason_beside_it() -> None:
    """A string after the last of each group of fields."""
    text = Path(limits.__file__).with_suffix(".py").read_text("utf-8")
    body = text.split("class Limits", 1)[1].split("def __post_init__", 1)[0]
    groups = [group for group in re.split(r"\n\s*\n", body) if re.search(r"^    \w+: ", group, re.MULTILINE)]
    assert len(groups) > 10
    assert [group for group in groups if '"""' not in group] == []
