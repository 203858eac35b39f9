"""Views that are kept for the changes that they were made for."""

import copy
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from reasonchip_broker.peer import views as module
from reasonchip_broker.peer.options import Options, changed
from reasonchip_broker.peer.views import Views

ID = uuid.uuid4()


def make(changes: Mapping[str, Any]) -> Options:
    return changed(Options(), changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"deadline_s": 5, "timeout": None},
        {"attempts": 3, "retry_on": ["ValueError", KeyError]},
        {"retry_on": OSError},
        {"require": {"gpu": "h200"}, "prefer": {}},
        {"not_before": timedelta(seconds=1), "parent": ID, "queue": False},
    ],
)
def test_the_same_changes_get_the_same_view(changes) -> None:
    views: Views[Options] = Views()
    first = views.of(changes, make)
    assert first == make(changes)
    assert views.of(copy.deepcopy(changes), make) is first


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        ({"deadline_s": 5}, {"deadline_s": 6}),
        ({"deadline_s": 5}, {"timeout": 5}),
        ({"require": {"gpu": "h200"}}, {"require": {"gpu": "h100"}}),
        ({"require": {"a": "b"}}, {"require": {"b": "a"}}),
        ({"require": {"a": "b"}}, {"prefer": {"a": "b"}}),
        ({"retry_on": ["ValueError"]}, {"retry_on": ["KeyError"]}),
    ],
)
def test_other_changes_get_another_view(changes, others) -> None:
    views: Views[Options] = Views()
    assert views.of(changes, make) != views.of(others, make)
    assert views.of(others, make) == make(others)


def test_what_equals_something_allowed_and_is_not_is_refused_all_the_same() -> None:
    views: Views[Options] = Views()
    views.of({"attempts": 1}, make)
    views.of({"queue": True}, make)
    for wrong in ({"attempts": True}, {"attempts": 1.0}, {"queue": 1}):
        with pytest.raises(TypeError):
            views.of(wrong, make)


@pytest.mark.parametrize(
    "changes",
    [
        {"cookie": ID},
        {"retry_on": iter([])},
        {"require": {f"label-{n}": "x" for n in range(module.ITEMS_MAX + 1)}},
        {"fairness_key": type("Text", (str,), {})("a text of a class of its own")},
    ],
)
def test_what_can_not_be_compared_or_names_one_job_is_made_anew(changes) -> None:
    views: Views[Options] = Views()
    assert views.of(changes, make) is not views.of(changes, make)


def test_a_map_that_its_caller_changes_later_is_not_what_was_asked_for() -> None:
    views: Views[Options] = Views()
    labels = {"gpu": "h200"}
    view = views.of({"require": labels}, make)
    labels["gpu"] = "h100"
    assert view.require == {"gpu": "h200"}
    assert views.of({"require": labels}, make).require == {"gpu": "h100"}


def test_what_was_refused_is_not_kept() -> None:
    views: Views[Options] = Views()
    for _ in range(2):
        with pytest.raises(ValueError, match="deadline_s"):
            views.of({"deadline_s": -1}, make)


def test_only_so_many_are_kept(monkeypatch) -> None:
    monkeypatch.setattr(module, "VIEWS_MAX", 3)
    views: Views[Options] = Views()
    for seconds in range(1, 10):
        views.of({"deadline_s": seconds}, make)
        assert len(views._known) <= 3
