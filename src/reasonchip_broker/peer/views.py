"""What was made for options that were changed, kept: an application asks for jobs with the same few options over and over.

Options are checked, and what travels of them is encoded, when a view with them is made; that costs several times what a job costs.
So the same changes get the same view. They are the same if their values are, and are of the same types: 1 and True are equal, and the
one is a number of attempts while the other is refused. What can't be compared so, is long, or names one job, is made anew each time.
"""

import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar

VIEWS_MAX = 256
"""Beyond these, changes are made up as one goes, and all are forgotten."""

ITEMS_MAX = 16
"""Labels and exceptions that are compared; more cost more than they save."""

_PLAIN = frozenset({bool, int, float, str, type(None), uuid.UUID, timedelta})

View = TypeVar("View")


class Views(Generic[View]):
    """Views by the changes that they were made for; may be used from several threads."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], View] = {}

    def of(self, changes: Mapping[str, Any], make: Callable[[Mapping[str, Any]], View]) -> View:
        """The view for such changes, from `make` if there is none yet. Raises what that raises."""
        key = _key(changes)
        if key is None:
            return make(changes)
        view = self._known.get(key)
        if view is None:
            # A map is its caller's, who may say something else with it later.
            view = make({name: dict(value) if type(value) is dict else value for name, value in changes.items()})
            if len(self._known) >= VIEWS_MAX:
                self._known.clear()
            self._known[key] = view
        return view


def _key(changes: Mapping[str, Any]) -> tuple[Any, ...] | None:
    if "cookie" in changes:
        return None
    parts: list[Any] = []
    for name, value in changes.items():
        kind = type(value)
        if kind in _PLAIN:
            parts += (name, kind, value)
        elif kind is type:
            parts += (name, value)
        elif kind in (dict, list, tuple) and len(value) <= ITEMS_MAX and all(map(_is_name, _items(value))):
            # Labels, whose names and values are texts, or names and classes of exceptions.
            parts += (name, kind, tuple(value.items() if kind is dict else value))
        else:
            return None
    return tuple(parts)


def _items(value: Any) -> Any:
    return (*value, *value.values()) if type(value) is dict else value


def _is_name(item: object) -> bool:
    return type(item) is str or type(item) is type
