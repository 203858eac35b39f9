"""What a worker serves: handlers by the names of their pipelines."""

import functools
import inspect
import pickle
import re
from collections.abc import Callable
from enum import Enum
from fnmatch import translate
from typing import Any

import msgspec

from reasonchip_broker.limits import WORKER_PATTERNS_MAX
from reasonchip_broker.protocol.schemas import Name
from reasonchip_broker.worker.binding import Binding

_FOUND_MAX = 1_024
"""Names remembered with the glob that they matched: clients may invent as many as they like."""


class Runs(Enum):
    """Where a handler runs."""

    TASK = "task"
    """A task of the main loop: `async def`."""

    THREAD = "thread"
    """A thread: plain functions."""

    PROCESS = "process"
    """A process of its own: either, where it is asked for."""

    # Each is one object. An enum's own hash is Python code, and would be called for every job.
    __hash__ = object.__hash__


class Pipeline:
    """A name or glob, its handler, and where that runs."""

    __slots__ = ("binding", "handler", "is_async", "name", "runs", "validate")

    def __init__(self, name: str, handler: Callable[..., Any], *, validate: bool = True, executor: str | None = None) -> None:
        self.name = name
        self.handler = handler
        self.validate = validate
        self.is_async = _is_async(handler)
        self.runs = _where(handler, self.is_async, executor)
        self.binding = Binding(handler, validate=validate)

    def resolve(self) -> None:
        """The last look before it is served. Raises TypeError, in a sentence, if the handler could never be run."""
        title = _title(self.handler)
        try:
            self.binding.resolve()
        except NameError as error:
            raise TypeError(f"an annotation of {title} names what is not there: {error}") from error
        if self.runs is Runs.PROCESS:
            try:
                pickle.dumps(self.handler)
            except Exception as error:
                raise TypeError(
                    f"{title} can't be run in a process, which imports it by its name: define it at the top of a module ({error})"
                ) from error


class Pipelines:
    """Every pipeline of a worker."""

    def __init__(self) -> None:
        self._exact: dict[str, Pipeline] = {}
        self._globs: list[tuple[re.Pattern[str], Pipeline]] = []
        self._found: dict[str, Pipeline] = {}

    @property
    def names(self) -> list[str]:
        """The names and globs, as a REGISTER lists them."""
        return [pipeline.name for pipeline in self]

    def __iter__(self) -> Any:
        yield from self._exact.values()
        yield from (pipeline for _, pipeline in self._globs)

    def __len__(self) -> int:
        return len(self._exact) + len(self._globs)

    def add(self, pipeline: Pipeline) -> None:
        """Serve a pipeline. Raises ValueError for a name that is taken or can't be one, or when there are too many."""
        name = pipeline.name
        try:
            msgspec.convert(name, Name)
        except msgspec.ValidationError as error:
            raise ValueError(f"{name!r} is no name for a pipeline: {error}") from error
        if name in self.names:
            raise ValueError(f"pipeline {name!r} has a handler already")
        if len(self) >= WORKER_PATTERNS_MAX:
            raise ValueError(f"a worker may serve {WORKER_PATTERNS_MAX} pipelines; use a glob")
        if any(char in name for char in "*?["):
            self._globs.append((re.compile(translate(name)), pipeline))
        else:
            self._exact[name] = pipeline
        self._found.clear()

    def find(self, name: str) -> Pipeline | None:
        """Who serves a name: the handler of just that name, else of the first glob that matches, else nobody."""
        pipeline = self._exact.get(name) or self._found.get(name)
        if pipeline is None:
            for pattern, candidate in self._globs:
                if pattern.match(name):
                    if len(self._found) >= _FOUND_MAX:
                        self._found.clear()
                    self._found[name] = candidate
                    return candidate
        return pipeline

    def using(self, runs: Runs) -> list[Pipeline]:
        """Those whose handlers run in one kind of place."""
        return [pipeline for pipeline in self if pipeline.runs is runs]


def _title(handler: Any) -> str:
    return str(getattr(handler, "__qualname__", None) or repr(handler))


def _is_async(handler: Callable[..., Any]) -> bool:
    target: Any = handler
    while isinstance(target, functools.partial):
        target = target.func
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004


def _where(handler: Any, is_async: bool, executor: str | None) -> Runs:
    if not callable(handler) or inspect.isclass(handler):
        raise TypeError(f"a handler is a function, not {_title(handler)}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(
            f"{_title(handler)} is a generator; a handler returns its result, and reports with context.progress before"
        )
    if executor is None:
        return Runs.TASK if is_async else Runs.THREAD
    if executor == "process":
        return Runs.PROCESS
    if executor == "thread":
        if is_async:
            raise TypeError(f"{_title(handler)} is async def: it runs in the main loop or, asked for, in a process")
        return Runs.THREAD
    raise ValueError(f"executor is 'thread', 'process' or None, not {executor!r}")
