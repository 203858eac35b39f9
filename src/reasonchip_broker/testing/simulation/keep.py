"""Failures that were found once, written so that they can be taken again after the simulator has changed.

A seed means something else as soon as one more thing may happen in a simulation. So what is kept of a failure is a line: a Python
literal of its setting and its operations.
"""

from ast import literal_eval
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from enum import Enum
from typing import Any

from reasonchip_broker.testing.simulation.walk import Failure
from reasonchip_broker.testing.simulation.world import Operation, Setting


def written(failure: Failure, operations: Sequence[Operation]) -> str:
    """One line for a file of failures."""
    return repr((failure.kind, astuple(failure.setting), [_plain(operation) for operation in operations]))


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return tuple(_plain(item) for item in value) if isinstance(value, tuple | list) else value


def read(lines: Iterable[str]) -> Iterator[tuple[str, Setting, list[Operation]]]:
    """The failures of such a file: what was wrong, and what it took. Empty lines and those that begin with # are comments."""
    for line in lines:
        if line.strip() and not line.startswith("#"):
            kind, setting, operations = literal_eval(line)
            yield kind, Setting(*setting), operations
